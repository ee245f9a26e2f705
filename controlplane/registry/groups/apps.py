"""apps/v1 beside Deployment and ReplicaSet: DaemonSet, StatefulSet, ControllerRevision."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.registry.defaults import workloads as defaults
from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry
from controlplane.registry.strategies.workloads import DaemonSets
from controlplane.registry.tables import workloads as tables
from controlplane.registry.validation import pod_warnings
from controlplane.registry.validation import workloads as validation

NO_CONTROLLER = "no controller acts on it"


def kinds() -> Iterator[Served]:
    yield entry(
        "apps/v1", "ControllerRevision", columns=tables.CONTROLLER_REVISIONS, check=validation.controller_revision,
        compare=validation.controller_revision_update,
    )  # fmt: skip
    yield entry(
        "apps/v1", "DaemonSet", DaemonSets, columns=tables.DAEMON_SETS, has_status=True, fill=defaults.daemon_set,
        check=validation.daemon_set, compare=validation.selector_update, check_status=validation.daemon_set_status,
        warn=lambda obj: pod_warnings.template(obj.spec.template, "spec.template"), counted=("spec",),
        stored_only=NO_CONTROLLER,
    )  # fmt: skip
    yield entry(
        "apps/v1", "StatefulSet", columns=tables.STATEFUL_SETS, fill=defaults.stateful_set,
        check=validation.stateful_set, compare=validation.stateful_set_update,
        check_status=validation.stateful_set_status,
        warn=lambda obj: pod_warnings.template(obj.spec.template, "spec.template"), counted=("spec",),
        stored_only=NO_CONTROLLER,
    )  # fmt: skip
