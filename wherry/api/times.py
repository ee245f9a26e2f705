"""Time in its API forms: `Time` and `MicroTime` messages, RFC 3339 text, Go duration text, and ages as people read them.

Unix seconds (float, from `Env.now()`) come in and go out; nothing here reads a clock. Called by the codec and by everyone
who writes or shows a timestamp.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import lru_cache
from typing import Protocol

from wherry.pb import meta_v1_pb2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})T(\d{2}):(\d{2}):(\d{2})(?:[.,](\d{1,9})\d*)?(Z|([+-])(\d{2}):(\d{2}))", re.ASCII
)
_DURATION = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_UNIT_NS = {
    "ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip
_MAX_DURATION_NS = 2**63 - 1


class Instant(Protocol):
    """A Time or MicroTime message."""

    @property
    def seconds(self) -> int: ...
    @property
    def nanos(self) -> int: ...


# The times of one object, and of its neighbours, are mostly the same few.
@lru_cache(maxsize=4096)
def parse_rfc3339(text: str) -> tuple[int, int]:
    """Unix seconds and nanoseconds. Raises ValueError."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f'expected a time such as "2026-01-02T15:04:05Z", got "{text[:60]}"')
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    zone = UTC
    if match.group(9):
        offset = timedelta(hours=int(match.group(10)), minutes=int(match.group(11)))
        zone = timezone(-offset if match.group(9) == "-" else offset)
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=zone)
    except ValueError as error:
        raise ValueError(f'no such time: "{text[:60]}" ({error})') from error
    delta = moment - _EPOCH
    return delta.days * 86400 + delta.seconds, int((match.group(7) or "0").ljust(9, "0"))


@lru_cache(maxsize=4096)
def format_seconds(seconds: int) -> str:
    """`2026-01-02T15:04:05Z`."""
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")


def format_micros(seconds: int, nanos: int) -> str:
    """`2026-01-02T15:04:05.000000Z`."""
    return f"{format_seconds(seconds)[:-1]}.{nanos // 1000:06d}Z"


def to_time(now: float) -> meta_v1_pb2.Time:
    """Whole seconds, as every `Time` in the API."""
    return meta_v1_pb2.Time(seconds=int(now // 1))


def to_micro_time(now: float) -> meta_v1_pb2.MicroTime:
    micros = round(now * 1_000_000)
    return meta_v1_pb2.MicroTime(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)


def from_time(time: Instant) -> float:
    """Unix seconds; 0.0 for an unset one."""
    return time.seconds + time.nanos / 1e9


def parse_duration(text: str) -> int:
    """Go duration text ("1h30m", "1.5s") as nanoseconds. Raises ValueError."""
    rest = text
    negative = rest.startswith("-")
    if rest[:1] in ("+", "-"):
        rest = rest[1:]
    if rest == "0":
        return 0
    total = Decimal(0)
    position = 0
    while position < len(rest):
        match = _DURATION.match(rest, position)
        if match is None or not (match.group(1) or match.group(2)):
            break
        number = Decimal(f"{match.group(1) or '0'}.{match.group(2) or '0'}")
        total += number * _UNIT_NS[match.group(3)]
        position = match.end()
    nanos = int(total)
    if not rest or position < len(rest) or nanos > _MAX_DURATION_NS:
        raise ValueError(f'expected a duration such as "1h30m" or "500ms", got "{text[:60]}"')
    return -nanos if negative else nanos


def format_duration(nanos: int) -> str:
    """As Go prints it: "1h0m0s", "1.5s", "250ms", "0s"."""
    if nanos == 0:
        return "0s"
    sign, nanos = ("-", -nanos) if nanos < 0 else ("", nanos)
    if nanos < 10**9:
        for unit, size in (("ms", 10**6), ("µs", 10**3), ("ns", 1)):
            if nanos >= size:
                return f"{sign}{_decimal(nanos, size)}{unit}"
    minutes, rest = divmod(nanos, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, 10**9)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else f"{sign}{text}"


def _decimal(number: int, size: int) -> str:
    whole, rest = divmod(number, size)
    if not rest:
        return str(whole)
    return f"{whole}.{str(rest).rjust(len(str(size)) - 1, '0').rstrip('0')}"


UNKNOWN = "<unknown>"


def human_duration(seconds: float) -> str:
    """An age as kubectl shows it: at most two units, the finer one only where it matters ("5m3s", "3d4h", "2y10d")."""
    if seconds < -1:
        return "<invalid>"
    total = max(0, int(seconds))
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if total < 120:
        return f"{total}s"
    if minutes < 10:
        return f"{minutes}m{total % 60}s" if total % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 365 * 2:
        return f"{days}d"
    years = days // 365
    if days < 365 * 8:
        return f"{years}y{days % 365}d" if days % 365 else f"{years}y"
    return f"{years}y"


def age(since: Instant | None, now: float) -> str:
    """The AGE column: `<unknown>` where there is no time."""
    if since is None or not since.seconds:
        return UNKNOWN
    return human_duration(now - from_time(since))
