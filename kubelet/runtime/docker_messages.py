"""What the runtime interface and Docker's API call things, into each other. Pure. Used by `kubelet.runtime.docker`.

A sandbox is a container that runs the pause program; the pod's containers join its namespaces. What Docker has no field for is in
labels, so that an agent that starts anew finds all it must know on the containers themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from kubelet.runtime import archives
from kubelet.runtime.base import (
    CONTAINER_NAME,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    ContainerConfig,
    ContainerState,
    ContainerStats,
    ContainerStatus,
    Image,
    PortMapping,
    Resources,
    SandboxConfig,
    SandboxState,
    SandboxStatus,
    SecurityContext,
)

NODE = "wherry.dev/node"
TYPE = "wherry.dev/type"
SANDBOX = "wherry.dev/sandbox"
_ATTEMPT = "wherry.dev/attempt"
_ANNOTATIONS = "wherry.dev/annotations"
_LABELS = "wherry.dev/labels"
_LOG_PATH = "wherry.dev/log-path"

_PROPAGATION = {"private": "rprivate", "host-to-container": "rslave", "bidirectional": "rshared"}
_LOGS = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}}


def container_name(*parts: str) -> str:
    return "k8s_" + "_".join(part.replace("_", "-") for part in parts)


# -- what is to be made


def sandbox_body(
    config: SandboxConfig, image: str, node: str, network: str, host_network: str = "host"
) -> dict[str, Any]:
    """The body of /containers/create. `network`: "none" when CNI makes the pod's network afterwards; `host_network`: Docker's
    network mode for pods with the network of their host."""
    security = config.security
    host: dict[str, Any] = {
        "NetworkMode": host_network if security.host_network else network,
        "IpcMode": "host" if security.host_ipc else "shareable",
        "CgroupParent": config.cgroup_parent,
        "LogConfig": {"Type": "none"},
        "OomScoreAdj": 0,
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": True,
    }
    if config.runtime_handler:
        host["Runtime"] = config.runtime_handler
    if security.host_pid:
        host["PidMode"] = "host"
    if config.sysctls:
        host["Sysctls"] = dict(config.sysctls)
    if config.dns is not None and not security.host_network:
        host["Dns"] = list(config.dns.servers)
        host["DnsSearch"] = list(config.dns.searches)
        host["DnsOptions"] = list(config.dns.options)
    body: dict[str, Any] = {
        "Image": image,
        "Labels": _labels(config.labels, config.annotations)
        | {
            NODE: node, TYPE: "sandbox", _ATTEMPT: str(config.attempt),
            POD_NAME: config.name, POD_NAMESPACE: config.namespace, POD_UID: config.uid,
        },
        "HostConfig": host,
    }  # fmt: skip
    if not security.host_network:
        body["Hostname"] = config.hostname
        if network != "none":
            bindings: dict[str, list[dict[str, str]]] = {}
            for port in config.port_mappings:
                key = f"{port.container_port}/{port.protocol.lower()}"
                bindings.setdefault(key, []).append({"HostIp": port.host_ip, "HostPort": str(port.host_port)})
            body["ExposedPorts"] = {key: {} for key in bindings}
            host["PortBindings"] = bindings
    return body


def container_body(
    sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig, node: str, *, own_host: bool = False
) -> dict[str, Any]:
    """`own_host`: the node's name and network are those of a container."""
    security = config.security
    shared = f"container:{sandbox_id}"
    host: dict[str, Any] = {
        "NetworkMode": shared,
        "IpcMode": shared,
        "CgroupParent": sandbox.cgroup_parent,
        "LogConfig": _LOGS,
        "Privileged": security.privileged,
        "ReadonlyRootfs": security.readonly_rootfs,
        "CapAdd": list(security.add_capabilities),
        "CapDrop": list(security.drop_capabilities),
        **({"Runtime": sandbox.runtime_handler} if sandbox.runtime_handler else {}),
        "GroupAdd": [str(group) for group in security.supplemental_groups],
        "SecurityOpt": security_options(security),
        "Mounts": [
            {
                "Type": "bind", "Source": mount.host_path, "Target": mount.container_path, "ReadOnly": mount.readonly,
                "BindOptions": {"Propagation": _PROPAGATION[mount.propagation]},
            }
            for mount in config.mounts
        ],
        **resources(config.resources),
        "OomScoreAdj": config.resources.oom_score_adj,
    }  # fmt: skip
    if sandbox.security.host_network and not own_host:
        host["UTSMode"] = "host"
    if sandbox.security.host_pid:
        host["PidMode"] = "host"
    elif security.processes_of:
        host["PidMode"] = f"container:{security.processes_of}"
    elif sandbox.security.share_process_namespace:
        host["PidMode"] = shared
    if security.masked_paths_off:
        host["MaskedPaths"], host["ReadonlyPaths"] = [], []
    labels = _labels(config.labels, config.annotations) | {
        NODE: node, TYPE: "container", SANDBOX: sandbox_id, _ATTEMPT: str(config.attempt), CONTAINER_NAME: config.name,
        POD_NAME: sandbox.name, POD_NAMESPACE: sandbox.namespace, POD_UID: sandbox.uid,
        _LOG_PATH: str(Path(sandbox.log_directory) / config.log_path) if config.log_path else "",
    }  # fmt: skip
    body: dict[str, Any] = {
        "Image": config.image,
        "Env": [f"{name}={value}" for name, value in config.env],
        "WorkingDir": config.working_dir,
        "OpenStdin": config.stdin,
        "StdinOnce": config.stdin_once,
        "Tty": config.tty,
        "Labels": labels,
        "HostConfig": host,
    }
    user = _user(security)
    if user:
        body["User"] = user
    if config.command:
        body["Entrypoint"] = list(config.command)
    if config.args:
        body["Cmd"] = list(config.args)
    return body


