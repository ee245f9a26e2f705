"""What holds for every test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from wherry.api import supervise

# These drive real processes, containers, kernels and clients on a machine that others may load: a wait that is long enough
# everywhere else can end there. They get one second chance, which the summary names. All else has none.
REAL = ("clients/", "cluster/", "compose/", "contract/test_runtime", "kubectl/", "node/")


# `make test` runs two at a time (pytest-xdist). What shares the machine's kernel, daemons and leak checks runs one after the
# other on one worker, and first, since it takes longest; fixtures of tests/kubectl and of a file of tests/contract are made once.
MACHINE = ("clients/", "cluster/", "compose/", "node/", "contract/test_runtime")
LANES = ("machine", "machine, last", "kubectl", "")  # last: kubectl's cluster of containers stands until the end


def _lane(nodeid: str) -> str:
    path = nodeid.partition("::")[0].removeprefix("tests/")
    if path.startswith(MACHINE):
        return "machine"
    if path.startswith("kubectl/"):
        return "machine, last" if "[containers" in nodeid else "kubectl"
    return ""


@pytest.hookimpl(trylast=True)  # pytest itself orders by the parameters of fixtures
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.removeprefix("tests/").startswith(REAL):
            item.add_marker(pytest.mark.flaky(reruns=1))
    items.sort(key=lambda item: LANES.index(_lane(item.nodeid)))


class _Lanes(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        lane = _lane(nodeid).partition(",")[0]
        return lane or (nodeid.partition("::")[0] if "tests/contract/" in nodeid else nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Lanes:
    return _Lanes(config, log)


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
