"""What containerd tells of a container, read into our own words."""

import pytest

from kubelet.runtime import cri_messages
from kubelet.runtime.base import ContainerUser, Resources
from wherry.pb import cri_runtime_pb2 as pb

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("started", "finished", "read"),
    [
        pytest.param(2 * SECOND, 0, (2.0, 0.0), id="still-running"),
        pytest.param(2 * SECOND, 5 * SECOND, (2.0, 5.0), id="ended"),
        pytest.param(2 * SECOND, 2 * SECOND - 1_000_000, (1.999, 1.999), id="ended-before-its-start-was-noted"),
        pytest.param(0, 5 * SECOND, (0.0, 5.0), id="never-started"),
    ],
)
def test_a_container_never_ends_before_it_starts(started: int, finished: int, read: tuple[float, float]) -> None:
    status = pb.ContainerStatus(started_at=started, finished_at=finished)
    told = cri_messages.container_status(status, "sandbox")
    assert (told.started_at, told.finished_at) == read


def test_the_user_is_told_where_the_runtime_tells_it() -> None:
    assert cri_messages.container_status(pb.ContainerStatus(), "s").user is None
    status = pb.ContainerStatus(
        user=pb.ContainerUser(linux=pb.LinuxContainerUser(uid=1000, gid=0, supplemental_groups=[5, 6]))
    )
    assert cri_messages.container_status(status, "s").user == ContainerUser(1000, 0, (5, 6))


def test_what_only_version_2_of_cgroups_knows_travels_unified() -> None:
    assert not cri_messages.resources(Resources()).unified
    told = cri_messages.resources(Resources(oom_group=True)).unified
    assert dict(told) == {"memory.oom.group": "1"}
