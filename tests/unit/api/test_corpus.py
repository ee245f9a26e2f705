"""The corpus: manifests as people write them, good ones that survive whole and bad ones with the error each must give.

A bad file names its error in its first line (`# expect: REGEX`); JSON has no comments, so those stand here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from wherry.api import codec, quantity

CORPUS = Path(__file__).parents[2] / "corpus"
GOOD = sorted((CORPUS / "good").iterdir())
BAD = sorted((CORPUS / "bad").iterdir())
JSON_ERRORS = {
    "json-wrong-type.json": r":5: spec\.containers\[0\]\.image: expected a string, got 5",
    "json-missing-comma.json": r":1: not JSON: expecting ',' delimiter at line 1 column 21",
}


def lost(sent: Any, got: Any, path: str = "") -> list[str]:
    """What of a manifest is not in the object; zero values that mean "unset" may go, quantities may change their form."""
    if isinstance(sent, dict):
        other = got if isinstance(got, dict) else {}
        return [line for key, item in sent.items() for line in lost(item, other.get(key), f"{path}.{key}")]
    if isinstance(sent, list) and sent:
        if not isinstance(got, list) or len(got) != len(sent):
            return [f"{path}: {sent!r} -> {got!r}"]
        return [
            line
            for index, (one, two) in enumerate(zip(sent, got, strict=True))
            for line in lost(one, two, f"{path}[{index}]")
        ]
    if not sent or sent == got:
        return []
    if isinstance(got, str) and isinstance(sent, str | int | float) and same_quantity(str(sent), got):
        return []
    return [f"{path}: {sent!r} -> {got!r}"]


def same_quantity(sent: str, got: str) -> bool:
    try:
        return quantity.canonical(sent) == got
    except ValueError:
        return False


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_good_manifests_survive_whole(path: Path) -> None:
    documents = codec.read_manifest(path.read_bytes(), path.name)
    assert len(documents) > 1
    for document in documents:
        out = codec.to_dict(document.message)
        sent = dict(document.value)
        assert lost(sent, out) == []
        assert codec.decode_manifest(codec.to_yaml(document.message)) == [document.message]
        assert codec.decode_manifest(codec.to_json(document.message)) == [document.message]


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.name)
def test_bad_manifests_say_what_is_wrong(path: Path) -> None:
    text = path.read_text()
    expected = JSON_ERRORS.get(path.name) or text.splitlines()[0].removeprefix("# expect: ")
    with pytest.raises(codec.DecodeError) as error:
        codec.decode_manifest(text, path.name)
    message = str(error.value)
    assert re.search(expected, message), message
    assert message.startswith(path.name)
    assert all(problem.line for problem in error.value.problems), "each with its line"


def test_the_comparison_can_fail() -> None:
    assert lost({"a": [1]}, {"a": [2]})
    assert lost({"a": {"b": "x"}}, {"a": {}})
    assert not lost({"a": 0.5}, {"a": "500m"})
