"""The JSON reader against the standard library's: the same values, duplicates found, nothing lost."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wherry.api import jsonforms, jsontext
from wherry.api.problems import DecodeError

keys = st.sampled_from(["a", "b", "a:b", ":", "\\u003a", "é", 'q"', "\\"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**300, 1e16, -1e300, 0.1, 1e-7, -0.0])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
    | st.sampled_from(["e+", "a:b", ":::", "\ud800", "x\udfff", "[{", "null"])
)


class Pairs(list[Any]):
    """An object that may have a key twice."""


pairs = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(keys, inner), max_size=4).map(Pairs),
    max_leaves=12,
)


def written(value: Any, *, escaped: bool, space: str) -> str:
    """JSON text of it, with every key that it has."""
    if isinstance(value, Pairs):
        parts = (
            f"{written(key, escaped=escaped, space=space)}{space}:{space}{written(item, escaped=escaped, space=space)}"
            for key, item in value
        )
        return "{" + f"{space},".join(parts) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(item, escaped=escaped, space=space) for item in value) + "]"
    text = json.dumps(value, ensure_ascii=escaped)
    return text.replace(":", "\\u003A" if space else "\\u003a") if escaped and isinstance(value, str) else text


def twice(value: Any) -> bool:
    if isinstance(value, Pairs):
        names = [key for key, _ in value]
        return len(set(names)) < len(names) or any(twice(item) for _, item in value)
    return isinstance(value, list) and any(twice(item) for item in value)


def same(left: Any, right: Any) -> bool:
    """Equal, and of equal types: 1 is not 1.0, nor True."""
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and repr(left) == repr(right)


@given(value=pairs, escaped=st.booleans(), space=st.sampled_from(["", " ", "\n\t"]), as_text=st.booleans())
@example(value=Pairs([("a", 1), ("a:b", 1), ("a", 2)]), escaped=True, space="", as_text=False)
@example(value=Pairs([("a", "::"), ("b", 1), ("a", 2)]), escaped=True, space="", as_text=False)
@example(value=[2**64, {"a": -(2**63) - 1}], escaped=False, space="", as_text=False)
@settings(max_examples=300)
def test_reads_as_the_standard_library_does(value: Any, escaped: bool, space: str, as_text: bool) -> None:
    text = written(value, escaped=escaped, space=space)
    if not as_text:
        text = text.encode(errors="replace").decode()
    found, duplicates = jsontext.parse(text if as_text else text.encode())
    assert bool(duplicates) == twice(value)
    assert same(found, jsontext.clean(json.loads(text)))


@given(value=pairs.map(lambda value: json.loads(written(value, escaped=True, space=""))))
@settings(max_examples=200)
def test_writes_what_reads_back_the_same(value: Any) -> None:
    value = jsontext.clean(value)
    for text in (jsonforms.dump(value), jsonforms.canonical(value)):
        assert json.loads(text) == value
        assert same(jsontext.load(jsonforms.dump(value)), value)
    assert jsonforms.canonical(value) == jsonforms.canonical(json.loads(json.dumps(value, sort_keys=True)))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_canonical_json_has_no_nan(number: float) -> None:
    assert jsonforms.canonical({"a": None}) == b'{"a":null}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        jsonforms.canonical({"a": [number]})
    with pytest.raises(ValueError, match="number"):
        jsontext.load(json.dumps({"a": number}).encode())


@pytest.mark.parametrize("text", ["1e20", "[-1.5e+20]", '{"a":1e20}', '{"a":[1e16,2]}', "[2e300,1]"])
def test_large_numbers_are_seen_however_their_exponent_is_written(text: str) -> None:
    """Versions of orjson differ in the sign."""
    assert jsontext._has_large_numbers(text.encode())


@pytest.mark.parametrize("text", ["1e-7", '{"uid":"5e1a0e12-3e44"}', "[10,0.5]", '{"e+":"e+"}', '{"e1":1}'])
def test_what_only_looks_like_a_large_number_is_read_fast(text: str) -> None:
    assert not jsontext._has_large_numbers(text.encode())


@pytest.mark.parametrize("signed", [True, False])
def test_large_integers_are_exact_with_every_version_of_orjson(monkeypatch: pytest.MonkeyPatch, signed: bool) -> None:
    class Other:
        JSONDecodeError = orjson.JSONDecodeError
        loads = staticmethod(orjson.loads)

        @staticmethod
        def dumps(value: Any) -> bytes:
            plain = orjson.dumps(value).replace(b"e+", b"e")
            return plain.replace(b"e", b"e+") if signed else plain

    monkeypatch.setattr(jsontext, "orjson", Other)
    for text in (b"100000000000000000001", b'{"a": [18446744073709551616, 1]}'):
        value = json.loads(text)
        assert same(jsontext.parse(text)[0], value)
        assert same(jsontext.load(text), value)


def nested(depth: int) -> bytes:
    return b'{"a":[' * (depth // 2) + b"[" * (depth % 2) + b"]" * (depth % 2) + b"]}" * (depth // 2)


@pytest.mark.parametrize("depth", [200, 201, 254, 300, 1500])
def test_depth_is_limited(depth: int) -> None:
    if depth <= jsontext.MAX_DEPTH:
        assert jsontext.parse(nested(depth))[1] == []
    else:
        with pytest.raises(DecodeError, match="nested more than 200 levels deep"):
            jsontext.parse(nested(depth))
    flat = b"[" + b",".join([b'"[[[{{{"', nested(50)] * 50) + b"]"
    assert len(jsontext.parse(flat)[0]) == 100
