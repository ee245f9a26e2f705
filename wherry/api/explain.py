"""What fields a kind has, in the layout of `kubectl explain`: from its descriptors, or from the schema of its definition. Called
by the CLI.

Of built-in kinds there are facts and no descriptions, so what is shown is what the machinery knows: types, which fields are
required, and how lists are merged. A custom resource's schema may describe its fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from wherry.api import fields, schema
from wherry.api.kinds import Kind
from wherry.api.problems import nearest
from wherry.pb import options_pb2

_SCALARS = {
    FieldDescriptor.TYPE_STRING: "string", FieldDescriptor.TYPE_BOOL: "boolean", FieldDescriptor.TYPE_INT32: "integer",
    FieldDescriptor.TYPE_INT64: "integer", FieldDescriptor.TYPE_BYTES: "string (base64)",
    FieldDescriptor.TYPE_DOUBLE: "number",
}  # fmt: skip
_FORMS = {
    "FieldsV1": "Object", "RawExtension": "Object", "JSON": "any", "Verbs": "[]string", "ExtraValue": "[]string",
    "AttestationValue": "[]string",
}  # fmt: skip
_INDENT = "  "


# What has fields: a message, or the schema of an object.
Inside = Descriptor | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """One key. `merge` says how a list is merged, "" for what is replaced as a whole; `inside` has the fields below it."""

    name: str
    type: str
    required: bool
    merge: str
    inside: Inside | None
    description: str = ""
    values: str = ""

    def line(self) -> str:
        notes = [f"<{self.type}>"]
        if self.required:
            notes.append("-required-")
        if self.merge:
            notes.append(f"({self.merge})")
        if self.values:
            notes.append(f"(one of {self.values})")
        return f"{self.name}\t{' '.join(notes)}"


def fields_of(inside: Inside) -> list[Field]:
    """The keys in JSON, by name."""
    if isinstance(inside, Mapping):
        needed = inside.get("required") or ()
        properties = dict(inside.get("properties") or {})
        found = [_of_schema(name, inner, name in needed) for name, inner in properties.items()]
    else:
        found = [_field(member) for member in schema.members(inside)]
        if schema.type_meta_of(inside) is not None:
            found += [Field(name, "string", False, "", None) for name in ("apiVersion", "kind")]
    return sorted(found, key=lambda field: field.name)


def _of_schema(name: str, inner: Mapping[str, Any], required: bool) -> Field:
    merge = ""
    if inner.get("x-kubernetes-list-type") == "map":
        merge = f"merged by {', '.join(inner.get('x-kubernetes-list-map-keys') or ())}"
    elif inner.get("x-kubernetes-list-type") == "set":
        merge = "a set"
    values = ", ".join(str(value) for value in inner.get("enum") or ())
    below: Mapping[str, Any] = inner
    while isinstance(deeper := below.get("items") or below.get("additionalProperties"), Mapping):
        below = deeper
    return Field(
        name, _schema_type(inner), required, merge, below if below.get("properties") else None,
        str(inner.get("description") or ""), values,
    )  # fmt: skip


def _schema_type(inner: Mapping[str, Any]) -> str:
    if inner.get("x-kubernetes-int-or-string"):
        return "IntOrString"
    kind = inner.get("type")
    if kind == "array":
        return f"[]{_schema_type(inner.get('items') or {})}"
    others = inner.get("additionalProperties")
    if isinstance(others, Mapping):
        return f"map[string]{_schema_type(others)}"
    return "Object" if kind == "object" else str(kind or "any")


def _field(member: schema.Member) -> Field:
    field, rules = member.field, schema.rules(member.field)
    merge = ""
    if rules.list_type == options_pb2.LIST_TYPE_MAP:
        merge = f"merged by {', '.join(rules.list_map_keys)}"
    elif rules.list_type == options_pb2.LIST_TYPE_SET:
        merge = "a set"
    value = schema.map_value(field) if schema.is_map(field) else field
    inside = value.message_type
    if inside is not None and inside.full_name in schema.SPECIAL:
        inside = None
    return Field(member.key, type_of(field), rules.required, merge, inside)


def type_of(field: FieldDescriptor) -> str:
    """`[]Container`, `map[string]Quantity`, `integer`."""
    if schema.is_map(field):
        return f"map[string]{_single(schema.map_value(field))}"
    return f"[]{_single(field)}" if field.is_repeated else _single(field)


def _single(field: FieldDescriptor) -> str:
    if field.message_type is None:
        return _SCALARS[field.type]
    return _FORMS.get(field.message_type.name, field.message_type.name)


def explain(kind: Kind, path: str = "", *, recursive: bool = False) -> str:
    """The text for a kind, or for a field of it (`spec.containers`). Raises KeyError with a message for the user."""
    root = Field(kind.kind, "Object", False, "", schema.descriptor_of(kind.message))
    return _text(kind.group, kind.version, kind.plural, root, path, recursive)


def explain_custom(
    group: str, version: str, kind: str, plural: str, openapi: Mapping[str, Any], path: str = "", *,
    recursive: bool = False,
) -> str:  # fmt: skip
    """The same for a custom resource, whose definition has this schema."""
    text = {"type": "string"}
    properties = {"apiVersion": text, "kind": text, **(openapi.get("properties") or {})}
    properties["metadata"] = {"type": "object", "description": "Standard object's metadata.", **_metadata()}
    root = Field(
        kind, "Object", False, "", {**openapi, "properties": properties}, str(openapi.get("description") or "")
    )
    return _text(group, version, plural, root, path, recursive)


def _metadata() -> dict[str, Any]:
    """ObjectMeta as a schema, as far as people fill it in."""
    text = {"type": "string"}
    texts = {"type": "object", "additionalProperties": text}
    return {"properties": {
        "annotations": texts, "finalizers": {"type": "array", "items": text, "x-kubernetes-list-type": "set"},
        "generateName": text, "labels": texts, "name": text, "namespace": text,
    }}  # fmt: skip


def _text(group: str, version: str, plural: str, root: Field, path: str, recursive: bool) -> str:
    lines = [f"KIND:       {root.name}", f"VERSION:    {version}", ""]
    if group:
        lines.insert(0, f"GROUP:      {group}")
    found = _find(root, plural, path)
    if path:
        lines += [f"FIELD: {found.line()}", ""]
    if found.description:
        lines += ["DESCRIPTION:", *(f"    {line}" for line in found.description.splitlines()), ""]
    if found.inside is not None:
        lines.append("FIELDS:")
        if recursive:
            lines += _tree(found.inside, 1, (_identity(found.inside),))
        else:
            for field in fields_of(found.inside):
                lines.append(_INDENT + field.line())
                lines += (f"{_INDENT * 2}{line}" for line in field.description.splitlines())
    return "\n".join(lines).rstrip() + "\n"


def _find(root: Field, plural: str, path: str) -> Field:
    found = root
    seen = plural
    for step in fields.split(path):
        known = {field.name: field for field in fields_of(found.inside)} if found.inside is not None else {}
        if step not in known:
            hint = nearest(step, known)
            more = f' (did you mean "{hint}"?)' if hint else ""
            raise KeyError(f'field "{step}" does not exist in {seen}{more}')
        found = known[step]
        seen += f".{step}"
    return found


def _identity(inside: Inside) -> str | int:
    """A message type may lie inside itself; a schema that is written out does not."""
    return id(inside) if isinstance(inside, Mapping) else inside.full_name


def _tree(inside: Inside, depth: int, above: tuple[str | int, ...]) -> Iterator[str]:
    for field in fields_of(inside):
        yield _INDENT * depth + field.line()
        # A type inside itself (a JSON schema) is shown once.
        if field.inside is not None and _identity(field.inside) not in above:
            yield from _tree(field.inside, depth + 1, (*above, _identity(field.inside)))
