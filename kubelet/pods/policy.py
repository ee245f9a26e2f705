"""Small rules about one container that `plan`, `report` and the worker share: restart, back-off, pull policy. All pure."""

from __future__ import annotations

import hashlib
import re

from kubelet.pods import model as m
from kubelet.pods.states import Role
from kubelet.runtime.base import ContainerStatus
from wherry.pb import core_v1_pb2

_REFERENCE = re.compile(
    r"(?:(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
    r"(?::[\w][\w.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)


def spec_hash(container: core_v1_pb2.Container) -> str:
    """Of the name and the image: the only part of a container that may change in a living pod and asks for a restart.
    A wider hash would restart everything when a new version of Wherry learns a field or a default."""
    return hashlib.sha256(f"{container.name}\0{container.image}".encode()).hexdigest()[:16]


def pull_policy(container: core_v1_pb2.Container) -> str:
    """As the API defaults it: Always for :latest and untagged images, else IfNotPresent."""
    if container.image_pull_policy:
        return container.image_pull_policy
    name, _, digest = container.image.partition("@")
    if digest:
        return "IfNotPresent"
    tag = name.rpartition("/")[2].partition(":")[2]
    return "Always" if tag in ("", "latest") else "IfNotPresent"


def valid_reference(image: str) -> bool:
    return _REFERENCE.fullmatch(image) is not None


def pod_label(pod: core_v1_pb2.Pod) -> str:
    """`name_namespace(uid)`, as the kubelet writes a pod in its messages."""
    return f"{pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})"


def restart_backoff(dead: ContainerStatus) -> float:
    """How long the successor of `dead` waits, counted from its end. 0 after a long run, and for the first restart."""
    if dead.finished_at - dead.created_at > m.CRASH_BACKOFF_RESET_S:
        return 0.0
    try:
        return float(dead.annotations.get(m.RESTART_BACKOFF, "0"))
    except ValueError:
        return 0.0


def next_backoff(dead: ContainerStatus) -> float:
    """What the successor of `dead` is annotated with."""
    waited = restart_backoff(dead)
    return min(waited * 2, m.CRASH_BACKOFF_MAX_S) if waited else m.CRASH_BACKOFF_FIRST_S


def should_restart(pod: core_v1_pb2.Pod, container: core_v1_pb2.Container, role: Role, dead: ContainerStatus) -> bool:
    """Whether an exited container is to run again, by its own rules, its own policy, then the pod's policy."""
    if role is Role.EPHEMERAL:
        return False
    if role is Role.SIDECAR:
        return True
    for rule in container.restart_policy_rules:
        listed = dead.exit_code in rule.exit_codes.values
        if rule.action == "Restart" and listed == (rule.exit_codes.operator == "In"):
            return True
    policy = container.restart_policy or pod.spec.restart_policy or "Always"
    if role is Role.INIT and dead.exit_code == 0:
        return False
    return policy == "Always" or (policy == "OnFailure" and dead.exit_code != 0)
