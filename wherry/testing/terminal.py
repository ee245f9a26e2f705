"""A program on a terminal of its own, with somebody who types and reads. For tests of interactive commands (tests/kubectl)."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

TIMEOUT_S = 60.0
AGAIN_S = 1.0


class Terminal:
    """`seen` is all that the screen has shown so far."""

    def __init__(self, process: subprocess.Popen[bytes], ours: int) -> None:
        self._process = process
        self._ours = ours
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def resize(self, columns: int, rows: int) -> None:
        set_size(self._ours, columns, rows)
        self._process.send_signal(signal.SIGWINCH)

    def read(self, timeout_s: float) -> bool:
        """What comes within this time; False at the end."""
        ready, _, _ = select.select((self._ours,), (), (), timeout_s)
        if ready:
            try:
                chunk = os.read(self._ours, 4096)
            except OSError:
                return False  # the last process on the terminal has ended
            self.seen += chunk.decode(errors="replace")
            return bool(chunk)
        return True

    def until(self, pattern: str, *, typing: str = "") -> re.Match[str]:
        """Reads until the screen shows this; `typing` is typed again every second, until it does."""
        deadline = time.monotonic() + TIMEOUT_S
        typed = 0.0
        found = None
        while found is None and time.monotonic() < deadline:
            if typing and time.monotonic() - typed > AGAIN_S:
                self.type(typing)
                typed = time.monotonic()
            going = self.read(0.5)
            found = re.search(pattern, self.seen)
            if not going:
                break
        assert found, f"no {pattern!r} on the terminal, which shows {self.seen!r}"
        return found

    def end(self) -> int:
        """Reads until the program ends; its exit code."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.read(1.0) and time.monotonic() < deadline:
            pass
        return self._process.wait(TIMEOUT_S)


def set_size(terminal: int, columns: int, rows: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@contextmanager
def on_terminal(
    command: Sequence[str], environment: Mapping[str, str], *, columns: int = 80, rows: int = 24
) -> Iterator[Terminal]:
    """Runs the command on a new terminal; it is killed at the end of the block when it still runs."""
    ours, theirs = pty.openpty()
    try:
        set_size(ours, columns, rows)
        process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(ours)
