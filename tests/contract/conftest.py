"""A control plane with its HTTPS front, and an administrator who calls it. Modules that want another one make their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from wherry.api.context import Env
from wherry.testing.https import Caller, Https, https


@pytest.fixture
async def front() -> AsyncIterator[Https]:
    async with https(Env()) as found:
        yield found


@pytest.fixture
async def admin(front: Https) -> AsyncIterator[Caller]:
    async with front.caller() as caller:
        yield caller