def resources(limits: Resources) -> dict[str, Any]:
    return {
        "CpuShares": limits.cpu_shares,
        "CpuQuota": limits.cpu_quota,
        "CpuPeriod": limits.cpu_period,
        "Memory": limits.memory_limit_bytes,
        # No swap beyond the limit.
        "MemorySwap": limits.memory_limit_bytes,
    }


def security_options(security: SecurityContext) -> list[str]:
    options = []
    if not security.allow_privilege_escalation:
        options.append("no-new-privileges")
    if security.seccomp_profile == "unconfined":
        options.append("seccomp=unconfined")
    elif security.seccomp_profile.startswith("localhost/"):
        # The API takes the profile itself.
        options.append(f"seccomp={Path(security.seccomp_profile.removeprefix('localhost/')).read_text()}")
    if security.apparmor_profile == "unconfined":
        options.append("apparmor=unconfined")
    elif security.apparmor_profile.startswith("localhost/"):
        options.append(f"apparmor={security.apparmor_profile.removeprefix('localhost/')}")
    return options


def _user(security: SecurityContext) -> str:
    user = str(security.run_as_user) if security.run_as_user is not None else security.run_as_username
    if user and security.run_as_group is not None:
        return f"{user}:{security.run_as_group}"
    return user


def _labels(labels: Mapping[str, str], annotations: Mapping[str, str]) -> dict[str, str]:
    """As Docker labels, where people look for them; and whole, so that ours are told from the image's."""
    return dict(labels) | {
        _LABELS: json.dumps(dict(labels), sort_keys=True),
        _ANNOTATIONS: json.dumps(dict(annotations), sort_keys=True),
    }


# -- what is there


def is_sandbox(document: Mapping[str, Any]) -> bool:
    return bool(labels_of(document).get(TYPE) == "sandbox")


def on_host_network(document: Mapping[str, Any]) -> bool:
    """Of a sandbox."""
    mode = str(document["HostConfig"]["NetworkMode"])
    return mode == "host" or mode.startswith("container:")


def pod_uid(document: Mapping[str, Any]) -> str:
    return labels_of(document).get(POD_UID, "")


def host_ports(document: Mapping[str, Any]) -> list[PortMapping]:
    """Those that `sandbox_body` asked for."""
    found = []
    for key, bindings in sorted((document["HostConfig"].get("PortBindings") or {}).items()):
        port, _, protocol = key.partition("/")
        for binding in bindings or ():
            if str(binding.get("HostPort") or "").isdigit():
                to = int(binding["HostPort"])
                found.append(PortMapping(int(port), to, protocol.upper(), str(binding.get("HostIp") or "")))
    return found


def labels_of(document: Mapping[str, Any]) -> dict[str, str]:
    return (document.get("Config") or {}).get("Labels") or {}


def log_path(document: Mapping[str, Any]) -> str:
    return labels_of(document).get(_LOG_PATH, "")


