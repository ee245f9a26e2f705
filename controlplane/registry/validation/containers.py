"""Containers of a pod: images, ports, environment, resources, probes, mounts, security."""

from __future__ import annotations

from typing import Any, NamedTuple

from controlplane.registry import violations
from controlplane.registry.validation import common, probes, volumes
from controlplane.registry.violations import Causes
from wherry.api import codec, names, quantity

PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_STANDARD = ("cpu", "memory", "ephemeral-storage")
_ENV_FIELDS = (
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
    "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
)  # fmt: skip
_ENV_RESOURCES = (
    "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage",
    "requests.memory",
)  # fmt: skip
_PROPAGATION = ("Bidirectional", "HostToContainer", "None")


class Setting(NamedTuple):
    """What of the pod a container is checked against."""

    volumes: set[str]
    claims: set[str]
    grace_s: int
    restart_policy: str
    host_network: bool


def containers(spec: Any, path: str, setting: Setting) -> Causes:
    """All containers of a pod; names are unique over every kind of them."""
    causes: Causes = []
    seen: set[str] = set()
    if not spec.containers:
        causes.append(violations.required(f"{path}.containers"))
    host_ports: set[str] = set()
    for index, container in enumerate(spec.containers):
        place = f"{path}.containers[{index}]"
        causes += _name(container.name, seen, place)
        causes += _container(container, place, setting)
        causes += _host_ports(container, place, host_ports)
        causes += probes.check(container, place, setting.grace_s)
        if container.HasField("restart_policy") and container.restart_policy not in ("Always", "Never", "OnFailure"):
            allowed = ("Always", "Never", "OnFailure")
            causes.append(violations.unsupported(f"{place}.restartPolicy", container.restart_policy, allowed))
    for index, container in enumerate(spec.init_containers):
        place = f"{path}.initContainers[{index}]"
        causes += _name(container.name, seen, place)
        causes += _container(container, place, setting)
        causes += _init(container, place, setting)
        sidecar_ports: set[str] = set()
        causes += _host_ports(container, place, host_ports if container.restart_policy == "Always" else sidecar_ports)
    for index, ephemeral in enumerate(spec.ephemeral_containers):
        place = f"{path}.ephemeralContainers[{index}]"
        common_part = ephemeral.ephemeral_container_common
        causes += _name(common_part.name, seen, place)
        causes += _container(common_part, place, setting)
        for field, json_name in (
            ("liveness_probe", "livenessProbe"), ("readiness_probe", "readinessProbe"),
            ("startup_probe", "startupProbe"), ("lifecycle", "lifecycle"), ("resources", "resources"),
        ):  # fmt: skip
            if common_part.HasField(field) and getattr(common_part, field).ListFields():
                causes.append(violations.forbidden(f"{place}.{json_name}", "cannot be set for an Ephemeral Container"))
        if common_part.ports:
            causes.append(violations.forbidden(f"{place}.ports", "cannot be set for an Ephemeral Container"))
        target = ephemeral.target_container_name
        if target and target not in {container.name for container in (*spec.containers, *spec.init_containers)}:
            causes.append(violations.not_found(f"{place}.targetContainerName", target))
    return causes


def _name(name: str, seen: set[str], path: str) -> Causes:
    if not name:
        return [violations.required(f"{path}.name")]
    causes = [violations.invalid(f"{path}.name", name, text) for text in names.dns1123_label(name)]
    if name in seen:
        causes.append(violations.duplicate(f"{path}.name", name))
    seen.add(name)
    return causes


def _init(container: Any, path: str, setting: Setting) -> Causes:
    """An init container that is not a sidecar runs to its end: nothing to probe, nothing to hook into."""
    causes: Causes = []
    if container.HasField("restart_policy") and container.restart_policy not in ("Always", "Never", "OnFailure"):
        allowed = ("Always", "Never", "OnFailure")
        causes.append(violations.unsupported(f"{path}.restartPolicy", container.restart_policy, allowed))
    if container.restart_policy == "Always":
        return causes + probes.check(container, path, setting.grace_s)
    for field, json_name in (
        ("lifecycle", "lifecycle"), ("liveness_probe", "livenessProbe"),
        ("readiness_probe", "readinessProbe"), ("startup_probe", "startupProbe"),
    ):  # fmt: skip
        if container.HasField(field):
            detail = "may not be set for init containers without restartPolicy=Always"
            causes.append(violations.forbidden(f"{path}.{json_name}", detail))
    return causes


