"""One cluster for all tests here, and a namespace for each: a server with a hollow node, or one with real containers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest

from wherry.testing.kubectl import (
    BINARIES,
    NEWEST,
    WEB,
    ContainersCluster,
    HollowCluster,
    Kubectl,
    KubectlCluster,
    require_kubectl,
)
from wherry.testing.require import require_containerd, require_root

_NUMBERS = itertools.count()


HOLLOW, CONTAINERS = "hollow", "containers"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cluster" in metafunc.fixturenames:
        both = [CONTAINERS] if metafunc.definition.get_closest_marker("containers_only") else [HOLLOW, CONTAINERS]
        metafunc.parametrize("cluster", both, indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each test has every version on both clusters under `-m full`. Without it what is about pods runs with the newest version on
    containers and with the others on a hollow node, and all else on a hollow node."""
    for item in items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if "cluster" in params and not item.get_closest_marker("containers_only"):
            real = bool(item.get_closest_marker("about_pods")) and params.get("kubectl") in NEWEST
            if (params["cluster"] == CONTAINERS) != real:
                item.add_marker(pytest.mark.full)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubectlCluster]:
    require_kubectl()
    directory = tmp_path_factory.mktemp("kubectl")
    found: KubectlCluster
    if request.param == HOLLOW:
        found = HollowCluster(directory)
    else:
        require_root()
        require_containerd()
        found = ContainersCluster(directory)
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
