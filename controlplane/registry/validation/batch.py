"""Job and CronJob."""

from __future__ import annotations

import zoneinfo
from typing import Any

from controlplane.registry import metadata, violations
from controlplane.registry.defaults.batch import CONTROLLER_UID
from controlplane.registry.validation import common, cron, pods
from controlplane.registry.violations import Causes
from wherry.api import codec, labels, names
from wherry.api.errors import Cause

_ACTIONS = ("Count", "FailIndex", "FailJob", "Ignore")
_MAX_CRON_NAME = 52  # eleven are left for the time in the name of a job
_RESTART = 'valid values: "OnFailure", "Never"'
_FIXED = ("completion_mode", "pod_failure_policy", "backoff_limit_per_index", "managed_by", "success_policy")
_JSON = {
    "completion_mode": "completionMode", "pod_failure_policy": "podFailurePolicy",
    "backoff_limit_per_index": "backoffLimitPerIndex", "managed_by": "managedBy", "success_policy": "successPolicy",
}  # fmt: skip


def job(obj: Any) -> Causes:
    spec = obj.spec
    causes = _spec(spec, "spec")
    causes += _generated_selector(obj)
    wrong = names.label_value(obj.metadata.name)
    if wrong:  # told once, not for the labels made of the name as well
        causes = [cause for cause in causes if cause.field != "spec.template.metadata.labels"]
    for message in wrong:
        causes.append(violations.invalid("spec.template.labels", obj.metadata.name, message))
    return causes


def _generated_selector(obj: Any) -> Causes:
    spec, uid = obj.spec, obj.metadata.uid
    causes: Causes = []
    if not spec.manual_selector:
        selector = spec.selector
        own = uid in (selector.match_labels.get(CONTROLLER_UID), selector.match_labels.get("controller-uid"))
        if not own or len(selector.match_labels) != 1 or selector.match_expressions:
            shown_selector = codec.to_dict(selector)
            if "matchLabels" in shown_selector:
                shown_selector["matchLabels"] = dict(sorted(shown_selector["matchLabels"].items()))
            causes.append(violations.invalid("spec.selector", shown_selector, "`selector` not auto-generated"))
    try:
        selects = labels.from_message(spec.selector).matches(spec.template.metadata.labels)
    except labels.BadSelector:
        selects = True  # said above
    if not selects:
        shown = dict(sorted(spec.template.metadata.labels.items())) or None
        detail = "`selector` does not match template `labels`"
        causes.append(violations.invalid("spec.template.metadata.labels", shown, detail))
    return causes


def _spec(spec: Any, path: str) -> Causes:
    causes: Causes = []
    for name, json_name in (
        ("parallelism", "parallelism"), ("completions", "completions"),
        ("active_deadline_seconds", "activeDeadlineSeconds"), ("backoff_limit", "backoffLimit"),
        ("ttl_seconds_after_finished", "ttlSecondsAfterFinished"), ("backoff_limit_per_index", "backoffLimitPerIndex"),
        ("max_failed_indexes", "maxFailedIndexes"),
    ):  # fmt: skip
        if spec.HasField(name):
            causes += common.non_negative(getattr(spec, name), f"{path}.{json_name}")
    if spec.HasField("completion_mode"):
        if spec.completion_mode not in ("NonIndexed", "Indexed"):
            allowed = ("NonIndexed", "Indexed")
            causes.append(violations.unsupported(f"{path}.completionMode", spec.completion_mode, allowed))
        elif spec.completion_mode == "Indexed" and not spec.HasField("completions"):
            detail = "when completion mode is Indexed"
            causes.append(violations.required(f"{path}.completions", detail))
    if spec.HasField("backoff_limit_per_index") and spec.completion_mode != "Indexed":
        detail = "requires indexed completion mode"
        causes.append(violations.invalid(f"{path}.backoffLimitPerIndex", spec.backoff_limit_per_index, detail))
    if spec.HasField("pod_replacement_policy"):
        policies = ("Failed",) if spec.HasField("pod_failure_policy") else ("Failed", "TerminatingOrFailed")
        causes += common.one_of(spec.pod_replacement_policy, policies, f"{path}.podReplacementPolicy")
    if spec.HasField("pod_failure_policy"):
        causes += _failure_policy(spec, f"{path}.podFailurePolicy")
    if spec.HasField("selector"):
        causes += common.label_selector(spec.selector, f"{path}.selector")
    causes += metadata.validate_common(spec.template.metadata, f"{path}.template.metadata")
    causes += _template(spec.template, f"{path}.template.spec")
    return causes


def _template(template: Any, path: str) -> Causes:
    policy = template.spec.restart_policy
    if policy in ("OnFailure", "Never"):
        return pods.template_spec(template, path)
    # The rest is checked as if it said what it must, so that one fault is told once.
    copy = type(template)()
    copy.CopyFrom(template)
    copy.spec.restart_policy = "Never"
    causes = pods.template_spec(copy, path)
    if policy in ("", "Always"):
        return [*causes, violations.required(f"{path}.restartPolicy", _RESTART)]
    return [*causes, violations.unsupported(f"{path}.restartPolicy", policy, ("OnFailure", "Never"))]


