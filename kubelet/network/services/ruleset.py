"""The whole table: the parts of all Services put together, and each change as one transaction for `nft -f -`. Pure; called by
`controller`, and for another table of such parts by `kubelet.network.policy`.

Two Services may claim one external address and port: the first by name has it. The name of one empty chain tells which state
the table is in, so that an agent that comes back finds out whether it needs to write at all.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping

from kubelet.network.services import affinity
from kubelet.network.services.plan import DRAWS, MASQUERADE_MARK, Element, Part, count_value

TABLE = "wherry-services"
STATE = "state-"
_ADDRESS_KEY = "type ipv4_addr . inet_proto . inet_service : verdict;"
_PORT_KEY = "type inet_proto . inet_service : verdict;"


def drawing(protocol: str, count: int) -> str:
    """The rule that leads to one of so many endpoints. A map for both protocols (th dport) can be made, but nft 1.0.6 adds no
    rule with it once it is there."""
    number = f"numgen random mod {count}"
    return f"meta l4proto {protocol} dnat to ip daddr . {protocol} dport . {number} map @endpoints-{protocol}"


def _draws() -> str:
    chains = "\n".join(
        f"  chain any-{count} {{\n    {drawing('tcp', count)}\n    {drawing('udp', count)}\n  }}"
        for count in range(1, DRAWS + 1)
    )
    elements = ", ".join(f"{count_value(count)} : jump any-{count}" for count in range(1, DRAWS + 1))
    return f"{chains}\n  map draws {{\n    type classid : verdict;\n    elements = {{ {elements} }}\n  }}"


def _endpoint_key(protocol: str) -> str:
    return f"typeof ip daddr . {protocol} dport . numgen random mod 65536 : ip daddr . {protocol} dport;"


def skeleton(table: str, *, bridged_pods: str = "") -> str:
    """What is there without any Service. `bridged_pods`: the node's pod CIDR where the kernel does not show bridged packets to
    netfilter; the answer of a pod to its neighbour would not be translated back, so both see the node's address.

    A packet to a cluster address has its number of endpoints as its priority from the first rule to the draw: only the first
    one of a connection comes here, and forwarding sets the priority anew. It may have read the number just before the
    transaction that takes the last endpoint away: `draw` goes on to number 0, which is there as long as there are any."""
    bridged = f"ct status dnat ip saddr {bridged_pods} ip daddr {bridged_pods} masquerade" if bridged_pods else ""
    return f"""add table ip {table}
delete table ip {table}
table ip {table} {{
  map services {{ {_ADDRESS_KEY} }}
  map nodeports {{ {_PORT_KEY} }}
  map refused {{ {_ADDRESS_KEY} }}
  map refused-nodeports {{ {_PORT_KEY} }}
  map counts {{ type ipv4_addr . inet_proto . inet_service : classid; }}
  map endpoints-tcp {{ {_endpoint_key("tcp")} }}
  map endpoints-udp {{ {_endpoint_key("udp")} }}
  set hairpin {{ type ipv4_addr . ipv4_addr; }}
{_draws()}
  chain draw {{
    meta priority vmap @draws
    {drawing("tcp", 1)}
    {drawing("udp", 1)}
  }}
  chain services {{
    meta priority set ip daddr . meta l4proto . th dport map @counts goto draw
    ip daddr . meta l4proto . th dport vmap @services
    fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @nodeports
  }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject
  }}
  chain refused {{
    ip daddr . meta l4proto . th dport vmap @refused
    fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @refused-nodeports
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    jump refused
    jump services
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    jump refused
    jump services
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat - 1; policy accept;
    meta mark & {MASQUERADE_MARK} == {MASQUERADE_MARK} masquerade
    ct status dnat ip saddr . ip daddr @hairpin masquerade
    {bridged}
  }}
}}
"""


class Ruleset:
    """Invariants: `_claims[element]` names exactly the Services whose part has the element; `_users[count]` is how many
    parts draw from so many endpoints."""

    def __init__(self, table: str, base: str) -> None:
        """`base`: what is there without any part, from the making of the table on."""
        self._table = table
        self._skeleton = base
        self._parts: dict[str, Part] = {}
        self._claims: dict[Element, dict[str, str]] = {}
        self._users: Counter[int] = Counter()
        self._digest = 0  # of all lines, in no order

    @property
    def parts(self) -> Mapping[str, Part]:
        return self._parts

    @property
    def state(self) -> str:
        """Names the table's contents."""
        head = int.from_bytes(hashlib.sha256(self._skeleton.encode()).digest()[:12], "big")
        return f"{STATE}{head ^ self._digest:024x}"

    def change(self, changes: Mapping[str, Part | None]) -> str:
        """Takes the new parts (None: the Service is gone), and returns the transaction; "" when nothing changed."""
        before = self.state
        touched = sorted(
            {e for key, part in changes.items() for side in (self._parts.get(key), part) if side for e in side.elements}
        )
        counts = {
            count
            for key, part in changes.items()
            for side in (self._parts.get(key), part)
            if side
            for count in side.counts
        }
        drew = {count for count in counts if self._users[count]}
        had = {element: self._winner(element) for element in touched}
        old_parts = {key: self._parts.get(key) or Part() for key in changes}
        for key, part in sorted(changes.items()):
            self._take(key, part)
        new_parts = {key: self._parts.get(key) or Part() for key in changes}
        lines = list(_difference(self._table, old_parts, new_parts))
        draws = {count for count in counts if self._users[count]}
        begin = [line for count in sorted(draws - drew) for line in _draw(self._table, count)]
        end = [line for count in sorted(drew - draws) for line in _no_draw(self._table, count)]
        adds, removals = [], []
        for element in touched:
            old, new = had[element], self._winner(element)
            if old == new:
                continue
            if old is not None:
                removals.append(f"delete element ip {self._table} {element[0]} {{ {element[1]} }}")
            if new is not None:
                adds.append(_add_element(self._table, element, new))
            self._digest ^= _hash(*element, old or "") if old is not None else 0
            self._digest ^= _hash(*element, new or "") if new is not None else 0
        for count in drew ^ draws:
            self._digest ^= _hash("draw", str(count))
        if not (lines or adds or removals):
            return ""
        made = [line for rank, line in lines if rank == 0]
        unmade = [line for rank, line in lines if rank == 1]
        states = [f"add chain ip {self._table} {self.state}", f"delete chain ip {self._table} {before}"]
        # A chain is there before something leads to it, and nothing leads to it any more when it goes.
        return "\n".join([*begin, *made, *removals, *adds, *unmade, *end, *states]) + "\n"

    def whole(self, clients: Mapping[str, list[affinity.Client]] | None = None) -> str:
        """The transaction that makes the table what it is to be, whatever it was; with what is known of clients."""
        lines = [line for count in sorted(+self._users) for line in _draw(self._table, count)]
        lines += [line for _, line in _difference(self._table, {}, self._parts)]
        lines += [_add_element(self._table, element, self._winner(element) or "") for element in sorted(self._claims)]
        if clients:
            sets = {name for part in self._parts.values() for name in part.sets}
            lines += affinity.restore(self._table, sets, clients)
        return self._skeleton + "\n".join([*lines, f"add chain ip {self._table} {self.state}"]) + "\n"

    def check_invariants(self) -> None:
        claims: dict[Element, set[str]] = {}
        for key, part in self._parts.items():
            for element in part.elements:
                claims.setdefault(element, set()).add(key)
        assert claims == {element: set(keys) for element, keys in self._claims.items()}
        assert +self._users == Counter(count for part in self._parts.values() for count in part.counts)

    def _winner(self, element: Element) -> str | None:
        claims = self._claims.get(element)
        return claims[min(claims)] if claims else None

    def _take(self, key: str, part: Part | None) -> None:
        old = self._parts.pop(key, None)
        if old is not None:
            self._digest ^= _digest(old)
            self._users.subtract(old.counts)
            for element in old.elements:
                self._claims[element].pop(key)
                if not self._claims[element]:
                    del self._claims[element]
        if part is not None and (part.chains or part.sets or part.elements):
            self._digest ^= _digest(part)
            self._parts[key] = part
            self._users.update(part.counts)
            for element, value in part.elements.items():
                self._claims.setdefault(element, {})[key] = value


