"""ObjectMeta: what the server fills in, what it lets nobody change, and its validation. Pure; called by `writes`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controlplane.registry import violations
from controlplane.registry.strategy import NameRule
from wherry.api import codec, names
from wherry.api.context import Env
from wherry.api.errors import Cause
from wherry.pb import meta_v1_pb2

MAX_ANNOTATION_BYTES = 256 * 1024
_SUFFIX_CHARS = "bcdfghjklmnpqrstvwxz2456789"  # no vowels: no words
_SUFFIX_LENGTH = 5
_MAX_GENERATED_BASE = 63 - _SUFFIX_LENGTH
_STANDARD_FINALIZERS = ("kubernetes", "orphan", "foregroundDeletion")


def fill_new(meta: meta_v1_pb2.ObjectMeta, env: Env) -> None:
    meta.uid = env.uuid()
    meta.creation_timestamp.CopyFrom(meta_v1_pb2.Time(seconds=int(env.now() // 1)))
    for name in ("generation", "self_link", "resource_version"):
        meta.ClearField(name)
    clear_system(meta)


def clear_system(meta: meta_v1_pb2.ObjectMeta) -> None:
    """What nobody can say of a new object, and therefore owns."""
    for name in ("deletion_timestamp", "deletion_grace_period_seconds"):
        meta.ClearField(name)


def generate_name(base: str, env: Env) -> str:
    """The base is cut so that the result is still a label."""
    suffix = "".join(env.rng.choice(_SUFFIX_CHARS) for _ in range(_SUFFIX_LENGTH))
    return base[:_MAX_GENERATED_BASE] + suffix


def keep_system_fields(meta: meta_v1_pb2.ObjectMeta, old: meta_v1_pb2.ObjectMeta) -> None:
    """What a client left out, or may not say, is as it was."""
    meta.uid = meta.uid or old.uid
    if not meta.HasField("creation_timestamp") or not meta.creation_timestamp.seconds:
        meta.creation_timestamp.CopyFrom(old.creation_timestamp)
    if old.HasField("deletion_timestamp") and not meta.HasField("deletion_timestamp"):
        meta.deletion_timestamp.CopyFrom(old.deletion_timestamp)
    if old.HasField("deletion_grace_period_seconds") and not meta.HasField("deletion_grace_period_seconds"):
        meta.deletion_grace_period_seconds = old.deletion_grace_period_seconds
    meta.generation = old.generation
    meta.ClearField("self_link")
    meta.ClearField("resource_version")


def only_status(meta: meta_v1_pb2.ObjectMeta, old: meta_v1_pb2.ObjectMeta) -> None:
    """Of an update through `status`, labels and annotations pass; finalizers and owners do not."""
    managed = list(meta.managed_fields)
    labels, annotations, uid = dict(meta.labels), dict(meta.annotations), meta.uid
    meta.CopyFrom(old)
    for name in ("labels", "annotations", "managed_fields"):
        meta.ClearField(name)
    meta.labels.update(labels)
    meta.annotations.update(annotations)
    meta.managed_fields.extend(managed)
    meta.uid = uid or old.uid


def validate(
    meta: meta_v1_pb2.ObjectMeta,
    namespaced: bool,
    name_rule: NameRule,
    path: str = "metadata",
    *,
    any_finalizer: bool = False,
) -> list[Cause]:
    causes: list[Cause] = []
    if meta.generate_name:
        causes += (
            violations.invalid(f"{path}.generateName", meta.generate_name, message)
            for message in name_rule(meta.generate_name, True)
        )
    if meta.name:
        causes += (violations.invalid(f"{path}.name", meta.name, message) for message in name_rule(meta.name, False))
    else:
        causes.append(violations.required(f"{path}.name", "name or generateName is required"))
    if namespaced:
        if not meta.namespace:
            causes.append(violations.required(f"{path}.namespace"))
        else:
            causes += (
                violations.invalid(f"{path}.namespace", meta.namespace, message)
                for message in names.dns1123_label(meta.namespace)
            )
    elif meta.namespace:
        causes.append(violations.forbidden(f"{path}.namespace", "not allowed on this type"))
    causes += validate_common(meta, path, any_finalizer=any_finalizer)
    return causes


def validate_common(meta: meta_v1_pb2.ObjectMeta, path: str, *, any_finalizer: bool = False) -> list[Cause]:
    """What holds for templates too. `any_finalizer`: a finalizer need not be qualified by a domain and a path."""
    causes: list[Cause] = []
    if meta.labels:
        causes += validate_labels(meta.labels, f"{path}.labels")
    if meta.annotations:
        causes += validate_annotations(meta.annotations, f"{path}.annotations")
    if meta.owner_references:
        causes += _owners(meta.owner_references, f"{path}.ownerReferences")
    if meta.finalizers:
        causes += _finalizers(meta.finalizers, f"{path}.finalizers", any_finalizer)
    return causes


def validate_labels(labels: Any, path: str) -> list[Cause]:
    causes: list[Cause] = []
    for key in sorted(labels):
        causes += (violations.invalid(path, key, message) for message in names.qualified_name(key))
        causes += (violations.invalid(path, labels[key], message) for message in names.label_value(labels[key]))
    return causes


def validate_annotations(annotations: Any, path: str) -> list[Cause]:
    causes: list[Cause] = []
    total = 0
    for key in sorted(annotations):
        # Keys may have capitals here, unlike those of labels.
        causes += (violations.invalid(path, key, message) for message in names.qualified_name(key.lower()))
        total += len(key.encode()) + len(annotations[key].encode())
    if total > MAX_ANNOTATION_BYTES:
        causes.append(violations.too_long(path, MAX_ANNOTATION_BYTES))
    return causes


def _owners(owners: Sequence[meta_v1_pb2.OwnerReference], path: str) -> list[Cause]:
    causes = []
    controller: meta_v1_pb2.OwnerReference | None = None
    for owner in owners:
        if not owner.api_version.rpartition("/")[2]:
            causes.append(violations.invalid(f"{path}.apiVersion", owner.api_version, "version must not be empty"))
        for field, value in (("kind", owner.kind), ("name", owner.name), ("uid", owner.uid)):
            if not value:
                causes.append(violations.invalid(f"{path}.{field}", value, "must not be empty"))
        if owner.api_version == "v1" and owner.kind == "Event":
            causes.append(
                violations.invalid(path, f"{owner.api_version}, Kind={owner.kind}", "is disallowed from being an owner")
            )
        if owner.controller:
            if controller is not None:
                detail = (
                    'Only one reference can have Controller set to true. Found "true" in references for '
                    f"{controller.kind}/{controller.name} and {owner.kind}/{owner.name}"
                )
                causes.append(violations.invalid(path, [_plain_owner(item) for item in owners], detail))
            else:
                controller = owner
    return causes


def _plain_owner(owner: meta_v1_pb2.OwnerReference) -> dict[str, Any]:
    """In the order in which Kubernetes writes its fields."""
    value = codec.to_dict(owner)
    return {name: value[name] for name in ("apiVersion", "kind", "name", "uid") if name in value} | value


def _finalizers(finalizers: Sequence[str], path: str, any_finalizer: bool) -> list[Cause]:
    causes: list[Cause] = []
    for index, name in enumerate(finalizers):
        wrong = names.qualified_name(name)
        causes += (violations.invalid(path, name, message) for message in wrong)
        if not wrong and not any_finalizer and "/" not in name and name not in _STANDARD_FINALIZERS:
            detail = "name is neither a standard finalizer name nor is it fully qualified"
            causes.append(violations.invalid(f"{path}[{index}]", name, detail))
    if "orphan" in finalizers and "foregroundDeletion" in finalizers:
        detail = 'finalizer "orphan" and "foregroundDeletion" cannot be both set'
        causes.append(violations.invalid(path, list(finalizers), detail))
    return causes


def validate_update(
    meta: meta_v1_pb2.ObjectMeta, old: meta_v1_pb2.ObjectMeta, path: str = "metadata", *, any_finalizer: bool = False
) -> list[Cause]:
    """Name, namespace and uid have been compared before (they are 400 and 409, not 422)."""
    causes = []
    if old.HasField("deletion_timestamp"):
        added = sorted(set(meta.finalizers) - set(old.finalizers))
        if added:
            names_of = ", ".join(violations.quote(name) for name in added)
            detail = (
                "no new finalizers can be added if the object is being deleted, found new finalizers "
                f"[]string{{{names_of}}}"
            )
            causes.append(violations.forbidden(f"{path}.finalizers", detail))
    for name, json_name in (
        ("creation_timestamp", "creationTimestamp"),
        ("deletion_timestamp", "deletionTimestamp"),
        ("deletion_grace_period_seconds", "deletionGracePeriodSeconds"),
    ):
        if meta.HasField(name) != old.HasField(name) or getattr(meta, name) != getattr(old, name):  # type: ignore[arg-type]
            causes.append(violations.invalid(f"{path}.{json_name}", _shown(meta, json_name), "field is immutable"))
    return causes + validate_common(meta, path, any_finalizer=any_finalizer)


def _shown(meta: meta_v1_pb2.ObjectMeta, json_name: str) -> Any:
    return codec.to_dict(meta).get(json_name)
