"""The rarer kinds of v1: bindings and component statuses (of which nothing is stored), volumes and claims, limits and quotas, pod
templates, replication controllers.
"""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.registry.defaults import pods as pod_defaults
from controlplane.registry.defaults import storage as storage_defaults
from controlplane.registry.defaults import workloads as defaults
from controlplane.registry.groups.apps import NO_CONTROLLER
from controlplane.registry.measured import VERBS as MEASURED
from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry
from controlplane.registry.tables import storage as storage_tables
from controlplane.registry.tables import workloads as tables
from controlplane.registry.validation import limits, pod_warnings
from controlplane.registry.validation import storage as storage_validation
from controlplane.registry.validation import workloads as validation

NO_VOLUMES = "no volume is provisioned, bound or mounted for it"


def kinds() -> Iterator[Served]:
    yield entry("v1", "Binding", verbs=("create",))
    yield entry("v1", "ComponentStatus", columns=tables.COMPONENTS, verbs=MEASURED)
    yield entry(
        "v1", "LimitRange", columns=tables.LIMIT_RANGES, fill=defaults.limit_range, check=limits.limit_range,
    )  # fmt: skip
    yield entry(
        "v1", "PersistentVolume", columns=storage_tables.VOLUMES, fill=storage_defaults.volume,
        begin=storage_defaults.begin_volume, check=storage_validation.volume,
        compare=storage_validation.volume_update, stored_only=NO_VOLUMES,
    )  # fmt: skip
    yield entry(
        "v1", "PersistentVolumeClaim", columns=storage_tables.CLAIMS, fill=storage_defaults.claim,
        begin=storage_defaults.begin_claim, check=storage_validation.claim, compare=storage_validation.claim_update,
        stored_only=NO_VOLUMES,
    )  # fmt: skip
    yield entry(
        "v1", "PodTemplate", columns=tables.POD_TEMPLATES, fill=lambda obj: pod_defaults.pod_template(obj.template),
        check=validation.pod_template, counted=("template",),
    )  # fmt: skip
    yield entry(
        "v1", "ReplicationController", columns=tables.REPLICATION_CONTROLLERS, fill=defaults.replication_controller,
        check=validation.replication_controller, check_status=validation.replicas_status,
        warn=lambda obj: pod_warnings.template(obj.spec.template, "spec.template"), counted=("spec",),
        fields={"status.replicas": lambda obj: str(obj.status.replicas)}, stored_only=NO_CONTROLLER,
    )  # fmt: skip
    yield entry(
        "v1", "ResourceQuota", columns=tables.RESOURCE_QUOTAS, check=limits.resource_quota,
        compare=limits.resource_quota_update,
    )  # fmt: skip
