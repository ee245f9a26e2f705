"""The checks of level baseline: what opens a way to the node. In the order and the words of Kubernetes. Pure."""

from __future__ import annotations

from typing import Any

from controlplane.admission.podsecurity.base import (
    Versioned,
    Violation,
    containers,
    in_user_namespace,
    plural,
    quoted,
    setters,
    those,
)

_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_SECCOMP_POD = "seccomp.security.alpha.kubernetes.io/pod"
_SECCOMP_CONTAINER = "container.seccomp.security.alpha.kubernetes.io/"
_CAPABILITIES = frozenset(
    (
        "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
        "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
    )
)  # fmt: skip
_SYSCTLS = (
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
)  # fmt: skip
_SYSCTLS_27 = (*_SYSCTLS, "net.ipv4.ip_local_reserved_ports")
_SYSCTLS_29 = (
    *_SYSCTLS_27, "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
)  # fmt: skip
_SYSCTLS_32 = (*_SYSCTLS_29, "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem")
_SELINUX = ("", "container_t", "container_init_t", "container_kvm_t")
_SELINUX_31 = (*_SELINUX, "container_engine_t")


def app_armor(meta: Any, spec: Any) -> Violation | None:
    """By annotation or, since 1.30, by field."""
    pod = spec.security_context.app_armor_profile.type == "Unconfined"
    names = [c.name for c in containers(spec) if c.security_context.app_armor_profile.type == "Unconfined"]
    who = setters(pod, names)
    parts = [f'{who} must not set AppArmor profile type to "Unconfined"'] if who else []
    for key, value in sorted(meta.annotations.items()):
        if key.startswith(_APPARMOR) and value not in ("", "runtime/default") and not value.startswith("localhost/"):
            parts.append(f"annotation {quoted([key])} must not set AppArmor profile to {quoted([value])}")
    if not parts:
        return None
    return Violation(plural("forbidden AppArmor profile", "forbidden AppArmor profiles", len(parts)), ", ".join(parts))


