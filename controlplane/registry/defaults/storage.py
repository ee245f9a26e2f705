"""Defaults of volumes, claims and what storage.k8s.io has. Called by their strategies.

Kubernetes puts protection finalizers on volumes and claims. They come with the controller that takes them off again: without
one, nothing that has them could ever be deleted.
"""

from __future__ import annotations

from typing import Any

from wherry.pb import meta_v1_pb2


def volume(obj: Any) -> None:
    spec = obj.spec
    spec.persistent_volume_reclaim_policy = spec.persistent_volume_reclaim_policy or "Retain"
    if not spec.HasField("volume_mode"):
        spec.volume_mode = "Filesystem"
    source = spec.persistent_volume_source
    if source.HasField("host_path") and not source.host_path.HasField("type"):
        source.host_path.type = ""
    obj.status.phase = obj.status.phase or "Pending"


def begin_volume(obj: Any) -> None:
    obj.status.phase = "Pending"
    obj.status.last_phase_transition_time.CopyFrom(meta_v1_pb2.Time(seconds=obj.metadata.creation_timestamp.seconds))


def claim(obj: Any) -> None:
    spec = obj.spec
    if not spec.HasField("volume_mode"):
        spec.volume_mode = "Filesystem"
    # dataSource is the older, narrower name of dataSourceRef.
    if spec.HasField("data_source") and not spec.HasField("data_source_ref"):
        spec.data_source_ref.kind, spec.data_source_ref.name = spec.data_source.kind, spec.data_source.name
        if spec.data_source.HasField("api_group"):
            spec.data_source_ref.api_group = spec.data_source.api_group
    elif spec.HasField("data_source_ref") and not spec.data_source_ref.HasField("namespace"):
        spec.data_source.kind, spec.data_source.name = spec.data_source_ref.kind, spec.data_source_ref.name
        if spec.data_source_ref.HasField("api_group"):
            spec.data_source.api_group = spec.data_source_ref.api_group
    obj.status.phase = obj.status.phase or "Pending"


def begin_claim(obj: Any) -> None:
    obj.status.phase = "Pending"


def storage_class(obj: Any) -> None:
    if not obj.HasField("reclaim_policy"):
        obj.reclaim_policy = "Delete"
    if not obj.HasField("volume_binding_mode"):
        obj.volume_binding_mode = "Immediate"


def driver(obj: Any) -> None:
    spec = obj.spec
    if not spec.HasField("attach_required"):
        spec.attach_required = True
    for name in ("pod_info_on_mount", "storage_capacity", "requires_republish", "se_linux_mount"):
        if not spec.HasField(name):
            setattr(spec, name, False)
    if not spec.volume_lifecycle_modes:
        spec.volume_lifecycle_modes.append("Persistent")
    if not spec.HasField("fs_group_policy"):
        spec.fs_group_policy = "ReadWriteOnceWithFSType"
