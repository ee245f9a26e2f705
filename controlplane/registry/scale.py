"""The scale subresource: how many replicas of a workload, for clients that know nothing else of it. Called by `registry`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from controlplane.registry import violations
from controlplane.registry.base import RequestContext, Stored
from controlplane.registry.reads import Reader
from controlplane.registry.state import Served
from controlplane.registry.strategy import Strategy
from controlplane.registry.writes import Writer
from wherry.api import labels
from wherry.api.errors import BadRequest, InternalError
from wherry.api.kinds import Kind
from wherry.pb import autoscaling_v1_pb2, meta_v1_pb2

KIND = Kind("autoscaling", "v1", "Scale", "scales", "scale", True, (), (), (), autoscaling_v1_pb2.Scale)


def of(obj: Any, read: Callable[[Any], Any]) -> autoscaling_v1_pb2.Scale:
    """`read` is the strategy's, for kinds that say where their figures are."""
    own: autoscaling_v1_pb2.Scale | None = read(obj)
    scale = own if own is not None else autoscaling_v1_pb2.Scale()
    meta = scale.metadata
    for name in ("name", "namespace", "uid", "resource_version"):
        setattr(meta, name, getattr(obj.metadata, name))
    meta.creation_timestamp.CopyFrom(obj.metadata.creation_timestamp)
    if own is not None:
        return own
    scale.spec.replicas = obj.spec.replicas
    scale.status.replicas = obj.status.replicas
    try:
        scale.status.selector = str(_selector(obj.spec.selector))
    except labels.BadSelector:
        pass  # an old object whose selector would not be accepted any more still scales
    return scale


def _selector(selector: Any) -> labels.Selector:
    """That of a ReplicationController is a plain map."""
    if isinstance(selector, meta_v1_pb2.LabelSelector):
        return labels.from_message(selector)
    return labels.from_map(dict(selector))


def stored(strategy: Strategy, source: Stored) -> Stored:
    """The scale of a stored workload, at its revision."""
    scale = of(source.message(), strategy.read_scale)
    scale.metadata.ClearField("resource_version")
    return Stored(KIND, scale.SerializeToString(deterministic=True), source.revision, {})


class Scaler:
    def __init__(self, reader: Reader, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer

    async def get(self, served: Served, namespace: str, name: str, resource_version: str) -> Stored:
        """Raises InternalError, in Kubernetes' words, for a custom resource that does not say how many it wants."""
        found = await self._reader.get(served, namespace, name, resource_version)
        path = served.strategy.lacks_replicas(found.message())
        if path:
            raise InternalError(f'Internal error occurred: the spec replicas field "{path}" does not exist')
        return stored(served.strategy, found)

    async def update(
        self, ctx: RequestContext, served: Served, namespace: str, name: str, wanted: Callable[[Any], Any]
    ) -> Stored:
        """`wanted` gets the present Scale and gives the new one."""

        def change(current: Any) -> Any:
            scale = wanted(of(current, served.strategy.read_scale))
            meta = scale.metadata
            if meta.name and meta.name != name:
                raise BadRequest(f"the name of the object ({meta.name}) does not match the name on the URL ({name})")
            if scale.spec.replicas < 0:
                detail = "must be greater than or equal to 0"
                cause = violations.invalid("spec.replicas", scale.spec.replicas, detail)
                raise violations.invalid_object(KIND.group, KIND.kind, name, [cause])
            served.strategy.write_scale(current, scale.spec.replicas)
            if meta.resource_version or served.strategy.unconditional_update:
                current.metadata.resource_version = meta.resource_version
            if meta.uid:
                current.metadata.uid = meta.uid
            return current

        return stored(served.strategy, await self._writer.change(ctx, served, namespace, name, change, "scale"))
