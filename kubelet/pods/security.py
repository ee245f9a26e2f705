"""The effective security context of a sandbox and of a container: its own word, then the pod's, then the default. Pure."""

from __future__ import annotations

from kubelet.pods.policy import pod_label
from kubelet.pods.services import ConfigError
from kubelet.runtime.base import Image, SecurityContext
from wherry.pb import core_v1_pb2


def seccomp(profile: core_v1_pb2.SeccompProfile | None) -> str:
    """The runtime's default profile unless the manifest asks otherwise (stricter than Kubernetes, whose default is none)."""
    if profile is None or not profile.type:
        return "runtime/default"
    match profile.type:
        case "Unconfined":
            return "unconfined"
        case "Localhost":
            return f"localhost/{profile.localhost_profile}"
        case _:
            return "runtime/default"


def apparmor(profile: core_v1_pb2.AppArmorProfile | None) -> str:
    if profile is None or not profile.type:
        return ""
    match profile.type:
        case "Unconfined":
            return "unconfined"
        case "Localhost":
            return f"localhost/{profile.localhost_profile}"
        case _:
            return "runtime/default"


def groups(pod: core_v1_pb2.Pod) -> tuple[int, ...]:
    context = pod.spec.security_context
    wanted = list(context.supplemental_groups)
    if context.HasField("fs_group") and context.fs_group not in wanted:
        wanted.append(context.fs_group)
    return tuple(wanted)


def sandbox_security(pod: core_v1_pb2.Pod) -> SecurityContext:
    spec, context = pod.spec, pod.spec.security_context
    privileged = any(
        c.security_context.privileged
        for c in [*spec.init_containers, *spec.containers]
        if c.HasField("security_context")
    )
    return SecurityContext(
        run_as_user=context.run_as_user if context.HasField("run_as_user") else None,
        run_as_group=context.run_as_group if context.HasField("run_as_group") else None,
        supplemental_groups=groups(pod),
        privileged=privileged,
        seccomp_profile="unconfined" if privileged else "runtime/default",
        host_network=spec.host_network,
        host_pid=spec.host_pid,
        host_ipc=spec.host_ipc,
        share_process_namespace=spec.share_process_namespace,
    )


def container_security(pod: core_v1_pb2.Pod, container: core_v1_pb2.Container, image: Image) -> SecurityContext:
    """Raises ConfigError when runAsNonRoot forbids it."""
    of_pod, own = pod.spec.security_context, container.security_context
    user = own.run_as_user if own.HasField("run_as_user") else None
    if user is None and of_pod.HasField("run_as_user"):
        user = of_pod.run_as_user
    group = own.run_as_group if own.HasField("run_as_group") else None
    if group is None and of_pod.HasField("run_as_group"):
        group = of_pod.run_as_group
    check_non_root(pod, container, user, image)
    privileged = own.privileged
    profile = own.seccomp_profile if own.HasField("seccomp_profile") else None
    if profile is None and of_pod.HasField("seccomp_profile"):
        profile = of_pod.seccomp_profile
    armour = own.app_armor_profile if own.HasField("app_armor_profile") else None
    if armour is None and of_pod.HasField("app_armor_profile"):
        armour = of_pod.app_armor_profile
    username = ""
    if user is None and image.user and not image.user.isdigit():
        username = image.user
    escalate = own.allow_privilege_escalation if own.HasField("allow_privilege_escalation") else True
    return SecurityContext(
        run_as_user=user if user is not None else (int(image.user) if image.user.isdigit() else None),
        run_as_username=username,
        run_as_group=group,
        supplemental_groups=groups(pod),
        privileged=privileged,
        readonly_rootfs=own.read_only_root_filesystem,
        allow_privilege_escalation=escalate,
        add_capabilities=tuple(own.capabilities.add),
        drop_capabilities=tuple(own.capabilities.drop),
        seccomp_profile="unconfined" if privileged and profile is None else seccomp(profile),
        apparmor_profile=apparmor(armour),
        host_network=pod.spec.host_network,
        host_pid=pod.spec.host_pid,
        host_ipc=pod.spec.host_ipc,
        share_process_namespace=pod.spec.share_process_namespace,
        masked_paths_off=own.proc_mount == "Unmasked",
    )


def check_non_root(pod: core_v1_pb2.Pod, container: core_v1_pb2.Container, user: int | None, image: Image) -> None:
    own, of_pod = container.security_context, pod.spec.security_context
    wanted = own.run_as_non_root if own.HasField("run_as_non_root") else of_pod.run_as_non_root
    if not wanted:
        return
    where = f'(pod: "{pod_label(pod)}", container: {container.name})'
    if user is not None:
        if user == 0:
            raise ConfigError(f"container's runAsUser breaks non-root policy {where}")
        return
    if not image.user or image.user == "0":
        raise ConfigError(f"container has runAsNonRoot and image will run as root {where}")
    if not image.user.isdigit():
        raise ConfigError(
            f"container has runAsNonRoot and image has non-numeric user ({image.user}), cannot verify user is non-root {where}"
        )
