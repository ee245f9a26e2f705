"""Which containers the kernel killed for want of memory, from its own log.

A runtime hears of a container's end and of its cause from two sides, and on a busy machine it misses the cause. The kernel writes
it down before the process dies (`oom-kill:...task_memcg=/.../CONTAINER,...`, since Linux 5.0). Run by `wherry.cli.agent`;
`kubelet.pods.podstate` asks. The log is read from its oldest record on, so a restarted agent knows what the last one knew.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
from pathlib import Path

log = logging.getLogger(__name__)

KERNEL_LOG = Path("/dev/kmsg")
LIMIT = 1024  # containers; the log itself holds no more kills than that
_RECORD_BYTES = 8192  # the kernel gives one record per read, and none is longer
_KILL = re.compile(rb"oom-kill:.*?\btask_memcg=([^,\n]*)")


def victims(records: bytes) -> list[str]:
    """The containers of the records that tell of a kill in a cgroup.

    The cgroup of a container is named by its id, or with systemd as the driver `cri-containerd-ID.scope`.
    """
    names = (found[1].decode(errors="replace").rpartition("/")[2] for found in _KILL.finditer(records))
    return [name.removesuffix(".scope").rpartition("-")[2] for name in names]


class OutOfMemory:
    """Invariant: at most LIMIT containers are kept, the first ones go first."""

    def __init__(self, path: Path = KERNEL_LOG) -> None:
        self._path = path
        self._victims: dict[str, None] = {}

    def killed(self, container_id: str) -> bool:
        return container_id in self._victims

    async def run(self) -> None:
        """Until cancelled. Without the right to read the log, what the runtime says has to do."""
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            log.info("the kernel's log: %s; only the runtime tells of containers that ran out of memory", error)
            await asyncio.Event().wait()
            return
        loop = asyncio.get_running_loop()
        try:
            self._read(handle)
            loop.add_reader(handle, self._read, handle)
            await asyncio.Event().wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)

    def _read(self, handle: int) -> None:
        """All that is there."""
        while True:
            try:
                record = os.read(handle, _RECORD_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EPIPE:
                    continue  # records were overwritten before we read them; the next read gives the oldest that is left
                raise
            if not record:
                return
            for name in victims(record):
                self._victims[name] = None
                if len(self._victims) > LIMIT:
                    del self._victims[next(iter(self._victims))]
