"""PodSpec: what holds for a pod and for the template of one. Containers and volumes have modules of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from controlplane.registry import metadata, violations
from controlplane.registry.validation import affinity, common, containers, volumes
from controlplane.registry.validation.nodes import TAINT_EFFECTS
from controlplane.registry.violations import Causes
from wherry.api import names

RESTART_POLICIES = ("Always", "OnFailure", "Never")
DNS_POLICIES = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
_DEPRECATED_SECCOMP = "seccomp.security.alpha.kubernetes.io/pod"
_SYSCTL = re.compile(r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?", re.ASCII)
_MAX_DNS_NAMESERVERS = 3
_MAX_DNS_SEARCHES = 32
_MAX_DNS_SEARCH_CHARS = 2048


def new_pod(obj: Any, *, spec_is_fine: bool = False) -> Causes:
    """`spec_is_fine`: `spec` has found nothing wrong with it."""
    causes = pod(obj, spec_is_fine=spec_is_fine)
    if obj.spec.ephemeral_containers:
        causes.append(violations.forbidden("spec.ephemeralContainers", "cannot be set on create"))
    return causes


def pod(obj: Any, *, spec_is_fine: bool = False) -> Causes:
    causes: Causes = [] if spec_is_fine else spec(obj.spec, "spec")
    causes += _annotations(obj.metadata, "metadata.annotations")
    if obj.spec.scheduling_gates and obj.spec.node_name:
        detail = "cannot be set until all schedulingGates have been cleared"
        causes.append(violations.forbidden("spec.nodeName", detail))
    return causes


def template_spec(template: Any, path: str, claims: Sequence[str] = ()) -> Causes:
    """`path` is that of the spec; annotations stand beside it. `claims` are volumes that a StatefulSet will add."""
    causes = spec(template.spec, path, claims)
    causes += _annotations(template.metadata, path.removesuffix("spec") + "metadata.annotations")
    if template.spec.ephemeral_containers:
        causes.append(
            violations.forbidden(f"{path}.ephemeralContainers", "ephemeral containers not allowed in pod template")
        )
    return causes


def _annotations(meta: Any, path: str) -> Causes:
    value = meta.annotations.get(_DEPRECATED_SECCOMP)
    if value is None or value in ("runtime/default", "docker/default", "unconfined"):
        return []
    if value.startswith("localhost/") and value != "localhost/":
        return []
    return [violations.invalid(f"{path}.{_DEPRECATED_SECCOMP}", value, "must be a valid seccomp profile")]


def spec(obj: Any, path: str, added_volumes: Sequence[str] = ()) -> Causes:
    grace = obj.termination_grace_period_seconds if obj.HasField("termination_grace_period_seconds") else 30
    claims = {claim.name for claim in obj.resource_claims}
    causes, volume_names = volumes.volumes(obj.volumes, f"{path}.volumes")
    volume_names = {*volume_names, *added_volumes}
    setting = containers.Setting(volume_names, claims, grace, obj.restart_policy, obj.host_network)
    causes += containers.containers(obj, path, setting)
    if obj.restart_policy not in RESTART_POLICIES:
        causes.append(violations.unsupported(f"{path}.restartPolicy", obj.restart_policy, RESTART_POLICIES))
    if obj.dns_policy not in DNS_POLICIES:
        causes.append(violations.unsupported(f"{path}.dnsPolicy", obj.dns_policy, DNS_POLICIES))
    if obj.node_selector:
        causes += metadata.validate_labels(obj.node_selector, f"{path}.nodeSelector")
    causes += _security(obj, f"{path}.securityContext")
    for name, value in (("serviceAccountName", obj.service_account_name), ("nodeName", obj.node_name)):
        if value:
            causes += (violations.invalid(f"{path}.{name}", value, text) for text in names.dns1123_subdomain(value))
    if obj.HasField("affinity"):
        causes += affinity.affinity(obj.affinity, f"{path}.affinity")
    causes += _dns(obj, path)
    causes += _gates(obj, path)
    if obj.topology_spread_constraints:
        causes += affinity.spread(obj.topology_spread_constraints, f"{path}.topologySpreadConstraints")
    if obj.HasField("active_deadline_seconds"):
        place = f"{path}.activeDeadlineSeconds"
        causes += common.in_range(obj.active_deadline_seconds, 1, common.MAX_INT32, place)
    for field, value in (("hostname", obj.hostname), ("subdomain", obj.subdomain)):
        if value:
            causes += (violations.invalid(f"{path}.{field}", value, text) for text in names.dns1123_label(value))
    if obj.HasField("hostname_override"):
        override, place = obj.hostname_override, f"{path}.hostnameOverride"
        causes += (violations.invalid(place, override, text) for text in names.dns1123_subdomain(override))
        if len(override) > 64:
            causes.append(violations.invalid(place, override, "must be no more than 64 characters"))
        if obj.host_network:
            causes.append(violations.forbidden(place, "may not be specified when hostNetwork is true"))
    if obj.tolerations:
        causes += tolerations(obj.tolerations, f"{path}.tolerations")
    for index, alias in enumerate(obj.host_aliases):
        place = f"{path}.hostAliases[{index}]"
        causes += common.ip_address(alias.ip, f"{place}.ip")
        for number, name in enumerate(alias.hostnames):
            place_of = f"{place}.hostnames[{number}]"
            causes += (violations.invalid(place_of, name, text) for text in names.dns1123_subdomain(name))
    if obj.priority_class_name:
        place = f"{path}.priorityClassName"
        causes += (
            violations.invalid(place, obj.priority_class_name, text)
            for text in names.dns1123_subdomain(obj.priority_class_name)
        )
    if obj.HasField("runtime_class_name"):
        place = f"{path}.runtimeClassName"
        causes += (
            violations.invalid(place, obj.runtime_class_name, text)
            for text in names.dns1123_subdomain(obj.runtime_class_name)
        )
    if obj.HasField("preemption_policy") and obj.preemption_policy not in ("PreemptLowerPriority", "Never"):
        allowed = ("PreemptLowerPriority", "Never")
        causes.append(violations.unsupported(f"{path}.preemptionPolicy", obj.preemption_policy, allowed))
    if obj.overhead:
        causes += containers.amounts(obj.overhead, f"{path}.overhead", pod_level=True)
    if obj.HasField("resources"):
        causes += containers.resources(obj.resources, f"{path}.resources", claims, pod_level=True)
    if obj.HasField("os"):
        if not obj.os.name:
            causes.append(violations.required(f"{path}.os.name", "cannot be empty"))
        elif obj.os.name not in ("linux", "windows"):
            causes.append(violations.unsupported(f"{path}.os", obj.os.name, ("linux", "windows")))
    return causes


def _security(spec_: Any, path: str) -> Causes:
    context = spec_.security_context
    if not spec_.HasField("security_context"):
        return []
    causes: Causes = []
    for field, json_name in (("run_as_user", "runAsUser"), ("run_as_group", "runAsGroup"), ("fs_group", "fsGroup")):
        if context.HasField(field):
            causes += common.in_range(getattr(context, field), 0, common.MAX_INT32, f"{path}.{json_name}")
    for index, group in enumerate(context.supplemental_groups):
        causes += common.in_range(group, 0, common.MAX_INT32, f"{path}.supplementalGroups[{index}]")
    if spec_.share_process_namespace and spec_.host_pid:
        detail = "ShareProcessNamespace and HostPID cannot both be enabled"
        causes.append(violations.invalid(f"{path}.shareProcessNamespace", True, detail))
    seen: set[str] = set()
    for index, sysctl in enumerate(context.sysctls):
        place = f"{path}.sysctls[{index}].name"
        if not sysctl.name:
            causes.append(violations.required(place))
        elif len(sysctl.name) > 253 or not _SYSCTL.fullmatch(sysctl.name):
            detail = f"must have at most 253 characters and match regex ^{_SYSCTL.pattern}$"
            causes.append(violations.invalid(place, sysctl.name, detail))
        elif sysctl.name in seen:
            causes.append(violations.duplicate(place, sysctl.name))
        seen.add(sysctl.name)
    if context.HasField("fs_group_change_policy"):
        allowed = ("Always", "OnRootMismatch")
        if context.fs_group_change_policy not in allowed:
            place = f"{path}.fsGroupChangePolicy"
            causes.append(violations.unsupported(place, context.fs_group_change_policy, allowed))
    if context.HasField("supplemental_groups_policy"):
        policies = ("Merge", "Strict")
        if context.supplemental_groups_policy not in policies:
            place = f"{path}.supplementalGroupsPolicy"
            causes.append(violations.unsupported(place, context.supplemental_groups_policy, policies))
    causes += containers.profiles(context, path)
    return causes


def _dns(spec_: Any, path: str) -> Causes:
    place = f"{path}.dnsConfig"
    if not spec_.HasField("dns_config"):
        if spec_.dns_policy == "None":
            return [violations.required(place, "must provide `dnsConfig` when `dnsPolicy` is None")]
        return []
    config = spec_.dns_config
    causes: Causes = []
    if spec_.dns_policy == "None" and not config.nameservers:
        detail = "must provide at least one DNS nameserver when `dnsPolicy` is None"
        causes.append(violations.required(f"{place}.nameservers", detail))
    if len(config.nameservers) > _MAX_DNS_NAMESERVERS:
        detail = f"must not have more than {_MAX_DNS_NAMESERVERS} nameservers"
        causes.append(violations.invalid(f"{place}.nameservers", list(config.nameservers), detail))
    for index, server in enumerate(config.nameservers):
        causes += common.ip_address(server, f"{place}.nameservers[{index}]")
    if len(config.searches) > _MAX_DNS_SEARCHES:
        detail = f"must not have more than {_MAX_DNS_SEARCHES} search paths"
        causes.append(violations.invalid(f"{place}.searches", list(config.searches), detail))
    if len(" ".join(config.searches)) > _MAX_DNS_SEARCH_CHARS:
        detail = f"must not have more than {_MAX_DNS_SEARCH_CHARS} characters (including spaces) in the search list"
        causes.append(violations.invalid(f"{place}.searches", list(config.searches), detail))
    for index, search in enumerate(config.searches):
        if search == ".":
            continue
        wrong = names.dns1123_subdomain(search.removesuffix(".").replace("_", "a"))
        causes += (violations.invalid(f"{place}.searches[{index}]", search, text) for text in wrong)
    for index, option in enumerate(config.options):
        if not option.name:
            causes.append(violations.required(f"{place}.options[{index}]", "must not be empty"))
    return causes


def _gates(spec_: Any, path: str) -> Causes:
    causes: Causes = []
    for index, gate in enumerate(spec_.readiness_gates):
        place = f"{path}.readinessGates[{index}].conditionType"
        causes += (
            violations.invalid(place, gate.condition_type, text) for text in names.qualified_name(gate.condition_type)
        )
    seen: set[str] = set()
    for index, gate in enumerate(spec_.scheduling_gates):
        place = f"{path}.schedulingGates[{index}]"
        causes += (violations.invalid(place, gate.name, text) for text in names.qualified_name(gate.name))
        if gate.name in seen:
            causes.append(violations.duplicate(place, gate.name))
        seen.add(gate.name)
    claims: set[str] = set()
    for index, claim in enumerate(spec_.resource_claims):
        place = f"{path}.resourceClaims[{index}]"
        causes += (violations.invalid(f"{place}.name", claim.name, text) for text in names.dns1123_label(claim.name))
        if claim.name in claims:
            causes.append(violations.duplicate(f"{place}.name", claim.name))
        claims.add(claim.name)
    return causes


def tolerations(found: Any, path: str) -> Causes:
    causes: Causes = []
    for index, toleration in enumerate(found):
        place = f"{path}[{index}]"
        if toleration.key:
            causes += (
                violations.invalid(f"{place}.key", toleration.key, text)
                for text in names.qualified_name(toleration.key)
            )
        elif toleration.operator != "Exists":
            detail = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            causes.append(violations.invalid(f"{place}.operator", toleration.operator, detail))
        if toleration.HasField("toleration_seconds") and toleration.effect != "NoExecute":
            detail = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            causes.append(violations.invalid(f"{place}.effect", toleration.effect, detail))
        match toleration.operator:
            case "" | "Equal":
                causes += (
                    violations.invalid(f"{place}.operator", toleration.value, text)
                    for text in names.label_value(toleration.value)
                )
            case "Exists":
                if toleration.value:
                    detail = "value must be empty when `operator` is 'Exists'"
                    causes.append(violations.invalid(f"{place}.operator", toleration.value, detail))
            case other:
                # Lt and Gt are behind a gate that is off.
                known = ("Equal", "Exists", "Lt", "Gt") if other in ("Lt", "Gt") else ("Equal", "Exists")
                causes.append(violations.unsupported(f"{place}.operator", other, known))
        if toleration.effect and toleration.effect not in TAINT_EFFECTS:
            causes.append(violations.unsupported(f"{place}.effect", toleration.effect, TAINT_EFFECTS))
    return causes
