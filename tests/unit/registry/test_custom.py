"""Custom resources without a server: tables of pruning, defaults, validation and structure; schemas by hypothesis; replicas."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.registry.base import ADMIN, RequestContext
from controlplane.registry.custom import build, columns, defaulting, pruning, rules, structural, validating
from controlplane.registry.custom.strategy import body_of
from controlplane.registry.registry import Options, Registry
from controlplane.registry.strategies.definitions import Definitions
from controlplane.store.open import open_store
from wherry.api import apply, codec, kinds, names
from wherry.api.cel.budget import Budget
from wherry.api.context import Env
from wherry.api.errors import APIError
from wherry.api.turns import at_once
from wherry.pb import resources_pb2
from wherry.testing.schemas import KEEP, I, O, S, array, definition, keyed, obj


@pytest.mark.parametrize(
    ("schema", "value", "kept", "unknown"),
    [
        (obj(a=S), {"a": "x", "b": 1}, {"a": "x"}, ["b"]),
        (obj(a=obj(b=S)), {"a": {"b": "x", "c": {"d": 1}}}, {"a": {"b": "x"}}, ["a.c"]),
        (obj(a=array(obj(b=S))), {"a": [{"b": "x", "c": 1}, {"d": 2}]}, {"a": [{"b": "x"}, {}]}, ["a[0].c", "a[1].d"]),
        (obj(a={**O, **KEEP}), {"a": {"x": [1, {"y": 2}]}}, {"a": {"x": [1, {"y": 2}]}}, []),
        (
            obj(a={**obj(b=obj(c=S)), **KEEP}),
            {"a": {"z": 1, "b": {"c": "x", "d": 1}}},
            {"a": {"z": 1, "b": {"c": "x"}}},
            ["a.b.d"],
        ),
        (
            obj(a={**O, "additionalProperties": obj(b=S)}),
            {"a": {"k": {"b": "x", "c": 1}}},
            {"a": {"k": {"b": "x"}}},
            ["a.k.c"],
        ),
        (obj(a=O), {"a": {"b": 1}}, {"a": {}}, ["a.b"]),
        (
            obj(a={**obj(spec=S), "x-kubernetes-embedded-resource": True}),
            {"a": {"apiVersion": "v1", "kind": "K", "metadata": {"name": "x"}, "z": 1}},
            {"a": {"apiVersion": "v1", "kind": "K", "metadata": {"name": "x"}}},
            ["a.z"],
        ),
        (
            obj(a=I),
            {"apiVersion": "v1", "kind": "K", "metadata": {}, "a": 3.0},
            {"apiVersion": "v1", "kind": "K", "metadata": {}, "a": 3},
            [],
        ),
        (obj(a={"type": "number"}), {"a": 1e300}, {"a": 1e300}, []),
    ],
)
def test_pruning(schema: Any, value: Any, kept: Any, unknown: list[str]) -> None:
    found: list[str] = []
    before = copy.deepcopy(value)
    assert pruning.pruned(value, schema, found, root=True) == kept
    assert sorted(found) == unknown
    assert value == before


@pytest.mark.parametrize(
    ("schema", "value", "filled"),
    [
        (obj(a={**S, "default": "x"}), {}, {"a": "x"}),
        (obj(a={**S, "default": "x"}), {"a": ""}, {"a": ""}),
        (obj(a={**S, "default": "x"}), {"a": None}, {"a": "x"}),
        (obj(a={**S, "default": "x", "nullable": True}), {"a": None}, {"a": None}),
        (obj(a=S), {"a": None}, {}),
        (obj(a={**obj(b={**S, "default": "x"}), "default": {}}), {}, {"a": {"b": "x"}}),
        (obj(a=obj(b={**S, "default": "x"})), {}, {}),
        (obj(a=array(obj(b={**I, "default": 1}))), {"a": [{}, {"b": 2}]}, {"a": [{"b": 1}, {"b": 2}]}),
        (obj(a={**O, "additionalProperties": obj(b={**I, "default": 1})}), {"a": {"k": {}}}, {"a": {"k": {"b": 1}}}),
        (obj(a=KEEP), {"a": None}, {"a": None}),
    ],
)
def test_defaults(schema: Any, value: Any, filled: Any) -> None:
    defaulting.without_nulls(value, schema)
    defaulting.fill(value, schema)
    assert value == filled
    if filled and isinstance(filled.get("a"), dict):
        filled["a"]["later"] = 1
        assert "later" not in str(schema)  # defaults are copies


@pytest.mark.parametrize(
    ("schema", "value", "causes"),
    [
        (I, 3, []),
        (I, 3.0, []),
        (I, "3", ['a|Invalid value: "string": a in body must be of type integer: "string"']),
        ({"type": "number"}, 3, []),
        (S, None, ['a|Invalid value: "null": a in body must be of type string: "null"']),
        ({**S, "nullable": True}, None, []),
        ({"x-kubernetes-int-or-string": True}, "80%", []),
        (
            {"x-kubernetes-int-or-string": True},
            True,
            ['a|Invalid value: "boolean": a in body must be of type integer,string: "boolean"'],
        ),
        ({**I, "minimum": 1, "exclusiveMinimum": True}, 1, ["a|Invalid value: 1: a in body should be greater than 1"]),
        ({**I, "maximum": 9, "exclusiveMaximum": True}, 9, ["a|Invalid value: 9: a in body should be less than 9"]),
        ({**I, "multipleOf": 3}, 7, ["a|Invalid value: 7: a in body should be a multiple of 3"]),
        ({**I, "multipleOf": 3}, 9, []),
        ({"type": "number", "multipleOf": 0.5}, 1.5, []),
        (
            {**I, "format": "int32"},
            1 << 31,
            ["a|Invalid value: 2147483648: a in body Checked value must be of type integer with format int32 in a"],
        ),
        ({**S, "minLength": 3}, "ab", ['a|Invalid value: "ab": a in body should be at least 3 chars long']),
        ({**S, "maxLength": 3}, "äöü", []),
        ({**S, "pattern": "^a+$"}, "ab", ["a|Invalid value: \"ab\": a in body should match '^a+$'"]),
        ({**S, "pattern": "b"}, "abc", []),
        ({**S, "enum": ["x", "y"]}, "z", ['a|Unsupported value: "z": supported values: "x", "y"']),
        ({**I, "enum": [1]}, 1.0, []),
        (array(I, minItems=2), [1], ["a|Invalid value: [1]: a in body should have at least 2 items"]),
        (array(I, maxItems=1), [1, 2], ["a|Too many: 2: must have at most 1 items"]),
        (array(I), [1, "x"], ['a[1]|Invalid value: "string": a[1] in body must be of type integer: "string"']),
        ({**O, "maxProperties": 1}, {"x": 1, "y": 2}, ["a|Too many: 2: must have at most 1 items"]),
        ({**obj(b=S), "required": ["b", "c"]}, {"b": "x"}, ["a.c|Required value"]),
        (
            {**O, "additionalProperties": I},
            {"k": "x"},
            ['a.k|Invalid value: "string": a.k in body must be of type integer: "string"'],
        ),
        (
            {**I, "anyOf": [{"minimum": 5}, {"maximum": 1}]},
            3,
            [
                '<nil>|Invalid value: "": "a" must validate at least one schema (anyOf)',
                "a|Invalid value: 3: a in body should be greater than or equal to 5",
            ],
        ),
        (
            {**I, "oneOf": [{"minimum": 1}, {"maximum": 5}]},
            3,
            ['<nil>|Invalid value: "": "a" must validate one and only one schema (oneOf). Found 2 valid alternatives'],
        ),
        ({**I, "not": {"minimum": 2}}, 3, ['<nil>|Invalid value: "": "a" must not validate the schema (not)']),
        (
            {**I, "allOf": [{"minimum": 5}]},
            3,
            [
                "a|Invalid value: 3: a in body should be greater than or equal to 5",
                '<nil>|Invalid value: "": "a" must validate all the schemas (allOf)',
            ],
        ),
        *(
            ({**S, "format": name}, good, [])
            for name, good in (
                ("date-time", "2024-02-29T01:02:03Z"),
                ("date", "2024-02-29"),
                ("ipv4", "10.0.0.1"),
                ("ipv6", "::1"),
                ("cidr", "10.0.0.0/8"),
                ("uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
                ("hostname", "a.example"),
                ("email", "a@b.example"),
                ("byte", "YWI="),
                ("duration", "1h30m"),
                ("uri", "https://a/b"),
                ("mac", "00:11:22:33:44:55"),
                ("nothing-known", "x"),
                ("hexcolor", "#fff"),
            )
        ),
        *(
            ({**S, "format": name}, bad, [f'a|Invalid value: "{bad}": a in body must be of type {name}: "{bad}"'])
            for name, bad in (
                ("date-time", "2024-02-30T01:02:03Z"),
                ("date", "2024-13-01"),
                ("ipv4", "10.0.0"),
                ("ipv6", "x"),
                ("cidr", "10.0.0.0"),
                ("uuid", "x"),
                ("hostname", "-a"),
                ("email", "a"),
                ("byte", "Y"),
                ("duration", "x"),
                ("uri", "x"),
                ("mac", "x"),
                ("isbn", "1"),
                ("ssn", "x"),
            )
        ),
    ],
)
def test_validation(schema: Any, value: Any, causes: list[str]) -> None:
    assert [f"{cause.field}|{cause.message}" for cause in validating.validate(value, schema, "a")] == causes


SET = array(S, **{"x-kubernetes-list-type": "set"})


@pytest.mark.parametrize(
    ("schema", "value", "old", "fields"),
    [
        (SET, ["a", "b", "a"], None, ["a[2]"]),
        (SET, ["a", "a"], ["a", "a"], []),
        (keyed("k", k=S), [{"k": "x"}, {"k": "x"}], None, ["a[1]"]),
        (
            keyed("k", "p", k=S, p={**S, "default": "TCP"}),
            [{"k": "x"}, {"k": "x", "p": "TCP"}, {"k": "x", "p": "UDP"}],
            None,
            ["a[1]"],
        ),
        (obj(b=SET), {"b": ["x", "x"]}, {"b": ["y"]}, ["a.b[1]"]),
    ],
)
def test_lists_that_are_sets_or_maps(schema: Any, value: Any, old: Any, fields: list[str]) -> None:
    before = validating.ABSENT if old is None else old
    assert [cause.field for cause in validating.validate_lists(value, schema, "a", before)] == fields


def test_what_has_not_changed_is_not_complained_of() -> None:
    schema = obj(a={**I, "maximum": 5}, b=S, c=keyed("k", k=S, v={**I, "maximum": 5}))
    old = {"a": 9, "c": [{"k": "x", "v": 9}]}
    new = {"a": 9, "b": "changed", "c": [{"k": "new", "v": 1}, {"k": "x", "v": 9}]}
    assert validating.validate(new, schema, "", old) == []
    new["c"][1]["v"] = 8
    assert [cause.field for cause in validating.validate(new, schema, "", old)] == ["c[1].v"]


@pytest.mark.parametrize(
    ("schema", "causes"),
    [
        (obj(a=S), []),
        (S, ['s.type|Invalid value: "string": must be object at the root']),
        ({}, ["s.type|Required value: must not be empty at the root"]),
        (
            obj(a={"type": "null"}),
            ["s.properties[a].type|Forbidden: type cannot be set to null, use nullable as an alternative"],
        ),
        (obj(a=array({})), ["s.properties[a].items.type|Required value: must not be empty for specified array items"]),
        (
            {**obj(a=S), "additionalProperties": S},
            ["s.additionalProperties|Forbidden: additionalProperties and properties are mutual exclusive"],
        ),
        (obj(a={**S, "$ref": "#/x"}), ["s.properties[a].$ref|Forbidden: $ref is not supported"]),
        (
            obj(a=array(S, uniqueItems=True)),
            [
                "s.properties[a].uniqueItems|Forbidden: uniqueItems cannot be set to true since the runtime "
                "complexity becomes quadratic"
            ],
        ),
        (
            obj(a={**S, "anyOf": [{"type": "string"}]}),
            ["s.properties[a].anyOf[0].type|Forbidden: must be empty to be structural"],
        ),
        (obj(a={**S, "anyOf": [{"pattern": "a"}]}), []),
        (obj(a={"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}), []),
        (
            {**obj(a=S), "oneOf": [{"required": ["a"]}, {"properties": {"b": {}}}]},
            ["s.properties[b]|Required value: because it is defined in s.oneOf[1].properties[b]"],
        ),
        (
            obj(a=keyed("k", k=S)),
            [
                "s.properties[a].items.properties[k].default|Required value: this property "
                "is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
            ],
        ),
        (
            obj(a=array(O, **{"x-kubernetes-list-type": "set"})),
            [
                "s.properties[a].items.x-kubernetes-map-type|Invalid value: null: must be "
                "atomic as item of a list with x-kubernetes-list-type=set"
            ],
        ),
        (obj(metadata=obj(name=S)), []),
        (
            obj(metadata=obj(labels=O)),
            [
                "s.properties[metadata]|Forbidden: must not specify anything other than "
                "name and generateName, but metadata is implicitly specified",
                's.properties[metadata].properties[labels].type|Invalid value: "object": must be string',
            ],
        ),
        (
            obj(a={**obj(b=I), "default": {"b": "x", "c": 1}}),
            [
                's.properties[a].default|Invalid value: {"b":"x","c":1}: must not have unknown fields: c',
                's.properties[a].default.b|Invalid value: "string": b in body must be of type integer: "string"',
            ],
        ),
        (
            obj(a={**S, "x-kubernetes-preserve-unknown-fields": False}),
            ["s.properties[a].x-kubernetes-preserve-unknown-fields|Invalid value: false: must be true or undefined"],
        ),
    ],
)
def test_structure(schema: Any, causes: list[str]) -> None:
    assert [f"{cause.field}|{cause.message}" for cause in structural.check(schema, "s")] == causes


def test_rules_of_the_names_in_rules() -> None:
    schema = {
        **obj(**{"a-b": S, "namespace": S, "x.y": I, "_": O}),
        "x-kubernetes-validations": [
            {"rule": "self.a__dash__b == self.__namespace__ && self.x__dot__y > 1", "message": "no"}
        ],
    }
    node = rules.compiled(schema)
    assert at_once(rules.run(node, {"a-b": "n", "namespace": "n", "x.y": 2})) == []
    assert [cause.message for cause in at_once(rules.run(node, {"a-b": "n", "namespace": "m", "x.y": 2}))] == [
        "Invalid value: no"
    ]


def test_rules_stop_when_their_budget_is_used_up() -> None:
    rule = {"rule": "self.all(x, self.all(y, x >= 0 && y >= 0))", "message": "no"}
    node = rules.compiled(obj(a=array(I, **{"x-kubernetes-validations": [rule]})))
    causes = at_once(rules.run(node, {"a": list(range(2000))}))
    assert "call cost exceeds limit" in causes[0].message
    causes = at_once(rules.run(node, {"a": list(range(500))}, budget=Budget(1000)))
    assert "running out of cost budget" in causes[0].message


def test_rules_are_run_in_slices() -> None:
    rule = {"rule": "self.all(x, x >= 0)", "message": "no"}
    node = rules.compiled(array(array(I, **{"x-kubernetes-validations": [rule]})))
    value = [list(range(100))] * 1000
    assert len(list(rules.run(node, value))) >= 20
    assert at_once(rules.run(node, value)) == []


@pytest.mark.parametrize(
    ("versions", "best"),
    [
        (["v1beta1", "v1", "v2alpha1"], "v1"),
        (["v1beta1", "v1beta2", "v10beta3", "v2beta9"], "v10beta3"),
        (["foo", "v1alpha1"], "v1alpha1"),
        (["v10", "v9"], "v10"),
        (["b", "a"], "a"),
    ],
)
def test_the_preferred_version(versions: list[str], best: str) -> None:
    assert min(versions, key=names.version_rank) == best


# whatever there is

_NAMES = st.sampled_from(["a", "b", "metadata", "spec", "a-b", "__proto__"])
_JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(1 << 70), 1 << 70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_NAMES, inner, max_size=3)),
    max_leaves=8,
)
_RULES = st.sampled_from(
    [
        "self == oldSelf",
        "self.a == 1",
        "self.all(x, x == self[0])",
        "has(self.b)",
        "size(self) > 1",
        "self.a.b.c",
        "self > 0",
        "type(self) == int",
        "self.?a.hasValue()",
        "'x' in self",
        "(",
        "",
    ]
)


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null", ""]),
            "properties": st.dictionaries(_NAMES, inner, max_size=3),
            "items": inner,
            "additionalProperties": st.one_of(inner, st.booleans()),
            "default": _JSON,
            "enum": st.lists(_JSON, max_size=2),
            "nullable": st.booleans(),
            "required": st.lists(_NAMES, max_size=2),
            "pattern": st.sampled_from(["^a", "(", "a{2"]),
            "format": st.sampled_from(["date-time", "int32", "ipv4", "byte", "duration"]),
            "maxLength": st.integers(-1, 5),
            "minimum": st.floats(-5, 5),
            "multipleOf": st.sampled_from([0, 0.1, 2]),
            "maxItems": st.integers(-1, 3),
            "anyOf": st.lists(inner, max_size=2),
            "oneOf": st.lists(inner, max_size=2),
            "allOf": st.lists(inner, max_size=1),
            "not": inner,
            "x-kubernetes-int-or-string": st.booleans(),
            "x-kubernetes-preserve-unknown-fields": st.booleans(),
            "x-kubernetes-embedded-resource": st.booleans(),
            "x-kubernetes-list-type": st.sampled_from(["set", "map", "atomic", "x"]),
            "x-kubernetes-list-map-keys": st.lists(_NAMES, max_size=2),
            "x-kubernetes-map-type": st.sampled_from(["atomic", "granular"]),
            "x-kubernetes-validations": st.lists(
                st.fixed_dictionaries(
                    {"rule": _RULES},
                    optional={
                        "message": st.text(max_size=5),
                        "messageExpression": _RULES,
                        "fieldPath": st.sampled_from([".a", "a", ".a['b']"]),
                        "optionalOldSelf": st.booleans(),
                    },
                ),
                max_size=1,
            ),
        },
    )


_SCHEMA = st.recursive(st.just({}) | st.just({"type": "string"}), _schemas, max_leaves=6)
_ROOT = st.tuples(_SCHEMA, st.booleans()).map(lambda pair: {**pair[0], "type": "object"} if pair[1] else pair[0])


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(_ROOT, st.dictionaries(_NAMES, _JSON, max_size=3), st.dictionaries(_NAMES, _JSON, max_size=3))
def test_any_schema_is_refused_or_serves_any_object(schema: Any, first: Any, second: Any) -> None:
    try:
        defined = definition(schema)
    except codec.DecodeError:
        return
    strategy = Definitions(kind=kinds.by_name("apiextensions.k8s.io/v1", "CustomResourceDefinition"))
    strategy.defaults(defined)
    strategy.prepare_create(defined)
    refused = strategy.validate(defined)
    assert all(cause.field for cause in refused)
    # What was accepted once, or by somebody else, is served whatever it is.
    _, versions = build.served(defined, None)
    served: Any = versions["v1"].strategy
    objects = []
    for body in (first, second):
        given_ = {key: item for key, item in body.items() if key != "metadata"}
        made = codec.from_dict({"metadata": {"name": "x", "namespace": "n"}, **given_}, resources_pb2.Unstructured)
        try:
            served.check_fields(RequestContext(ADMIN, field_validation="Warn"), made)
            served.defaults(made)
            served.prepare_create(made)
            at_once(served.examine(made, None, ""))
        except APIError:
            return
        once = body_of(made)
        served.defaults(made)
        assert refused or body_of(made) == once, "filling in defaults twice changes nothing"
        stored = served.to_store(made)
        assert resources_pb2.Unstructured.FromString(served.view(stored)).metadata.name == "x"
        served.read_scale(made)
        for column in columns.of_version(defined.spec.versions[0]):
            column.cell(made, 0.0)
        objects.append(made)
    at_once(served.examine(objects[1], objects[0], ""))
    config = codec.to_dict(objects[1])
    config["metadata"] = {"name": "x"}
    try:
        apply.apply(
            objects[0], config, resources_pb2.Unstructured, manager="m", now=0.0, kind=served.merge_type, force=True
        )
    except APIError:
        pass


async def test_another_replica_serves_what_this_one_defines(env: Env) -> None:
    """Definitions are followed in the store, not in the requests."""
    store = await open_store("sqlite::memory:", env, inline=True)
    registries = [Registry(store, env, Options(consistent_reads=True)) for _ in range(2)]
    try:
        for registry in registries:
            await registry.start()
        ours, theirs = registries
        ctx = RequestContext(ADMIN)
        defined = kinds.by_name("apiextensions.k8s.io/v1", "CustomResourceDefinition")
        await ours.create(ctx, defined, "", definition({"type": "object", **KEEP}))
        found: Any = (await ours.get(ctx, defined, "", "things.example.com")).message()
        found.status.conditions.add(type="Established", status="True")
        await ours.update(ctx, defined, "", "things.example.com", found, subresource="status")
        async with asyncio.timeout(30):
            while not any(kind.plural == "things" for kind in theirs.served()):  # noqa: ASYNC110  # nothing says when
                await asyncio.sleep(0.01)
        kind = theirs.kind("example.com", "v1", "things")
        made_there = codec.from_dict({"metadata": {"name": "x"}, "spec": {"b": 1}}, kind.message)
        await theirs.create(ctx, kind, "default", made_there)
        assert (await ours.get(ctx, kind, "default", "x")).message().metadata.name == "x"
    finally:
        for registry in registries:
            await registry.close()
        await store.close()
