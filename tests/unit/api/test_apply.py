"""Server-side apply: ownership, conflicts, removal, order; and the sequences that a real API server was taken through."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.api import apply, codec, fieldsets, jsonforms, schema, typed
from wherry.api.errors import APIError, BadRequest
from wherry.pb import apps_v1_pb2, core_v1_pb2, meta_v1_pb2, resources_pb2

GOLDEN = Path(__file__).parents[4] / "shared" / "kubernetes-api" / "golden"
NOW = 1_767_323_045.0
STAMP = "2026-01-02T03:04:05Z"


def config_map(**data: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}, "data": data}


def do(live: Any, config: dict[str, Any], manager: str = "m1", cls: Any = core_v1_pb2.ConfigMap, **more: Any) -> Any:
    return apply.apply(live, config, cls, manager=manager, now=NOW, **more)


def owners(obj: Any) -> dict[str, dict[str, Any]]:
    """fieldsV1 by manager."""
    return {key.manager: owned.paths.to_fields() for key, owned in apply.managed_by(obj).items()}


def test_create_owns_what_was_sent() -> None:
    made = do(None, config_map(a="1"))
    assert dict(made.data) == {"a": "1"}
    assert codec.to_dict(made)["metadata"]["managedFields"] == [
        {
            "manager": "m1",
            "operation": "Apply",
            "apiVersion": "v1",
            "time": STAMP,
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {"f:a": {}}},
        }
    ]


def test_the_same_again_changes_nothing() -> None:
    made = do(None, config_map(a="1"))
    again = apply.apply(made, config_map(a="1"), core_v1_pb2.ConfigMap, manager="m1", now=NOW + 100)
    assert again == made


def test_what_is_no_longer_sent_is_removed_unless_another_owns_it() -> None:
    made = do(None, config_map(a="1", b="2"))
    made = do(made, config_map(b="2"), "m2")
    assert dict(do(made, config_map()).data) == {"b": "2"}


def test_conflict_and_force() -> None:
    made = do(None, config_map(a="1", b="2"))
    with pytest.raises(apply.ApplyConflict) as error:
        do(made, config_map(a="x", b="y"), "m2")
    assert error.value.message == 'Apply failed with 2 conflicts: conflicts with "m1":\n- .data.a\n- .data.b'
    assert [(cause.reason, cause.field) for cause in error.value.causes] == [
        ("FieldManagerConflict", ".data.a"),
        ("FieldManagerConflict", ".data.b"),
    ]
    forced = do(made, config_map(a="x"), "m2", force=True)
    assert owners(forced) == {"m1": {"f:data": {"f:b": {}}}, "m2": {"f:data": {"f:a": {}}}}


def test_update_takes_fields_and_gives_up_removed_ones() -> None:
    live = do(None, config_map(a="1", b="2"))
    new = copy.deepcopy(live)
    new.data["a"] = "9"
    del new.data["b"]
    apply.track(live, new, manager="edit", now=NOW)
    assert owners(new) == {"edit": {"f:data": {"f:a": {}}}}
    with pytest.raises(apply.ApplyConflict, match=r'conflict with "edit" using v1: \.data\.a'):
        do(new, config_map(a="1"))


def test_update_without_a_change_keeps_the_times() -> None:
    live = do(None, config_map(a="1"))
    new = copy.deepcopy(live)
    apply.track(live, new, manager="edit", now=NOW + 100)
    assert new == live


def test_objects_without_owners_are_not_tracked_until_applied() -> None:
    live = codec.from_dict(config_map(a="1"), core_v1_pb2.ConfigMap)
    new = codec.from_dict(config_map(a="2"), core_v1_pb2.ConfigMap)
    apply.track(live, new, manager="edit", now=NOW)
    assert not new.metadata.managed_fields
    assert owners(do(new, config_map(b="1"))) == {
        "m1": {"f:data": {"f:b": {}}},
        "before-first-apply": {"f:data": {".": {}, "f:a": {}}},
    }


def test_owners_cleared_on_purpose() -> None:
    live = do(None, config_map(a="1"))
    new = copy.deepcopy(live)
    del new.metadata.managed_fields[:]
    new.metadata.managed_fields.add()
    apply.track(live, new, manager="edit", now=NOW)
    assert not new.metadata.managed_fields


def test_many_update_managers_are_put_together() -> None:
    live = codec.from_dict(config_map(a="1"), core_v1_pb2.ConfigMap)
    apply.track(None, live, manager="start", now=NOW)
    for number in range(15):
        new = copy.deepcopy(live)
        new.data[f"k{number}"] = "x"
        apply.track(live, new, manager=f"m{number}", now=NOW + number)
        live = new
    found = owners(live)
    assert len(found) == apply.MAX_UPDATE_MANAGERS
    assert apply.ANCIENT_CHANGES in found
    every = fieldsets.EMPTY
    for fields in found.values():
        every = every | fieldsets.from_fields(fields)
    assert len(list(every.paths())) == 17  # data itself, a, and the fifteen


def deployment(*containers: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": list(containers)}}},
    }


def test_containers_are_merged_by_name_and_keep_an_order() -> None:
    cls = apps_v1_pb2.Deployment
    made = do(None, deployment({"name": "a", "image": "a"}), cls=cls)
    made = do(made, deployment({"name": "b", "image": "b"}), "m2", cls=cls)
    made = do(made, deployment({"name": "z", "image": "z"}, {"name": "a", "image": "a"}), cls=cls)
    assert [container.name for container in made.spec.template.spec.containers] == ["z", "a", "b"]


def test_quantities_are_compared_by_value() -> None:
    container = {"name": "a", "resources": {"limits": {"cpu": "0.5"}}}
    made = do(None, deployment(container), cls=apps_v1_pb2.Deployment)
    again = do(
        made, deployment({"name": "a", "resources": {"limits": {"cpu": "500m"}}}), "m2", cls=apps_v1_pb2.Deployment
    )
    assert len(owners(again)) == 2


@pytest.mark.parametrize(
    ("containers", "message"),
    [
        ([{"name": "a"}, {"name": "a"}], 'containers: duplicate entries for key [name="a"]'),
        ([{"image": "a"}], 'omits key field "name"'),
    ],
)
def test_lists_with_bad_keys(containers: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(BadRequest) as error:
        do(None, deployment(*containers), cls=apps_v1_pb2.Deployment)
    assert message in error.value.message
    assert error.value.message.startswith(
        "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.template"
    )


def test_bad_requests() -> None:
    with pytest.raises(BadRequest, match="fieldManager"):
        do(None, config_map(), manager="")
    with pytest.raises(BadRequest, match="managedFields must be nil"):
        do(None, {**config_map(), "metadata": {"name": "c", "managedFields": [{"manager": "x"}]}})
    with pytest.raises(codec.DecodeError, match="unknown field"):
        do(None, {**config_map(), "dta": {}})


steps = st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'v:"y"', "i:0"])
sets = st.lists(st.lists(steps, min_size=1, max_size=3).map(tuple), max_size=6).map(fieldsets.of_paths)


@given(sets, sets)
def test_sets_behave_like_sets_of_paths(left: fieldsets.PathSet, right: fieldsets.PathSet) -> None:
    one, other = set(left.paths()), set(right.paths())
    assert set((left | right).paths()) == one | other
    assert set((left & right).paths()) == one & other
    assert set((left - right).paths()) == one - other
    assert fieldsets.from_fields(left.to_fields()) == left
    assert left.to_json().encode() == jsonforms.canonical(left.to_fields())
    assert bool(left) == bool(one)


values = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 1.0, "", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
entries = st.dictionaries(st.sampled_from(["name", "value"]), st.sampled_from(["", "x", None, 1]), max_size=2)
objects = st.fixed_dictionaries(
    {},
    optional={
        "map": values,
        "list": st.lists(entries, max_size=3),
        "set": st.lists(st.sampled_from("xy")),
        "leaf": values,
    },
)
SHAPES = typed.Type(
    "map",
    fields=lambda: {
        "map": typed.UNTYPED,
        "list": typed.Type("list", element=lambda: typed.UNTYPED, keys=("name",)),
        "set": typed.Type("set"),
        "leaf": typed.LEAF,
    },
)


@given(objects, objects)
def test_a_comparison_is_the_same_by_whole_values_and_by_leaves(old: Any, new: Any) -> None:
    found = typed.compare(old, new, SHAPES)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(typed, "_identical", lambda before, after: False)
        patched.setattr(typed, "_added", lambda value, kind: _added_by_leaves(value, kind))
        assert typed.compare(old, new, SHAPES) == found


def _added_by_leaves(value: Any, kind: typed.Type) -> fieldsets.PathSet:
    """As every leaf of a comparison with nothing."""
    if typed._is_leaf(typed.ABSENT, value, kind):
        return fieldsets.EMPTY
    return typed.compare(typed.ABSENT, value, kind).added


data = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"), max_size=3)
writes = st.lists(st.tuples(st.sampled_from(["m1", "m2", "edit"]), data), min_size=1, max_size=6)


@given(writes)
def test_invariants_over_sequences(sequence: list[tuple[str, dict[str, str]]]) -> None:
    """After a forced apply the object has what was applied, owned by the applier; nobody owns what is not there."""
    live: Any = None
    for manager, values in sequence:
        config = config_map(**values)
        if manager == "edit":
            new = codec.from_dict(config, core_v1_pb2.ConfigMap)
            apply.track(live, new, manager=manager, now=NOW)
        else:
            new = do(live, config, manager, force=True)
            assert values.items() <= dict(new.data).items()
            assert all(owners(new).get(manager, {}).get("f:data", {}).get(f"f:{key}") == {} for key in values)
        live = new
        for fields in owners(live).values():
            assert {key[2:] for key in fields.get("f:data", {}) if key.startswith("f:")} <= set(live.data)


def unordered(entries: Any) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if key != "time"} for entry in entries or []]


def ownership(entries: Any) -> list[str]:
    return sorted(json.dumps(entry, sort_keys=True) for entry in unordered(entries))


@pytest.mark.skipif(not GOLDEN.is_dir() and not os.environ.get("CI"), reason="no recordings beside the checkout")
def test_recorded_sequences() -> None:
    """Each recorded apply, on the object as the server had it before: same conflicts, same owners, same applied values."""
    checked = 0
    last: dict[str, dict[str, Any]] = {}
    widget = widget_type()
    for line in (GOLDEN / "apply.jsonl").read_text().splitlines():
        record = json.loads(line)
        request, response = record["request"], record["response"]
        path, _, query = request["path"].partition("?")
        subresource = path.rsplit("/", 1)[1] if path.endswith(("/status", "/scale")) else ""
        path = path.removesuffix(f"/{subresource}")
        body = response["body"]
        if record["name"].endswith("as v1beta1"):
            break  # conversion between versions is not ours
        parameters = dict(part.split("=") for part in query.split("&") if part)
        if request["method"] == "PATCH" and "apply" in request["contentType"] and response["status"] != 404:
            cls: Any = codec.message_class(request["body"]["apiVersion"], request["body"]["kind"])
            live = codec.from_dict(last[path], cls) if path in last else None
            if "metadata" in request["body"] and path.endswith("namespaces/golden"):
                continue
            message = apply_recorded(
                record["name"], live, cls, request["body"], parameters, subresource, response, widget
            )
            if message is not None:
                got = codec.to_dict(message)
                expected = body["metadata"].get("managedFields")
                assert ownership(got["metadata"].get("managedFields")) == ownership(expected), record["name"]
                assert applied(request["body"], got) == [], record["name"]
                assert applied(got.get("data", {}), body.get("data", {})) == [], record["name"]
                assert order(got) == order(body), record["name"]
            checked += 1
        if response["status"] >= 300 or "dryRun" in parameters:
            continue
        if subresource == "scale":  # the answer is a Scale: do to the object what it did
            before = codec.from_dict(last[path], apps_v1_pb2.Deployment)
            after = copy.deepcopy(before)
            after.spec.replicas = body["spec"]["replicas"]
            apply.track(before, after, manager=parameters["fieldManager"], now=NOW, subresource=subresource)
            body = codec.to_dict(after)
        last[path] = body
    assert checked > 25


def order(value: Any) -> list[list[Any]]:
    """The elements of every merged list, in their order."""
    spec = value.get("spec", {})
    found = [spec.get("tags", []), [part["id"] for part in spec.get("parts", [])]]
    found.append([port["port"] for port in spec.get("ports", [])])
    found.append([item["name"] for item in spec.get("template", {}).get("spec", {}).get("containers", [])])
    return found


def apply_recorded(
    name: str, live: Any, cls: Any, config: Any, parameters: Any, subresource: str, response: Any, widget: typed.Type
) -> Any:
    def run() -> Any:
        return apply.apply(
            live, config, cls, manager=parameters["fieldManager"], now=NOW, subresource=subresource,
            force="force" in parameters, kind=widget if cls is resources_pb2.Unstructured else None,
        )  # fmt: skip

    if response["status"] < 300:
        return run()
    if name.endswith("unknown field") and cls is resources_pb2.Unstructured:
        return None  # the registry's business: it has the definition's schema
    with pytest.raises(APIError) as error:
        run()
    if response["status"] == 409:
        assert error.value.message == response["body"]["message"], name
        assert [cause.field for cause in error.value.causes] == [
            cause["field"] for cause in response["body"]["details"]["causes"]
        ]
    elif "duplicate" in name:
        assert error.value.message == response["body"]["message"], name
    return None


def widget_type() -> typed.Type:
    """The golden custom resource, as far as the recordings show it."""
    definition = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {
                    "size": {"type": "integer"},
                    "color": {"type": "string"},
                    "replicas": {"type": "integer"},
                    "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                    "parts": {
                        "type": "array",
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["id"],
                        "items": {"type": "object", "properties": {"id": {"type": "string"}, "n": {"type": "integer"}}},
                    },
                },
            },
            "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
        },
    }
    return typed.of_custom_resource(definition, schema.descriptor_of(meta_v1_pb2.ObjectMeta))


def applied(config: Any, got: Any, path: str = "") -> list[str]:
    """What of the configuration is not in the object."""
    if isinstance(config, dict):
        if not isinstance(got, dict):
            return [path]
        return [
            line for key, item in config.items() if item != {} for line in applied(item, got.get(key), f"{path}.{key}")
        ]
    if isinstance(config, list):
        rest = got if isinstance(got, list) else []
        return [f"{path}[{index}]" for index, item in enumerate(config) if all(applied(item, other) for other in rest)]
    return [] if config == got else [f"{path}: {config!r} != {got!r}"]


@pytest.mark.skipif(not GOLDEN.is_dir() and not os.environ.get("CI"), reason="no recordings beside the checkout")
def test_what_a_new_object_sets_is_the_same_by_its_parts_and_as_a_whole() -> None:
    """The short way, by what is known of the spec and of the rest, and the long one, which a custom resource takes."""
    seen = 0
    for path in sorted(GOLDEN.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            body = json.loads(line).get("response", {}).get("body")
            if not isinstance(body, dict) or not body.get("apiVersion") or "name" not in body.get("metadata", {}):
                continue
            cls = codec.message_class(body["apiVersion"], body["kind"])
            if cls is None or cls is resources_pb2.Unstructured:
                continue
            for ignore in (fieldsets.EMPTY, apply.IGNORE_STATUS):
                short: Any = codec.from_dict(body, cls, strict=False)
                long: Any = codec.from_dict(body, cls, strict=False)
                apply.track(None, short, manager="m", now=NOW, ignore=ignore)
                apply.track(None, long, manager="m", now=NOW, ignore=ignore, kind=apply.type_of(cls))
                assert short == long, line[:200]
                seen += 1
    assert seen > 200