def _container(container: Any, path: str, setting: Setting) -> Causes:
    causes: Causes = []
    if not container.image:
        causes.append(violations.required(f"{path}.image"))
    elif container.image.strip() != container.image:
        detail = "must not have leading or trailing whitespace"
        causes.append(violations.invalid(f"{path}.image", container.image, detail))
    if container.termination_message_policy not in ("File", "FallbackToLogsOnError"):
        place = f"{path}.terminationMessagePolicy"
        allowed = ("File", "FallbackToLogsOnError")
        causes.append(violations.unsupported(place, container.termination_message_policy, allowed))
    causes += _ports(container.ports, f"{path}.ports")
    causes += _env(container.env, f"{path}.env")
    causes += _env_from(container.env_from, f"{path}.envFrom")
    causes += _mounts(container, path, setting.volumes)
    if container.image_pull_policy not in PULL_POLICIES:
        causes.append(violations.unsupported(f"{path}.imagePullPolicy", container.image_pull_policy, PULL_POLICIES))
    if container.HasField("resources"):
        causes += resources(container.resources, f"{path}.resources", setting.claims)
    for policy in container.resize_policy:
        place = f"{path}.resizePolicy"
        if policy.resource_name not in ("cpu", "memory"):
            causes.append(violations.unsupported(place, policy.resource_name, ("cpu", "memory")))
        if policy.restart_policy not in ("NotRequired", "RestartContainer"):
            allowed = ("NotRequired", "RestartContainer")
            causes.append(violations.unsupported(place, policy.restart_policy, allowed))
    if container.HasField("security_context"):
        causes += _security(container.security_context, f"{path}.securityContext")
    return causes


# ports


def _ports(ports: Any, path: str) -> Causes:
    causes: Causes = []
    seen: set[str] = set()
    for index, port in enumerate(ports):
        place = f"{path}[{index}]"
        if port.name:
            wrong = names.port_name(port.name)
            causes += (violations.invalid(f"{place}.name", port.name, text) for text in wrong)
            if not wrong and port.name in seen:
                causes.append(violations.duplicate(f"{place}.name", port.name))
            seen.add(port.name)
        if port.container_port == 0:
            causes.append(violations.required(f"{place}.containerPort"))
        else:
            causes += common.port_number(port.container_port, f"{place}.containerPort")
        if port.host_port:
            causes += common.port_number(port.host_port, f"{place}.hostPort")
        if not port.protocol:
            causes.append(violations.required(f"{place}.protocol"))
        elif port.protocol not in _PROTOCOLS:
            causes.append(violations.unsupported(f"{place}.protocol", port.protocol, _PROTOCOLS))
    return causes


def _host_ports(container: Any, path: str, seen: set[str]) -> Causes:
    causes: Causes = []
    for index, port in enumerate(container.ports):
        if not port.host_port:
            continue
        text = f"{port.protocol}/{port.host_ip}/{port.host_port}"
        if text in seen:
            causes.append(violations.duplicate(f"{path}.ports[{index}].hostPort", text))
        seen.add(text)
    return causes


# environment


def _env(variables: Any, path: str) -> Causes:
    causes: Causes = []
    for index, variable in enumerate(variables):
        place = f"{path}[{index}]"
        if not variable.name:
            causes.append(violations.required(f"{place}.name"))
        else:
            causes += (
                violations.invalid(f"{place}.name", variable.name, text) for text in names.env_var_name(variable.name)
            )
        if variable.HasField("value_from"):
            causes += _value_from(variable, f"{place}.valueFrom")
    return causes


def _value_from(variable: Any, path: str) -> Causes:
    source = variable.value_from
    fields = [field.name for field, _ in source.ListFields()]
    if not fields:
        detail = (
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        )
        return [violations.invalid(path, "", detail)]
    causes: Causes = []
    if variable.value:
        causes.append(violations.invalid(path, "", "may not be specified when `value` is not empty"))
    elif len(fields) > 1:
        causes.append(violations.invalid(path, "", "may not have more than one field specified at a time"))
    if "field_ref" in fields:
        causes += volumes.field_ref(source.field_ref, _ENV_FIELDS, f"{path}.fieldRef")
    if "resource_field_ref" in fields:
        causes += _resource_ref(source.resource_field_ref, f"{path}.resourceFieldRef")
    for field, json_name in (("config_map_key_ref", "configMapKeyRef"), ("secret_key_ref", "secretKeyRef")):
        if field in fields:
            ref, place = getattr(source, field), f"{path}.{json_name}"
            if not ref.key:
                causes.append(violations.required(f"{place}.key"))
            else:
                causes += (violations.invalid(f"{place}.key", ref.key, text) for text in names.config_map_key(ref.key))
    return causes


