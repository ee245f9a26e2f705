"""DaemonSet, StatefulSet, ControllerRevision, ReplicationController and PodTemplate."""

from __future__ import annotations

from typing import Any

from controlplane.registry import metadata, violations
from controlplane.registry.validation import apps, common, pods, storage
from controlplane.registry.violations import Causes
from wherry.api import labels

selector_update = apps.selector_update
_CHANGEABLE = (
    "replicas", "ordinals", "template", "update_strategy", "revision_history_limit",
    "persistent_volume_claim_retention_policy", "min_ready_seconds",
)  # fmt: skip
_RETENTION = ("Delete", "Retain")


def daemon_set(obj: Any) -> Causes:
    spec = obj.spec
    causes = apps.selector(spec, "daemonset")
    causes += apps.template(spec.template, spec, "DaemonSet")
    causes += common.non_negative(spec.min_ready_seconds, "spec.minReadySeconds")
    causes += common.non_negative(spec.revision_history_limit, "spec.revisionHistoryLimit")
    strategy, path = spec.update_strategy, "spec.updateStrategy"
    if strategy.type == "OnDelete":
        return causes
    if strategy.type != "RollingUpdate":
        return [*causes, violations.unsupported(f"{path}.type", strategy.type, ("RollingUpdate", "OnDelete"))]
    if not strategy.HasField("rolling_update"):
        return [*causes, violations.required(f"{path}.rollingUpdate")]
    update, place = strategy.rolling_update, f"{path}.rollingUpdate"
    for name, value in (("maxUnavailable", update.max_unavailable), ("maxSurge", update.max_surge)):
        causes += common.positive_int_or_percent(value, f"{place}.{name}")
        causes += common.at_most_whole(value, f"{place}.{name}")
    no_surge, none_down = common.is_zero(update.max_surge), common.is_zero(update.max_unavailable)
    if no_surge and none_down:
        causes.append(violations.required(f"{place}.maxUnavailable", "cannot be 0 when maxSurge is 0"))
    elif not no_surge and not none_down:
        shown = update.max_surge.str_val if update.max_surge.type else update.max_surge.int_val
        causes.append(violations.invalid(f"{place}.maxSurge", shown, "may not be set when maxUnavailable is non-zero"))
    return causes


def daemon_set_status(obj: Any, old: Any) -> Causes:
    fields = (
        ("current_number_scheduled", "currentNumberScheduled"), ("number_misscheduled", "numberMisscheduled"),
        ("desired_number_scheduled", "desiredNumberScheduled"), ("number_ready", "numberReady"),
        ("observed_generation", "observedGeneration"), ("updated_number_scheduled", "updatedNumberScheduled"),
        ("number_available", "numberAvailable"), ("number_unavailable", "numberUnavailable"),
    )  # fmt: skip
    return [*apps.counts(obj.status, fields), *_collisions(obj, old)]


def stateful_set(obj: Any) -> Causes:
    spec = obj.spec
    causes = apps.selector(spec, "statefulset")
    causes += apps.template(spec.template, spec, "StatefulSet")
    causes += common.non_negative(spec.replicas, "spec.replicas")
    causes += common.non_negative(spec.min_ready_seconds, "spec.minReadySeconds")
    causes += common.non_negative(spec.revision_history_limit, "spec.revisionHistoryLimit")
    if spec.pod_management_policy not in ("OrderedReady", "Parallel"):
        detail = "must be 'OrderedReady' or 'Parallel'"
        causes.append(violations.invalid("spec.podManagementPolicy", spec.pod_management_policy, detail))
    causes += _stateful_strategy(spec.update_strategy)
    kept = spec.persistent_volume_claim_retention_policy
    for name, value in (("whenDeleted", kept.when_deleted), ("whenScaled", kept.when_scaled)):
        causes += common.one_of(value, _RETENTION, f"spec.persistentVolumeClaimRetentionPolicy.{name}")
    if spec.HasField("ordinals"):
        causes += common.non_negative(spec.ordinals.start, "spec.ordinals.start")
    for index, template in enumerate(spec.volume_claim_templates):
        causes += storage.claim_spec(template.spec, f"spec.volumeClaimTemplates[{index}].spec")
    return causes


