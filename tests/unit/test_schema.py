"""The schema against the facts about Kubernetes: every message, number, JSON name, type and rule."""

from __future__ import annotations

import csv
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from wherry.api import kinds, schema
from wherry.pb import options_pb2

FACTS = Path(__file__).parents[3] / "shared" / "kubernetes-api"
PROTO = Path(__file__).parents[2] / "proto"
pytestmark = pytest.mark.skipif(
    not FACTS.is_dir() and not os.environ.get("CI"), reason="no facts about Kubernetes beside the checkout"
)

SCALARS = {
    FieldDescriptor.TYPE_STRING: "string", FieldDescriptor.TYPE_BOOL: "bool", FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64", FieldDescriptor.TYPE_BYTES: "bytes", FieldDescriptor.TYPE_DOUBLE: "double",
}  # fmt: skip
LIST_TYPES = {"": 0, "atomic": 0, "set": options_pb2.LIST_TYPE_SET, "map": options_pb2.LIST_TYPE_MAP}


def rows(name: str) -> Iterator[dict[str, str]]:
    with (FACTS / name).open() as file:
        yield from csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)


def package(group_version: str) -> str:
    """`networking.k8s.io/v1` as our package says it."""
    special = {
        "api/resource": "wherry.meta.resource",
        "util/intstr": "wherry.meta.intstr",
        "runtime": "wherry.meta.runtime",
    }
    group, _, version = group_version.partition("/")
    return special.get(group_version) or f"wherry.{group.split('.')[0]}.{version}"


def messages() -> dict[str, Descriptor]:
    found: dict[str, Descriptor] = {}
    packages = {package(row["group_version"]) for row in rows("messages.tsv")}  # the others are our own services
    for path in sorted(PROTO.glob("*.proto")):
        file = importlib.import_module(f"wherry.pb.{path.stem}_pb2").DESCRIPTOR
        if file.package in packages:
            found |= {descriptor.full_name: descriptor for descriptor in file.message_types_by_name.values()}
    return found


@pytest.fixture(scope="module")
def ours() -> dict[str, Descriptor]:
    return messages()


def type_name(field: FieldDescriptor) -> str:
    return schema.sub(field).full_name if field.message_type is not None else SCALARS[field.type]


def fact_type(text: str) -> str:
    if "." not in text:
        return text
    group_version, _, message = text.rpartition(".")
    return f"{package(group_version)}.{message}"


def expected_type(row: dict[str, str]) -> list[str]:
    if row["label"] == "map":
        return [fact_type(part.strip()) for part in row["type"].removeprefix("map<").removesuffix(">").split(",", 1)]
    return [fact_type(row["type"])]


def our_type(field: FieldDescriptor) -> list[str]:
    if schema.is_map(field):
        return [SCALARS[schema.sub(field).fields_by_name["key"].type], type_name(schema.map_value(field))]
    return [type_name(field)]


def kept(row: dict[str, str]) -> bool:
    """Written even when empty: nothing says to omit it, or it is a struct by value, for which `omitempty` does nothing."""
    struct = "." in row["type"] and row["label"] == "optional" and not row["go_type"].startswith(("*", "[]", "map["))
    return not row["omit"] or (struct and "omitzero" not in row["omit"])


def check(row: dict[str, str], field: FieldDescriptor) -> list[str]:
    """What differs between one field's facts and ours."""
    rules = schema.rules(field)
    special = row["json_name"] == ""
    label = "map" if schema.is_map(field) else "repeated" if field.is_repeated else "optional"
    pairs: list[tuple[str, Any, Any]] = [
        ("name", row["proto_name"], field.name),
        ("label", row["label"], label),
        ("inline", row["inline"] == "yes", rules.inline),
        ("patch strategy", row["patch_strategy"], rules.patch_strategy),
        ("merge key", row["patch_merge_key"], rules.patch_merge_key),
        ("list type", LIST_TYPES[row["list_type"]], rules.list_type),
        ("list map keys", [key for key in row["list_map_keys"].split(",") if key], list(rules.list_map_keys)),
        ("map type", row["map_type"] == "atomic", rules.map_atomic),
        ("type", expected_type(row), our_type(field)),
    ]
    if not special:
        pairs.append(("JSON name", row["json_name"], field.json_name))
        pairs.append(("required", row["required"] == "yes", rules.required))
        pairs.append(("keep empty", kept(row), rules.keep_empty))
    if field.message_type is None and not field.is_repeated and row["type"] != "bytes":
        pairs.append(("presence", row["go_type"].startswith("*"), field.has_presence))
    return [
        f"{field.full_name}: {what}: facts say {fact!r}, schema {mine!r}" for what, fact, mine in pairs if fact != mine
    ]


