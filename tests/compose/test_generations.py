"""Both generations of compose: v2 where it is installed, and then the distribution's docker-compose (1.29), too, which the other
tests use where v2 is not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from wherry.testing.compose import NODES, ComposeCluster
from wherry.testing.dockerd import Dockerd

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


def has_v2() -> bool:
    try:
        return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(
    not has_v2(), reason="docker compose (v2) is not installed: the other tests have used docker-compose"
)
@pytest.mark.parametrize("compose", ["docker compose", "docker-compose"])
def test_either_does(dockerd: Dockerd, tmp_path: Path, compose: str) -> None:
    made = ComposeCluster(dockerd, tmp_path / "compose", compose=compose)
    try:
        made.up()
        assert [made.node_ready(node) for node in NODES] == ["True"] * len(NODES)
    finally:
        made.down()
    assert made.left() == {}