def _stateful_strategy(strategy: Any) -> Causes:
    path = "spec.updateStrategy"
    if strategy.type == "OnDelete":
        if strategy.HasField("rolling_update"):
            detail = "only allowed for updateStrategy 'RollingUpdate'"
            return [violations.invalid(f"{path}.rollingUpdate", strategy.rolling_update, detail)]
        return []
    if strategy.type != "RollingUpdate":
        shown = {"Type": strategy.type, "RollingUpdate": None}
        return [violations.invalid(path, shown, "must be 'RollingUpdate' or 'OnDelete'")]
    update, place = strategy.rolling_update, f"{path}.rollingUpdate"
    causes = common.non_negative(update.partition, f"{place}.partition")
    if update.HasField("max_unavailable"):
        causes += common.positive_int_or_percent(update.max_unavailable, f"{place}.maxUnavailable")
        causes += common.at_most_whole(update.max_unavailable, f"{place}.maxUnavailable")
        if common.is_zero(update.max_unavailable):
            causes.append(violations.invalid(f"{place}.maxUnavailable", 0, "cannot be 0"))
    return causes


def stateful_set_update(obj: Any, old: Any) -> Causes:
    spec = type(obj.spec)()
    spec.CopyFrom(obj.spec)
    for name in _CHANGEABLE:
        spec.ClearField(name)
        if name == "min_ready_seconds" or old.spec.HasField(name):
            value = getattr(old.spec, name)
            if hasattr(value, "CopyFrom"):
                getattr(spec, name).CopyFrom(value)
            else:
                setattr(spec, name, value)
    if spec == old.spec:
        return []
    detail = (
        "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
        "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
    )
    return [violations.forbidden("spec", detail)]


def stateful_set_status(obj: Any, old: Any) -> Causes:
    status = obj.status
    fields = (
        ("replicas", "replicas"), ("ready_replicas", "readyReplicas"), ("current_replicas", "currentReplicas"),
        ("updated_replicas", "updatedReplicas"), ("available_replicas", "availableReplicas"),
        ("observed_generation", "observedGeneration"),
    )  # fmt: skip
    causes = [*apps.counts(status, fields), *_collisions(obj, old)]
    for name, json_name in fields[1:5]:
        causes += apps.not_above(status, name, json_name, "replicas")
    causes += apps.not_above(status, "available_replicas", "availableReplicas", "ready_replicas")
    return causes


def _collisions(obj: Any, old: Any) -> Causes:
    count = obj.status.collision_count
    if count < old.status.collision_count:
        return [violations.invalid("status.collisionCount", count, "cannot be decremented")]
    return []


def controller_revision(obj: Any) -> Causes:
    causes = common.non_negative(obj.revision, "revision")
    if not obj.HasField("data"):
        causes.append(violations.required("data", "data is mandatory"))
    return causes


def controller_revision_update(obj: Any, old: Any) -> Causes:
    if obj.data == old.data:
        return []
    return [violations.invalid("data", obj.data, "field is immutable")]


def replication_controller(obj: Any) -> Causes:
    spec = obj.spec
    causes = common.non_negative(spec.replicas, "spec.replicas")
    causes += common.non_negative(spec.min_ready_seconds, "spec.minReadySeconds")
    if not spec.selector:
        causes.append(violations.required("spec.selector"))
    if not spec.HasField("template"):
        return [*causes, violations.required("spec.template")]
    template, path = spec.template, "spec.template"
    if spec.selector and not labels.from_map(dict(spec.selector)).matches(template.metadata.labels):
        detail = "`selector` does not match template `labels`"
        shown = dict(sorted(template.metadata.labels.items())) or None
        causes.append(violations.invalid(f"{path}.metadata.labels", shown, detail))
    causes += metadata.validate_common(template.metadata, f"{path}.metadata")
    causes += pods.template_spec(template, f"{path}.spec")
    if template.spec.restart_policy != "Always":
        causes.append(violations.unsupported(f"{path}.spec.restartPolicy", template.spec.restart_policy, ("Always",)))
    return causes


def replicas_status(obj: Any, old: Any) -> Causes:
    return apps.replica_set_status(obj, old)


def pod_template(obj: Any) -> Causes:
    return [
        *metadata.validate_common(obj.template.metadata, "template.metadata"),
        *pods.template_spec(obj.template, "template.spec"),
    ]
