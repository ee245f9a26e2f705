"""Tables of Job and CronJob."""

from __future__ import annotations

from typing import Any

from controlplane.registry.strategy import Column, always
from controlplane.registry.tables.common import NONE, age_column, container_columns, name_column, text_of_selector
from wherry.api import meta, times


def _status(obj: Any, now: float) -> str:
    conditions = obj.status.conditions
    for kind, word in (("Complete", "Complete"), ("Failed", "Failed")):
        if meta.is_true(conditions, kind):
            return word
    if obj.metadata.HasField("deletion_timestamp"):
        return "Terminating"
    for kind in ("Suspended", "FailureTarget", "SuccessCriteriaMet"):
        if meta.is_true(conditions, kind):
            return kind
    return "Running"


def _completions(obj: Any, now: float) -> str:
    if obj.spec.HasField("completions"):
        return f"{obj.status.succeeded}/{obj.spec.completions}"
    parallelism = obj.spec.parallelism
    return f"{obj.status.succeeded}/1 of {parallelism}" if parallelism > 1 else f"{obj.status.succeeded}/1"


def _duration(obj: Any, now: float) -> str:
    if not obj.status.HasField("start_time"):
        return ""
    end = times.from_time(obj.status.completion_time) if obj.status.HasField("completion_time") else now
    return times.human_duration(end - times.from_time(obj.status.start_time))


JOBS = (
    name_column(),
    Column("Status", _status),
    Column("Completions", _completions),
    Column("Duration", _duration, passes=lambda obj: not obj.status.HasField("completion_time")),
    age_column(),
    *container_columns(),
)


def _containers(field: str) -> Any:
    def cell(obj: Any, now: float) -> str:
        return ",".join(getattr(item, field) for item in obj.spec.job_template.spec.template.spec.containers)

    return cell


def _last(obj: Any, now: float) -> str:
    if not obj.status.HasField("last_schedule_time"):
        return NONE
    return times.human_duration(now - times.from_time(obj.status.last_schedule_time))


def _selector(obj: Any, now: float) -> str:
    spec = obj.spec.job_template.spec
    return text_of_selector(spec.selector) if spec.HasField("selector") else NONE


CRON_JOBS = (
    name_column(),
    Column("Schedule", lambda obj, now: str(obj.spec.schedule)),
    Column("Timezone", lambda obj, now: str(obj.spec.time_zone) or NONE),
    Column("Suspend", lambda obj, now: "True" if obj.spec.suspend else "False", type="boolean"),
    Column("Active", lambda obj, now: len(obj.status.active), type="integer"),
    Column("Last Schedule", _last, passes=always),
    age_column(),
    Column("Containers", _containers("name"), priority=1),
    Column("Images", _containers("image"), priority=1),
    Column("Selector", _selector, priority=1),
)