def _add_element(table: str, element: Element, value: str) -> str:
    body = f"{element[1]} : {value}" if value else element[1]
    return f"add element ip {table} {element[0]} {{ {body} }}"


def _draw(table: str, count: int) -> list[str]:
    chain = f"any-{count}"
    return [
        f"add chain ip {table} {chain}",
        *(f"add rule ip {table} {chain} {drawing(protocol, count)}" for protocol in ("tcp", "udp")),
        f"add element ip {table} draws {{ {count_value(count)} : jump {chain} }}",
    ]


def _no_draw(table: str, count: int) -> list[str]:
    chain = f"any-{count}"
    return [
        f"delete element ip {table} draws {{ {count_value(count)} }}",
        f"flush chain ip {table} {chain}",
        f"delete chain ip {table} {chain}",
    ]


def _difference(table: str, old: Mapping[str, Part], new: Mapping[str, Part]) -> Iterator[tuple[int, str]]:
    """(0, line) for what is made first, (1, line) for what is unmade in the end. A set's name says what it is of: under one name
    it never changes."""
    old_chains = {name: rules for part in old.values() for name, rules in part.chains.items()}
    new_chains = {name: rules for part in new.values() for name, rules in part.chains.items()}
    old_sets = {name: body for part in old.values() for name, body in part.sets.items()}
    new_sets = {name: body for part in new.values() for name, body in part.sets.items()}
    changed = [name for name in sorted(new_chains) if old_chains.get(name) != new_chains[name]]
    for name in sorted(new_chains.keys() - old_chains.keys()):
        yield 0, f"add chain ip {table} {name}"
    for name in changed:
        if name in old_chains:
            yield 0, f"flush chain ip {table} {name}"
    for name in sorted(new_sets.keys() - old_sets.keys()):
        yield 0, f"add set ip {table} {name} {{ {new_sets[name]} }}"
    for name in changed:
        for rule in new_chains[name]:
            yield 0, f"add rule ip {table} {name} {rule}"
    gone = sorted(old_chains.keys() - new_chains.keys())
    for name in gone:
        yield 1, f"flush chain ip {table} {name}"
    for name in gone:
        yield 1, f"delete chain ip {table} {name}"
    for name in sorted(old_sets.keys() - new_sets.keys()):
        yield 1, f"delete set ip {table} {name}"


def _digest(part: Part) -> int:
    """Elements are counted apart, by the Service that has them in the end."""
    result = 0
    for name, rules in part.chains.items():
        result ^= _hash("chain", name, *rules)
    for name, body in part.sets.items():
        result ^= _hash("set", name, body)
    return result


def _hash(*texts: str) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(texts).encode()).digest()[:12], "big")
