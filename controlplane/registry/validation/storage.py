"""PersistentVolume, PersistentVolumeClaim and the kinds of storage.k8s.io."""

from __future__ import annotations

from typing import Any

from controlplane.registry import violations
from controlplane.registry.validation import common
from controlplane.registry.violations import Causes
from wherry.api import names, quantity

ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
MODES = ("Block", "Filesystem")
_CLAIM_FIXED = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
)


def volume(obj: Any) -> Causes:
    spec = obj.spec
    causes = _access_modes(spec.access_modes, "spec.accessModes")
    if not spec.capacity:
        causes.append(violations.required("spec.capacity"))
    if list(spec.capacity) != ["storage"]:
        shown = {name: amount.string for name, amount in sorted(spec.capacity.items())} or None
        causes.append(violations.unsupported("spec.capacity", shown, ("storage",)))
    for name, amount in sorted(spec.capacity.items()):
        path = f"spec.capacity[{name}]"
        if quantity.amount(amount) < 0:
            shown_amount = int(quantity.amount(amount))
            causes.append(violations.invalid(path, shown_amount, "must be a valid resource quantity"))
        causes += _positive(amount.string, path)
    if spec.persistent_volume_reclaim_policy not in ("Delete", "Recycle", "Retain"):
        policy = spec.persistent_volume_reclaim_policy
        causes.append(
            violations.unsupported("spec.persistentVolumeReclaimPolicy", policy, ("Delete", "Recycle", "Retain"))
        )
    sources = [field for field, _ in spec.persistent_volume_source.ListFields()]
    if not sources:
        causes.append(violations.required("spec", "must specify a volume type"))
    # The first in the order of Kubernetes' checks is the one that counts: host paths come before nfs.
    for field in sorted(sources, key=lambda field: int(field.number))[1:]:
        causes.append(violations.forbidden(f"spec.{field.json_name}", "may not specify more than 1 volume type"))
    if spec.persistent_volume_source.HasField("local") and not spec.HasField("node_affinity"):
        causes.append(violations.required("spec.nodeAffinity", "Local volume requires node affinity"))
    if spec.storage_class_name:
        causes += _class_name(spec.storage_class_name, "spec.storageClassName")
    return [*causes, *common.one_of(spec.volume_mode, MODES, "spec.volumeMode")]


def volume_update(obj: Any, old: Any) -> Causes:
    causes: Causes = []
    if obj.spec.persistent_volume_source != old.spec.persistent_volume_source:
        detail = "spec.persistentvolumesource is immutable after creation"
        causes.append(violations.forbidden("spec.persistentvolumesource", detail))
    return [*causes, *common.immutable(obj.spec.volume_mode, old.spec.volume_mode, "spec.volumeMode")]


def claim(obj: Any) -> Causes:
    return claim_spec(obj.spec, "spec")


def claim_spec(spec: Any, path: str) -> Causes:
    """Also of the templates in a StatefulSet."""
    causes = _access_modes(spec.access_modes, f"{path}.accessModes")
    if spec.HasField("selector"):
        causes += common.label_selector(spec.selector, f"{path}.selector")
    place = f"{path}.resources[storage]"
    if "storage" not in spec.resources.requests:
        causes.append(violations.required(place))
    else:
        causes += _positive(spec.resources.requests["storage"].string, place)
    if spec.storage_class_name:
        causes += _class_name(spec.storage_class_name, f"{path}.storageClassName")
    return [*causes, *common.one_of(spec.volume_mode, MODES, f"{path}.volumeMode")]


def claim_update(obj: Any, old: Any) -> Causes:
    new = type(obj.spec)()
    new.CopyFrom(obj.spec)
    was = old.spec
    if not was.volume_name:
        new.volume_name = ""  # the binder sets it, once
    elif was.volume_name and old.status.phase == "Bound":
        new.resources.requests.clear()
        new.resources.requests.MergeFrom(was.resources.requests)
        _keep(new, was, "volume_attributes_class_name")
    if not was.HasField("storage_class_name"):
        _keep(new, was, "storage_class_name")  # a class that was left out may be filled in later
    if new == was:
        return []
    return [violations.forbidden("spec", _CLAIM_FIXED)]


def _keep(new: Any, old: Any, name: str) -> None:
    new.ClearField(name)
    if old.HasField(name):
        setattr(new, name, getattr(old, name))


def _access_modes(modes: Any, path: str) -> Causes:
    if not modes:
        return [violations.required(path, "at least 1 access mode is required")]
    causes = [violations.unsupported(path, mode, ACCESS_MODES) for mode in modes if mode not in ACCESS_MODES]
    if "ReadWriteOncePod" in modes and len(modes) > 1:
        causes.append(violations.forbidden(path, "may not use ReadWriteOncePod with other access modes"))
    return causes