def _resource_ref(ref: Any, path: str) -> Causes:
    if not ref.resource:
        return [violations.required(f"{path}.resource")]
    if ref.resource not in _ENV_RESOURCES and not ref.resource.partition(".")[2].startswith("hugepages-"):
        return [violations.unsupported(f"{path}.resource", ref.resource, _ENV_RESOURCES)]
    return []


def _env_from(sources: Any, path: str) -> Causes:
    causes: Causes = []
    for index, source in enumerate(sources):
        place = f"{path}[{index}]"
        if source.prefix:
            causes += (
                violations.invalid(f"{place}.prefix", source.prefix, text) for text in names.env_var_name(source.prefix)
            )
        both = source.HasField("config_map_ref") and source.HasField("secret_ref")
        if both:
            detail = "may not have more than one field specified at a time"
            causes.append(violations.invalid(path, "", detail))
        elif not source.HasField("config_map_ref") and not source.HasField("secret_ref"):
            causes.append(violations.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
        for field, json_name in (("config_map_ref", "configMapRef"), ("secret_ref", "secretRef")):
            if source.HasField(field):
                name = getattr(source, field).local_object_reference.name
                if not name:
                    causes.append(violations.required(f"{place}.{json_name}.name"))
    return causes


# resources


def amounts(found: Any, path: str, *, pod_level: bool = False) -> Causes:
    causes: Causes = []
    for name in sorted(found):
        place = f"{path}[{name}]"
        causes += _resource_name(name, place, pod_level)
        amount = quantity.amount(found[name])
        text = quantity.canonical(found[name].string) if found[name].string else "0"
        if amount < 0:
            causes.append(violations.invalid(place, text, "must be greater than or equal to 0"))
        elif "/" in name and amount != amount.to_integral_value():
            causes.append(violations.invalid(place, text, "must be an integer"))
        elif name.startswith("hugepages-"):
            causes += _huge_page(name, text, place)
    return causes


def _resource_name(name: str, path: str, pod_level: bool) -> Causes:
    causes = [violations.invalid(path, name, text) for text in names.qualified_name(name)]
    if causes:
        return causes
    if "/" not in name:
        standard = name in _STANDARD or name.startswith("hugepages-")
        if not standard and name not in ("pods", "storage"):
            causes.append(violations.invalid(path, name, "must be a standard resource type or fully qualified"))
        if not standard:
            causes.append(violations.invalid(path, name, "must be a standard resource for containers"))
    if pod_level and (name == "ephemeral-storage" or "/" in name):
        supported = ("cpu", "hugepages-", "memory")
        causes.append(violations.unsupported(path, name, supported))
    return causes


def _huge_page(name: str, text: str, path: str) -> Causes:
    try:
        size = quantity.amount(name.removeprefix("hugepages-"))
    except ValueError:
        return []
    if size <= 0 or quantity.amount(text) % size != 0:
        return [violations.invalid(path, text, f"{text} is not positive integer multiple of {name}")]
    return []


def resources(obj: Any, path: str, claims: set[str], *, pod_level: bool = False) -> Causes:
    limits, requests = obj.limits, obj.requests
    causes = amounts(limits, f"{path}.limits", pod_level=pod_level)
    causes += amounts(requests, f"{path}.requests", pod_level=pod_level)
    for name in sorted(requests):
        asked = quantity.amount(requests[name])
        if name in limits:
            limit = quantity.amount(limits[name])
            exact = "/" in name or name.startswith("hugepages-")
            if exact and asked != limit:
                detail = f"must be equal to {name} limit of {quantity.canonical(limits[name].string)}"
                causes.append(violations.invalid(f"{path}.requests", quantity.canonical(requests[name].string), detail))
            elif not exact and asked > limit:
                detail = f"must be less than or equal to {name} limit of {quantity.canonical(limits[name].string)}"
                causes.append(violations.invalid(f"{path}.requests", quantity.canonical(requests[name].string), detail))
        elif "/" in name or name.startswith("hugepages-"):
            causes.append(violations.required(f"{path}.limits", "Limit must be set for non overcommitable resources"))
    everything = {*limits, *requests}
    if any(name.startswith("hugepages-") for name in everything) and not everything & {"cpu", "memory"}:
        causes.append(violations.forbidden(path, "HugePages require cpu or memory"))
    for index, claim in enumerate(obj.claims):
        if claim.name not in claims:
            listed = "which is empty" if not claims else f"which has {', '.join(sorted(claims))}"
            detail = f"must be one of the names in pod.spec.resourceClaims {listed}"
            causes.append(violations.not_found(f"{path}.claims[{index}]", claim.name, detail))
    return causes


# mounts and security


def _mounts(container: Any, path: str, known: set[str]) -> Causes:
    causes: Causes = []
    paths: set[str] = set()
    for index, mount in enumerate(container.volume_mounts):
        place = f"{path}.volumeMounts[{index}]"
        if not mount.name:
            causes.append(violations.required(f"{place}.name"))
        elif mount.name not in known:
            causes.append(violations.not_found(f"{place}.name", mount.name))
        if not mount.mount_path:
            causes.append(violations.required(f"{place}.mountPath"))
        elif mount.mount_path in paths:
            causes.append(violations.invalid(f"{place}.mountPath", mount.mount_path, "must be unique"))
        paths.add(mount.mount_path)
        for field, json_name in (("sub_path", "subPath"), ("sub_path_expr", "subPathExpr")):
            text = getattr(mount, field)
            if text.startswith("/"):
                causes.append(violations.invalid(f"{place}.{json_name}", text, "must be a relative path"))
            elif ".." in text.split("/"):
                causes.append(violations.invalid(f"{place}.{json_name}", text, "must not contain '..'"))
        if mount.sub_path and mount.sub_path_expr:
            detail = "subPathExpr and subPath are mutually exclusive"
            causes.append(violations.invalid(f"{place}.subPathExpr", mount.sub_path_expr, detail))
        if mount.HasField("mount_propagation"):
            if mount.mount_propagation not in _PROPAGATION:
                causes.append(
                    violations.unsupported(f"{place}.mountPropagation", mount.mount_propagation, _PROPAGATION)
                )
            elif mount.mount_propagation == "Bidirectional" and not container.security_context.privileged:
                detail = "Bidirectional mount propagation is available only to privileged containers"
                causes.append(violations.forbidden(f"{place}.mountPropagation", detail))
    for index, device in enumerate(container.volume_devices):
        place = f"{path}.volumeDevices[{index}]"
        if not device.name:
            causes.append(violations.required(f"{place}.name"))
        elif device.name not in known:
            causes.append(violations.not_found(f"{place}.name", device.name))
        if not device.device_path:
            causes.append(violations.required(f"{place}.devicePath"))
        elif device.device_path in paths:
            causes.append(violations.invalid(f"{place}.devicePath", device.device_path, "must be unique"))
    return causes


def profiles(context: Any, path: str) -> Causes:
    """Seccomp and AppArmor, of a pod or of a container."""
    causes: Causes = []
    for field, json_name, what in (
        ("seccomp_profile", "seccompProfile", "seccomp"), ("app_armor_profile", "appArmorProfile", "AppArmor"),
    ):  # fmt: skip
        if not context.HasField(field):
            continue
        profile, place = getattr(context, field), f"{path}.{json_name}"
        allowed = ("Localhost", "RuntimeDefault", "Unconfined")
        if not profile.type:
            causes.append(violations.required(f"{place}.type", "type is required when seccompProfile is set"))
        elif profile.type not in allowed:
            causes.append(violations.unsupported(f"{place}.type", profile.type, allowed))
        elif profile.type == "Localhost" and not profile.localhost_profile:
            detail = f"must be set when {what} type is Localhost"
            causes.append(violations.required(f"{place}.localhostProfile", detail))
        elif profile.type != "Localhost" and profile.HasField("localhost_profile"):
            detail = f"can only be set when {what} type is Localhost"
            causes.append(violations.invalid(f"{place}.localhostProfile", profile.localhost_profile, detail))
    return causes


def _security(context: Any, path: str) -> Causes:
    causes: Causes = []
    for field, json_name in (("run_as_user", "runAsUser"), ("run_as_group", "runAsGroup")):
        if context.HasField(field):
            causes += common.in_range(getattr(context, field), 0, common.MAX_INT32, f"{path}.{json_name}")
    if context.HasField("proc_mount") and context.proc_mount not in ("Default", "Unmasked"):
        causes.append(violations.unsupported(f"{path}.procMount", context.proc_mount, ("Default", "Unmasked")))
    causes += profiles(context, path)
    if context.HasField("allow_privilege_escalation") and not context.allow_privilege_escalation:
        shown = codec.to_dict(context)
        if context.privileged:
            detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
            causes.append(violations.invalid(path, shown, detail))
        if {"CAP_SYS_ADMIN", "SYS_ADMIN"} & set(context.capabilities.add):
            detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
            causes.append(violations.invalid(path, shown, detail))
    windows = context.windows_options
    if windows.HasField("run_as_user_name") and not windows.run_as_user_name:
        place = f"{path}.windowsOptions.runAsUserName"
        causes.append(violations.invalid(place, "", "runAsUserName cannot be an empty string"))
    return causes
