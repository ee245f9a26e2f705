"""What a resize of a pod in place may change: cpu and memory of containers and sidecars, within the pod's class of service.

Called by the strategy of pods, after `keep_the_rest` has put back everything else (as Kubernetes does, without a word).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.registry import violations
from controlplane.registry.violations import Causes
from wherry.api import resources

_CHANGEABLE = ("cpu", "memory")
MIRROR = "kubernetes.io/config.mirror"


def keep_the_rest(obj: Any, old: Any) -> None:
    """Of `obj` only the resources of its containers stay. One with other containers than the pod's is left for `resize` to
    refuse."""
    if ordered(obj.spec, old.spec):
        wanted = type(old.spec)()
        wanted.CopyFrom(old.spec)
        for field in ("containers", "init_containers"):
            for container, given in zip(getattr(wanted, field), getattr(obj.spec, field), strict=True):
                container.ClearField("resources")
                if given.HasField("resources"):
                    container.resources.CopyFrom(given.resources)
        obj.spec.CopyFrom(wanted)


def ordered(new: Any, old: Any) -> bool:
    return all(
        [container.name for container in getattr(new, field)] == [container.name for container in getattr(old, field)]
        for field in ("containers", "init_containers")
    )


def resize(obj: Any, old: Any) -> Causes:
    if MIRROR in old.metadata.annotations:
        return [violations.forbidden("", "static pods cannot be resized")]
    if old.spec.os.name == "windows":
        return [violations.forbidden("", "windows pods cannot be resized")]
    if not ordered(obj.spec, old.spec):
        return [violations.forbidden("spec", "containers may not be added, removed, renamed or reordered on resize")]
    causes: Causes = []
    if resources.qos_class(obj) != (old.status.qos_class or resources.qos_class(old)):
        detail = "Pod QOS Class may not change as a result of resizing"
        causes.append(violations.invalid("spec", old.status.qos_class, detail))
    if old.spec.HasField("resources") and (old.spec.resources.requests or old.spec.resources.limits):
        causes.append(violations.forbidden("spec", "pods with pod-level resources cannot be resized"))
    for field, name in (("containers", "containers"), ("init_containers", "initContainers")):
        pairs = zip(getattr(obj.spec, field), getattr(old.spec, field), strict=True)
        for index, (container, before) in enumerate(pairs):
            if container.resources == before.resources:
                continue
            path = f"spec.{name}[{index}].resources"
            lasts = field == "containers" or resources.is_sidecar(before)
            if not lasts or _rest(container.resources) != _rest(before.resources):
                causes.append(violations.forbidden("spec", "only cpu and memory resources are mutable"))
            for what in ("requests", "limits"):
                if set(getattr(before.resources, what)) - set(getattr(container.resources, what)):
                    causes.append(violations.forbidden(f"{path}.{what}", f"resource {what} cannot be removed"))
    return causes


def _rest(given: Any) -> tuple[Any, ...]:
    return _others(given.requests), _others(given.limits), list(given.claims)


def _others(amounts: Mapping[str, Any]) -> dict[str, str]:
    return {name: amounts[name].string for name in amounts if name not in _CHANGEABLE}