def host_namespaces(meta: Any, spec: Any) -> Violation | None:
    found = [
        f"{name}=true"
        for name, value in (("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc))
        if value
    ]
    return Violation("host namespaces", ", ".join(found)) if found else None


def host_ports(meta: Any, spec: Any) -> Violation | None:
    names, ports = [], set()
    for container in containers(spec):
        mine = {str(port.host_port) for port in container.ports if port.host_port}
        if mine:
            names.append(container.name)
            ports |= mine
    if not names:
        return None
    verb, noun = plural("uses", "use", len(names)), plural("hostPort", "hostPorts", len(ports))
    return Violation("hostPort", f"{those(names)} {verb} {noun} {', '.join(sorted(ports))}")


def host_probes(meta: Any, spec: Any) -> Violation | None:
    names, hosts = set(), set()
    for container in containers(spec):
        handlers: list[Any] = [
            probe.handler for probe in (container.liveness_probe, container.readiness_probe, container.startup_probe)
        ]
        handlers += (container.lifecycle.post_start, container.lifecycle.pre_stop)
        mine = {host for each in handlers for host in (each.http_get.host, each.tcp_socket.host) if host}
        if mine:
            names.add(container.name)
            hosts |= mine
    if not names:
        return None
    verb = plural("uses", "use", len(names))
    noun = plural("probe or lifecycle host", "probe or lifecycle hosts", len(hosts))
    return Violation("probe or lifecycle host", f"{those(sorted(names))} {verb} {noun} {quoted(sorted(hosts))}")


def privileged(meta: Any, spec: Any) -> Violation | None:
    names = [container.name for container in containers(spec) if container.security_context.privileged]
    return Violation("privileged", f"{those(names)} must not set securityContext.privileged=true") if names else None


def proc_mount(meta: Any, spec: Any) -> Violation | None:
    names, types = [], set()
    for container in containers(spec):
        context = container.security_context
        if context.HasField("proc_mount") and context.proc_mount != "Default":
            names.append(container.name)
            types.add(context.proc_mount)
    if not names:
        return None
    return Violation("procMount", f"{those(names)} must not set securityContext.procMount to {quoted(sorted(types))}")


def proc_mount_relaxed(meta: Any, spec: Any) -> Violation | None:
    return None if in_user_namespace(spec) else proc_mount(meta, spec)


def _selinux(spec: Any, allowed: tuple[str, ...]) -> Violation | None:
    types: set[str] = set()
    user = role = False

    def bad(context: Any) -> bool:
        nonlocal user, role
        options = context.se_linux_options
        if options.type not in allowed:
            types.add(options.type)
        user, role = user or bool(options.user), role or bool(options.role)
        return options.type not in allowed or bool(options.user) or bool(options.role)

    pod = bad(spec.security_context)
    names = [container.name for container in containers(spec) if bad(container.security_context)]
    who = setters(pod, names)
    if not who:
        return None
    data = [f"{plural('type', 'types', len(types))} {quoted(sorted(types))}"] if types else []
    data += ["user may not be set"] if user else []
    data += ["role may not be set"] if role else []
    return Violation("seLinuxOptions", f"{who} set forbidden securityContext.seLinuxOptions: {'; '.join(data)}")


def selinux(meta: Any, spec: Any) -> Violation | None:
    return _selinux(spec, _SELINUX)


def selinux_31(meta: Any, spec: Any) -> Violation | None:
    return _selinux(spec, _SELINUX_31)


def _sysctls(spec: Any, allowed: tuple[str, ...]) -> Violation | None:
    names = [item.name for item in spec.security_context.sysctls if item.name not in allowed]
    return Violation("forbidden sysctls", ", ".join(names)) if names else None


def windows_host_process(meta: Any, spec: Any) -> Violation | None:
    names = [c.name for c in containers(spec) if c.security_context.windows_options.host_process]
    who = setters(bool(spec.security_context.windows_options.host_process), names)
    return (
        Violation("hostProcess", f"{who} must not set securityContext.windowsOptions.hostProcess=true") if who else None
    )


def capabilities(meta: Any, spec: Any) -> Violation | None:
    names, added = [], set()
    for container in containers(spec):
        mine = set(container.security_context.capabilities.add) - _CAPABILITIES
        if mine:
            names.append(container.name)
            added |= mine
    if not names:
        return None
    detail = f"{those(names)} must not include {quoted(sorted(added))} in securityContext.capabilities.add"
    return Violation("non-default capabilities", detail)


def host_path(meta: Any, spec: Any) -> Violation | None:
    names = [volume.name for volume in spec.volumes if volume.volume_source.HasField("host_path")]
    return (
        Violation("hostPath volumes", f"{plural('volume', 'volumes', len(names))} {quoted(names)}") if names else None
    )


def seccomp_annotations(meta: Any, spec: Any) -> Violation | None:
    found = set()
    keys = [_SECCOMP_POD, *(_SECCOMP_CONTAINER + container.name for container in containers(spec))]
    for key in keys:
        value = meta.annotations.get(key)
        if (
            value is not None
            and value not in ("runtime/default", "docker/default")
            and not value.startswith("localhost/")
        ):
            found.add(f"{key}={quoted([value])}")
    if not found:
        return None
    word = plural("annotation", "annotations", len(found))
    return Violation("seccompProfile", f"forbidden {word} {', '.join(sorted(found))}")


def bad_seccomp(spec: Any) -> Violation | None:
    """Profiles that are named and are neither the runtime's nor the node's own."""

    def bad(context: Any) -> bool:
        profile = context.seccomp_profile
        return bool(context.HasField("seccomp_profile")) and profile.type not in ("RuntimeDefault", "Localhost")

    pod = bad(spec.security_context)
    wrong = [container for container in containers(spec) if bad(container.security_context)]
    values = {container.security_context.seccomp_profile.type for container in wrong}
    values |= {spec.security_context.seccomp_profile.type} if pod else set()
    who = setters(pod, [container.name for container in wrong])
    if not who:
        return None
    detail = f"{who} must not set securityContext.seccompProfile.type to {quoted(sorted(values))}"
    return Violation("seccompProfile", detail)


def seccomp(meta: Any, spec: Any) -> Violation | None:
    return bad_seccomp(spec)


CHECKS = (
    Versioned("appArmorProfile", ((0, app_armor),)),
    Versioned("hostNamespaces", ((0, host_namespaces),)),
    Versioned("hostPorts", ((0, host_ports),)),
    Versioned("hostProbesAndHostLifecycle", ((34, host_probes),)),
    Versioned("privileged", ((0, privileged),)),
    Versioned("procMount", ((35, proc_mount_relaxed), (0, proc_mount))),
    Versioned("seLinuxOptions", ((31, selinux_31), (0, selinux))),
    Versioned(
        "sysctls",
        (
            (32, lambda meta, spec: _sysctls(spec, _SYSCTLS_32)),
            (29, lambda meta, spec: _sysctls(spec, _SYSCTLS_29)),
            (27, lambda meta, spec: _sysctls(spec, _SYSCTLS_27)),
            (0, lambda meta, spec: _sysctls(spec, _SYSCTLS)),
        ),
    ),
    Versioned("windowsHostProcess", ((0, windows_host_process),)),
)
# Level restricted has a stricter check of its own in place of these.
OVERLAPPING = (
    Versioned("capabilities_baseline", ((0, capabilities),)),
    Versioned("hostPathVolumes", ((0, host_path),)),
    Versioned("seccompProfile_baseline", ((19, seccomp), (0, seccomp_annotations))),
)
