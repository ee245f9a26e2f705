"""A pod that names a RuntimeClass gets what that brings: its overhead, and where such pods can run. In Kubernetes' words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.admission.base import Lookup, Request
from wherry.api import quantity

_MISMATCH = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
_UNDEFINED = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"


class RuntimeClass:
    async def mutate(self, request: Request, lookup: Lookup) -> None:
        if not _concerns(request):
            return
        found = await _class(request, lookup)
        if found is None:
            return
        spec = request.obj.spec
        if found.overhead.pod_fixed:
            if spec.overhead and not _same(spec.overhead, found.overhead.pod_fixed):
                raise request.forbid(_MISMATCH)
            spec.overhead.clear()
            for name, amount in found.overhead.pod_fixed.items():
                spec.overhead[name].CopyFrom(amount)
        _place(request, spec, found.scheduling)

    async def validate(self, request: Request, lookup: Lookup) -> None:
        if not _concerns(request):
            return
        found = await _class(request, lookup)
        overhead = request.obj.spec.overhead
        if found is not None and found.overhead.pod_fixed:
            if not _same(overhead, found.overhead.pod_fixed):
                raise request.forbid(_MISMATCH)
        elif overhead:
            raise request.forbid(_UNDEFINED)


def _concerns(request: Request) -> bool:
    kind = request.kind
    return kind.kind == "Pod" and not kind.group and request.operation == "CREATE" and not request.subresource


async def _class(request: Request, lookup: Lookup) -> Any | None:
    """None for a pod that names none. Raises Forbidden."""
    name = request.obj.spec.runtime_class_name
    if not name:
        return None
    found = await lookup.find("node.k8s.io/v1", "RuntimeClass", "", name)
    if found is None:
        raise request.forbid(f'pod rejected: RuntimeClass "{name}" not found')
    return found


def _place(request: Request, spec: Any, scheduling: Any) -> None:
    """Both selectors must hold; tolerations are added."""
    for key, value in sorted(scheduling.node_selector.items()):
        own = spec.node_selector.get(key, value)
        if own != value:
            raise request.forbid(
                f"conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
            )
        spec.node_selector[key] = value
    for toleration in scheduling.tolerations:
        if toleration not in spec.tolerations:
            spec.tolerations.add().CopyFrom(toleration)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return set(one) == set(other) and all(quantity.compare(one[name], other[name]) == 0 for name in one)
