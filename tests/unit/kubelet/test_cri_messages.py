"""What containerd tells of a container, read into our own words."""

import pytest

from kubelet.runtime import cri_messages
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
