"""One server with a hollow node for all tests here, and a namespace for each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest

from wherry.testing.kubectl import BINARIES, WEB, Kubectl, KubectlCluster, require_kubectl

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubectlCluster]:
    require_kubectl()
    found = KubectlCluster(tmp_path_factory.mktemp("kubectl"))
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture
def kubectl(request: pytest.FixtureRequest, cluster: KubectlCluster) -> Iterator[Kubectl]:
    """In a namespace of this test's own, which goes with it: a node takes 110 pods."""
    version = str(request.param)
    name = re.sub(r"[^a-z0-9]+", "-", f"{request.node.originalname}-{version}".removeprefix("test_"))[-55:].strip("-")
    # A test that is run a second time must not meet what it left the first time.
    name = f"{name}-{next(_NUMBERS)}"
    found = cluster.kubectl(BINARIES[version], name)
    found("create", "namespace", name)
    yield found
    found("delete", "namespace", name, "--ignore-not-found", "--wait=false")


@pytest.fixture
def web(kubectl: Kubectl) -> Kubectl:
    kubectl("apply", "-f", "-", stdin=WEB)
    kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    return kubectl
