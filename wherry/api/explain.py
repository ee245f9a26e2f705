"""What fields a kind has, from its descriptors, in the layout of `kubectl explain`. Called by the CLI.

The schema holds facts and no descriptions, so what is shown is what the machinery knows: types, which fields are required, and
how lists are merged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Field:
    """One key. `merge` says how a list is merged, "" for what is replaced as a whole."""

    name: str
    type: str
    required: bool
    merge: str
    message: Descriptor | None

    def line(self) -> str:
        notes = [f"<{self.type}>"]
        if self.required:
            notes.append("-required-")
        if self.merge:
            notes.append(f"({self.merge})")
        return f"{self.name}\t{' '.join(notes)}"


def fields_of(descriptor: Descriptor) -> list[Field]:
    """The keys of a message in JSON, by name."""
    found = [_field(member) for member in schema.members(descriptor)]
    if schema.type_meta_of(descriptor) is not None:
        found += [Field(name, "string", False, "", None) for name in ("apiVersion", "kind")]
    return sorted(found, key=lambda field: field.name)


def _field(member: schema.Member) -> Field:
    field, rules = member.field, schema.rules(member.field)
    merge = ""
    if rules.list_type == options_pb2.LIST_TYPE_MAP:
        merge = f"merged by {', '.join(rules.list_map_keys)}"
    elif rules.list_type == options_pb2.LIST_TYPE_SET:
        merge = "a set"
    value = schema.map_value(field) if schema.is_map(field) else field
    message = value.message_type
    if message is not None and message.full_name in schema.SPECIAL:
        message = None
    return Field(member.key, type_of(field), rules.required, merge, message)


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
    lines = [f"KIND:       {kind.kind}", f"VERSION:    {kind.version}", ""]
    if kind.group:
        lines.insert(0, f"GROUP:      {kind.group}")
    found = _find(kind, path)
    if path:
        lines += [f"FIELD: {found.line()}", ""]
    if found.message is not None:
        lines.append("FIELDS:")
        if recursive:
            lines += _tree(found.message, 1, (found.message.full_name,))
        else:
            lines += [_INDENT + field.line() for field in fields_of(found.message)]
    return "\n".join(lines).rstrip() + "\n"


def _find(kind: Kind, path: str) -> Field:
    descriptor: Descriptor | None = schema.descriptor_of(kind.message)
    found = Field(kind.kind, "Object", False, "", descriptor)
    seen = kind.plural
    for step in fields.split(path):
        known = {field.name: field for field in fields_of(descriptor)} if descriptor is not None else {}
        if step not in known:
            hint = nearest(step, known)
            more = f' (did you mean "{hint}"?)' if hint else ""
            raise KeyError(f'field "{step}" does not exist in {seen}{more}')
        found = known[step]
        descriptor = found.message
        seen += f".{step}"
    return found


def _tree(descriptor: Descriptor, depth: int, above: tuple[str, ...]) -> Iterator[str]:
    for field in fields_of(descriptor):
        yield _INDENT * depth + field.line()
        # A type inside itself (a JSON schema) is shown once.
        if field.message is not None and field.message.full_name not in above:
            yield from _tree(field.message, depth + 1, (*above, field.message.full_name))
