"""Processes that outlive us: started in a session of their own, found again later, never mistaken for another that got the same
number. Used by `kubelet.runtime.containerd` for containerd and by `wherry.cli.cluster` for server and agents.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from kubelet.runtime.base import RuntimeFailure

# Where programs for administrators are; an ordinary PATH often lacks some of it.
SBIN = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")

# A killed process may sit in the kernel for a while (disk, NFS); then somebody has to be told.
KILL_TIMEOUT_S = 20.0

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_FIELD = 22  # proc(5): start time in clock ticks after boot
_STATE_FIELD = 3


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """A process, told apart from every other one that has had its number: by its start time and the boot it belongs to."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> ProcessRef | None:
        """None when there is no such process (a zombie is none either)."""
        fields = _stat(pid)
        if fields is None or fields[_STATE_FIELD - 3] in ("Z", "X"):
            return None
        return cls(pid, int(fields[_START_FIELD - 3]), _BOOT_ID.read_text().strip())

    def alive(self) -> bool:
        return ProcessRef.of(self.pid) == self

    def signal(self, number: int) -> bool:
        """False when it is gone. Through a pidfd, so that the number can't be given away in between."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.alive():
                return False
            signal.pidfd_send_signal(fd, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)

    async def wait(self) -> None:
        """Returns when it has ended, be it our child or not. A child is reaped."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(fd, ended.set)
        try:
            if self.alive():
                await ended.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)
            reap(self.pid)

    def terminate(self, grace_s: float) -> bool:
        """SIGTERM, then SIGKILL after `grace_s`; blocks until it is gone. False when it was gone already.
        Raises TimeoutError for one that the kernel holds back."""
        if not self.signal(signal.SIGTERM):
            reap(self.pid)
            return False
        deadline = monotonic() + grace_s
        while self.alive():
            if monotonic() > deadline + KILL_TIMEOUT_S:
                raise TimeoutError(f"process {self.pid} does not end, not even by SIGKILL")
            if monotonic() >= deadline:
                self.signal(signal.SIGKILL)
            sleep(0.01)
            reap(self.pid)
        return True

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps({"pid": self.pid, "start": self.start_ticks, "boot": self.boot_id}) + "\n")
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path) -> ProcessRef | None:
        """The process that the file names, if it still lives; None for a missing, broken or outdated file."""
        try:
            document = json.loads(path.read_text())
            ref = cls(int(document["pid"]), int(document["start"]), str(document["boot"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return ref if ref.alive() else None


def spawn(argv: Sequence[str], *, log: Path, env: Mapping[str, str]) -> ProcessRef:
    """Starts a program in a session of its own, its output appended to `log`. Raises OSError when it can't be run.

    posix_spawn and no Popen: nothing here is to wait for it when we end, and nothing may run in the child of a process
    that has gRPC's threads.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        argv[0],
        list(argv),
        dict(env),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o640),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP],
    )
    ref = ProcessRef.of(pid)
    if ref is None:  # it has ended within microseconds
        fields = _stat(pid)
        ref = ProcessRef(pid, int(fields[_START_FIELD - 3]) if fields else 0, _BOOT_ID.read_text().strip())
    return ref


def find_binary(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path=os.pathsep.join(SBIN))
    if path is None:
        raise RuntimeFailure(f"the program {name} is not installed (on Debian and Ubuntu: apt-get install {name})")
    return path


def reap(pid: int) -> None:
    """Takes a dead child's exit status; nothing happens when it lives or is not ours."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass


def tail(log: Path, lines: int = 20) -> str:
    """The end of a log file, for messages about a program that did not start."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - (64 << 10)))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


def command_lines() -> dict[int, list[str]]:
    """The arguments of every process, by pid, in pid order."""
    found: dict[int, list[str]] = {}
    for entry in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            text = Path(f"/proc/{entry}/cmdline").read_bytes()
        except OSError:
            continue
        if text:
            found[entry] = text.rstrip(b"\0").decode("utf-8", "replace").split("\0")
    return found


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on (the second, the name, may hold anything)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    return text[text.rindex(")") + 2 :].split()
