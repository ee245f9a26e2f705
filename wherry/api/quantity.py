"""Kubernetes quantities ("500m", "1Gi", "1e3"), exactly: parsing, canonical form, comparison and arithmetic.

A quantity is a decimal number with a preferred notation. Called by the codec (every Quantity is canonicalised on the way
in, as Kubernetes does), validation, the scheduler and the node agent. Values are `Decimal`; nothing is ever a float.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_UP, Context, Decimal
from functools import lru_cache
from typing import Literal, Protocol

Format = Literal["DecimalSI", "BinarySI", "DecimalExponent"]

FORMAT_MESSAGE = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
SUFFIX_MESSAGE = "unable to parse quantity's suffix"
NUMBER_MESSAGE = "unable to parse numeric part of quantity"

_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY_NAME = {power: name for name, power in _BINARY.items()} | {0: ""}
_DECIMAL_NAME = {power: name for name, power in _DECIMAL.items()}

_SHAPE = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?([eEinumkKMGTP]*[-+]?[0-9]*)", re.ASCII)
_EXPONENT = re.compile(r"[eE][+-]?[0-9]{1,9}", re.ASCII)
_EXACT = Context(prec=2000)
_NANO = Decimal("1e-9")
_MAX_BINARY = Decimal(2**63 - 1)
_MAX_EXPONENT = 500  # far past what any resource has; keeps "1e999999999" from building a number of that length


class HasString(Protocol):
    """A Quantity message."""

    @property
    def string(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Parsed:
    amount: Decimal
    format: Format


def parse(text: str) -> Parsed:
    """Raises ValueError in Kubernetes' words. More than nine decimals are rounded away from zero, as there."""
    return _parse(text)


@lru_cache(maxsize=4096)
def _parse(text: str) -> Parsed:
    if not text:
        raise ValueError(FORMAT_MESSAGE)
    match = _SHAPE.fullmatch(text)
    if match is None or len(text) > 1000:
        raise ValueError(FORMAT_MESSAGE)
    sign, whole, fraction, suffix = match.group(1), match.group(2), match.group(3) or "", match.group(4)
    if not whole and not fraction:
        raise ValueError(FORMAT_MESSAGE if not suffix or "." in text else NUMBER_MESSAGE)
    number = Decimal(f"{whole or '0'}.{fraction or '0'}")
    notation: Format
    if suffix in _BINARY:
        amount, notation = _EXACT.multiply(number, Decimal(1 << _BINARY[suffix])), "BinarySI"
    elif suffix in _DECIMAL:
        amount, notation = _EXACT.scaleb(number, _DECIMAL[suffix]), "DecimalSI"
    elif _EXPONENT.fullmatch(suffix):
        exponent = int(suffix[1:])
        if abs(exponent) > _MAX_EXPONENT:
            raise ValueError(SUFFIX_MESSAGE)
        amount, notation = _EXACT.scaleb(number, exponent), "DecimalExponent"
    else:
        raise ValueError(SUFFIX_MESSAGE)
    amount = _round_up_to_nano(amount)
    if notation == "BinarySI":
        amount = min(amount, _MAX_BINARY)
        if 0 < amount < 1:
            notation = "DecimalSI"
    return Parsed(-amount if sign == "-" else amount, notation)


def _round_up_to_nano(amount: Decimal) -> Decimal:
    """Whoever asks for some gets some: never rounded to zero."""
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -9:
        return amount.quantize(_NANO, rounding=ROUND_UP, context=_EXACT)
    return amount


@lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    """The one way Kubernetes writes this quantity: "0.5" is "500m", "1024Mi" is "1Gi". Raises ValueError."""
    parsed = _parse(text)
    return format_amount(parsed.amount, parsed.format)


def format_amount(amount: Decimal | int, notation: Format = "DecimalSI") -> str:
    amount = _round_up_to_nano(Decimal(amount))
    if amount == 0:
        return "0"
    if notation == "BinarySI":
        if -1024 < amount < 1024 or amount != amount.to_integral_value(context=_EXACT):
            notation = "DecimalSI"  # no loss of precision, and no confusion
        else:
            return _format_binary(int(amount))
    sign, digits, exponent = amount.as_tuple()
    assert isinstance(exponent, int)  # never a NaN or an infinity: parse makes neither
    mantissa = int("".join(map(str, digits)))
    while mantissa % 10 == 0:
        mantissa //= 10
        exponent += 1
    mantissa *= 10 ** (exponent % 3)
    exponent -= exponent % 3
    text = f"{'-' if sign else ''}{mantissa}"
    if notation == "DecimalSI" and exponent in _DECIMAL_NAME:
        return text + _DECIMAL_NAME[exponent]
    return f"{text}e{exponent}" if exponent else text


def _format_binary(number: int) -> str:
    power = 0
    while number % 1024 == 0 and power < 60:
        number //= 1024
        power += 10
    return f"{number}{_BINARY_NAME[power]}"


def amount(quantity: str | HasString) -> Decimal:
    """The exact value of a quantity or of a Quantity message; an empty one is zero."""
    text = quantity if isinstance(quantity, str) else quantity.string
    return _parse(text).amount if text else Decimal(0)


def value(quantity: str | HasString) -> int:
    """In whole units (bytes, pods), rounded up as Go's Value()."""
    return _round_up(amount(quantity))


def milli(quantity: str | HasString) -> int:
    """In thousandths (CPU), rounded up as Go's MilliValue()."""
    return _round_up(_EXACT.scaleb(amount(quantity), 3))


def _round_up(number: Decimal) -> int:
    return int(number.to_integral_value(rounding=ROUND_CEILING, context=_EXACT))


def compare(left: str | HasString, right: str | HasString) -> int:
    """-1, 0 or 1."""
    first, second = amount(left), amount(right)
    return (first > second) - (first < second)


def add(quantities: Iterable[str | HasString]) -> str:
    """The sum in canonical form, in the notation of the first one that is not zero, as Kubernetes sums."""
    total, notation = Decimal(0), None
    for quantity in quantities:
        text = quantity if isinstance(quantity, str) else quantity.string
        if not text:
            continue
        parsed = _parse(text)
        if notation is None and parsed.amount:
            notation = parsed.format
        total = _EXACT.add(total, parsed.amount)
    return format_amount(total, notation or "DecimalSI")


def subtract(left: str | HasString, right: str | HasString) -> str:
    """The difference in canonical form, in the notation of the left one."""
    text = left if isinstance(left, str) else left.string
    notation = _parse(text).format if text else "DecimalSI"
    return format_amount(_EXACT.subtract(amount(left), amount(right)), notation)


def from_milli(number: int) -> str:
    return format_amount(Decimal(number).scaleb(-3))


def from_bytes(number: int) -> str:
    """In powers of 1024 where they divide it."""
    return format_amount(number, "BinarySI")
