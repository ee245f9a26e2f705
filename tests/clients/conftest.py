"""Clients of others, as they are, against a real cluster of one node with containers, with the kubeconfig that people use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.testing.local import LocalCluster
from wherry.testing.require import require_containerd


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    require_containerd()
    made = LocalCluster(nodes=1, prefix="k")
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def kubeconfig(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kube") / "config"
    cluster.ok("kubeconfig", "-o", str(path))
    return path
