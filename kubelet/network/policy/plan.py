"""From NetworkPolicies to rules. Pure; called by `world`.

A packet that begins a connection costs two look-ups, however many policies there are: its source in the map `egress`, its
destination in `ingress`. These hold this node's pods that some policy selects, and lead to the chain of the policies that
select the pod; pods selected by the same ones share it. A rule that allows returns; the chain ends in a drop. Who a selector
means is a set of addresses, filled by `world`, which changes without touching a rule.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from wherry.api import labels
from wherry.pb import meta_v1_pb2, networking_v1_pb2

TABLE = "wherry-policies"
INGRESS, EGRESS = "ingress", "egress"
_PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}


@dataclass(frozen=True, slots=True)
class Who:
    """Pods: of the one namespace, or (`namespaces`) of those with such labels. Equal ones are one set."""

    namespace: str
    namespaces: labels.Selector | None
    pods: labels.Selector


@dataclass(frozen=True, slots=True)
class PortOf:
    """A port by name: who has it, and under which number, is theirs."""

    who: Who
    protocol: str
    name: str


Members = Who | PortOf  # what a set of addresses, or of addresses and ports, is made of


@dataclass(slots=True)
class Compiled:
    """One policy. `ingress`, `egress`: its rules, None where it says nothing about the direction. `sets`: name -> members."""

    selects: Who
    ingress: tuple[str, ...] | None = None
    egress: tuple[str, ...] | None = None
    sets: dict[str, Members] = field(default_factory=dict)


def skeleton(machine: str = "") -> str:
    """`machine`: whose packets no policy concerns, where a node forwards those of the machine that it is on."""
    exempt = f"ip saddr {machine} accept" if machine else ""
    return f"""add table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
  map {EGRESS} {{ type ipv4_addr : verdict; }}
  map {INGRESS} {{ type ipv4_addr : verdict; }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
    {exempt}
    ip saddr vmap @{EGRESS}
    ip daddr vmap @{INGRESS}
  }}
}}
"""


def compile_policy(policy: networking_v1_pb2.NetworkPolicy) -> Compiled:
    """The registry has validated it; what still can't be understood allows nothing."""
    spec, namespace = policy.spec, policy.metadata.namespace
    made = Compiled(Who(namespace, None, _selector(spec.pod_selector)))
    types = spec.policy_types or ["Ingress", *(["Egress"] if spec.egress else [])]
    if "Ingress" in types:
        made.ingress = tuple(
            line
            for rule in spec.ingress
            for line in _rule("saddr", list(getattr(rule, "from")), list(rule.ports), namespace, made, INGRESS)
        )
    if "Egress" in types:
        made.egress = tuple(
            line
            for rule in spec.egress
            for line in _rule("daddr", list(rule.to), list(rule.ports), namespace, made, EGRESS)
        )
    return made


def chain_name(direction: str, policies: Iterable[str]) -> str:
    return f"{direction}-{_hash(*sorted(policies))}"