def test_every_field_is_as_the_facts_say(ours: dict[str, Descriptor]) -> None:
    problems, seen = [], set()
    for row in rows("fields.tsv"):
        name = f"{package(row['group_version'])}.{row['message']}"
        field = ours[name].fields_by_number.get(int(row["field_number"])) if name in ours else None
        if field is None:
            problems.append(f"{name}: no field number {row['field_number']} ({row['proto_name']})")
            continue
        seen.add(field.full_name)
        problems += check(row, field)
    problems += [
        f"{field.full_name}: not among the facts"
        for descriptor in ours.values()
        for field in descriptor.fields
        if field.full_name not in seen
    ]
    assert not problems, "\n".join(problems[:40])
    assert len(seen) > 2000


def test_messages_and_their_rules(ours: dict[str, Descriptor]) -> None:
    problems, forms = [], set()
    for row in rows("messages.tsv"):
        name = f"{package(row['group_version'])}.{row['message']}"
        if name not in ours:
            problems.append(f"{name}: missing")
            continue
        if (row["message_map_type"] == "atomic") != schema.is_atomic(ours[name]):
            problems.append(f"{name}: atomic: facts say {row['message_map_type']!r}")
        if row["json_form"] != "object":
            forms.add(name)
        meta = schema.type_meta_of(ours[name])
        is_kind = row["role"] in ("kind", "list", "kind-without-metadata") and name != "wherry.meta.runtime.Unknown"
        if (meta is not None) != is_kind and row["group_version"] != "apidiscovery.k8s.io/v2":  # without roles there
            problems.append(f"{name}: role {row['role']!r}, but apiVersion and kind {meta}")
    assert not problems, "\n".join(problems[:40])
    never_json = {"wherry.meta.v1.Timestamp", "wherry.meta.runtime.Unknown"}
    # FieldsV1 is an object, but of raw JSON; Unstructured is ours.
    assert forms - never_json == schema.SPECIAL - {"wherry.v1.Unstructured"}


def test_absent_pointers_are_null_exactly_where_go_writes_null(ours: dict[str, Descriptor]) -> None:
    expected = {
        f"{package(row['group_version'])}.{row['message']}.{row['proto_name']}"
        for row in rows("fields.tsv")
        if not row["omit"] and row["go_type"].startswith("*") and "." in row["type"] and row["json_name"]
    }
    assert expected == schema.NULL_WHEN_ABSENT


def test_removed_numbers_are_not_reused(ours: dict[str, Descriptor]) -> None:
    problems = []
    for row in rows("messages.tsv"):
        descriptor = ours[f"{package(row['group_version'])}.{row['message']}"]
        for number in filter(None, (part.strip() for part in row["number_gaps"].split(","))):
            if number.isdigit() and int(number) in descriptor.fields_by_number:
                problems.append(f"{descriptor.full_name}: {number}")
    assert not problems


def test_resources_are_as_discovery_says() -> None:
    served = {(kind.api_version, kind.kind): kind for kind in kinds.all_kinds()}
    problems, seen = [], set()
    for row in rows("resources.tsv"):
        api_version = row["api_version"]
        kind = served.get((api_version, row["kind"]))
        if kind is None:
            problems.append(f"{api_version} {row['kind']}: missing")
            continue
        seen.add((api_version, row["kind"]))
        plural = row.get("plural") or row.get("resource") or row.get("name")
        facts = (plural, row["namespaced"] in ("yes", "true"))
        if facts != (kind.plural, kind.namespaced):
            problems.append(f"{api_version} {row['kind']}: {facts}")
    assert not problems, "\n".join(problems)
    # metrics.k8s.io is an aggregated API there, and so not among the facts.
    assert {key for key in served if not key[0].startswith("metrics.k8s.io/")} == seen
