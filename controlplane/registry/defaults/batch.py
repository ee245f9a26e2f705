"""Defaults of Job and CronJob. Called by their strategies."""

from __future__ import annotations

from typing import Any

from controlplane.registry.defaults import pods
from controlplane.registry.validation.common import MAX_INT32
from wherry.api import names

CONTROLLER_UID = "batch.kubernetes.io/controller-uid"
JOB_NAME = "batch.kubernetes.io/job-name"
# The names that these labels had before; clients still select by them.
OLD_NAMES = {CONTROLLER_UID: "controller-uid", JOB_NAME: "job-name"}


def job(obj: Any) -> None:
    spec = obj.spec
    if not spec.HasField("completions") and not spec.HasField("parallelism"):
        spec.completions = 1
        spec.parallelism = 1
    if not spec.HasField("parallelism"):
        spec.parallelism = 1
    if not spec.HasField("backoff_limit"):
        spec.backoff_limit = MAX_INT32 if spec.HasField("backoff_limit_per_index") else 6
    if not spec.HasField("completion_mode"):
        spec.completion_mode = "NonIndexed"
    if not spec.HasField("suspend"):
        spec.suspend = False
    if not spec.HasField("manual_selector"):
        spec.manual_selector = False
    if not spec.HasField("pod_replacement_policy"):
        spec.pod_replacement_policy = "Failed" if spec.HasField("pod_failure_policy") else "TerminatingOrFailed"
    for rule in spec.pod_failure_policy.rules if spec.HasField("pod_failure_policy") else ():
        for pattern in rule.on_pod_conditions:
            pattern.status = pattern.status or "True"
    _template(spec.template)


def _template(template: Any) -> None:
    """A job says itself whether its containers are to be restarted."""
    restart = template.spec.restart_policy
    pods.pod_template(template)
    template.spec.restart_policy = restart


def job_labels(obj: Any) -> None:
    """The pods of a job are found by its uid, unless the manifest brings a selector of its own."""
    meta, spec = obj.metadata, obj.spec
    if spec.manual_selector or not meta.uid or (spec.HasField("selector") and _selects(spec.selector, meta.uid)):
        if not meta.labels:
            meta.labels.update(spec.template.metadata.labels)
        return
    for label, value in ((CONTROLLER_UID, meta.uid), (JOB_NAME, meta.name)):
        for name in (label, OLD_NAMES[label]):
            spec.template.metadata.labels[name] = value
    spec.selector.match_labels[CONTROLLER_UID] = meta.uid
    if not meta.labels and not names.label_value(meta.name):  # else validation says what is wrong with the template's
        meta.labels.update(spec.template.metadata.labels)


def _selects(selector: Any, uid: str) -> bool:
    return uid in (selector.match_labels.get(CONTROLLER_UID), selector.match_labels.get("controller-uid"))


def cron_job(obj: Any) -> None:
    spec = obj.spec
    spec.concurrency_policy = spec.concurrency_policy or "Allow"
    if not spec.HasField("suspend"):
        spec.suspend = False
    if not spec.HasField("successful_jobs_history_limit"):
        spec.successful_jobs_history_limit = 3
    if not spec.HasField("failed_jobs_history_limit"):
        spec.failed_jobs_history_limit = 1
    _template(spec.job_template.spec.template)
