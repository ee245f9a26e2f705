"""Flow control per connection within one port-forward session: credit windows, and the bounded pipe behind each of them.

Used at both ends of the session (`kubelet.streams.ports`; the command line and the HTTP front on the client's side). A sender
takes from its `Window` before it sends; the receiver puts what arrives into a `Pipe`, which one task empties, and gives credit
for what was emptied. So whoever reads the session's stream never waits for one connection, and memory stays bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque

WINDOW_BYTES = 256 << 10
# Credit is given in lumps: a frame for each small piece would double the traffic.
LUMP_BYTES = WINDOW_BYTES // 4


class Window:
    """How many bytes may still be sent on a channel. `limited` off: the other side gives no credit, and needs none."""

    def __init__(self, *, limited: bool = True) -> None:
        self._left = WINDOW_BYTES
        self._limited = limited
        self._changed = asyncio.Event()

    async def take(self, wanted: int) -> int:
        """Waits until something may be sent; at most `wanted`."""
        if not self._limited:
            return wanted
        while self._left <= 0:
            self._changed.clear()
            await self._changed.wait()
        taken = min(wanted, self._left)
        self._left -= taken
        return taken

    def give(self, credit: int) -> None:
        self._left += credit
        self._changed.set()


class Pipe:
    """Bytes from one task to another. Invariant: `size` is what waits in it; over `limit` only by the piece that was put into
    it when there was room."""

    def __init__(self, limit: int = WINDOW_BYTES) -> None:
        self.size = 0
        self._limit = limit
        self._pieces: deque[bytes] = deque()
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def full(self) -> bool:
        return self.size >= self._limit

    def offer(self, piece: bytes) -> bool:
        """False when it is full: a peer that minds its window never gets there. What comes after `close` is dropped."""
        if self.full:
            return False
        if piece and not self._closed:
            self._pieces.append(piece)
            self.size += len(piece)
            self._changed.set()
        return True

    async def put(self, piece: bytes) -> None:
        """Waits for room."""
        while not self._closed and not self.offer(piece):
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        """What is in it is still read, then comes the end."""
        self._closed = True
        self._changed.set()

    async def get(self) -> bytes:
        """b"" is the end."""
        while not self._pieces:
            if self._closed:
                return b""
            self._changed.clear()
            await self._changed.wait()
        piece = self._pieces.popleft()
        self.size -= len(piece)
        self._changed.set()
        return piece


class Credit:
    """Counts what was taken from a channel, until it is worth telling."""

    def __init__(self) -> None:
        self._untold = 0

    def taken(self, size: int) -> int:
        """The credit to give now; 0 for none."""
        self._untold += size
        if self._untold < LUMP_BYTES:
            return 0
        told, self._untold = self._untold, 0
        return told
