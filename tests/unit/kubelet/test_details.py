"""What container statuses repeat: resources, mounts, user."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kubelet.pods.details import add_details, recursive_problem
from kubelet.pods.states import Role
from kubelet.runtime.base import ContainerState, ContainerStatus, ContainerUser
from wherry.api import codec
from wherry.pb import core_v1_pb2

CONTAINER = core_v1_pb2.Container(
    name="c",
    volume_mounts=[
        core_v1_pb2.VolumeMount(name="a", mount_path="/a"),
        core_v1_pb2.VolumeMount(name="b", mount_path="/b", read_only=True, recursive_read_only="IfPossible"),
    ],
)
CONTAINER.resources.requests["cpu"].string = "100m"
CONTAINER.resources.limits["memory"].string = "1Gi"
MADE = ContainerStatus(
    "id", "s", "c", 0, ContainerState.RUNNING, 1.0, 1.0, 0.0, 0, "", "", "image", "sha", "/log", {}, {}
)  # fmt: skip
MOUNTS = [
    {"mountPath": "/a", "name": "a"},
    {"mountPath": "/b", "name": "b", "readOnly": True, "recursiveReadOnly": "Disabled"},
]
RESOURCES = {"limits": {"memory": "1Gi"}, "requests": {"cpu": "100m"}}

CASES = {
    "not made yet": (Role.APP, None, {"volumeMounts": MOUNTS}),
    "made": (Role.APP, MADE, {"volumeMounts": MOUNTS, "resources": RESOURCES, "allocatedResources": {"cpu": "100m"}}),
    "ephemeral": (Role.EPHEMERAL, MADE, {"volumeMounts": MOUNTS}),
    "with a user": (
        Role.INIT, replace(MADE, user=ContainerUser(1000, 0, (5,))),
        {"volumeMounts": MOUNTS, "resources": RESOURCES, "allocatedResources": {"cpu": "100m"},
         "user": {"linux": {"uid": 1000, "gid": 0, "supplementalGroups": [5]}}},
    ),
}  # fmt: skip


def as_json(entry: core_v1_pb2.ContainerStatus) -> Any:
    pod = core_v1_pb2.Pod(status=core_v1_pb2.PodStatus(container_statuses=[entry]))
    return codec.to_dict(pod)["status"]["containerStatuses"][0]


@pytest.mark.parametrize(("role", "newest", "wanted"), CASES.values(), ids=CASES)
def test_details(role: Role, newest: ContainerStatus | None, wanted: dict[str, object]) -> None:
    entry = core_v1_pb2.ContainerStatus()
    add_details(entry, CONTAINER, role, newest)
    found = as_json(entry)
    names = ("volumeMounts", "resources", "allocatedResources", "user")
    assert {name: found[name] for name in names if name in found} == wanted


def test_a_container_without_any_says_so() -> None:
    entry = core_v1_pb2.ContainerStatus()
    add_details(entry, core_v1_pb2.Container(name="c"), Role.APP, MADE)
    assert as_json(entry)["resources"] == {}


def test_who_insists_on_recursion_is_told() -> None:
    mount = core_v1_pb2.VolumeMount(name="v", read_only=True, recursive_read_only="Enabled")
    assert recursive_problem(mount) == (
        'failed to resolve recursive read-only mode: volume "v" requested recursive read-only mode, but it is not '
        "supported by the runtime"
    )
    assert recursive_problem(CONTAINER.volume_mounts[1]) == ""
