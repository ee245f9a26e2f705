"""Whole numbers as Go's ParseInt and ParseUint read them."""

from __future__ import annotations

import pytest

from wherry.api import integers


@pytest.mark.parametrize(
    ("text", "signed", "unsigned"),
    [
        ("0", 0, 0), ("12", 12, 12), ("007", 7, 7), ("+5", 5, None), ("-5", -5, None), ("", None, None), ("-", None, None),
        ("²", None, None), ("٣", None, None), ("1_0", None, None), (" 1", None, None), ("1\n", None, None), ("0x1", None, None),
        (str(2**63 - 1), 2**63 - 1, 2**63 - 1), (str(2**63), None, 2**63), (str(-(2**63)), -(2**63), None),
        (str(2**64 - 1), None, 2**64 - 1), (str(2**64), None, None), ("9" * 5000, None, None), ("0" * 100 + "1", 1, 1),
    ],
)  # fmt: skip
def test_numbers(text: str, signed: int | None, unsigned: int | None) -> None:
    assert (integers.parse(text), integers.parse_unsigned(text)) == (signed, unsigned)
