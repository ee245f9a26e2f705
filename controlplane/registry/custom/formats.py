"""The formats of strings that a schema may name, and what is wrong with a text of one. Pure; called by `validating`.

A format that is not here is not checked, as in Kubernetes.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import ipaddress
import re
from collections.abc import Callable

_UUID = r"[0-9a-f]{8}-?[0-9a-f]{4}-?%s[0-9a-f]{3}-?%s[0-9a-f]{3}-?[0-9a-f]{12}"
_DATE_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}):(\d{2}):(\d{2})(?:[.,]\d+)?(?:[Zz]|[+-]\d{2}:?\d{2})?", re.ASCII
)
_HOSTNAME = re.compile(
    r"[a-zA-Z0-9](?:[-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?)*"
)
_DURATION = re.compile(
    r"[+-]?(?:0|(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)"
    r"|\d+\s*(?:ns|nanos?|us|micros?|ms|millis?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|wks?|weeks?)"
)


def _matches(pattern: str, *, ignore_case: bool = True) -> Callable[[str], bool]:
    found = re.compile(pattern, re.ASCII | (re.IGNORECASE if ignore_case else 0))
    return lambda text: found.fullmatch(text) is not None


def _date(text: str) -> bool:
    try:
        return bool(datetime.date.fromisoformat(text)) and len(text) == 10
    except ValueError:
        return False


def _date_time(text: str) -> bool:
    match = _DATE_TIME.fullmatch(text)
    return match is not None and _date(match[1]) and int(match[2]) < 24 and int(match[3]) < 60 and int(match[4]) < 60


def _address(kind: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            kind(text)
        except ValueError:
            return False
        return True

    return check


def _cidr(text: str) -> bool:
    return "/" in text and _address(ipaddress.ip_interface)(text)


def _byte(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _uri(text: str) -> bool:
    from wherry.api.cel.addresses import parsed_url

    return parsed_url(text) is not None


def _email(text: str) -> bool:
    local, at, domain = text.rpartition("@")
    return bool(local and at and not re.search(r"[\s<>]", text)) and _HOSTNAME.fullmatch(domain.strip("[]")) is not None


def _digits(text: str) -> list[int]:
    return [int(char) for char in text if "0" <= char <= "9"]


def _credit_card(text: str) -> bool:
    digits = _digits(text)
    total = sum(digit if index % 2 == 0 else sum(divmod(digit * 2, 10)) for index, digit in enumerate(reversed(digits)))
    return bool(re.fullmatch(r"[\d -]{13,24}", text)) and 13 <= len(digits) <= 19 and total % 10 == 0


def _isbn10(text: str) -> bool:
    text = re.sub(r"[\s-]", "", text)
    if not re.fullmatch(r"\d{9}[\dX]", text):
        return False
    return sum((10 - index) * (10 if char == "X" else int(char)) for index, char in enumerate(text)) % 11 == 0


def _isbn13(text: str) -> bool:
    digits = re.sub(r"[\s-]", "", text)
    return bool(re.fullmatch(r"\d{13}", digits)) and sum(
        digit * (3 if index % 2 else 1) for index, digit in enumerate(_digits(digits))
    ) % 10 == 0  # fmt: skip


CHECKS: dict[str, Callable[[str], bool]] = {
    "bsonobjectid": _matches(r"[0-9a-f]{24}"),
    "uri": _uri,
    "email": _email,
    "hostname": lambda text: len(text) <= 255 and _HOSTNAME.fullmatch(text) is not None,
    "ipv4": _address(ipaddress.IPv4Address),
    "ipv6": _address(ipaddress.IPv6Address),
    "cidr": _cidr,
    "mac": _matches(r"(?:[0-9a-f]{2}[:-]){5}(?:(?:[0-9a-f]{2}[:-]){2})?[0-9a-f]{2}|(?:[0-9a-f]{4}\.){2,3}[0-9a-f]{4}"),
    "uuid": _matches(_UUID % ("[0-9a-f]", "[0-9a-f]")),
    "uuid3": _matches(_UUID % ("3", "[0-9a-f]")),
    "uuid4": _matches(_UUID % ("4", "[89ab]")),
    "uuid5": _matches(_UUID % ("5", "[89ab]")),
    "isbn": lambda text: _isbn10(text) or _isbn13(text),
    "isbn10": _isbn10,
    "isbn13": _isbn13,
    "creditcard": _credit_card,
    "ssn": _matches(r"\d{3}[- ]?\d{2}[- ]?\d{4}"),
    "hexcolor": _matches(r"#?(?:[0-9a-f]{3}|[0-9a-f]{6})"),
    "rgbcolor": _matches(
        r"rgb\(\s*(?:\d{1,2}|1\d\d|2[0-4]\d|25[0-5])\s*(?:,\s*(?:\d{1,2}|1\d\d|2[0-4]\d|25[0-5])\s*){2}\)"
    ),
    "byte": _byte,
    "date": _date,
    "duration": lambda text: _DURATION.fullmatch(text) is not None,
    "date-time": _date_time,
    "datetime": _date_time,
}
_INTEGERS = {"int32": (-(1 << 31), (1 << 31) - 1), "int64": (-(1 << 63), (1 << 63) - 1)}


def fits(text: str, name: str) -> bool:
    check = CHECKS.get(name)
    return check is None or check(text)


def integer_fits(number: int, name: str) -> bool:
    low, high = _INTEGERS.get(name, _INTEGERS["int64"])
    return low <= number <= high
