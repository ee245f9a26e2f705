"""One forwarded port: `kubelet.runtime.base.ByteStream` over a TCP connection made inside a pod's network namespace, so that
servers that listen on the pod's localhost only are reached too. Called by `kubelet.runtime.cri` (and of use to `docker`)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from kubelet.runtime import netns as netns_module
from kubelet.runtime.base import RuntimeFailure
from kubelet.runtime.sockets import SocketStream

CONNECT_TIMEOUT_S = 10.0
_PIECE_BYTES = 64 << 10
_LOCALHOSTS = ("127.0.0.1", "::1")


async def connect(netns: str, port: int) -> PortStream:
    """`netns` is the path of the pod's namespace, "" for our own. Raises RuntimeFailure, in Go's words, when nothing answers."""
    refused: OSError | None = None
    for host in _LOCALHOSTS:
        try:
            return await _connect(netns, host, port)
        except OSError as error:  # TimeoutError is one
            # Of the two answers the first one tells more: many pods have no IPv6 at all.
            refused = refused or error
    assert refused is not None
    problem = _in_gos_words(_LOCALHOSTS[0], port, refused)
    raise RuntimeFailure(
        f"failed to connect to localhost:{port} inside the pod: {problem}", retryable=False
    ) from refused


async def connect_to(netns: str, address: str, port: int) -> PortStream:
    """To a pod's own address, from the namespace of its node. Raises RuntimeFailure, in Go's words, when nothing answers."""
    try:
        return await _connect(netns, address, port)
    except OSError as error:
        raise RuntimeFailure(_in_gos_words(address, port, error), retryable=False) from error


def _in_gos_words(address: str, port: int, error: OSError) -> str:
    late = isinstance(error, TimeoutError)
    problem = "i/o timeout" if late else f"connect: {os.strerror(error.errno).lower() if error.errno else error}"
    return f"dial tcp {address}:{port}: {problem}"


async def _connect(netns: str, host: str, port: int) -> PortStream:
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        sock = await netns_module.connect(netns, host, port)
    reader, writer = await asyncio.open_connection(sock=sock)
    return PortStream(reader, writer)


class PortStream(SocketStream):
    """The owner calls `close`; `output` has one reader."""

    _name = "the forwarded connection"

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._broken: OSError | None = None

    async def resize(self, width: int, height: int) -> None:
        """A port has no terminal."""

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        try:
            while piece := await self._reader.read(_PIECE_BYTES):
                yield 1, piece
        except OSError as error:
            self._broken = error
        finally:
            self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        if self._broken is not None:
            raise self._broke(self._broken) from self._broken
        return 0
