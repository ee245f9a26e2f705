"""A stop signal of the pod's choosing. CRI's StopContainer knows only the image's until containerd 2.1, so the signal is sent
from here to the container's first process, and StopContainer has the last word. Called by `kubelet.runtime.cri`."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable


def number_of(name: str) -> int:
    """`SIGUSR1` as the API has it, also `SIGRTMIN+3`. 0: there is no such signal."""
    base, _, offset = name.partition("+")
    if not offset:
        base, minus, offset = name.partition("-")
        offset = f"-{offset}" if minus else ""
    try:
        return signal.Signals[base] + int(offset or 0)
    except (KeyError, ValueError):
        return 0


async def ends_by(pid: int, number: int, timeout_s: float, still: Callable[[], Awaitable[bool]]) -> bool:
    """Sends it and waits. True when the process has ended. `still` tells whether `pid` is the container's process: asked once we
    hold on to it, since a number alone could have passed to another process."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        if not await still():
            return False
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return True
        loop.add_reader(descriptor, ended.set)
        try:
            async with asyncio.timeout(timeout_s):
                await ended.wait()
            return True
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)
