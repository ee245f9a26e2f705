"""Tables of volumes, claims and storage.k8s.io."""

from __future__ import annotations

from typing import Any

from controlplane.registry.strategy import Column
from controlplane.registry.tables.common import age_column, name_column
from controlplane.registry.tables.workloads import created_column

_SHORT = {
    "ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP",
}  # fmt: skip
_UNSET = "<unset>"


def _modes(modes: Any) -> str:
    return ",".join(short for mode, short in _SHORT.items() if mode in modes)


def _storage(amounts: Any) -> str:
    return str(amounts["storage"].string) if "storage" in amounts else ""


def _phase(obj: Any, now: float) -> str:
    return "Terminating" if obj.metadata.HasField("deletion_timestamp") else str(obj.status.phase)


def _claimed(obj: Any, now: float) -> str:
    if not obj.spec.HasField("claim_ref"):
        return ""
    return f"{obj.spec.claim_ref.namespace}/{obj.spec.claim_ref.name}"


_MODE = Column("VolumeMode", lambda obj, now: str(obj.spec.volume_mode) or _UNSET, priority=1)
_ATTRIBUTES = Column("VolumeAttributesClass", lambda obj, now: str(obj.spec.volume_attributes_class_name) or _UNSET)
_BETA_CLASS = "volume.beta.kubernetes.io/storage-class"


def _class(obj: Any, now: float) -> str:
    return str(obj.metadata.annotations.get(_BETA_CLASS) or obj.spec.storage_class_name)


VOLUMES = (
    name_column(),
    Column("Capacity", lambda obj, now: _storage(obj.spec.capacity)),
    Column("Access Modes", lambda obj, now: _modes(obj.spec.access_modes)),
    Column("Reclaim Policy", lambda obj, now: str(obj.spec.persistent_volume_reclaim_policy)),
    Column("Status", _phase),
    Column("Claim", _claimed),
    Column("StorageClass", _class),
    _ATTRIBUTES,
    Column("Reason", lambda obj, now: str(obj.status.reason)),
    age_column(),
    _MODE,
)


def _bound(obj: Any) -> bool:
    return bool(obj.spec.volume_name)


CLAIMS = (
    name_column(),
    Column("Status", _phase),
    Column("Volume", lambda obj, now: str(obj.spec.volume_name)),
    Column("Capacity", lambda obj, now: _storage(obj.status.capacity) if _bound(obj) else ""),
    Column("Access Modes", lambda obj, now: _modes(obj.status.access_modes) if _bound(obj) else ""),
    Column("StorageClass", _class),
    _ATTRIBUTES,
    age_column(),
    _MODE,
)

_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def _class_name(obj: Any, now: float) -> str:
    default = obj.metadata.annotations.get(_DEFAULT_CLASS) == "true"
    return f"{obj.metadata.name} (default)" if default else str(obj.metadata.name)


CLASSES = (
    Column("Name", _class_name, format="name"),
    Column("Provisioner", lambda obj, now: str(obj.provisioner)),
    Column("ReclaimPolicy", lambda obj, now: str(obj.reclaim_policy)),
    Column("VolumeBindingMode", lambda obj, now: str(obj.volume_binding_mode)),
    Column("AllowVolumeExpansion", lambda obj, now: bool(obj.allow_volume_expansion)),
    age_column(),
)


def _flag(name: str, field: str) -> Column:
    return Column(name, lambda obj, now: bool(getattr(obj.spec, field)), type="boolean")


DRIVERS = (
    name_column(),
    _flag("AttachRequired", "attach_required"),
    _flag("PodInfoOnMount", "pod_info_on_mount"),
    _flag("StorageCapacity", "storage_capacity"),
    Column("TokenRequests", lambda obj, now: ",".join(item.audience for item in obj.spec.token_requests) or _UNSET),
    _flag("RequiresRepublish", "requires_republish"),
    Column("Modes", lambda obj, now: ",".join(obj.spec.volume_lifecycle_modes)),
    age_column(),
)

CSI_NODES = (name_column(), Column("Drivers", lambda obj, now: len(obj.spec.drivers), type="integer"), age_column())

CAPACITIES = (name_column(), created_column())

ATTACHMENTS = (
    name_column(),
    Column("Attacher", lambda obj, now: str(obj.spec.attacher), format="name"),
    Column("PV", lambda obj, now: str(obj.spec.source.persistent_volume_name)),
    Column("Node", lambda obj, now: str(obj.spec.node_name)),
    Column("Attached", lambda obj, now: bool(obj.status.attached), type="boolean"),
    age_column(),
)

ATTRIBUTE_CLASSES = (name_column(), Column("DriverName", lambda obj, now: str(obj.driver_name)), age_column())
