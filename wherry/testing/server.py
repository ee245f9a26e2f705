"""A real `wherry server` process for tests and benchmarks: on a free port of loopback, over a directory of the caller's.

Whoever makes one ends it with `stop`, or with `kill` to see what survives.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

MAIN = [sys.executable, "-m", "wherry.cli.main"]
START_TIMEOUT_S = 60


_SLOTS = 1200
_given: set[int] = set()


def free_port() -> int:
    """One that is free together with those that a server puts beside it, and never the same twice in this process or in another
    worker of the same tests: it may be a while until it is listened on. Below the range from which the kernel gives ports to
    outgoing connections: one that was free there a moment ago may be anybody's."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    own = range(_SLOTS // 2) if worker == "gw0" else range(_SLOTS // 2, _SLOTS) if worker == "gw1" else range(_SLOTS)
    for _ in range(10_000):
        port = 20_000 + secrets.choice(own) * 10
        if port in _given and len(_given) < len(own) // 2:
            continue
        try:
            with contextlib.ExitStack() as probes:
                for number in range(port, port + 4):
                    probe = probes.enter_context(socket.socket())
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", number))
            _given.add(port)
            return port
        except OSError:
            continue
    raise AssertionError("no free port")


class Server:
    """One control plane process over a data directory; `start` again after `kill` gives the same cluster."""

    def __init__(self, data_dir: Path, *flags: str) -> None:
        self.data_dir = data_dir
        self.address = f"127.0.0.1:{free_port()}"
        self.flags = flags
        self.process: subprocess.Popen[bytes] | None = None
        self.log = data_dir.with_suffix(".log")

    @property
    def config(self) -> Path:
        return self.data_dir / "admin.conf"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*MAIN, "server", "--data-dir", str(self.data_dir), "--listen", self.address, *self.flags],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"wherry server ended with {self.process.returncode}:\n{self.log.read_text()}")
            if self.config.exists() and self.run("get", "namespaces", "-o", "name").returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError(f"wherry server was not ready in time:\n{self.log.read_text()}")

    def run(self, *words: str, stdin: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """The real `wherry` with this cluster's configuration."""
        return subprocess.run(
            [*MAIN, *words], input=stdin, capture_output=True, text=True, timeout=timeout,
            env={**os.environ, "WHERRY_CONFIG": str(self.config)}, check=False,
        )  # fmt: skip

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()
        self.process = None
