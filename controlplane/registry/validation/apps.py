"""Deployment and ReplicaSet."""

from __future__ import annotations

from typing import Any

from controlplane.registry import metadata, violations
from controlplane.registry.validation import common, pods
from controlplane.registry.violations import Causes
from wherry.api import labels


def deployment(obj: Any) -> Causes:
    spec = obj.spec
    causes = common.non_negative(spec.replicas, "spec.replicas")
    causes += selector(spec, "deployment")
    causes += template(spec.template, spec, "ReplicaSet")
    causes += _strategy(spec.strategy, "spec.strategy")
    causes += common.non_negative(spec.min_ready_seconds, "spec.minReadySeconds")
    causes += common.non_negative(spec.revision_history_limit, "spec.revisionHistoryLimit")
    deadline = spec.progress_deadline_seconds
    causes += common.non_negative(deadline, "spec.progressDeadlineSeconds")
    if deadline <= spec.min_ready_seconds:
        causes.append(
            violations.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds")
        )
    return causes


def replica_set(obj: Any) -> Causes:
    spec = obj.spec
    causes = common.non_negative(spec.replicas, "spec.replicas")
    causes += common.non_negative(spec.min_ready_seconds, "spec.minReadySeconds")
    causes += selector(spec, "deployment")
    causes += template(spec.template, spec, "ReplicaSet")
    return causes


def selector(spec: Any, what: str) -> Causes:
    if not spec.HasField("selector"):
        return [violations.required("spec.selector")]
    causes = common.label_selector(spec.selector, "spec.selector")
    if not spec.selector.match_labels and not spec.selector.match_expressions:
        causes.append(violations.invalid("spec.selector", spec.selector, f"empty selector is invalid for {what}"))
    return causes


def template(obj: Any, spec: Any, owner: str) -> Causes:
    """The pods that come of it must be ones that the selector finds, and ones that are restarted for ever."""
    causes: Causes = []
    path = "spec.template"
    try:
        selector = labels.from_message(spec.selector if spec.HasField("selector") else None)
    except labels.BadSelector:
        causes.append(violations.invalid("spec.selector", spec.selector, "invalid label selector"))
    else:
        if (selector.requirements or selector.nothing) and not selector.matches(obj.metadata.labels):
            shown = dict(sorted(obj.metadata.labels.items())) or None
            detail = "`selector` does not match template `labels`"
            causes.append(violations.invalid(f"{path}.metadata.labels", shown, detail))
    causes += metadata.validate_common(obj.metadata, f"{path}.metadata")
    claims = [claim.metadata.name for claim in spec.volume_claim_templates] if owner == "StatefulSet" else []
    causes += pods.template_spec(obj, f"{path}.spec", claims)
    if obj.spec.restart_policy != "Always":
        causes.append(violations.unsupported(f"{path}.spec.restartPolicy", obj.spec.restart_policy, ("Always",)))
    if obj.spec.HasField("active_deadline_seconds"):
        detail = f"activeDeadlineSeconds in {owner} is not Supported"
        causes.append(violations.forbidden(f"{path}.spec.activeDeadlineSeconds", detail))
    return causes


def _strategy(strategy: Any, path: str) -> Causes:
    if strategy.type == "Recreate":
        if strategy.HasField("rolling_update"):
            detail = "may not be specified when strategy `type` is 'Recreate'"
            return [violations.forbidden(f"{path}.rollingUpdate", detail)]
        return []
    if strategy.type != "RollingUpdate":
        shown = {"Type": strategy.type, "RollingUpdate": None}
        return [violations.unsupported(path, shown, ("Recreate", "RollingUpdate"))]
    place = f"{path}.rollingUpdate"
    if not strategy.HasField("rolling_update"):
        return [violations.required(place, "this should be defaulted and never be nil")]
    update = strategy.rolling_update
    causes = common.positive_int_or_percent(update.max_unavailable, f"{place}.maxUnavailable")
    causes += common.positive_int_or_percent(update.max_surge, f"{place}.maxSurge")
    if common.is_zero(update.max_unavailable) and common.is_zero(update.max_surge):
        shown = update.max_unavailable.str_val if update.max_unavailable.type else update.max_unavailable.int_val
        causes.append(violations.invalid(f"{place}.maxUnavailable", shown, "may not be 0 when `maxSurge` is 0"))
    causes += common.at_most_whole(update.max_unavailable, f"{place}.maxUnavailable")
    return causes


def selector_update(obj: Any, old: Any) -> Causes:
    if obj.spec.selector == old.spec.selector:
        return []
    return [violations.invalid("spec.selector", obj.spec.selector, "field is immutable")]


def counts(status: Any, fields: tuple[tuple[str, str], ...]) -> Causes:
    causes: Causes = []
    for name, json_name in fields:
        causes += common.non_negative(getattr(status, name), f"status.{json_name}")
    return causes


def not_above(status: Any, name: str, json_name: str, limit: str) -> Causes:
    if getattr(status, name) <= getattr(status, limit):
        return []
    words = {"replicas": "status.replicas", "ready_replicas": "readyReplicas"}
    return [violations.invalid(f"status.{json_name}", getattr(status, name), f"cannot be greater than {words[limit]}")]


def deployment_status(obj: Any, old: Any) -> Causes:
    status = obj.status
    fields = (
        ("observed_generation", "observedGeneration"), ("replicas", "replicas"),
        ("updated_replicas", "updatedReplicas"), ("ready_replicas", "readyReplicas"),
        ("available_replicas", "availableReplicas"), ("unavailable_replicas", "unavailableReplicas"),
    )  # fmt: skip
    causes = counts(status, fields)
    causes += not_above(status, "updated_replicas", "updatedReplicas", "replicas")
    causes += not_above(status, "ready_replicas", "readyReplicas", "replicas")
    causes += not_above(status, "available_replicas", "availableReplicas", "replicas")
    causes += not_above(status, "available_replicas", "availableReplicas", "ready_replicas")
    if status.collision_count < old.status.collision_count:
        causes.append(violations.invalid("status.collisionCount", status.collision_count, "cannot be decremented"))
    return causes


def replica_set_status(obj: Any, old: Any) -> Causes:
    status = obj.status
    fields = (
        ("replicas", "replicas"), ("fully_labeled_replicas", "fullyLabeledReplicas"),
        ("ready_replicas", "readyReplicas"), ("available_replicas", "availableReplicas"),
        ("observed_generation", "observedGeneration"),
    )  # fmt: skip
    causes = counts(status, fields)
    causes += not_above(status, "fully_labeled_replicas", "fullyLabeledReplicas", "replicas")
    causes += not_above(status, "ready_replicas", "readyReplicas", "replicas")
    causes += not_above(status, "available_replicas", "availableReplicas", "replicas")
    causes += not_above(status, "available_replicas", "availableReplicas", "ready_replicas")
    return causes
