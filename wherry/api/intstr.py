"""IntOrString: a number, or a percentage of one ("25%"). Called by controllers (maxSurge, minAvailable) and validation."""

from __future__ import annotations

import re

from wherry.pb import meta_intstr_pb2

IntOrString = meta_intstr_pb2.IntOrString
_PERCENT = re.compile(r"([0-9]{1,18})%", re.ASCII)


def of(value: int | str) -> IntOrString:
    """As the JSON form: an integer, or a string."""
    return IntOrString(int_val=value) if isinstance(value, int) else IntOrString(type=1, str_val=value)


def to_value(value: IntOrString) -> int | str:
    text: str = value.str_val
    number: int = value.int_val
    return text if value.type else number


def percent(value: IntOrString) -> int | None:
    """The percentage, or None for a plain number. Raises ValueError for a string that is no percentage."""
    if not value.type:
        return None
    match = _PERCENT.fullmatch(value.str_val)
    if match is None:
        raise ValueError(f'invalid value for IntOrString: invalid type: string is not a percentage: "{value.str_val}"')
    return int(match.group(1))


def resolve(value: IntOrString, total: int, *, round_up: bool) -> int:
    """The number meant, a percentage being taken of `total`. Raises ValueError."""
    share = percent(value)
    if share is None:
        return int(value.int_val)
    return -(-share * total // 100) if round_up else share * total // 100