def chain(rules: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Of all policies that select a pod, together: what one allows is allowed."""
    return (*dict.fromkeys(line for part in rules for line in part), "drop")


def set_type(members: Members) -> str:
    return "type ipv4_addr;" if isinstance(members, Who) else "type ipv4_addr . inet_proto . inet_service;"


def set_name(members: Members) -> str:
    if isinstance(members, PortOf):
        return f"ports-{_hash(members.protocol, members.name, *_words(members.who))}"
    return f"pods-{_hash(*_words(members))}"


# -- one rule


def _rule(
    side: str,
    peers: list[networking_v1_pb2.NetworkPolicyPeer],
    ports: list[networking_v1_pb2.NetworkPolicyPort],
    namespace: str,
    made: Compiled,
    direction: str,
) -> Iterator[str]:
    """`side`: where the peer's address is in a packet that begins a connection."""
    numbered = list(_numbered(ports)) if ports else [""]
    named = [port for port in ports if port.HasField("port") and port.port.type]
    anybody = Who("", labels.EVERYTHING, labels.EVERYTHING)
    for who, match in _peers(side, peers, namespace, made) if peers else [(anybody, "")]:
        for port in numbered:
            yield _line(match, port)
        for wanted in named:
            # The port is the destination's: ours when they come to us, and theirs when we go to them.
            owner = made.selects if direction == INGRESS else who
            if owner is not None:
                members = PortOf(owner, _PROTOCOLS.get(wanted.protocol or "TCP", "tcp"), wanted.port.str_val)
                yield _line(match, f"ip daddr . meta l4proto . th dport @{_add(made, members)} ")


def _line(*matches: str) -> str:
    return "".join(matches) + "return"


def _peers(
    side: str, peers: list[networking_v1_pb2.NetworkPolicyPeer], namespace: str, made: Compiled
) -> Iterator[tuple[Who | None, str]]:
    for peer in peers:
        if peer.HasField("ip_block"):
            match = _block(side, peer.ip_block)
            if match is not None:
                yield None, match
        elif peer.HasField("pod_selector") or peer.HasField("namespace_selector"):
            across = _selector(peer.namespace_selector) if peer.HasField("namespace_selector") else None
            pods = _selector(peer.pod_selector) if peer.HasField("pod_selector") else labels.EVERYTHING
            who = Who("" if across is not None else namespace, across, pods)
            yield who, f"ip {side} @{_add(made, who)} "


def _block(side: str, block: networking_v1_pb2.IPBlock) -> str | None:
    """None: no packet of this table comes from there."""
    try:
        if ipaddress.ip_network(block.cidr, strict=False).version != 4:
            return None
        # Overlapping exceptions are one, or nft refuses the set.
        excepted = ipaddress.collapse_addresses(
            ipaddress.IPv4Network(item, strict=False) for item in getattr(block, "except")
        )
        cidr = ipaddress.ip_network(block.cidr, strict=False)
    except ValueError:
        return None
    but = ", ".join(str(network) for network in excepted)
    match = f"ip {side} {cidr} " if cidr.prefixlen else ""
    return match + (f"ip {side} != {{ {but} }} " if but else "")


def _numbered(ports: list[networking_v1_pb2.NetworkPolicyPort]) -> Iterator[str]:
    """One match per protocol for all ports that are numbers, and for protocols as a whole."""
    by_protocol: dict[str, list[tuple[int, int]]] = {}
    whole: dict[str, None] = {}
    for port in ports:
        protocol = _PROTOCOLS.get(port.protocol or "TCP")
        if protocol is None:
            continue
        if not port.HasField("port"):
            whole[protocol] = None
        elif not port.port.type:
            first = port.port.int_val
            by_protocol.setdefault(protocol, []).append((first, port.end_port if port.HasField("end_port") else first))
    for protocol in whole:
        yield f"meta l4proto {protocol} "
    for protocol, ranges in by_protocol.items():
        if protocol not in whole:
            yield f"meta l4proto {protocol} th dport {{ {', '.join(_joined(ranges))} }} "


def _joined(ranges: list[tuple[int, int]]) -> Iterator[str]:
    """Without overlaps, which nft refuses in a set."""
    first, last = -1, -2
    for low, high in [*sorted(ranges), (1 << 20, 1 << 20)]:
        if low <= last + 1:
            last = max(last, high)
            continue
        if first >= 0:
            yield str(first) if first == last else f"{first}-{last}"
        first, last = low, high


def _selector(message: meta_v1_pb2.LabelSelector) -> labels.Selector:
    try:
        return labels.from_message(message)
    except labels.BadSelector:
        return labels.NOTHING


def _add(made: Compiled, members: Members) -> str:
    name = set_name(members)
    made.sets[name] = members
    return name


def _words(who: Who) -> tuple[str, ...]:
    return (who.namespace, repr(who.namespaces), repr(who.pods))


def _hash(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]
