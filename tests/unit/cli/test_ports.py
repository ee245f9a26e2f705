"""Which port a local cluster's control plane gets: it needs those of the joining nodes and of the Kubernetes API too."""

from __future__ import annotations

import pytest

from wherry.cli.cluster import hosts
from wherry.cli.cluster.layout import ClusterError

FIRST = hosts.FIRST_PORT


@pytest.mark.parametrize(
    ("clusters", "used", "chosen"),
    [
        pytest.param(set(), set(), FIRST, id="the first"),
        pytest.param({FIRST}, set(), FIRST + 4, id="another cluster has it, which may be down"),
        pytest.param(set(), {FIRST}, FIRST + 4, id="taken"),
        pytest.param(set(), {FIRST + 1}, FIRST + 4, id="nodes could not join"),
        pytest.param(set(), {FIRST + 3}, FIRST + 4, id="kubectl would not be answered"),
        pytest.param(set(), {FIRST + 2}, FIRST, id="nothing of ours is there"),
    ],
)
def test_choice(clusters: set[int], used: set[int], chosen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_is_free", lambda port: port not in used)
    assert hosts.choose_port(clusters) == chosen


def test_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_is_free", lambda port: False)
    with pytest.raises(ClusterError, match="no free ports between 7443 and 7543"):
        hosts.choose_port()
