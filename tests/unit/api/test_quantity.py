"""Quantities: canonical form, exactness, comparison, arithmetic, and what is refused."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.api import quantity

CANONICAL = {
    "0": "0", "0.5": "500m", "1": "1", "01": "1", "+1": "1", "-1": "-1", "1.0": "1", ".5": "500m", "5.": "5",
    "1000m": "1", "1500m": "1500m", "100": "100", "1000": "1k", "1k": "1k", "1000k": "1M", "1M": "1M", "1e3": "1e3",
    "12e6": "12e6", "1e0": "1", "1E3": "1e3", "12e-1": "1200e-3", "1024Mi": "1Gi", "1Ki": "1Ki", "1023Ki": "1023Ki",
    "0.5Gi": "512Mi", "1.5Gi": "1536Mi", "0.1Ki": "102400m", "1Mi": "1Mi", "1024": "1024", "0.0000000001": "1n",
    "-0.0000000001": "-1n", "1n": "1n", "1u": "1u", "1E": "1E", "7Ei": "7Ei", "100Ei": "9223372036854775807",
    "0.001Ki": "1024m", "0Ki": "0", "128974848": "128974848", "129e6": "129e6", "123Mi": "123Mi",
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CANONICAL.items())
def test_canonical_form(text: str, expected: str) -> None:
    assert quantity.canonical(text) == expected
    assert quantity.canonical(expected) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", quantity.FORMAT_MESSAGE),
        ("1x", quantity.FORMAT_MESSAGE),
        ("a", quantity.FORMAT_MESSAGE),
        (".", quantity.FORMAT_MESSAGE),
        ("1.2.3", quantity.FORMAT_MESSAGE),
        ("1 Gi", quantity.FORMAT_MESSAGE),
        ("1\n", quantity.FORMAT_MESSAGE),
        ("٣", quantity.FORMAT_MESSAGE),
        ("1ki", quantity.SUFFIX_MESSAGE),
        ("1K", quantity.SUFFIX_MESSAGE),
        ("1e999999999", quantity.SUFFIX_MESSAGE),
        ("1" * 1001, quantity.FORMAT_MESSAGE),
    ],
)
def test_refused_in_the_words_of_kubernetes(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="quantit") as error:
        quantity.parse(text)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "whole", "thousandths"),
    [("1", 1, 1000), ("1m", 1, 1), ("1500m", 2, 1500), ("1u", 1, 1), ("-1500m", -1, -1500)],
)
def test_whole_units_round_up(text: str, whole: int, thousandths: int) -> None:
    assert quantity.value(text) == whole
    assert quantity.milli(text) == thousandths


def test_sums_are_exact_and_keep_the_first_notation() -> None:
    assert quantity.add(["0.1"] * 10) == "1"
    assert quantity.add(["1Gi", "512Mi"]) == "1536Mi"
    assert quantity.add(["0", "1Gi"]) == "1Gi"
    assert quantity.add([]) == "0"
    assert quantity.subtract("1Gi", "1Mi") == "1023Mi"
    assert quantity.compare("1Gi", "1G") == 1
    assert quantity.compare("1000m", "1") == 0


@given(st.integers(-(10**15), 10**15), st.sampled_from(["", "m", "k", "M", "Ki", "Mi", "u", "n", "e3", "e-3"]))
def test_canonical_form_keeps_the_value(number: int, suffix: str) -> None:
    parsed = quantity.parse(f"{number}{suffix}")
    assert quantity.parse(quantity.canonical(f"{number}{suffix}")).amount == parsed.amount


@given(st.decimals(Decimal("-1e12"), Decimal("1e12"), places=9))
def test_any_amount_is_written_exactly(number: Decimal) -> None:
    for notation in ("DecimalSI", "BinarySI", "DecimalExponent"):
        assert quantity.amount(quantity.format_amount(number, notation)) == number  # type: ignore[arg-type]