def _positive(text: str, path: str) -> Causes:
    if text and quantity.amount(text) > 0:
        return []
    return [violations.invalid(path, quantity.canonical(text or "0"), "must be greater than zero")]


def _class_name(name: str, path: str) -> Causes:
    return [violations.invalid(path, name, text) for text in names.dns1123_subdomain(name)]


# storage.k8s.io


def storage_class(obj: Any) -> Causes:
    causes = _qualified(obj.provisioner, "provisioner")
    causes += common.one_of(obj.reclaim_policy, ("Delete", "Retain"), "reclaimPolicy")
    causes += common.one_of(obj.volume_binding_mode, ("Immediate", "WaitForFirstConsumer"), "volumeBindingMode")
    if any(not key for key in obj.parameters):
        causes.append(violations.invalid("parameters", "", "field can not be empty."))
    return causes


def storage_class_update(obj: Any, old: Any) -> Causes:
    causes = common.immutable(obj.provisioner, old.provisioner, "provisioner")
    if dict(obj.parameters) != dict(old.parameters):
        shown = dict(sorted(obj.parameters.items())) or None
        causes.append(violations.invalid("parameters", shown, "field is immutable"))
    causes += common.immutable(obj.reclaim_policy, old.reclaim_policy, "reclaimPolicy")
    return [*causes, *common.immutable(obj.volume_binding_mode, old.volume_binding_mode, "volumeBindingMode")]


def _qualified(name: str, path: str) -> Causes:
    if not name:
        return [violations.required(path)]
    return [violations.invalid(path, name, text) for text in names.qualified_name(name.lower())]


def _driver_name(name: str, path: str) -> Causes:
    if not name:
        return [violations.required(path)]
    if len(name) > 63:
        return [violations.too_long(path, 63)]
    return [violations.invalid(path, name, text) for text in names.dns1123_subdomain(name.lower())]


def driver(obj: Any) -> Causes:
    spec = obj.spec
    causes = _driver_name(obj.metadata.name, "metadata.name")
    allowed = ("File", "None", "ReadWriteOnceWithFSType")
    causes += common.one_of(spec.fs_group_policy, allowed, "spec.fsGroupPolicy")
    for index, mode in enumerate(spec.volume_lifecycle_modes):
        causes += common.one_of(mode, ("Ephemeral", "Persistent"), f"spec.volumeLifecycleModes[{index}]")
    audiences = [request.audience for request in spec.token_requests]
    for index, request in enumerate(spec.token_requests):
        path = f"spec.tokenRequests[{index}]"
        if request.audience in audiences[:index]:
            causes.append(violations.duplicate(f"{path}.audience", request.audience))
        if request.HasField("expiration_seconds") and request.expiration_seconds < 600:
            detail = "may not specify a duration less than 10 minutes"
            causes.append(violations.invalid(f"{path}.expirationSeconds", request.expiration_seconds, detail))
    return causes


def driver_update(obj: Any, old: Any) -> Causes:
    causes = common.immutable(obj.spec.attach_required, old.spec.attach_required, "spec.attachedRequired")
    if list(obj.spec.volume_lifecycle_modes) != list(old.spec.volume_lifecycle_modes):
        shown = list(obj.spec.volume_lifecycle_modes)
        causes.append(violations.invalid("spec.volumeLifecycleModes", shown, "field is immutable"))
    return causes


def csi_node(obj: Any) -> Causes:
    causes: Causes = []
    seen: set[str] = set()
    for index, item in enumerate(obj.spec.drivers):
        path = f"spec.drivers[{index}]"
        causes += _driver_name(item.name, f"{path}.name")
        if item.name in seen:
            causes.append(violations.duplicate(f"{path}.name", item.name))
        seen.add(item.name)
        if not item.node_id:
            causes.append(violations.required(f"{path}.nodeID"))
    return causes


def capacity(obj: Any) -> Causes:
    return _class_name(obj.storage_class_name, "storageClassName")


def attachment(obj: Any) -> Causes:
    causes = _driver_name(obj.spec.attacher, "spec.attacher")
    source = obj.spec.source
    if not source.persistent_volume_name and not source.HasField("inline_volume_spec"):
        causes.append(
            violations.required("spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
        )
    if not obj.spec.node_name:
        causes.append(violations.required("spec.nodeName"))
    return causes


def attachment_update(obj: Any, old: Any) -> Causes:
    return common.immutable(obj.spec, old.spec, "spec")


def attributes_class(obj: Any) -> Causes:
    return _driver_name(obj.driver_name, "driverName")


def attributes_class_update(obj: Any, old: Any) -> Causes:
    causes = common.immutable(obj.driver_name, old.driver_name, "driverName")
    if dict(obj.parameters) != dict(old.parameters):
        shown = dict(sorted(obj.parameters.items())) or None
        causes.append(violations.invalid("parameters", shown, "field is immutable"))
    return causes
