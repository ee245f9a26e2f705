"""Taking a private containerd's world apart: sandboxes, shims, containers' processes, mounts, sockets, directories. Called by
`kubelet.runtime.containerd.Containerd.destroy` and by `wherry down`; works from any half-finished state.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from kubelet.runtime import mounts
from kubelet.runtime.base import RuntimeFailure
from kubelet.runtime.cri import CriRuntime
from kubelet.runtime.processes import ProcessRef, command_lines, reap

if TYPE_CHECKING:
    from kubelet.runtime.containerd import Layout

log = logging.getLogger(__name__)

_IN_PARALLEL = 8
_KILL_TIMEOUT_S = 10.0


async def remove_all_sandboxes(endpoint: str, *, timeout_s: float = 60.0) -> None:
    """Stops and removes all sandboxes the orderly way, so that CNI gives back what it took. Failures are logged: what is
    left is removed by force afterwards."""
    runtime = CriRuntime(endpoint)
    limit = asyncio.Semaphore(_IN_PARALLEL)

    async def remove(sandbox_id: str) -> None:
        async with limit:
            await runtime.stop_sandbox(sandbox_id)
            await runtime.remove_sandbox(sandbox_id)

    try:
        async with asyncio.timeout(timeout_s):
            found = await runtime.list_sandboxes()
            results = await asyncio.gather(*(remove(item.id) for item in found), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                log.warning("removing a sandbox: %s", result)
    except (RuntimeFailure, TimeoutError) as error:
        log.warning("removing the sandboxes at %s: %s", endpoint, error or "no answer in time")
    finally:
        await runtime.close()


def remove_leftovers(layout: Layout, *, keep_data: bool = False) -> None:
    """Everything else, by force. Idempotent; blocks for some seconds at most."""
    kill_shims(layout)
    _remove_shim_sockets(layout)
    mounts.unmount_below(layout.run, layout.data)
    for directory in (layout.run, *(() if keep_data else (layout.data,))):
        shutil.rmtree(directory, ignore_errors=True)


def kill_shims(layout: Layout) -> None:
    """Kills the shims of this containerd and all processes of their containers."""
    address = str(layout.socket)
    doomed: dict[int, ProcessRef] = {}
    for pid, arguments in command_lines().items():
        is_shim = "containerd-shim" in os.path.basename(arguments[0]) and address in arguments
        if (is_shim or is_low_level(arguments, layout.run)) and (ref := ProcessRef.of(pid)) is not None:
            doomed[pid] = ref
    # The containers' first processes: CRI notes their pids in each bundle; a shim's children are the same, or more.
    for pid_file in sorted(layout.state.glob("io.containerd.runtime.v2.task/*/*/init.pid")):
        pid = _int(pid_file)
        ref = ProcessRef.of(pid) if pid > 1 else None
        if ref is not None and _belongs(pid, layout):
            doomed[pid] = ref
    for pid in list(doomed):
        for child in _descendants(pid):
            if (ref := ProcessRef.of(child)) is not None:
                doomed[child] = ref
    for ref in doomed.values():
        ref.signal(signal.SIGKILL)
    deadline = monotonic() + _KILL_TIMEOUT_S
    while any(ref.alive() for ref in doomed.values()) and monotonic() < deadline:
        for pid in doomed:
            reap(pid)
        sleep(0.01)


def is_low_level(arguments: Sequence[str], run: Path) -> bool:
    """Whether it is runc, or what is used as runc is, at work for the containerd of this directory. A shim names each handler's
    directory there, and its own namespace below that."""
    roots = [after for word, after in pairwise(arguments) if word == "--root"]
    roots += [word.removeprefix("--root=") for word in arguments if word.startswith("--root=")]
    return any(Path(root).is_relative_to(run) for root in roots)


def _belongs(pid: int, layout: Layout) -> bool:
    """Whether a process's root is one of ours: a recorded number may be a stranger's by now."""
    try:
        text = Path(f"/proc/{pid}/mountinfo").read_text()
    except OSError:
        return False
    return any(str(directory) in text for directory in (layout.state, layout.root, layout.data))


def _descendants(pid: int) -> list[int]:
    found, queue = [], [pid]
    while queue:
        parent = queue.pop()
        for tasks in sorted(Path(f"/proc/{parent}/task").glob("*/children")):
            try:
                children = [int(text) for text in tasks.read_text().split()]
            except OSError:
                continue
            found += children
            queue += children
    return found


def _remove_shim_sockets(layout: Layout) -> None:
    """containerd keeps the shims' sockets outside of its state directory (/run/containerd/s); each bundle names its own."""
    for file in sorted(layout.state.glob("io.containerd.runtime.v2.task/*/*/address")):
        try:
            address = file.read_text().strip()
        except OSError:
            continue
        path = address.removeprefix("unix://")
        if path.startswith("/run/containerd/s/"):
            Path(path).unlink(missing_ok=True)
    for directory in (Path("/run/containerd/s"), Path("/run/containerd")):
        try:
            directory.rmdir()  # only when nobody else uses it
        except OSError:
            pass


def _int(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
