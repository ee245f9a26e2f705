"""Whether a schema is one that objects can be pruned, defaulted and merged by: "structural", as Kubernetes calls it.

Pure. Every field has a type, what several alternatives share stands outside of them, and nothing refers elsewhere.
Called by `definitions` when a definition is written; gives violations at the path of the schema.
"""

from __future__ import annotations

from typing import Any

from controlplane.registry import violations
from controlplane.registry.custom.pruning import EMBEDDED, INT_OR_STRING, PRESERVE, pruned
from controlplane.registry.custom.validating import LIST_KEYS, LIST_TYPE, MAP_TYPE, validate, validate_lists
from wherry.api.cel import regex
from wherry.api.errors import Cause

Schema = dict[str, Any]

_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_UNSUPPORTED = ("definitions", "dependencies", "id", "patternProperties", "additionalItems", "$schema", "$ref")
# What may not stand inside allOf, anyOf, oneOf and not: it would change what an object looks like, by its contents.
_OUTSIDE_ONLY = (
    "type", "title", "description", "default", "nullable", "additionalProperties", PRESERVE, EMBEDDED, INT_OR_STRING, LIST_TYPE,
    LIST_KEYS, MAP_TYPE,
)  # fmt: skip
_INT_OR_STRING_FORMS = ([{"type": "integer"}, {"type": "string"}], [{"type": "string"}, {"type": "integer"}])
_SCALARS = ("string", "integer", "number", "boolean")
_JUNCTIONS = ("allOf", "anyOf", "oneOf")


def check(schema: Schema, path: str) -> list[Cause]:
    """Of the schema of a whole object."""
    causes: list[Cause] = []
    kind = schema.get("type")
    if not kind:
        causes.append(violations.required(f"{path}.type", "must not be empty at the root"))
    elif kind != "object":
        causes.append(violations.invalid(f"{path}.type", kind, "must be object at the root"))
    if schema.get("nullable"):
        causes.append(violations.forbidden(f"{path}.nullable", "nullable cannot be true at the root"))
    _checker = _Checker(causes)
    _checker.schema(schema, path, where="root")
    _checker.metadata(schema, path)
    return causes


