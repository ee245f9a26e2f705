"""From a schema to what its rules see: the types of CEL with the sizes that the schema promises, and how plain values
become CEL's.

Pure. Fields have the names of CEL's grammar: `foo-bar` is `foo__dash__bar`, `namespace` is `__namespace__`. What a
schema leaves open (fields that are kept unknown, values without type) no rule can reach. Called by `rules`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

from controlplane.registry.custom.pruning import EMBEDDED, INT_OR_STRING
from controlplane.registry.custom.validating import LIST_KEYS, LIST_TYPE
from wherry.api.cel import types
from wherry.api.cel.types import Convert, Type
from wherry.api.cel.values import EvaluationError, Keyed, Unordered, parse_duration, parse_timestamp

Schema = dict[str, Any]
MAX_REQUEST_BYTES = 3 * 1024 * 1024
_KEYWORDS = frozenset((
    "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop",
    "package", "namespace", "return", "var", "void", "while",
))  # fmt: skip
_ESCAPED = (("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__"))
_SCALARS: dict[str, Type] = {"boolean": types.BOOL, "integer": types.INT, "number": types.DOUBLE}
_FIXED_SIZES = {"date-time": 30, "date": 10, "duration": 40}


def escaped(name: str) -> str | None:
    """The name of a field in a rule; None for one that no rule can name."""
    if name in _KEYWORDS:
        return f"__{name}__"
    out = name
    for char, text in _ESCAPED:
        out = out.replace(char, text)
    return out if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", out) else None


def smallest(schema: Schema) -> int:
    """The fewest bytes that a value takes in JSON: how many there can be in a request follows from it."""
    kind = schema.get("type")
    if kind == "object":
        properties = schema.get("properties") or {}
        needed = [name for name in schema.get("required") or () if "default" not in properties.get(name, {})]
        return 2 + sum(len(name) + 4 + smallest(properties.get(name, {})) for name in needed)
    return {"boolean": 4, "integer": 1, "number": 1}.get(str(kind), 2)


def longest(schema: Schema) -> int:
    """How many characters, elements or entries a value has at most."""
    kind = schema.get("type")
    if kind == "string":
        if schema.get("maxLength") is not None:
            return int(schema["maxLength"])
        if schema.get("enum"):
            return max((len(item) for item in schema["enum"] if isinstance(item, str)), default=0)
        return _FIXED_SIZES.get(schema.get("format", ""), MAX_REQUEST_BYTES - 2)
    if kind == "array":
        items = schema.get("items")
        each = smallest(items) if isinstance(items, dict) else 1
        given = schema.get("maxItems")
        return int(given) if given is not None else (MAX_REQUEST_BYTES - 2) // (each + 1)
    others = schema.get("additionalProperties")
    given = schema.get("maxProperties")
    if given is not None:
        return int(given)
    return (MAX_REQUEST_BYTES - 2) // (smallest(others if isinstance(others, dict) else {}) + 6)


def of_schema(schema: Schema, name: str = "object", *, root: bool = False) -> Type | None:
    """None for what no rule can see."""
    if schema.get(INT_OR_STRING):
        return types.DYN
    kind = schema.get("type")
    if kind == "object" or root:
        return _of_object(schema, name, whole=root or bool(schema.get(EMBEDDED)))
    if kind == "array":
        items = schema.get("items")
        inner = of_schema(items, f"{name}.@idx") if isinstance(items, dict) else None
        return None if inner is None else types.list_of(inner, longest(schema), _list_convert(schema, inner))
    if kind == "string":
        return _of_string(schema)
    found = _SCALARS.get(str(kind))
    if found is types.DOUBLE:
        return Type("double", convert=_to_double)
    return found


def _of_object(schema: Schema, name: str, *, whole: bool) -> Type | None:
    others = schema.get("additionalProperties")
    if isinstance(others, dict):
        inner = of_schema(others, f"{name}.@elem")
        if inner is None:
            return None
        return types.map_of(types.STRING, inner, longest(schema), _map_convert(inner.convert))
    found: dict[str, Type] | None = None
    names: dict[str, str] = {}

    def fields() -> dict[str, Type]:
        nonlocal found
        if found is None:
            found = {}
            properties = dict(schema.get("properties") or {})
            if whole:
                text = {"type": "string"}
                meta = {"type": "object", "properties": {"name": text, "generateName": text}}
                properties = {**properties, "apiVersion": text, "kind": text, "metadata": meta}
            for key, inner in properties.items():
                field, kind = escaped(key), of_schema(inner, f"{name}.{key}")
                if field is not None and kind is not None:
                    found[field] = kind
        return found

    for key in (*(schema.get("properties") or {}), *(("apiVersion", "kind", "metadata") if whole else ())):
        field = escaped(key)
        if field is not None and field != key:
            names[field] = key
    return types.object_of(name, fields, data_names=names)


def _of_string(schema: Schema) -> Type:
    name, size = schema.get("format"), longest(schema)
    if name == "byte":
        return Type("bytes", max_size=size, convert=_to_bytes)
    if name == "duration":
        return Type("duration", name="duration", convert=_guarded(parse_duration))
    if name in ("date", "date-time"):
        convert = _guarded(lambda text: parse_timestamp(text if "T" in text.upper() else f"{text}T00:00:00Z"))
        return Type("timestamp", name="timestamp", convert=convert)
    return types.STRING.sized(size)


def _guarded(parse: Callable[[str], Any]) -> Convert:
    def convert(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return parse(value)
        except ValueError as error:
            raise EvaluationError(str(error)) from error

    return convert


def _to_bytes(value: Any) -> Any:
    try:
        return base64.b64decode(value) if isinstance(value, str) else value
    except ValueError as error:
        raise EvaluationError(f"not base64: {error}") from error


def _to_double(value: Any) -> Any:
    return float(value) if type(value) is int else value


def _list_convert(schema: Schema, inner: Type) -> Convert | None:
    """Sets and keyed lists compare without order; elements may need to be converted themselves."""
    form, each = schema.get(LIST_TYPE), inner.convert
    if form == "set":
        return lambda value: Unordered(_each(value, each)) if isinstance(value, list) else value
    if form == "map":
        keys = tuple(schema.get(LIST_KEYS) or ())

        def keyed(value: Any) -> Any:
            if not isinstance(value, list):
                return value
            out = Keyed(_each(value, each))
            out.keys = keys
            return out

        return keyed
    return None if each is None else lambda value: _each(value, each) if isinstance(value, list) else value


def _each(value: list[Any], convert: Convert | None) -> list[Any]:
    return value if convert is None else [convert(item) for item in value]


def _map_convert(convert: Convert | None) -> Convert | None:
    if convert is None:
        return None
    return lambda value: {key: convert(item) for key, item in value.items()} if isinstance(value, dict) else value
