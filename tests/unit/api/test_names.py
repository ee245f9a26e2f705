"""Legal names, with every message that the recorded API server gave for one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from wherry.api import names

GOLDEN = Path(__file__).parents[4] / "shared" / "kubernetes-api" / "golden" / "validation.jsonl"


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (names.dns1123_label, ["a", "a-b", "0", "a" * 63], ["", "A", "-a", "a-", "a.b", "a_b", "a" * 64]),
        (names.dns1123_subdomain, ["a", "a.b", "a-b.c", "1.2"], ["", "A", "a..b", ".a", "a.", "a" * 254, "a\n"]),
        (names.dns1035_label, ["a", "a1", "a-b"], ["1a", "", "a.b", "A"]),
        (
            names.qualified_name,
            ["a", "A.b_c-d", "x.io/a", "a" * 63],
            ["", "/a", "x/", "a/b/c", "X.io/a", "-a", "a" * 64],
        ),
        (names.label_value, ["", "a", "A_b.c-9"], ["-a", "a b", "a" * 64, "é"]),
        (names.config_map_key, ["a.b", "_x", "..a"[1:]], ["", "a b", ".", "..", "..a", "a/b"]),
        (names.env_var_name, ["A", "a.b-c", "1 2"], ["", "A=B", "é", "a\n"]),
        (names.port_name, ["http", "p-1"], ["", "80", "a--b", "-a", "A", "a" * 16]),
        (names.wildcard_dns1123_subdomain, ["*.a.b"], ["*", "a.b", "*.*.x"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_good_and_bad(check: Callable[[str], list[str]], good: list[str], bad: list[str]) -> None:
    assert {value: check(value) for value in good} == {value: [] for value in good}
    assert [value for value in bad if not check(value)] == []


@pytest.mark.skipif(not GOLDEN.exists() and not os.environ.get("CI"), reason="no recordings beside the checkout")
def test_words_are_those_of_the_recorded_server() -> None:
    """Every recorded message about the form of a name is one that we would give for the same value."""
    checks = [
        names.dns1123_label, names.dns1123_subdomain, names.dns1035_label, names.qualified_name, names.label_value,
        names.config_map_key, names.wildcard_dns1123_subdomain, names.env_var_name, names.port_name,
        names.percent,
    ]  # fmt: skip
    compared = 0
    for line in GOLDEN.read_text().splitlines():
        body = json.loads(line).get("response", {}).get("body")
        causes = (body.get("details") or {}).get("causes") or [] if isinstance(body, dict) else []
        for cause in causes:
            match = re.fullmatch(r'Invalid value: ("(?:[^"\\]|\\.)*"): (.*)', cause["message"], re.DOTALL)
            if match is None or "regex used for validation" not in match.group(2):
                continue
            value = json.loads(match.group(1))
            given = {message for check in checks for message in check(value)}
            assert match.group(2) in given, (cause, given)
            compared += 1
    assert compared > 20
