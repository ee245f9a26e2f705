"""Helpers on ObjectMeta and conditions that every component needs: keys, owners, finalizers, conditions, equality.

Pure, on messages. Functions that change something change the message they are given: hand in your own copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from google.protobuf.message import Message

from wherry.api import schema, times
from wherry.pb import meta_v1_pb2, resources_pb2


class Object(Protocol):
    """Any kind: a message with metadata."""

    @property
    def metadata(self) -> meta_v1_pb2.ObjectMeta: ...


def key(obj: Object) -> str:
    """`namespace/name`, or `name` for what has no namespace: the key of work queues and caches."""
    return key_of(obj.metadata.namespace, obj.metadata.name)


def key_of(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


def split_key(text: str) -> tuple[str, str]:
    """Namespace ("" for none) and name."""
    namespace, _, name = text.rpartition("/")
    return namespace, name


def api_version_and_kind(obj: Message) -> tuple[str, str]:
    """Raises KeyError for a message that is no kind."""
    if isinstance(obj, resources_pb2.Unstructured):
        return obj.api_version, obj.kind
    found = schema.type_meta(type(obj))
    if found is None:
        raise KeyError(f"{schema.descriptor_of(type(obj)).full_name} has no apiVersion and kind")
    return found


def owner_reference(
    owner: Any, *, controller: bool = True, block_owner_deletion: bool = True
) -> meta_v1_pb2.OwnerReference:
    """What a dependant of `owner` carries."""
    api_version, kind = api_version_and_kind(owner)
    reference = meta_v1_pb2.OwnerReference(
        api_version=api_version, kind=kind, name=owner.metadata.name, uid=owner.metadata.uid
    )
    if controller:
        reference.controller = True
    if block_owner_deletion:
        reference.block_owner_deletion = True
    return reference


def controller_of(obj: Object) -> meta_v1_pb2.OwnerReference | None:
    """The owner that manages the object; there is at most one."""
    return next((owner for owner in obj.metadata.owner_references if owner.controller), None)


def is_controlled_by(obj: Object, owner: Object) -> bool:
    found = controller_of(obj)
    return found is not None and found.uid == owner.metadata.uid


def is_deleting(obj: Object) -> bool:
    return obj.metadata.HasField("deletion_timestamp")


def remove_finalizer(obj: Object, name: str) -> bool:
    """True when it was there."""
    kept = [finalizer for finalizer in obj.metadata.finalizers if finalizer != name]
    changed = len(kept) != len(obj.metadata.finalizers)
    if changed:
        del obj.metadata.finalizers[:]
        obj.metadata.finalizers.extend(kept)
    return changed


def get_condition(conditions: Iterable[Any], kind: str) -> Any | None:
    """The condition of this type, of whatever message (PodCondition, NodeCondition, meta Condition)."""
    return next((condition for condition in conditions if condition.type == kind), None)


def is_true(conditions: Iterable[Any], kind: str) -> bool:
    found = get_condition(conditions, kind)
    return found is not None and found.status == "True"


def set_condition(
    conditions: Any, kind: str, status: str, *, reason: str = "", message: str = "", now: float, **others: Any
) -> bool:
    """Adds or replaces the condition of this type in a repeated field; True when anything changed.

    lastTransitionTime moves only when the status does. `others` are further fields of the condition's message (such as
    `observed_generation`); lastUpdateTime, where there is one, moves with every change.
    """
    found = get_condition(conditions, kind)
    if found is None:
        found = conditions.add(type=kind)
        changed = True
    else:
        changed = (found.status, found.reason, found.message) != (status, reason, message) or any(
            getattr(found, name) != value for name, value in others.items()
        )
        if not changed:
            return False
    if found.status != status:
        found.last_transition_time.CopyFrom(times.to_time(now))
    found.status, found.reason, found.message = status, reason, message
    for name, value in others.items():
        setattr(found, name, value)
    if "last_update_time" in schema.descriptor_of(type(found)).fields_by_name:
        found.last_update_time.CopyFrom(times.to_time(now))
    return changed


def remove_condition(conditions: Any, kind: str) -> bool:
    for index, condition in enumerate(conditions):
        if condition.type == kind:
            del conditions[index]
            return True
    return False


def equal(left: Message | None, right: Message | None) -> bool:
    """Equal by meaning: the serialised forms agree, so that an explicit zero in a plain field is no difference."""
    if left is None or right is None:
        return left is right
    return type(left) is type(right) and (
        left == right or left.SerializeToString(deterministic=True) == right.SerializeToString(deterministic=True)
    )
