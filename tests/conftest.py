"""What holds for every test."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
# These drive real processes, containers, kernels and clients on a machine that others may load: a wait that is long enough
# everywhere else can end there. They get one second chance, which the summary names. All else has none.
REAL = frozenset({"clients", "cluster", "compose", "kubectl", "node"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and item.path.relative_to(HERE).parts[0] in REAL:
            item.add_marker(pytest.mark.flaky(reruns=1))
