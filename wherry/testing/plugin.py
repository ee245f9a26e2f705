"""Fixtures and hooks for pytest: coroutine tests on virtual time.

A directory whose tests are to run on virtual time says so in its conftest.py:

    from wherry.testing.plugin import *  # noqa: F403

after which every `async def test_...` there runs on a `VirtualLoop` of its own, `env` is that loop's `Env`, and
`@pytest.mark.parametrize("seed", range(5))` picks the seed. Tests elsewhere call `wherry.testing.loop.run_virtual`.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import pytest_asyncio

from wherry.api.context import Env
from wherry.testing.loop import VirtualLoop, virtual_loop

__all__ = ["env", "pytest_asyncio_loop_factories", "seed"]


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], VirtualLoop]]:
    return {"virtual": VirtualLoop}


@pytest.fixture
def seed() -> int:
    """Overridden by parametrisation."""
    return 0


@pytest_asyncio.fixture
async def env(seed: int) -> AsyncIterator[Env]:
    """The loop's `Env`, seeded with `seed`."""
    loop = virtual_loop()
    loop.seed = seed
    loop.env.rng = random.Random(seed)
    yield loop.env
