"""The values that CEL works with, where Python has no such type, and what holds for all: equality, kinds, sizes. Pure.

null, bool, int, double, string, bytes, list and map are Python's own; a plain int is CEL's int, `Uint` its uint. Python takes
True for 1 and 1 for 1.0: `equal` does not, or only as CEL does.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from wherry.api.cel.syntax import Uint

INT_MIN, INT_MAX, UINT_MAX = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1
SECOND = 1_000_000_000
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MIN_NS = -62135596800 * SECOND
_MAX_NS = 253402300800 * SECOND - 1


class EvaluationError(Exception):
    """An expression that fails on these values, in CEL's words ("no such key: x")."""

    cost: float = 0  # of the run that it ended


class BudgetExceeded(EvaluationError):
    """It cost more than it may. `operation cancelled: actual cost limit exceeded`, as CEL says."""

    def __init__(self) -> None:
        super().__init__("operation cancelled: actual cost limit exceeded")


@dataclass(frozen=True, slots=True, order=True)
class Duration:
    ns: int

    def __post_init__(self) -> None:
        if not INT_MIN <= self.ns <= INT_MAX:
            raise EvaluationError("integer overflow")


@dataclass(frozen=True, slots=True, order=True)
class Timestamp:
    """Nanoseconds since 1970; between the years 1 and 9999."""

    ns: int

    def __post_init__(self) -> None:
        if not _MIN_NS <= self.ns <= _MAX_NS:
            raise EvaluationError("timestamp overflow")

    def at(self, zone: str = "") -> datetime.datetime:
        moment = _EPOCH + datetime.timedelta(seconds=self.ns // SECOND)
        return moment.astimezone(_zone(zone)) if zone else moment


def _zone(name: str) -> datetime.tzinfo:
    match = re.fullmatch(r"([+-]?)(\d\d):(\d\d)", name)
    if match:
        offset = datetime.timedelta(hours=int(match[2]), minutes=int(match[3]))
        if offset < datetime.timedelta(days=1):
            return datetime.timezone(-offset if match[1] == "-" else offset)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise EvaluationError(f"unknown time zone {name}") from error


@dataclass(frozen=True, slots=True)
class Optional:
    """`present` tells none from a null that is there."""

    present: bool
    value: Any = None


NONE = Optional(False)


class Unordered(list[Any]):
    """A list that is a set (`x-kubernetes-list-type: set`): its order does not count, and + keeps each element once."""

    def key(self, item: Any) -> Any:
        return hashable(item)


class Keyed(Unordered):
    """A list that is a map of its elements by their keys (`x-kubernetes-list-type: map`)."""

    keys: Sequence[str] = ()

    def key(self, item: Any) -> Any:
        return tuple(hashable(item.get(name)) for name in self.keys) if isinstance(item, dict) else hashable(item)


class Made(dict[str, Any]):
    """What `Name{field: value}` makes."""

    type_name = ""


@dataclass(frozen=True, slots=True)
class TypeValue:
    name: str


_KINDS: dict[type, str] = {
    bool: "bool", int: "int", Uint: "uint", float: "double", str: "string", bytes: "bytes", list: "list", dict: "map",
    type(None): "null", Timestamp: "timestamp", Duration: "duration", TypeValue: "type", Optional: "optional",
    Decimal: "quantity",
}  # fmt: skip
_SHOWN = {"null": "null_type", "timestamp": "google.protobuf.Timestamp", "duration": "google.protobuf.Duration"}


def kind_of(value: Any) -> str:
    """The kind of the value's type, or the name of an opaque one."""
    found = _KINDS.get(type(value))
    if found is not None:
        return found
    if isinstance(value, list):
        return "list"
    if isinstance(value, dict):
        return "map"
    name: str = getattr(value, "cel_type", type(value).__name__)
    return name


def shown_kind(value: Any) -> str:
    kind = kind_of(value)
    return _SHOWN.get(kind, "optional_type" if kind == "optional" else kind)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def equal(one: Any, other: Any) -> bool:
    """CEL's equality: numbers of all types by value, everything else only with its own type."""
    kind = type(one)
    if kind is type(other) and kind in (str, int, bool, bytes, float):
        return bool(one == other)
    if is_number(one) and is_number(other):
        return bool(one == other)
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return False
        if isinstance(one, Unordered) or isinstance(other, Unordered):
            return _equal_unordered(one if isinstance(one, Unordered) else other, one, other)
        return all(equal(left, right) for left, right in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        if len(one) != len(other):
            return False
        return all(key in other and equal(value, other[key]) for key, value in one.items())
    if isinstance(one, Optional) and isinstance(other, Optional):
        return one.present == other.present and equal(one.value, other.value)
    return kind is type(other) and bool(one == other)


def _equal_unordered(rule: Any, one: list[Any], other: list[Any]) -> bool:
    left = {rule.key(item): item for item in one}
    right = {rule.key(item): item for item in other}
    return len(left) == len(right) and all(key in right and equal(item, right[key]) for key, item in left.items())


def hashable(value: Any) -> Any:
    """A key that is equal for equal values."""
    if isinstance(value, dict):
        return (
            "map",
            tuple(sorted(((str(key), hashable(item)) for key, item in value.items()), key=lambda pair: pair[0])),
        )
    if isinstance(value, list):
        return ("list", tuple(hashable(item) for item in value))
    return (isinstance(value, bool), value)


def merged(left: Unordered, right: Sequence[Any]) -> list[Any]:
    """`left + right` of a set or a keyed list: what `right` has under the same key takes its place."""
    out = type(left)(left)
    if isinstance(out, Keyed) and isinstance(left, Keyed):
        out.keys = left.keys
    places = {left.key(item): index for index, item in enumerate(left)}
    for item in right:
        key = left.key(item)
        if key in places:
            out[places[key]] = item
        else:
            places[key] = len(out)
            out.append(item)
    return out


def size_of(value: Any) -> int:
    """For costs: how much there is to go through."""
    return len(value) if isinstance(value, str | bytes | list | dict) else 1


# texts of times

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?(?:([Zz])|([+-])(\d\d):(\d\d))", re.ASCII
)
_UNITS = {
    "ns": 1, "us": 1000, "µs": 1000, "μs": 1000, "ms": 1_000_000, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND,
}  # fmt: skip
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)


