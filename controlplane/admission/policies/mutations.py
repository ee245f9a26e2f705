"""A MutatingAdmissionPolicy as programs, and what they make of an object. Pure; called by `mutate`, and by validation when a
policy is stored.

An apply configuration is laid over the object as server-side apply merges, without owners; a JSON patch is applied as it is.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from controlplane.admission import expressions
from controlplane.admission.policies import authorizer
from controlplane.admission.policies.compiled import BASE, Compile, Definition
from wherry.api import patch, typed
from wherry.api.cel import program
from wherry.api.cel import types as cel
from wherry.api.cel.budget import Budget
from wherry.api.cel.overloads import Functions
from wherry.api.cel.program import Program
from wherry.api.cel.syntax import CompileError
from wherry.api.cel.values import (
    Duration,
    EvaluationError,
    Made,
    Optional,
    Timestamp,
    format_duration,
    format_timestamp,
)
from wherry.api.errors import APIError
from wherry.api.turns import Slices

APPLY, JSON_PATCH = "ApplyConfiguration", "JSONPatch"


class MutationFailed(Exception):
    """What an expression said can't be done."""


class _Open(dict[str, cel.Type]):
    """An object that has any field: which ones there are is known when the change is applied."""

    def get(self, key: str, default: Any = None) -> Any:
        return cel.DYN


_OPERATION = cel.object_of("JSONPatch", {"op": cel.STRING, "path": cel.STRING, "from": cel.STRING, "value": cel.DYN})


def structs(name: str) -> cel.Type | None:
    if name == "JSONPatch":
        return _OPERATION
    if name == "Object" or name.startswith("Object."):
        return cel.object_of(name, _Open())
    return None


@lru_cache(maxsize=1)
def functions() -> Functions:
    own = Functions()
    own.add("jsonpatch.escapeKey", (cel.STRING,), cel.STRING, lambda key: key.replace("~", "~0").replace("/", "~1"))
    return Functions(authorizer.functions(), own)


def compile_one(source: str, variables: Mapping[str, cel.Type]) -> Program:
    """Raises CompileError."""
    given = {**BASE, "variables": cel.object_of("kubernetes.variables", dict(variables))}
    return program.compile(source, given, functions=functions(), structs=structs)


def compile_mutation(mutation: Any, variables: Mapping[str, cel.Type]) -> Program:
    """Raises CompileError, also for an expression that makes something else."""
    applied = mutation.patch_type == APPLY
    source = (mutation.apply_configuration if applied else mutation.json_patch).expression
    compiled = compile_one(source, variables)
    found = compiled.type
    if applied and found.kind != "dyn" and found.name != "Object":
        raise CompileError(source, 0, f"must evaluate to Object but got {found}")
    operations = found.kind == "list" and (found.params[0].kind == "dyn" or found.params[0].name == "JSONPatch")
    if not applied and found.kind != "dyn" and not operations:
        raise CompileError(source, 0, f"must evaluate to list(JSONPatch) but got {found}")
    return compiled


class Mutations(Definition):
    def _compile(self, spec: Any, compile: Compile | None = None) -> Slices[None]:
        yield from super()._compile(spec, compile or compile_one)
        self._mutations = []
        for item in spec.mutations:
            self._mutations.append((item, compile_mutation(item, self.types)))
            yield

    def apply(self, given: Mapping[str, Any], kind: typed.Type) -> Slices[dict[str, Any]]:
        """The object after all mutations; each sees what those before it made. Raises MutationFailed."""
        budget = Budget(expressions.POLICY_BUDGET)
        obj: dict[str, Any] = given["object"]
        for item, compiled in self._mutations:
            if budget.is_others_turn():
                yield
            values = self.with_variables({**given, "object": obj}, budget)
            try:
                value = budget.run(compiled, values)
            except EvaluationError as error:
                raise MutationFailed(f"expression '{compiled.source}' resulted in error: {error}") from error
            obj = _merged(obj, value, kind) if item.patch_type == APPLY else _patched(obj, value)
        return obj


def _merged(obj: dict[str, Any], value: Any, kind: typed.Type) -> dict[str, Any]:
    if value is None:
        return obj
    if not isinstance(value, Made):
        raise MutationFailed(f"unexpected result type: {type(value).__name__}, expected Object")
    _check_names(value, "Object")
    change = plain(value)
    for name in ("apiVersion", "kind"):
        change.pop(name, None)
    _check_atomic(change, kind, "")
    try:
        merged: dict[str, Any] = typed.merge(obj, change, kind)
    except typed.BadValue as error:
        raise MutationFailed(f"invalid ApplyConfiguration: {error}") from error
    return merged


def _check_names(value: Made, path: str) -> None:
    """A part of the object is made where its type's name says that it lies."""
    if value.type_name != path:
        raise MutationFailed(
            f'type mismatch: unexpected type name "{value.type_name}", expected "{path}", which matches field name path from '
            "root Object type"
        )
    for field, inner in value.items():
        for each in inner if isinstance(inner, list) else (inner,):
            if isinstance(each, Made):
                _check_names(each, f"{path}.{field}")


def _check_atomic(value: Any, kind: typed.Type, path: str) -> None:
    """What server-side apply replaces as a whole would lose what the policy does not name."""
    if kind.kind == "leaf":
        if isinstance(value, dict | list):
            raise MutationFailed(f"invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {path}")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_atomic(item, kind.field(key), f"{path}.{key}")
    elif isinstance(value, list):
        for item in value:
            _check_atomic(item, kind.element, path)


def _patched(obj: dict[str, Any], value: Any) -> dict[str, Any]:
    if not isinstance(value, list):
        raise MutationFailed(
            f"type mismatch: JSONPatchType.expression should evaluate to array, got {type(value).__name__}"
        )
    operations = []
    for item in value:
        if not isinstance(item, Made) or item.type_name != "JSONPatch":
            raise MutationFailed("type mismatch: JSONPatchType.expression should evaluate to an array of JSONPatch")
        operations.append(plain(item))
    try:
        result = patch.apply_json_patch(obj, operations)
    except (APIError, ValueError) as error:
        raise MutationFailed(f"JSON Patch: {error}") from error
    if not isinstance(result, dict):
        raise MutationFailed("JSON Patch: the result is no object")
    return result


def plain(value: Any) -> Any:
    """A value of CEL as JSON."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Timestamp):
        return format_timestamp(value)
    if isinstance(value, Duration):
        return format_duration(value)
    if isinstance(value, Optional):
        return plain(value.value) if value.present else None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise MutationFailed(f"a value of type {type(value).__name__} has no form in JSON")
