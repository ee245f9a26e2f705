"""batch/v1: Job and CronJob."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.registry.defaults import batch as defaults
from controlplane.registry.groups.apps import NO_CONTROLLER
from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry
from controlplane.registry.tables import batch as tables
from controlplane.registry.validation import batch as validation
from controlplane.registry.validation import pod_warnings


def kinds() -> Iterator[Served]:
    yield entry(
        "batch/v1", "CronJob", columns=tables.CRON_JOBS, fill=defaults.cron_job, check=validation.cron_job,
        warn=lambda obj: pod_warnings.template(
            obj.spec.job_template.spec.template, "spec.jobTemplate.spec.template"
        ),
        counted=("spec",), stored_only=NO_CONTROLLER,
    )  # fmt: skip
    yield entry(
        "batch/v1", "Job", columns=tables.JOBS, fill=defaults.job, named=defaults.job_labels, check=validation.job,
        compare=validation.job_update, check_status=validation.job_status,
        warn=lambda obj: pod_warnings.template(obj.spec.template, "spec.template"), counted=("spec",),
        fields={"status.successful": lambda obj: str(obj.status.succeeded)}, stored_only=NO_CONTROLLER,
    )  # fmt: skip
