"""Progress of `up` and `down`: one line per step, with a spinner on a terminal and plain lines elsewhere. Says what was done,
what was there already, and how long it took; nothing is announced as done before it is."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any


class Step:
    """One step under way. `changed` says whether the step had anything to do; `update` shows how far it is."""

    def __init__(self, text: str, status: Any) -> None:
        self.text = text
        self.changed = True
        self.result = ""
        self._status = status

    def update(self, detail: str) -> None:
        if self._status is not None:
            self._status.update(f"{self.text}: {detail}")

    def unchanged(self, result: str = "") -> None:
        self.changed, self.result = False, result

    def done(self, result: str) -> None:
        self.result = result


class Progress:
    """`quiet` prints nothing; failures are exceptions."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.changes = 0
        self._quiet = quiet
        self._console: Any = None
        if not quiet and sys.stdout.isatty():
            from rich.console import Console

            self._console = Console(highlight=False)

    @contextmanager
    def step(self, text: str) -> Iterator[Step]:
        """Prints the step's line when the block ends; a failure's line ends in "failed" and the exception goes on."""
        started = monotonic()
        status = self._console.status(text) if self._console is not None else None
        if status is not None:
            status.start()
        step = Step(text, status)
        try:
            yield step
        except (Exception, asyncio.CancelledError, KeyboardInterrupt):
            if status is not None:
                status.stop()
            self._line("✗", text, "failed", "red")
            raise
        if status is not None:
            status.stop()
        if step.changed:
            self.changes += 1
            seconds = f"{monotonic() - started:.1f} s"
            self._line("✓", text, f"{step.result}, {seconds}" if step.result else seconds, "green")
        else:
            self._line("·", text, step.result or "nothing to do", "dim")

    def say(self, text: str = "") -> None:
        if self._quiet:
            return
        try:
            print(text, flush=True)
        except BrokenPipeError:
            # The reader went away (`wherry up | head`). What is under way goes on: half a cluster would help nobody.
            self._quiet = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def table(self, title: str, header: list[str], rows: list[list[str]]) -> None:
        if self._quiet:
            return
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        self.say(title)
        for row in [header, *rows]:
            self.say("  " + "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def _line(self, mark: str, text: str, result: str, style: str) -> None:
        if self._console is not None:
            self._console.print(f"[{style}]{mark}[/{style}] ", end="")
            self._console.print(f"{text} ({result})", markup=False)
        else:
            self.say(f"{mark} {text} ({result})")
