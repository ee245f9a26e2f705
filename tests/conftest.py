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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and item.path.relative_to(HERE).parts[0] in REAL:
            item.add_marker(pytest.mark.flaky(reruns=1))


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
