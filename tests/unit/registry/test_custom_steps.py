"""What validating a custom resource may cost: steps are counted, and others get their turn between them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controlplane.registry.base import ADMIN, RequestContext
from controlplane.registry.custom import validating
from wherry.api import codec, kinds
from wherry.api.context import Env
from wherry.testing.registries import open_registry
from wherry.testing.schemas import I, S, definition, obj


def nested(depth: int, leaf: dict[str, Any]) -> dict[str, Any]:
    """Alternatives within alternatives, none of which fits."""
    found = leaf
    for _ in range(depth):
        found = {"anyOf": [found, {"oneOf": [found, {"minimum": 9}]}]}
    return found


def steps(value: Any, schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many a validation takes at least: the smallest bound that it keeps."""
    low, high = 1, 1 << 16
    while low < high:
        middle = (low + high) // 2
        monkeypatch.setattr(validating, "MAX_STEPS", middle)
        told = [cause.message for cause in validating.validate(value, schema)]
        low, high = (middle + 1, high) if any("steps" in text for text in told) else (low, middle)
    return low


@pytest.mark.parametrize("word", ["anyOf", "oneOf"])
def test_nested_alternatives_take_as_many_steps_as_there_are_schemas(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema: dict[str, Any] = {"type": "integer", "minimum": 5}
    for _ in range(200):
        schema = {word: [schema, {"minimum": 9}]}
    assert steps(1, schema, monkeypatch) <= 402


def test_what_takes_too_many_steps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validating, "MAX_STEPS", 1000)
    (cause,) = validating.validate([1] * 100, {"type": "array", "items": nested(8, {"minimum": 5})}, "spec.list")
    assert (cause.field, cause.reason) == ("spec.list", "FieldValueInvalid")
    assert "validation takes more than 1000 steps" in cause.message


def test_long_texts_count_as_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validating, "MAX_STEPS", 1000)
    schema = {"anyOf": [{"pattern": "^b"}] * 10}
    assert "steps" not in validating.validate("a" * 1000, schema)[0].message
    assert "validation takes more than 1000 steps" in validating.validate("a" * 100_000, schema)[0].message


LARGE: dict[str, tuple[Any, dict[str, Any]]] = {
    "a list": (["x"] * 10_000, {"type": "array", "items": S}),
    "a map": ({f"k{i}": i for i in range(10_000)}, {"type": "object", "additionalProperties": I}),
    "a set": (
        [f"k{i}" for i in range(10_000)], {"type": "array", "items": S, "x-kubernetes-list-type": "set"},
    ),
    "alternatives": (["x"] * 1000, {"type": "array", "items": {"oneOf": [S, *[I] * 9]}}),
    "wrong ones": ([7] * 10_000, {"type": "array", "items": S}),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_large_values_are_validated_in_slices(name: str) -> None:
    value, schema = LARGE[name]
    assert len(list(validating.validating(value, schema, "a"))) >= 38  # of 10,000 steps
    assert bool(validating.validate(value, schema, "a")) == (name == "wrong ones")
    if name in ("a list", "a map", "a set"):
        assert len(list(validating.validating_lists(value, schema, "a"))) >= 38


async def test_others_get_their_turn_while_a_large_object_is_written(env: Env) -> None:
    async with open_registry(env) as registry:
        ctx = RequestContext(ADMIN)
        defined = kinds.by_name("apiextensions.k8s.io/v1", "CustomResourceDefinition")
        await registry.create(ctx, defined, "", definition(obj(data={"type": "array", "items": S})))
        found: Any = (await registry.get(ctx, defined, "", "things.example.com")).message()
        found.status.conditions.add(type="Established", status="True")
        await registry.update(ctx, defined, "", "things.example.com", found, subresource="status")
        kind = registry.kind("example.com", "v1", "things")
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        async def turns_of(size: int) -> int:
            before = turns
            made = codec.from_dict({"metadata": {"name": f"a{size}"}, "data": ["x"] * size}, kind.message)
            await registry.create(ctx, kind, "default", made)
            return turns - before

        task = asyncio.create_task(other())
        few, many = await turns_of(1), await turns_of(10_000)
        task.cancel()
        assert many - few >= 76  # one for 250 steps of the schema, and of its lists
