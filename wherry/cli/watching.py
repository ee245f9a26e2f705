"""Watches of one command, which go on where they were when the control plane comes back after a restart or a broken
connection. Used by `get -w`, `events -w`, `wait`, `delete` and `rollout status`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Protocol, TypeVar

from wherry.api.errors import ServiceUnavailable
from wherry.cli.session import Session
from wherry.client.base import Selection, WatchBatch

# How long a control plane may be away before the command gives up, and how often it is asked meanwhile.
PATIENCE_S = 60.0
RETRY_S = 0.5
# A watch that has lasted this long was heard by the server, though nothing happened: no attempt to connect takes as long.
QUIET_S = 15.0


class Batch(Protocol):
    """What a watch yields. Its version is empty while the first listing is still coming: from there nothing can be resumed."""

    @property
    def resource_version(self) -> str: ...


B = TypeVar("B", bound=Batch)


async def resuming(start: Callable[[str], AsyncIterator[B]], version: str = "") -> AsyncGenerator[B, None]:
    """The batches of `start(version)`, without gap and without repetition. A watch that the server ended is asked for anew.

    Raises ServiceUnavailable when nobody has answered for a minute, or at once where there is nothing to go on from: the very
    first attempt, of a caller without a version, fails, or breaks off within the first listing. Raises Expired when the version
    has become too old meanwhile: who only waits then looks anew."""
    loop = asyncio.get_running_loop()
    away_since: float | None = None
    heard, told = bool(version), False
    while True:
        started = loop.time()
        try:
            stream: Any = start(version)
            async with contextlib.aclosing(stream):
                async for batch in stream:
                    version = batch.resource_version or version
                    heard = told = True
                    away_since = None
                    yield batch
        except ServiceUnavailable as error:
            now = loop.time()
            if now - started >= QUIET_S:
                heard, away_since = True, None
            lost = not version and (told or not heard)
            if lost or (away_since is not None and now - away_since > PATIENCE_S):
                raise
            if away_since is None:
                away_since = now
                print(
                    f"Warning: the watch broke off ({error.message}); going on when the server is back", file=sys.stderr
                )
        else:
            heard, away_since = True, None
        await asyncio.sleep(RETRY_S)


def watching(
    session: Session, cls: type[Any], selection: Selection, version: str = ""
) -> AsyncGenerator[WatchBatch[Any], None]:
    """Of objects of a kind, with bookmarks: a quiet watch needs a recent version too."""
    return resuming(lambda since: session.client.watch(cls, selection, resource_version=since, bookmarks=True), version)
