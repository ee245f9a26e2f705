"""What an object costs a ResourceQuota, and whether a quota looks at it at all. Pure.

Shared by admission (`controlplane.admission.quota`), which charges each write in its own transaction, and by the quota
controller, which counts everything anew. Amounts are canonical quantities as text, so that sums keep the notation that people
wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from wherry.api import quantity, resources

Usage = dict[str, str]

_COMPUTE = ("cpu", "memory", "ephemeral-storage")
# Whoever limits one of these obliges each container to name it.
_MUST_NAME = ("cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory")
_POD = frozenset(
    (
        "pods",
        "count/pods",
        *_COMPUTE,
        *(f"requests.{name}" for name in _COMPUTE),
        *(f"limits.{name}" for name in _COMPUTE),
    )
)
_SERVICE = frozenset(("services", "services.loadbalancers", "services.nodeports", "count/services"))
_CLAIM = frozenset(("persistentvolumeclaims", "requests.storage", "count/persistentvolumeclaims"))
_BY_CLASS = ".storageclass.storage.k8s.io/"
# Kinds of the core group that are also counted under their plain name.
_PLAIN = frozenset(("configmaps", "secrets", "resourcequotas", "replicationcontrollers"))
_OVER = ("Succeeded", "Failed")


class Selector(NamedTuple):
    """One scope of a quota: all of them must hold."""

    scope: str
    operator: str = "Exists"
    values: tuple[str, ...] = ()


def count_name(group: str, plural: str) -> str:
    return f"count/{plural}.{group}" if group else f"count/{plural}"


def counted(name: str) -> tuple[str, str] | None:
    """Group and plural of `count/deployments.apps`, and of the older plain names; None for what is not a mere count."""
    if name.startswith("count/"):
        plural, _, group = name.removeprefix("count/").partition(".")
        return group, plural
    return ("", name) if name in _PLAIN else None


# usage


def usage(group: str, plural: str, obj: Any) -> Usage:
    """What the object uses of whatever can be limited."""
    found = {count_name(group, plural): "1"}
    if group:
        return found
    if plural == "pods":
        return found | _pod(obj)
    if plural == "services":
        return found | _service(obj.spec)
    if plural == "persistentvolumeclaims":
        return found | _claim(obj)
    if plural in _PLAIN:
        found[plural] = "1"
    return found


def _pod(pod: Any) -> Usage:
    """A pod that is over uses nothing but its place in the store."""
    if pod.status.phase in _OVER:
        return {}
    return {"pods": "1", **_compute(_totals(pod.spec, "requests"), _totals(pod.spec, "limits"))}


def _totals(spec: Any, what: str) -> Usage:
    sums = resources.exact_requests(spec) if what == "requests" else resources.exact_limits(spec)
    return {name: quantity.format_amount(sums[name], _notation(spec, what, name)) for name in sums}


def _notation(spec: Any, what: str, name: str) -> quantity.Format:
    """As the first container wrote it."""
    for container in (*spec.containers, *spec.init_containers):
        amounts = getattr(container.resources, what)
        if name in amounts and quantity.amount(amounts[name]):
            return quantity.parse(amounts[name].string).format
    return "DecimalSI"


def _compute(requests: Mapping[str, str], limits: Mapping[str, str]) -> Usage:
    found: Usage = {}
    for name, amount in requests.items():
        if name in _COMPUTE or name.startswith("hugepages-"):
            found[name] = found[f"requests.{name}"] = amount
        elif _extended(name):
            found[f"requests.{name}"] = amount
    found |= {f"limits.{name}": amount for name, amount in limits.items() if name in _COMPUTE}
    return found


def _extended(name: str) -> bool:
    domain = name.partition("/")[0] if "/" in name else ""
    return bool(domain) and domain != "kubernetes.io" and not domain.endswith(".kubernetes.io")


def _service(spec: Any) -> Usage:
    ports = len(spec.ports)
    found = {"services": "1"}
    if spec.type == "NodePort":
        found["services.nodeports"] = str(ports)
    elif spec.type == "LoadBalancer":
        found["services.loadbalancers"] = "1"
        automatic = not spec.HasField("allocate_load_balancer_node_ports") or spec.allocate_load_balancer_node_ports
        asked = ports if automatic else sum(1 for port in spec.ports if port.node_port)
        found["services.nodeports"] = str(asked)
    return found


def _claim(claim: Any) -> Usage:
    found = {"persistentvolumeclaims": "1"}
    amounts = claim.spec.resources.requests
    storage = amounts["storage"].string if "storage" in amounts else ""
    if "storage" in claim.status.allocated_resources:  # an expansion that did not come off still holds its space
        storage = max(storage, claim.status.allocated_resources["storage"].string, key=quantity.amount)
    if storage:
        found["requests.storage"] = storage
    name = claim.spec.storage_class_name
    if name:
        found |= {f"{name}{_BY_CLASS}{what}": amount for what, amount in tuple(found.items())}
    return found


# which quota


def selectors(spec: Any) -> list[Selector]:
    found = [Selector(scope) for scope in spec.scopes]
    for term in spec.scope_selector.match_expressions:
        found.append(Selector(term.scope_name, term.operator, tuple(term.values)))
    return found


def relevant(group: str, plural: str, names: Iterable[str]) -> list[str]:
    """Those of the limited names that an object of this kind may use."""
    return sorted(name for name in names if _concerns(group, plural, name))


def _concerns(group: str, plural: str, name: str) -> bool:
    if name == count_name(group, plural):
        return True
    if group:
        return False
    if plural == "pods":
        return name in _POD or name.startswith(("hugepages-", "requests.hugepages-")) or _extended_quota(name)
    if plural == "services":
        return name in _SERVICE
    if plural == "persistentvolumeclaims":
        return name in _CLAIM or _BY_CLASS in name
    return plural in _PLAIN and name == plural


def _extended_quota(name: str) -> bool:
    return name.startswith("requests.") and _extended(name.removeprefix("requests."))


def matches(spec: Any, group: str, plural: str, obj: Any) -> bool:
    """Whether the quota counts the object: it limits something that the object may use, and all its scopes hold."""
    if not relevant(group, plural, spec.hard):
        return False
    return all(_in_scope(selector, group, plural, obj) for selector in selectors(spec))


def _in_scope(selector: Selector, group: str, plural: str, obj: Any) -> bool:
    if not group and plural == "pods":
        decide = _POD_SCOPES.get(selector.scope)
        return decide is not None and decide(selector, obj)
    if not group and plural == "persistentvolumeclaims" and selector.scope == "VolumeAttributesClass":
        return _named(selector, obj.spec.volume_attributes_class_name)
    return False


def _terminating(pod: Any) -> bool:
    return bool(pod.spec.HasField("active_deadline_seconds"))


def _named(selector: Selector, name: str) -> bool:
    match selector.operator:
        case "Exists":
            return bool(name)
        case "DoesNotExist":
            return not name
        case "In":
            return bool(name) and name in selector.values
        case "NotIn":
            return not name or name not in selector.values
    return False


def _crosses_namespaces(pod: Any) -> bool:
    affinity = pod.spec.affinity
    terms: list[Any] = []
    for side in (affinity.pod_affinity, affinity.pod_anti_affinity):
        terms += side.required_during_scheduling_ignored_during_execution
        terms += (item.pod_affinity_term for item in side.preferred_during_scheduling_ignored_during_execution)
    return any(term.namespaces or term.HasField("namespace_selector") for term in terms)


_POD_SCOPES: Mapping[str, Callable[[Selector, Any], bool]] = {
    "Terminating": lambda selector, pod: _terminating(pod),
    "NotTerminating": lambda selector, pod: not _terminating(pod),
    "BestEffort": lambda selector, pod: resources.qos_class(pod) == "BestEffort",
    "NotBestEffort": lambda selector, pod: resources.qos_class(pod) != "BestEffort",
    "PriorityClass": lambda selector, pod: _named(selector, pod.spec.priority_class_name),
    "CrossNamespacePodAffinity": lambda selector, pod: _crosses_namespaces(pod),
}


def unnamed(pod: Any, names: Iterable[str]) -> str:
    """What a pod leaves out although a quota limits it: `requests.cpu for: a,b; requests.memory for: b`, or nothing."""
    missing: dict[str, set[str]] = {}
    wanted = [name for name in names if name in _MUST_NAME]
    for container in (*pod.spec.containers, *pod.spec.init_containers):
        given = _compute(
            {name: amount.string for name, amount in container.resources.requests.items()},
            {name: amount.string for name, amount in container.resources.limits.items()},
        )
        for name in wanted:
            if name not in given:
                missing.setdefault(name, set()).add(container.name)
    return "; ".join(f"{name} for: {','.join(sorted(missing[name]))}" for name in sorted(missing))


# sums


def total(usages: Iterable[Usage], names: Sequence[str]) -> Usage:
    """What they use together of these names; 0 for what nobody uses."""
    amounts: dict[str, list[str]] = {name: [] for name in names}
    for found in usages:
        for name in amounts:
            if name in found:
                amounts[name].append(found[name])
    return {name: quantity.add(amounts[name]) for name in names}


def more(used: str, by: str) -> str:
    return quantity.add([used, by])


def less(used: str, by: str) -> str:
    """Never below zero: what was not counted when it came is not missed when it goes."""
    left = quantity.subtract(used, by)
    return left if quantity.amount(left) > Decimal(0) else "0"