class _Checker:
    def __init__(self, causes: list[Cause]) -> None:
        self._causes = causes

    def _forbid(self, path: str, detail: str) -> None:
        self._causes.append(violations.forbidden(path, detail))

    def _invalid(self, path: str, value: Any, detail: str) -> None:
        self._causes.append(violations.invalid(path, value, detail))

    def schema(self, schema: Schema, path: str, *, where: str) -> None:
        self._type(schema, path, where)
        self._plain(schema, path)
        self._extensions(schema, path)
        self._lists(schema, path)
        self._junctions(schema, path)
        self._default(schema, path, root=where == "root")
        properties = schema.get("properties") or {}
        others = schema.get("additionalProperties")
        if properties and others not in (None, False):
            self._forbid(f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive")
        if others is False:
            self._forbid(f"{path}.additionalProperties", "additionalProperties cannot be set to false")
        for name in sorted(properties):
            if where == "root" and name == "metadata":
                continue  # of which only a part may be said at all: `metadata`
            self.schema(properties[name], f"{path}.properties[{name}]", where="object fields")
        if isinstance(others, dict):
            self.schema(others, f"{path}.additionalProperties", where="object fields")
        items = schema.get("items")
        if isinstance(items, list):
            self._forbid(f"{path}.items", "items must be a schema object and not an array")
        elif isinstance(items, dict):
            self.schema(items, f"{path}.items", where="array items")

    def _type(self, schema: Schema, path: str, where: str) -> None:
        kind = schema.get("type")
        if not kind:
            untyped = schema.get(INT_OR_STRING) or schema.get(PRESERVE)
            if where != "root" and not untyped:
                detail = f"must not be empty for specified {where}"
                self._causes.append(violations.required(f"{path}.type", detail))
        elif kind == "null":
            self._forbid(f"{path}.type", "type cannot be set to null, use nullable as an alternative")
        elif kind not in _TYPES:
            self._causes.append(violations.unsupported(f"{path}.type", kind, _TYPES))
        if schema.get(INT_OR_STRING) and kind:
            self._invalid(f"{path}.type", kind, f"must be empty if {INT_OR_STRING} is true")
        if kind == "array" and "items" not in schema:
            self._causes.append(violations.required(f"{path}.items", "must be specified"))

    def _plain(self, schema: Schema, path: str) -> None:
        for name in _UNSUPPORTED:
            if name in schema:
                self._forbid(f"{path}.{name}", f"{name} is not supported")
        if schema.get("uniqueItems"):
            detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
            self._forbid(f"{path}.uniqueItems", detail)
        if "pattern" in schema:
            try:
                regex.compiled(schema["pattern"])
            except ValueError as error:
                detail = f"must be a valid regular expression, but isn't: {error}"
                self._invalid(f"{path}.pattern", schema["pattern"], detail)
        for name in ("maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties"):
            if schema.get(name, 0) < 0:
                self._invalid(f"{path}.{name}", schema[name], "must be greater than or equal to 0")
        if "multipleOf" in schema and schema["multipleOf"] <= 0:
            self._invalid(f"{path}.multipleOf", schema["multipleOf"], "must be greater than 0")

    def _extensions(self, schema: Schema, path: str) -> None:
        kind = schema.get("type")
        if PRESERVE in schema and schema[PRESERVE] is not True:
            self._invalid(f"{path}.{PRESERVE}", schema[PRESERVE], "must be true or undefined")
        if schema.get(EMBEDDED):
            if kind != "object":
                detail = f"must be object if {EMBEDDED} is true"
                self._invalid(f"{path}.type", kind or "", detail)
            if not schema.get("properties") and not schema.get(PRESERVE):
                detail = f"must not be empty if {EMBEDDED} is true without {PRESERVE}"
                self._causes.append(violations.required(f"{path}.properties", detail))
            if schema.get("additionalProperties") is not None:
                detail = f"additionalProperties cannot be set if {EMBEDDED} is true"
                self._forbid(f"{path}.additionalProperties", detail)
        if MAP_TYPE in schema:
            if schema[MAP_TYPE] not in ("atomic", "granular"):
                self._causes.append(
                    violations.unsupported(f"{path}.{MAP_TYPE}", schema[MAP_TYPE], ("atomic", "granular"))
                )
            if kind != "object":
                self._invalid(f"{path}.type", kind or "", f"must be object if {MAP_TYPE} is specified")

    def _lists(self, schema: Schema, path: str) -> None:
        form = schema.get(LIST_TYPE)
        keys = schema.get(LIST_KEYS) or ()
        if form is None:
            if keys:
                self._causes.append(
                    violations.required(f"{path}.{LIST_TYPE}", f"must be map if {LIST_KEYS} is non-empty")
                )
            return
        if form not in ("atomic", "set", "map"):
            self._causes.append(violations.unsupported(f"{path}.{LIST_TYPE}", form, ("atomic", "map", "set")))
        if schema.get("type") != "array":
            self._invalid(f"{path}.type", schema.get("type") or "", f"must be array if {LIST_TYPE} is specified")
        items = schema.get("items")
        if form in ("set", "map") and isinstance(items, dict) and items.get("nullable"):
            self._forbid(f"{path}.items.nullable", f"cannot be nullable when {LIST_TYPE} is {form}")
        if form == "set" and isinstance(items, dict):
            atomic = items.get(MAP_TYPE) == "atomic" if items.get("type") == "object" else (
                items.get(LIST_TYPE, "atomic") == "atomic"
            )  # fmt: skip
            if items.get("type") in ("object", "array") and not atomic:
                where = MAP_TYPE if items["type"] == "object" else LIST_TYPE
                self._invalid(
                    f"{path}.items.{where}", items.get(where), f"must be atomic as item of a list with {LIST_TYPE}=set"
                )
        if form == "map":
            self._keys(schema, items, list(keys), path)
        elif keys:
            self._forbid(f"{path}.{LIST_KEYS}", f"must not be set if {LIST_TYPE} is {form}")

    def _keys(self, schema: Schema, items: Any, keys: list[str], path: str) -> None:
        if not keys:
            self._causes.append(violations.required(f"{path}.{LIST_KEYS}", f"must not be empty if {LIST_TYPE} is map"))
        if not isinstance(items, dict):
            return
        if items.get("type") != "object":
            self._invalid(
                f"{path}.items.type", items.get("type") or "", f"must be object if parent array's {LIST_TYPE} is map"
            )
        properties = items.get("properties") or {}
        for index, key in enumerate(keys):
            if key in keys[:index]:
                self._causes.append(violations.duplicate(f"{path}.{LIST_KEYS}[{index}]", key))
            if key not in properties:
                self._invalid(f"{path}.{LIST_KEYS}[{index}]", key, "entries must all be names of item properties")
                continue
            inner, below = properties[key], f"{path}.items.properties[{key}]"
            if inner.get("type") not in _SCALARS and not inner.get(INT_OR_STRING):
                detail = f"must be a scalar type if parent array's {LIST_TYPE} is map"
                self._invalid(f"{below}.type", inner.get("type") or "", detail)
            if inner.get("nullable"):
                self._forbid(f"{below}.nullable", f"cannot be nullable as it is in {LIST_KEYS}")
            if "default" not in inner and key not in (items.get("required") or ()):
                detail = f"this property is in {LIST_KEYS}, so it must have a default or be a required property"
                self._causes.append(violations.required(f"{below}.default", detail))

    # alternatives

    def _junctions(self, schema: Schema, path: str) -> None:
        for name in _JUNCTIONS:
            exempt = schema.get(INT_OR_STRING) and name == "anyOf" and schema.get(name) in _INT_OR_STRING_FORMS
            for index, inner in enumerate(schema.get(name) or ()):
                below = f"{path}.{name}[{index}]"
                nested = schema.get(INT_OR_STRING) and name == "allOf" and inner.get("anyOf") in _INT_OR_STRING_FORMS
                if not exempt and not nested:
                    self._inside(inner, schema, below, path)
        if "not" in schema:
            self._inside(schema["not"], schema, f"{path}.not", path)

    def _inside(self, inner: Schema, outer: Schema, path: str, outer_path: str) -> None:
        """A part of an alternative: it may restrict values, and name only fields that `outer` names."""
        for name in _OUTSIDE_ONLY:
            if inner.get(name) not in (None, "", False):
                self._forbid(f"{path}.{name}", "must be empty to be structural")
        if inner.get("x-kubernetes-validations"):
            self._forbid(f"{path}.x-kubernetes-validations", "must be empty to be structural")
        self._plain(inner, path)
        known = outer.get("properties") or {}
        for name in sorted(inner.get("properties") or {}):
            below = f"{path}.properties[{name}]"
            others = outer.get("additionalProperties")
            found = known.get(name, others if isinstance(others, dict) else None)
            if found is None:
                detail = f"because it is defined in {below}"
                self._causes.append(violations.required(f"{outer_path}.properties[{name}]", detail))
                continue
            self._inside(inner["properties"][name], found, below, f"{outer_path}.properties[{name}]")
        if isinstance(inner.get("items"), dict):
            if not isinstance(outer.get("items"), dict):
                self._causes.append(
                    violations.required(f"{outer_path}.items", f"because it is defined in {path}.items")
                )
            else:
                self._inside(inner["items"], outer["items"], f"{path}.items", f"{outer_path}.items")
        elif "items" in inner:
            self._forbid(f"{path}.items", "items must be a schema object and not an array")
        for name in _JUNCTIONS:
            for index, each in enumerate(inner.get(name) or ()):
                self._inside(each, outer, f"{path}.{name}[{index}]", outer_path)
        if "not" in inner:
            self._inside(inner["not"], outer, f"{path}.not", outer_path)

    # values in the schema

    def _default(self, schema: Schema, path: str, *, root: bool) -> None:
        if "default" not in schema:
            return
        value, place = schema["default"], f"{path}.default"
        if root:
            self._forbid(place, "must not be set at the root")
            return
        if value is None and not schema.get("nullable"):
            self._invalid(place, None, "must not be null")
            return
        unknown: list[str] = []
        pruned(value, schema, unknown)
        if unknown:
            self._invalid(place, value, f"must not have unknown fields: {', '.join(sorted(unknown))}")
        if schema.get("type") in (None, *_TYPES):
            for cause in [*validate(value, schema), *validate_lists(value, schema)]:
                inner = f"{place}.{cause.field}" if cause.field and cause.field[0] != "[" else place + cause.field
                self._causes.append(
                    Cause(cause.reason, cause.message, inner if cause.field != "<nil>" else cause.field)
                )

    def metadata(self, schema: Schema, path: str) -> None:
        """Of metadata a schema may restrict name and generateName alone; what else is in it, every object has."""
        found = (schema.get("properties") or {}).get("metadata")
        if found is None:
            return
        below = f"{path}.properties[metadata]"
        allowed = {"type", "properties", "description"}
        inside = set(found.get("properties") or {}) <= {"name", "generateName"}
        if found.get("type") not in (None, "object"):
            self._invalid(f"{below}.type", found["type"], "must be object")
        if set(found) - allowed or not inside:
            detail = "must not specify anything other than name and generateName, but metadata is implicitly specified"
            self._forbid(below, detail)
        for name, inner in sorted((found.get("properties") or {}).items()):
            if inner.get("type") != "string":
                self._invalid(f"{below}.properties[{name}].type", inner.get("type") or "", "must be string")
            self._plain(inner, f"{below}.properties[{name}]")
