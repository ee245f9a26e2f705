"""The strategy of pods: deleted with grace, a spec of which almost nothing may change, a status that is the node's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from controlplane.registry.defaults import pods as defaults
from controlplane.registry.strategy import Strategy
from controlplane.registry.validation import pod_resize, pod_updates, pod_warnings
from controlplane.registry.validation import pods as validation
from wherry.api import resources
from wherry.api.errors import Cause
from wherry.pb import core_v1_pb2

TERMINAL = ("Succeeded", "Failed")
# Pods of one template have one spec: it is looked at once, and found again by its bytes. Larger ones are not
# kept: a cache of 128 of them would be a part of the process' memory.
MAX_ALIKE_BYTES = 8 << 10


@lru_cache(maxsize=128)
def _with_defaults(raw: bytes) -> bytes:
    obj = core_v1_pb2.Pod()
    obj.spec.MergeFromString(raw)
    defaults.pod(obj)
    return obj.spec.SerializeToString(deterministic=True)


@lru_cache(maxsize=128)
def _qos_class_of(raw: bytes) -> str:
    obj = core_v1_pb2.Pod()
    obj.spec.MergeFromString(raw)
    return resources.qos_class(obj)


def _qos_class(obj: Any) -> str:
    raw = obj.spec.SerializeToString(deterministic=True)
    return resources.qos_class(obj) if len(raw) > MAX_ALIKE_BYTES else _qos_class_of(raw)


@lru_cache(maxsize=128)
def _is_fine(raw: bytes) -> bool:
    return not validation.spec(core_v1_pb2.PodSpec.FromString(raw), "spec")


@lru_cache(maxsize=128)
def _spec_warnings(raw: bytes) -> tuple[str, ...]:
    return tuple(pod_warnings.spec(core_v1_pb2.PodSpec.FromString(raw), "spec"))


@dataclass(slots=True)
class Pods(Strategy):
    has_status: bool = True

    def defaults(self, obj: Any) -> None:
        raw = obj.spec.SerializeToString(deterministic=True)
        if len(raw) > MAX_ALIKE_BYTES:
            defaults.pod(obj)
        elif (filled := _with_defaults(raw)) != raw:
            obj.ClearField("spec")
            obj.spec.MergeFromString(filled)

    def prepare_create(self, obj: Any) -> None:
        obj.ClearField("status")
        obj.metadata.generation = 1
        obj.status.phase = "Pending"
        obj.status.qos_class = _qos_class(obj)
        if obj.spec.scheduling_gates:
            condition = obj.status.conditions.add(
                type="PodScheduled",
                status="False",
                reason="SchedulingGated",
                message="Scheduling is blocked due to non-empty scheduling gates",
            )
            condition.last_transition_time.CopyFrom(obj.metadata.creation_timestamp)

    def prepare_update(self, obj: Any, old: Any) -> None:
        Strategy.prepare_update(self, obj, old)
        self._count(obj, old)

    def prepare_status(self, obj: Any, old: Any) -> None:
        Strategy.prepare_status(self, obj, old)
        # Fixed when the pod is made; an agent that leaves it out does not change it.
        obj.status.qos_class = old.status.qos_class or resources.qos_class(old)

    def prepare_subresource(self, obj: Any, old: Any, subresource: str) -> None:
        obj.status.CopyFrom(old.status)
        if subresource == "ephemeralcontainers":
            wanted = [
                type(container).FromString(container.SerializeToString()) for container in obj.spec.ephemeral_containers
            ]
            obj.spec.CopyFrom(old.spec)
            del obj.spec.ephemeral_containers[:]
            obj.spec.ephemeral_containers.extend(wanted)
        elif subresource == "resize":
            pod_resize.keep_the_rest(obj, old)
        self._count(obj, old)

    def _count(self, obj: Any, old: Any) -> None:
        obj.metadata.generation = old.metadata.generation
        if obj.spec != old.spec:
            obj.metadata.generation += 1

    def validate(self, obj: Any) -> list[Cause]:
        raw = obj.spec.SerializeToString(deterministic=True)
        return validation.new_pod(obj, spec_is_fine=len(raw) <= MAX_ALIKE_BYTES and _is_fine(raw))

    def check_update(self, obj: Any, old: Any, subresource: str) -> list[Cause]:
        if not subresource and obj.spec == old.spec:
            return []  # labels, annotations, finalizers: no need to validate containers again
        if subresource:
            return Strategy.check_update(self, obj, old, subresource)
        return [*validation.pod(obj), *self.validate_update(obj, old)]

    def validate_update(self, obj: Any, old: Any) -> list[Cause]:
        return pod_updates.update(obj, old)

    def validate_status(self, obj: Any, old: Any) -> list[Cause]:
        return pod_updates.status(obj, old)

    def validate_subresource(self, obj: Any, old: Any, subresource: str) -> list[Cause]:
        if subresource == "ephemeralcontainers":
            return pod_updates.ephemeral_containers(obj, old)
        if subresource == "resize":
            return pod_resize.resize(obj, old) or validation.pod(obj)
        return []

    def warnings(self, obj: Any, old: Any | None) -> list[str]:
        if old is not None and obj.spec == old.spec:
            return []
        raw = obj.spec.SerializeToString(deterministic=True)
        if len(raw) > MAX_ALIKE_BYTES:
            return pod_warnings.pod(obj)
        return [*pod_warnings.name(obj), *_spec_warnings(raw)]

    def grace_s(self, obj: Any, asked: int | None) -> int | None:
        if not obj.spec.node_name or obj.status.phase in TERMINAL:
            return 0  # nothing runs that would need time
        grace = asked
        if grace is None:
            grace = (
                obj.spec.termination_grace_period_seconds
                if obj.spec.HasField("termination_grace_period_seconds")
                else 30
            )
        return max(grace, 1) if grace < 0 else grace
