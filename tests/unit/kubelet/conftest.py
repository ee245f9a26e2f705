"""Coroutine tests in this directory run on virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from wherry.api.context import Env
from wherry.testing.agents import World
from wherry.testing.plugin import *  # noqa: F403
from wherry.testing.podworkers import Node, running_workers


@pytest_asyncio.fixture
async def world(env: Env, tmp_path: Path) -> AsyncIterator[World]:
    made = World(env, tmp_path)
    made.start()
    yield made
    assert made.task is not None
    if not made.task.done():
        made.agent.check_invariants()
        await made.kill()
    made.runtime.check_invariants()


@pytest_asyncio.fixture
async def node(env: Env) -> AsyncIterator[Node]:
    async with running_workers(env) as made:
        yield made
