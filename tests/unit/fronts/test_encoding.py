"""A list for people is written piece by piece, and is then what it would be if it were written whole."""

from __future__ import annotations

import json

import pytest

from controlplane.fronts.http import encoding


@pytest.mark.parametrize(
    "items",
    [[], [{}], [{"a": "line\nline", "b": [], "c": {}}, {"é": [1, {"d": None}]}, [1]], [{"tricky": ['"items":[', "]}", ","]}] * 3],
    ids=["none", "an empty one", "several", "like the ends"],
)  # fmt: skip
def test_indented(items: list[object]) -> None:
    head = {"kind": "L", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}}
    pieces = [json.dumps(head).encode()[:-1] + b',"items":[']
    pieces += [(b"," if number else b"") + json.dumps(item).encode() for number, item in enumerate(items)]
    whole = json.dumps({**head, "items": items}, indent=2, ensure_ascii=False) + "\n"
    assert b"".join(encoding.indented([*pieces, b"]}"])).decode() == whole
