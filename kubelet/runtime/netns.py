"""Sockets in another network namespace. Used by `kubelet.runtime.ports` and `kubelet.runtime.exec_stream`, and by tests.

A socket belongs for life to the namespace in which its thread made it, so a thread of its own enters the namespace, makes the
socket and ends; the event loop then uses it like any other.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

CLONE_NEWNET = 0x40000000
T = TypeVar("T")


async def connect(netns: str, host: str, port: int) -> socket.socket:
    """A connected, non-blocking TCP socket inside the namespace at path `netns` (ours when empty). Raises OSError.
    `host` is a literal address. Cancellation closes the socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = await run_in(netns, lambda: socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except BaseException:
        sock.close()
        raise
    return sock


async def run_in(netns: str, work: Callable[[], T]) -> T:
    """What `work` returns, run in a short-lived thread inside the namespace. It must be quick: it is not interrupted."""
    if not netns:
        return work()
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def give(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            if isinstance(result, socket.socket):
                result.close()
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # set together with a missing error

    def enter() -> None:
        result: T | None = None
        failed: BaseException | None = None
        try:
            _setns(netns)
            result = work()
        except BaseException as error:
            failed = error
        loop.call_soon_threadsafe(give, result, failed)

    # Not from an executor: a pooled thread would stay in the namespace, and the namespace alive with it.
    threading.Thread(target=enter, name="netns", daemon=True).start()
    return await future


def _setns(path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(fd, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(fd)