def parse_timestamp(text: str) -> Timestamp:
    """RFC 3339. Raises ValueError."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"invalid timestamp {text!r}")
    year, month, day, hour, minute, second = (int(match[index]) for index in range(1, 7))
    moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.UTC)
    seconds = (moment - _EPOCH) // datetime.timedelta(seconds=1)
    if match[9]:
        hours, minutes = int(match[10]), int(match[11])
        if hours > 23 or minutes > 59:
            raise ValueError(f"invalid timestamp {text!r}")
        offset = hours * 3600 + minutes * 60
        seconds += offset if match[9] == "-" else -offset
    return Timestamp(seconds * SECOND + int((match[7] or "").ljust(9, "0")))


def parse_duration(text: str) -> Duration:
    """Go's notation ("1h30m"). Raises ValueError."""
    sign, rest = (-1, text[1:]) if text[:1] == "-" else (1, text[1:] if text[:1] == "+" else text)
    if rest == "0":
        return Duration(0)
    total, at = Decimal(0), 0
    if len(text) > 200:
        raise ValueError("invalid duration")
    while at < len(rest):
        match = _DURATION_PART.match(rest, at)
        if match is None:
            break
        total += Decimal(match[1]) * _UNITS[match[2]]
        at = match.end()
    if at < len(rest) or not rest or total > INT_MAX:
        raise ValueError(f"invalid duration {text!r}")
    return Duration(sign * int(total))


def format_timestamp(value: Timestamp) -> str:
    text = value.at().strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    nanos = value.ns % SECOND
    return text + (f".{nanos:09d}".rstrip("0") if nanos else "") + "Z"


def format_duration(value: Duration) -> str:
    """As CEL's string(): seconds."""
    sign, ns = ("-", -value.ns) if value.ns < 0 else ("", value.ns)
    whole, rest = divmod(ns, SECOND)
    return f"{sign}{whole}" + (f".{rest:09d}".rstrip("0") if rest else "") + "s"


def format_double(value: float) -> str:
    """As Go's %g with the fewest digits that tell the number."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    if value == int(value) and abs(value) < 1e21:
        return str(int(value)) if value or str(value)[0] != "-" else "-0"
    text = repr(value)
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        mantissa = mantissa.removesuffix(".0")
        return f"{mantissa}e{exponent[0]}{exponent[1:].zfill(2)}" if exponent[0] in "+-" else f"{mantissa}e+{exponent}"
    return text
