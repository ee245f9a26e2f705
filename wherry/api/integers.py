"""Whole numbers in text that somebody else wrote (annotations, selectors, parameters, schedules), by the rules of Go's ParseInt.

Python's `int` takes more than that (spaces, underscores, digits of other scripts), and fails on what `str.isdigit` lets pass,
such as "²", and on thousands of digits.
"""

from __future__ import annotations

import re

_TEXT = re.compile("[-+]?0*[0-9]{1,20}", re.ASCII)
MAX, MAX_UNSIGNED = 2**63 - 1, 2**64 - 1


def parse(text: str) -> int | None:
    """A signed number of 64 bits, or None."""
    found = int(text) if len(text) < 4000 and _TEXT.fullmatch(text) else None
    return found if found is not None and -MAX - 1 <= found <= MAX else None


def parse_unsigned(text: str) -> int | None:
    """A number of 64 bits without a sign, or None."""
    found = int(text) if len(text) < 4000 and text[:1] not in ("+", "-") and _TEXT.fullmatch(text) else None
    return found if found is not None and found <= MAX_UNSIGNED else None
