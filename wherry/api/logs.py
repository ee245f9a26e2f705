"""Log lines with the cause id, as text for people or JSON for machines. `wherry server` and the agent set it up once."""

from __future__ import annotations

import json
import logging
import sys
from typing import TextIO

from wherry.api.context import cause
from wherry.api.times import format_micros


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname[0]} {record.name}: {record.getMessage()}"
        current = cause.get()
        if current:
            line += f" cause={current}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        current = cause.get()
        if current:
            fields["cause"] = current
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def set_up(level: str = "info", *, form: str = "text", stream: TextIO | None = None) -> None:
    """`level` is debug, info, warning or error; `form` is text or json."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Reports of its own failures by way of stderr are noise once the root logger has them.
    logging.getLogger("asyncio").setLevel(max(root.level, logging.WARNING))


def _time(record: logging.LogRecord) -> str:
    return format_micros(int(record.created), int(record.created % 1 * 1e9))
