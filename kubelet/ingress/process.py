"""The haproxy program: started, adopted, reloaded, told of endpoints, watched. Called by `controller`.

It runs in a session of its own and outlives us: connections go on while `wherry ingress` is started anew, and the next one takes
it up. Every configuration is a folder of its own, checked by haproxy itself before the one that runs is asked to change.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

from kubelet.runtime.processes import ProcessRef, command_lines, find_binary, spawn, tail

log = logging.getLogger(__name__)

START_TIMEOUT_S = 20.0
ANSWER_TIMEOUT_S = 5.0
POLL_S = 0.02
ANSWER_LIMIT = 1 << 20
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


class HaproxyError(Exception):
    """haproxy does not take its configuration, does not run, or does not answer."""


class Haproxy:
    """`folder` holds everything of ours; one instance at a time."""

    def __init__(self, folder: Path, socket: Path) -> None:
        self._folder = folder
        self.socket = socket
        self.main_file = folder / "haproxy.cfg"
        self._pid_file = folder / "haproxy.pid"
        self.log = folder / "haproxy.log"
        # What an earlier one of us has written may be what runs.
        written = (path.name.rsplit("-", 1)[-1] for path in folder.glob("generation-*"))
        self._generation = max((int(number) for number in written if number.isdigit()), default=0)

    def next_folder(self) -> Path:
        """Where the next configuration's files are to be."""
        return self._folder / f"generation-{self._generation + 1}"

    async def configure(self, files: Mapping[str, str]) -> None:
        """Takes effect as a whole or not at all. Raises HaproxyError."""
        folder = self.next_folder()
        await asyncio.to_thread(_write, folder, files)
        candidate = folder / "haproxy.cfg"
        await self._check(candidate)
        self._generation += 1
        await asyncio.to_thread(_replace, self.main_file, candidate.read_text())
        running = self.running()
        if running is None:
            await self._start()
        else:
            await self._reload(running)
        await asyncio.to_thread(self._forget_old, folder)

    def running(self) -> ProcessRef | None:
        return running(self._folder)

    async def command(self, lines: list[str]) -> None:
        """Raises HaproxyError when one is not taken."""
        for line in lines:
            answer = (await self._ask(line)).strip()
            # Silence, or the new address, is consent.
            if answer and "changed" not in answer and "no need to change" not in answer:
                raise HaproxyError(f"{line}: {answer}")

    async def stop(self, grace_s: float = 5.0) -> None:
        process = self.running()
        if process is not None:
            await asyncio.to_thread(process.terminate, grace_s)
        self._pid_file.unlink(missing_ok=True)

    async def _check(self, candidate: Path) -> None:
        process = await asyncio.create_subprocess_exec(
            find_binary("haproxy"), "-c", "-q", "-f", str(candidate),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=ENVIRONMENT,
        )  # fmt: skip
        output, _ = await process.communicate()
        if process.returncode:
            words = output.decode("utf-8", "replace").strip().splitlines()[-10:]
            raise HaproxyError(f"haproxy does not take its configuration {candidate}: {' '.join(words)}")

    async def _start(self) -> None:
        # Sockets of one that was killed are in nobody's way; its file is.
        self.socket.unlink(missing_ok=True)
        argv = [find_binary("haproxy"), "-W", "-f", str(self.main_file)]
        process = spawn(argv, log=self.log, env=ENVIRONMENT)
        process.write(self._pid_file)
        await self._until_answers(process, "")

    async def _reload(self, process: ProcessRef) -> None:
        before = await self._worker()
        process.signal(signal.SIGUSR2)
        await self._until_answers(process, before)

    async def _until_answers(self, process: ProcessRef, before: str) -> None:
        """Another worker than `before`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_TIMEOUT_S
        while True:
            worker = await self._worker()
            if worker and worker != before:
                return
            if not process.alive():
                raise HaproxyError(f"haproxy has ended; the end of {self.log}:\n{tail(self.log, 10)}")
            if loop.time() > deadline:
                raise HaproxyError(f"haproxy does not answer; the end of {self.log}:\n{tail(self.log, 10)}")
            await asyncio.sleep(POLL_S)

    async def _worker(self) -> str:
        """The pid of the worker that serves now; "" when none does."""
        try:
            answer = await self._ask("show info")
        except HaproxyError:
            return ""
        return next((line[5:] for line in answer.splitlines() if line.startswith("Pid: ")), "")

    async def _ask(self, line: str) -> str:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(str(self.socket))
                try:
                    writer.write(f"{line}\n".encode())
                    await writer.drain()
                    return (await reader.read(ANSWER_LIMIT)).decode("utf-8", "replace")
                finally:
                    writer.close()
        except OSError as error:
            raise HaproxyError(f"haproxy's socket {self.socket}: {error or 'no answer'}") from error

    def _forget_old(self, kept: Path) -> None:
        for path in self._folder.glob("generation-*"):
            if path != kept:
                shutil.rmtree(path, ignore_errors=True)


def running(folder: Path) -> ProcessRef | None:
    """The haproxy that was started for this folder, by its pid file or, when that is lost, by its command line."""
    found = ProcessRef.read(folder / "haproxy.pid")
    if found is not None:
        return found
    config = str(folder / "haproxy.cfg")
    masters = [
        pid
        for pid, arguments in command_lines().items()
        if arguments[0].endswith("haproxy") and config in arguments and "-c" not in arguments
    ]
    # A worker has its master's command line: the oldest is the master.
    found_all = [process for process in map(ProcessRef.of, masters) if process is not None]
    return min(found_all, key=lambda process: process.start_ticks, default=None)


def account() -> str:
    """The account that the distribution's package made for haproxy, when we may become it."""
    try:
        return pwd.getpwnam("haproxy").pw_name if os.geteuid() == 0 else ""
    except KeyError:
        return ""


def _write(folder: Path, files: Mapping[str, str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    for name, content in files.items():
        (folder / name).write_text(content)


def _replace(path: Path, content: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(content)
    temporary.replace(path)
