"""Whom the policies mean, and what this node's table is to be: pods, namespaces and policies in, parts of the table out. Pure;
driven by `controller`.

A pod that comes or goes costs one look at each selector; policies and namespaces, which change seldom, a look at everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kubelet.network.policy import plan
from kubelet.network.policy.plan import EGRESS, INGRESS, Compiled, Members, Who
from kubelet.network.services.plan import Part
from wherry.api import meta
from wherry.pb import core_v1_pb2, networking_v1_pb2

_FINISHED = ("Succeeded", "Failed")
_PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}


@dataclass(frozen=True, slots=True)
class PodFacts:
    namespace: str
    labels: Mapping[str, str]
    address: str
    local: bool
    ports: tuple[tuple[str, str, int], ...]  # name, protocol, number


def facts_of(pod: core_v1_pb2.Pod, node_name: str) -> PodFacts | None:
    """None for a pod without an address of its own."""
    address = pod.status.pod_ip
    if not address or ":" in address or pod.spec.host_network or pod.status.phase in _FINISHED:
        return None
    sidecars = [container for container in pod.spec.init_containers if container.restart_policy == "Always"]
    ports = tuple(
        (port.name, _PROTOCOLS.get(port.protocol or "TCP", "tcp"), port.container_port)
        for container in (*pod.spec.containers, *sidecars)
        for port in container.ports
        if port.name
    )
    metadata = pod.metadata
    return PodFacts(metadata.namespace, dict(metadata.labels), address, pod.spec.node_name == node_name, ports)


class World:
    """Invariant: between two calls of `changes`, `_dirty` names every pod that changed, or `_all` is set."""

    def __init__(self, node_name: str) -> None:
        self._node_name = node_name
        self._pods: dict[str, PodFacts] = {}
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._policies: dict[str, Compiled] = {}
        self._tests: dict[str, Callable[[PodFacts], tuple[str, ...]]] = {}  # set -> the elements that a pod adds to it
        self._kinds: dict[str, Members] = {}
        self._members: dict[str, dict[str, tuple[str, ...]]] = {}  # set -> pod -> elements
        self._parts: dict[str, Part] = {}
        self._expected: dict[str, str] = {}  # pod -> uid
        self._dirty: dict[str, None] = {}
        self._all = True

    def expect_pod(self, pod: core_v1_pb2.Pod) -> bool:
        """A pod of this node that has its address, and whose containers are still to start: the control plane does not know of
        the address yet. False when no policy is about it."""
        facts = facts_of(pod, self._node_name)
        if facts is None or not any(self._means(policy.selects)(facts) for policy in self._policies.values()):
            return False
        self._expected[meta.key(pod)] = pod.metadata.uid
        self._put(meta.key(pod), facts)
        return True

    def put_pod(self, pod: core_v1_pb2.Pod) -> None:
        key, facts = meta.key(pod), facts_of(pod, self._node_name)
        if self._expected.get(key) == pod.metadata.uid and not pod.status.pod_ip:
            return  # we know better
        self._expected.pop(key, None)
        self._put(key, facts)

    def _put(self, key: str, facts: PodFacts | None) -> None:
        if self._pods.get(key) == facts:
            return
        if facts is None:
            self.remove_pod(key)
        else:
            self._pods[key] = facts
            self._dirty[key] = None

    def remove_pod(self, key: str, uid: str = "") -> None:
        """`uid`: unless another one of that name is expected."""
        if uid and self._expected.get(key, uid) != uid:
            return
        self._expected.pop(key, None)
        if self._pods.pop(key, None) is not None:
            self._dirty[key] = None

    def pods(self) -> list[str]:
        return sorted(self._pods)

    def put_namespace(self, namespace: core_v1_pb2.Namespace) -> None:
        found = dict(namespace.metadata.labels)
        if self._namespaces.get(namespace.metadata.name) != found:
            self._namespaces[namespace.metadata.name] = found
            self._all = True

    def remove_namespace(self, name: str) -> None:
        self._all = self._namespaces.pop(name, None) is not None or self._all

    def put_policy(self, policy: networking_v1_pb2.NetworkPolicy) -> None:
        self._policies[meta.key(policy)] = plan.compile_policy(policy)
        self._all = True

    def remove_policy(self, key: str) -> None:
        self._all = self._policies.pop(key, None) is not None or self._all

    def changes(self) -> dict[str, Part | None]:
        """What differs from what the last call left, for `Ruleset.change`."""
        touched = self._look_at_all() if self._all else self._look_at(list(self._dirty))
        self._all, self._dirty = False, {}
        wanted = {key: part for key, part in self._parts.items() if key.startswith("set/") and key not in touched}
        wanted |= {key: part for key, part in touched.items() if part is not None}
        wanted |= self._local_parts()
        result: dict[str, Part | None] = {key: part for key, part in wanted.items() if self._parts.get(key) != part}
        result |= dict.fromkeys(self._parts.keys() - wanted.keys())
        self._parts = wanted
        return dict(sorted(result.items()))

    # -- sets

    def _look_at_all(self) -> dict[str, Part | None]:
        self._kinds = {name: members for found in self._policies.values() for name, members in found.sets.items()}
        self._tests = {name: self._test(members) for name, members in self._kinds.items()}
        self._members = {}
        for name, test in self._tests.items():
            found = ((key, test(pod)) for key, pod in self._pods.items())
            self._members[name] = {key: elements for key, elements in found if elements}
        gone: dict[str, Part | None] = {key: None for key in self._parts if key.startswith("set/")}
        return gone | {f"set/{name}": self._set_part(name) for name in self._kinds}

    def _look_at(self, pods: list[str]) -> dict[str, Part | None]:
        touched: dict[str, Part | None] = {}
        for name, test in self._tests.items():
            members = self._members[name]
            for key in pods:
                pod = self._pods.get(key)
                elements = test(pod) if pod is not None else ()
                if members.get(key, ()) != elements:
                    members.pop(key, None)
                    if elements:
                        members[key] = elements
                    touched[f"set/{name}"] = None
        return {key: self._set_part(key.removeprefix("set/")) for key in touched}

    def _set_part(self, name: str) -> Part:
        elements = {(name, element): "" for found in self._members[name].values() for element in found}
        return Part(sets={name: plan.set_type(self._kinds[name])}, elements=elements)

    def _test(self, members: Members) -> Callable[[PodFacts], tuple[str, ...]]:
        if isinstance(members, Who):
            means = self._means(members)
            return lambda pod: (pod.address,) if means(pod) else ()
        means, wanted = self._means(members.who), (members.name, members.protocol)

        def numbers(pod: PodFacts) -> tuple[str, ...]:
            if not means(pod):
                return ()
            return tuple(
                f"{pod.address} . {protocol} . {number}"
                for name, protocol, number in pod.ports
                if (name, protocol) == wanted
            )

        return numbers

    def _means(self, who: Who) -> Callable[[PodFacts], bool]:
        pods = who.pods.predicate()
        if who.namespaces is None:
            return lambda pod: pod.namespace == who.namespace and pods(pod.labels)
        spaces = {name for name, found in self._namespaces.items() if who.namespaces.matches(found)}
        return lambda pod: pod.namespace in spaces and pods(pod.labels)

    # -- this node's pods

    def _local_parts(self) -> dict[str, Part]:
        selecting = [(key, policy, self._means(policy.selects)) for key, policy in sorted(self._policies.items())]
        parts: dict[str, Part] = {}
        for key, pod in self._pods.items():
            if not pod.local:
                continue
            own = Part()
            chosen = [(name, policy) for name, policy, means in selecting if means(pod)]
            for direction in (INGRESS, EGRESS):
                rules = {
                    name: found
                    for name, policy in chosen
                    if (found := policy.ingress if direction == INGRESS else policy.egress) is not None
                }
                if rules:
                    chain = plan.chain_name(direction, rules)
                    own.elements[direction, pod.address] = f"jump {chain}"
                    parts.setdefault(f"chain/{chain}", Part(chains={chain: plan.chain(rules.values())}))
            if own.elements:
                parts[f"pod/{key}"] = own
        return parts
