"""What holds for every test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.api import supervise

HERE = Path(__file__).parent
# These drive real processes, containers, kernels and clients on a machine that others may load: a wait that is long enough
# everywhere else can end there. They get one second chance, which the summary names. All else has none.
REAL = frozenset({"clients", "cluster", "compose", "kubectl", "node"})


# Under pytest-xdist (`make test`) what shares the machine's kernel, daemons and leak checks runs one after the other on one
# worker, and first, since it takes longest; the fixtures of tests/kubectl and of a file of tests/contract are made once.
MACHINE = frozenset({"clients", "cluster", "compose", "node"})


@pytest.hookimpl(trylast=True)  # pytest itself orders by the parameters of fixtures
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lanes: dict[str, list[pytest.Item]] = {"machine": [], "machine, last": [], "kubectl": [], "": []}
    for item in items:
        path = item.path.relative_to(HERE).as_posix() if item.path.is_relative_to(HERE) else ""
        suite = path.split("/")[0]
        if suite in REAL:
            item.add_marker(pytest.mark.flaky(reruns=1))
        machine = suite in MACHINE or path.startswith("contract/test_runtime")
        lane = "machine" if machine else "kubectl" if suite == "kubectl" else ""
        if lane == "kubectl" and "[containers" in item.nodeid:
            lane = "machine, last"  # their cluster stands until the end
        if lane or suite == "contract":
            item.add_marker(pytest.mark.xdist_group(lane.partition(",")[0] or path))
        lanes[lane].append(item)
    items[:] = [item for lane in lanes.values() for item in lane]


class _Caught(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(logging.Formatter().format(record))


@pytest.fixture(autouse=True)
def supervised() -> Iterator[list[str]]:
    """What the supervisor of long-lived tasks (`wherry.api.supervise`) caught: a failure of the test, so that nothing hides
    behind the restart. A test that breaks something on purpose looks at it and clears it."""
    caught = _Caught()
    supervise.log.addHandler(caught)
    yield caught.told
    supervise.log.removeHandler(caught)
    if caught.told:
        pytest.fail("a long-lived task failed and was started again:\n" + "\n".join(caught.told), pytrace=False)
