"""storage.k8s.io/v1: classes, drivers, attachments."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.registry.defaults import storage as defaults
from controlplane.registry.groups.core import NO_VOLUMES
from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry
from controlplane.registry.tables import storage as tables
from controlplane.registry.validation import storage as validation

_V1 = "storage.k8s.io/v1"


def kinds() -> Iterator[Served]:
    yield entry(
        _V1, "CSIDriver", columns=tables.DRIVERS, fill=defaults.driver, check=validation.driver,
        compare=validation.driver_update, stored_only=NO_VOLUMES,
    )  # fmt: skip
    yield entry(
        _V1, "CSINode", columns=tables.CSI_NODES, check=validation.csi_node, stored_only=NO_VOLUMES
    )  # fmt: skip
    yield entry(
        _V1, "CSIStorageCapacity", columns=tables.CAPACITIES, check=validation.capacity, stored_only=NO_VOLUMES
    )  # fmt: skip
    yield entry(
        _V1, "StorageClass", columns=tables.CLASSES, fill=defaults.storage_class, check=validation.storage_class,
        compare=validation.storage_class_update, stored_only=NO_VOLUMES,
    )  # fmt: skip
    yield entry(
        _V1, "VolumeAttachment", columns=tables.ATTACHMENTS, check=validation.attachment,
        compare=validation.attachment_update, stored_only=NO_VOLUMES,
    )  # fmt: skip
    yield entry(
        _V1, "VolumeAttributesClass", columns=tables.ATTRIBUTE_CLASSES,
        check=validation.attributes_class, compare=validation.attributes_class_update, stored_only=NO_VOLUMES,
    )  # fmt: skip