def _failure_policy(spec: Any, path: str) -> Causes:
    causes: Causes = []
    for index, rule in enumerate(spec.pod_failure_policy.rules):
        place = f"{path}.rules[{index}]"
        if not rule.action:
            causes.append(
                violations.required(f"{place}.action", 'valid values: "Count", "FailIndex", "FailJob", "Ignore"')
            )
        elif rule.action not in _ACTIONS:
            causes.append(violations.unsupported(f"{place}.action", rule.action, _ACTIONS))
        codes, conditions = rule.HasField("on_exit_codes"), len(rule.on_pod_conditions) > 0
        if codes and conditions:
            detail = "specifying both OnExitCodes and OnPodConditions is not supported"
            causes.append(Cause("FieldValueInvalid", f"Invalid value: {detail}", place))
        if not codes and not conditions:
            detail = "specifying one of OnExitCodes and OnPodConditions is required"
            causes.append(Cause("FieldValueInvalid", f"Invalid value: {detail}", place))
        if codes:
            causes += _exit_codes(rule.on_exit_codes, f"{place}.onExitCodes")
    if spec.template.spec.restart_policy not in ("", "Never"):
        detail = 'only "Never" is supported when podFailurePolicy is specified'
        place = "spec.template.spec.restartPolicy"
        causes.append(violations.invalid(place, spec.template.spec.restart_policy, detail))
    return causes


def _exit_codes(codes: Any, path: str) -> Causes:
    causes: Causes = []
    if codes.operator not in ("In", "NotIn"):
        causes.append(violations.unsupported(f"{path}.operator", codes.operator, ("In", "NotIn")))
    if not codes.values:
        causes.append(violations.invalid(f"{path}.values", [], "at least one value is required"))
    for index, value in enumerate(codes.values):
        if codes.operator == "In" and value == 0:
            detail = "must not be 0 for the In operator"
            causes.append(violations.invalid(f"{path}.values[{index}]", value, detail))
        if value in codes.values[:index]:
            causes.append(violations.duplicate(f"{path}.values[{index}]", value))
    return causes


def job_update(obj: Any, old: Any) -> Causes:
    new, was = obj.spec, old.spec
    causes: Causes = []
    if not _same(new, was, "completions"):
        # An indexed job may be made smaller or larger together with its parallelism.
        elastic = new.completion_mode == "Indexed" and new.completions == new.parallelism
        if not elastic:
            shown = new.completions if new.HasField("completions") else None
            causes.append(violations.invalid("spec.completions", shown, "field is immutable"))
    causes += common.immutable(new.selector, was.selector, "spec.selector")
    suspended = was.suspend and not old.status.HasField("start_time")
    if new.template != was.template and not suspended:
        causes.append(violations.invalid("spec.template", new.template, "field is immutable"))
    for name in _FIXED:
        if not _same(new, was, name):
            shown = getattr(new, name) if new.HasField(name) else None
            causes.append(violations.invalid(f"spec.{_JSON[name]}", shown, "field is immutable"))
    return causes


def _same(new: Any, old: Any, name: str) -> bool:
    return bool(new.HasField(name) == old.HasField(name) and getattr(new, name) == getattr(old, name))


def job_status(obj: Any, old: Any) -> Causes:
    causes: Causes = []
    for name in ("active", "succeeded", "failed"):
        causes += common.non_negative(getattr(obj.status, name), f"status.{name}")
    return causes


def cron_job(obj: Any) -> Causes:
    spec = obj.spec
    causes: Causes = []
    if len(obj.metadata.name) > _MAX_CRON_NAME:
        detail = f"must be no more than {_MAX_CRON_NAME} characters"
        causes.append(violations.invalid("metadata.name", obj.metadata.name, detail))
    if not spec.schedule:
        causes.append(violations.required("spec.schedule"))
    elif "TZ" in spec.schedule:
        detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        causes.append(violations.invalid("spec.schedule", spec.schedule, detail))
    else:
        problem = cron.problem(spec.schedule)
        if problem:
            causes.append(violations.invalid("spec.schedule", spec.schedule, problem))
    if spec.HasField("time_zone"):
        causes += _time_zone(spec.time_zone)
    causes += _policy(spec)
    for name, json_name in (
        ("starting_deadline_seconds", "startingDeadlineSeconds"),
        ("successful_jobs_history_limit", "successfulJobsHistoryLimit"),
        ("failed_jobs_history_limit", "failedJobsHistoryLimit"),
    ):
        if spec.HasField(name):
            causes += common.non_negative(getattr(spec, name), f"spec.{json_name}")
    template = spec.job_template.spec
    if template.manual_selector:
        causes.append(violations.unsupported("spec.jobTemplate.spec.manualSelector", True, ("nil", "false")))
    return [*causes, *_spec(template, "spec.jobTemplate.spec")]


def _policy(spec: Any) -> Causes:
    return common.one_of(spec.concurrency_policy, ("Allow", "Forbid", "Replace"), "spec.concurrencyPolicy")


def _time_zone(name: str) -> Causes:
    path = "spec.timeZone"
    if not name:
        return [violations.invalid(path, name, "timeZone must be nil or non-empty string")]
    if name.lower() == "local":
        detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
        return [violations.invalid(path, name, detail)]
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return [violations.invalid(path, name, f"unknown time zone {name}")]
    return []
