"""What a pod asks of a node, and the interning that makes pods with equal needs share one value.

`Needs` is all that the filters and scores look at, so two pods with the same `Needs` are interchangeable to the engine;
`NeedsCache` finds it from the bytes of the relevant parts of the spec, so that the quantities and selectors of the
thousandth replica are not parsed again. Called by `cluster` for every pod that comes in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from wherry.api import resources
from wherry.pb import core_v1_pb2

NEEDS_CACHE_SIZE = 4096


class Toleration(NamedTuple):
    key: str
    operator: str
    value: str
    effect: str

    def tolerates(self, key: str, value: str, effect: str) -> bool:
        """As Kubernetes: an empty effect means all of them; an empty key with Exists means every taint."""
        if self.effect and self.effect != effect:
            return False
        if self.key and self.key != key:
            return False
        if self.operator == "Exists":
            return True
        return bool(self.key) and self.operator in ("", "Equal") and self.value == value


class Requirement(NamedTuple):
    """One expression of a node selector. Terms are tuples of them: all must hold."""

    key: str
    operator: str
    values: tuple[str, ...]


class Term(NamedTuple):
    labels: tuple[Requirement, ...]
    fields: tuple[Requirement, ...]


class HostPort(NamedTuple):
    ip: str  # "0.0.0.0": every address
    protocol: str
    port: int


@dataclass(frozen=True, slots=True, eq=False)
class Needs:
    """Compared by identity: `NeedsCache` hands out one per distinct set of needs."""

    requests: dict[str, int] = field(default_factory=dict)  # cpu in milli, the others in whole units; no zeroes
    scored_cpu_milli: int = 0  # where a container that requests none counts as a small one
    scored_memory_bytes: int = 0
    ports: tuple[HostPort, ...] = ()
    node_name: str = ""
    selector: tuple[Requirement, ...] = ()  # nodeSelector
    required: tuple[Term, ...] | None = None  # alternatives; None: no required affinity; (): matches nothing
    preferred: tuple[tuple[int, Term], ...] = ()
    tolerations: tuple[Toleration, ...] = ()

    def tolerates(self, key: str, value: str, effect: str) -> bool:
        return any(toleration.tolerates(key, value, effect) for toleration in self.tolerations)

    @property
    def best_effort(self) -> bool:
        return not self.requests.get("cpu") and not self.requests.get("memory")

    def only_nodes(self) -> frozenset[str] | None:
        """The names to which matchFields narrow the pod (as those of DaemonSets do); None: any node."""
        if not self.required:
            return None
        names: set[str] = set()
        for term in self.required:
            of_term: set[str] | None = None
            for requirement in term.fields:
                if requirement.key == "metadata.name" and requirement.operator == "In":
                    values = set(requirement.values)
                    of_term = values if of_term is None else of_term & values
            if of_term is None:
                return None
            names |= of_term
        return frozenset(names)


class NeedsCache:
    """Least recently used needs are forgotten past `size`; a pod that holds one keeps it alive."""

    def __init__(self, size: int = NEEDS_CACHE_SIZE) -> None:
        self._size = size
        self._known: OrderedDict[tuple[bytes, ...], Needs] = OrderedDict()

    def of(self, pod: core_v1_pb2.Pod) -> Needs:
        signature = _signature(pod.spec)
        needs = self._known.get(signature)
        if needs is None:
            needs = self._known[signature] = parse_needs(pod)
            if len(self._known) > self._size:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(signature)
        return needs


def _signature(spec: core_v1_pb2.PodSpec) -> tuple[bytes, ...]:
    """The bytes of everything that `parse_needs` reads. nodeName is left out: it is set on pods that are placed already,
    and those need only their requests and ports."""
    parts = [spec.affinity.node_affinity.SerializeToString(deterministic=True)]
    if spec.node_selector:
        parts.extend(f"{key}\0{value}".encode() for key, value in sorted(spec.node_selector.items()))
    parts.append(b"tolerations")
    parts.extend(toleration.SerializeToString(deterministic=True) for toleration in spec.tolerations)
    for containers in (spec.containers, spec.init_containers):
        parts.append(b"containers")
        for container in containers:
            parts.append(b"container")
            parts.append(container.resources.SerializeToString(deterministic=True))
            parts.append(container.restart_policy.encode())
            parts.extend(
                port.SerializeToString(deterministic=True)
                for port in container.ports
                if port.host_port or spec.host_network
            )
    parts.append(b"pod")
    if spec.overhead:
        parts.extend(f"{name}\0{amount.string}".encode() for name, amount in sorted(spec.overhead.items()))
    if spec.HasField("resources"):
        parts.append(spec.resources.SerializeToString(deterministic=True))
    return tuple(parts)


def parse_needs(pod: core_v1_pb2.Pod, *, node_name: str = "") -> Needs:
    spec = pod.spec
    node_affinity = spec.affinity.node_affinity
    required: tuple[Term, ...] | None = None
    if node_affinity.HasField("required_during_scheduling_ignored_during_execution"):
        terms = node_affinity.required_during_scheduling_ignored_during_execution.node_selector_terms
        required = tuple(term for term in map(_term, terms) if term.labels or term.fields)
    scored_cpu_milli, scored_memory_bytes = resources.scoring_requests(pod)
    return Needs(
        requests={name: clamped(amount) for name, amount in sorted(resources.pod_requests(pod).items()) if amount},
        scored_cpu_milli=clamped(scored_cpu_milli),
        scored_memory_bytes=clamped(scored_memory_bytes),
        ports=_host_ports(spec),
        node_name=node_name,
        selector=tuple(Requirement(key, "In", (value,)) for key, value in sorted(spec.node_selector.items())),
        required=required,
        preferred=tuple(
            (preference.weight, _term(preference.preference))
            for preference in node_affinity.preferred_during_scheduling_ignored_during_execution
            if preference.weight
        ),
        tolerations=tuple(
            Toleration(toleration.key, toleration.operator, toleration.value, toleration.effect)
            for toleration in spec.tolerations
        ),
    )


def _term(term: core_v1_pb2.NodeSelectorTerm) -> Term:
    return Term(_requirements(term.match_expressions), _requirements(term.match_fields))


def _requirements(expressions: Iterable[core_v1_pb2.NodeSelectorRequirement]) -> tuple[Requirement, ...]:
    return tuple(Requirement(item.key, item.operator, tuple(item.values)) for item in expressions)


def _host_ports(spec: core_v1_pb2.PodSpec) -> tuple[HostPort, ...]:
    """Those of sidecars count; those of init containers that end do not, as in Kubernetes."""
    containers = [*spec.containers, *(item for item in spec.init_containers if item.restart_policy == "Always")]
    found = {
        HostPort(port.host_ip or "0.0.0.0", port.protocol or "TCP", port.host_port or port.container_port)
        for container in containers
        for port in container.ports
        if port.host_port or spec.host_network
    }
    return tuple(sorted(found))


def clamped(amount: int) -> int:
    """Small enough that sums of int64 cannot overflow."""
    return min(amount, 1 << 53)