def sandbox_status(document: Mapping[str, Any], ips: tuple[str, ...]) -> SandboxStatus:
    labels = labels_of(document)
    return SandboxStatus(
        id=document["Id"],
        namespace=labels.get(POD_NAMESPACE, ""),
        name=labels.get(POD_NAME, ""),
        uid=labels.get(POD_UID, ""),
        attempt=int(labels.get(_ATTEMPT, "0")),
        state=SandboxState.READY if document["State"].get("Running") else SandboxState.NOT_READY,
        created_at=seconds(document.get("Created", "")),
        ips=ips,
        labels=json.loads(labels.get(_LABELS, "{}")),
        annotations=json.loads(labels.get(_ANNOTATIONS, "{}")),
    )


def container_status(document: Mapping[str, Any], image_id: str) -> ContainerStatus:
    labels = labels_of(document)
    state = document["State"]
    what = _state(state)
    code = int(state.get("ExitCode") or 0)
    reason, message = "", str(state.get("Error") or "")
    if what is ContainerState.EXITED:
        reason = _reason(state, code)
    return ContainerStatus(
        id=document["Id"],
        sandbox_id=labels.get(SANDBOX, ""),
        name=labels.get(CONTAINER_NAME, ""),
        attempt=int(labels.get(_ATTEMPT, "0")),
        state=what,
        created_at=seconds(document.get("Created", "")),
        started_at=seconds(state.get("StartedAt", "")),
        finished_at=seconds(state.get("FinishedAt", "")) if what is ContainerState.EXITED else 0.0,
        exit_code=code,
        reason=reason,
        message=message,
        image=(document.get("Config") or {}).get("Image", ""),
        image_id=image_id,
        log_path=labels.get(_LOG_PATH, ""),
        labels=json.loads(labels.get(_LABELS, "{}")),
        annotations=json.loads(labels.get(_ANNOTATIONS, "{}")),
    )


def _state(state: Mapping[str, Any]) -> ContainerState:
    match state.get("Status"):
        case "created":
            # One that could not be started stays "created", with the reason.
            return ContainerState.EXITED if state.get("Error") else ContainerState.CREATED
        case "running" | "paused" | "restarting":
            return ContainerState.RUNNING
        case "exited" | "dead" | "removing":
            return ContainerState.EXITED
    return ContainerState.UNKNOWN


def _reason(state: Mapping[str, Any], code: int) -> str:
    if state.get("OOMKilled"):
        return "OOMKilled"
    if state.get("Status") == "created":
        return "StartError"
    return "Completed" if code == 0 else "Error"


def image(document: Mapping[str, Any]) -> Image:
    return Image(
        id=document["Id"],
        tags=tuple(document.get("RepoTags") or ()),
        digests=tuple(document.get("RepoDigests") or ()),
        size_bytes=int(document.get("Size") or 0),
        user=str((document.get("Config") or {}).get("User") or "").partition(":")[0],
    )


def contents(document: Mapping[str, Any]) -> archives.Contents:
    """Of an image."""
    return archives.contents(document.get("Config") or {}, (document.get("RootFS") or {}).get("Layers") or ())


def stats(document: Mapping[str, Any], container: Mapping[str, Any], now: float) -> ContainerStats:
    labels = labels_of(container)
    memory = document.get("memory_stats") or {}
    used = int(memory.get("usage") or 0)
    detail = memory.get("stats") or {}
    inactive = int(detail.get("total_inactive_file") or detail.get("inactive_file") or 0)
    cpu = ((document.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage") or 0
    return ContainerStats(
        container_id=container["Id"],
        name=labels.get(CONTAINER_NAME, ""),
        sandbox_id=labels.get(SANDBOX, ""),
        cpu_usage_core_ns=int(cpu),
        memory_working_set_bytes=max(used - inactive, 0),
        memory_usage_bytes=used,
        writable_layer_bytes=0,
        timestamp=now,
    )


def seconds(text: str) -> float:
    """Unix seconds of Docker's times, which have up to nine digits behind the point; 0 for "never"."""
    if not text or text.startswith("0001-"):
        return 0.0
    base, _, fraction = text.removesuffix("Z").partition(".")
    offset = ""
    for sign in "+-":
        fraction, found, zone = fraction.partition(sign)
        offset = offset or (sign + zone if found else "")
    moment = datetime.fromisoformat(base + (offset or "+00:00"))
    return moment.timestamp() + (float(f"0.{fraction}") if fraction else 0.0)
