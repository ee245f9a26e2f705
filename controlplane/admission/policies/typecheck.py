"""What of a ValidatingAdmissionPolicy's expressions does not fit the kinds that it matches: `status.typeChecking`. Pure, and in
slices (`wherry.api.turns`): one for each expression and kind. Called by the strategy of the kind when a policy is written.

Warnings and no more, since a kind may have other versions tomorrow: when a request comes, expressions run on whatever it has.
Rules with wildcards are not checked, as in Kubernetes; nor are custom resources, of which the schema may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from controlplane.admission.policies import authorizer
from controlplane.admission.policies.compiled import BASE
from wherry.api import kinds, schema
from wherry.api.cel import program
from wherry.api.cel import types as cel
from wherry.api.cel.syntax import CompileError
from wherry.api.kinds import Kind
from wherry.api.turns import Slices

_MAX_KINDS = 10  # of one policy
_MAX_CHECKS = 500  # expressions (variables among them) times kinds: a check takes up to a millisecond
_SPECIAL: dict[str, cel.Type] = {
    "wherry.meta.v1.Time": cel.TIMESTAMP,
    "wherry.meta.v1.MicroTime": cel.TIMESTAMP,
    "wherry.meta.v1.Duration": cel.STRING,
}
_SCALARS: dict[int, cel.Type] = {
    FieldDescriptor.TYPE_BOOL: cel.BOOL,
    FieldDescriptor.TYPE_STRING: cel.STRING,
    FieldDescriptor.TYPE_BYTES: cel.BYTES,
    FieldDescriptor.TYPE_DOUBLE: cel.DOUBLE,
    FieldDescriptor.TYPE_FLOAT: cel.DOUBLE,
}


def warnings(spec: Any) -> Slices[list[tuple[str, str]]]:
    """Each with the path of its expression. Kinds for which there are more expressions left than checks are passed over."""
    sources = [
        (f"spec.validations[{index}].{field}", source)
        for index, item in enumerate(spec.validations)
        for field, source in (("expression", item.expression), ("messageExpression", item.message_expression))
        if source
    ]
    found: dict[str, list[str]] = {path: [] for path, _ in sources}
    left = _MAX_CHECKS
    for kind in _kinds(spec.match_constraints.resource_rules):
        left -= len(spec.variables) + len(sources)
        if left < 0:
            break
        scope = yield from _scope(spec, kind)
        for path, source in sources:
            yield
            if text := _check(source, scope):
                found[path].append(f"{_name(kind)}: {text}\n")
    return [(path, "\n".join(texts)) for path, texts in found.items() if texts]


def _name(kind: Kind) -> str:
    return f"{kind.group}/{kind.version}, Kind={kind.kind}"


def _kinds(rules: Any) -> Iterator[Kind]:
    seen: set[str] = set()
    for rule in rules:
        what = rule.rule_with_operations.rule
        if "*" in what.api_groups or "*" in what.api_versions or any("*" in name for name in what.resources):
            continue
        for group in sorted(what.api_groups):
            for version in sorted(what.api_versions):
                for resource in sorted(what.resources):
                    kind = None if "/" in resource else _built_in(group, version, resource)
                    if kind is None or kind.message.DESCRIPTOR.full_name in seen:
                        continue
                    if len(seen) == _MAX_KINDS:
                        return
                    seen.add(kind.message.DESCRIPTOR.full_name)
                    yield kind


def _built_in(group: str, version: str, resource: str) -> Kind | None:
    if (f"{group}/{version}" if group else version) not in kinds.MODULES:
        return None
    return kinds.by_resource(group, version, resource)


def _scope(spec: Any, kind: Kind) -> Slices[dict[str, cel.Type]]:
    """What expressions see where the object is of this kind."""
    obj = of_kind(kind)
    variables: dict[str, cel.Type] = {}
    params = cel.DYN
    if spec.HasField("param_kind"):
        own = _param_kind(spec.param_kind)
        params = of_kind(own) if own is not None else cel.DYN
    given = {**BASE, "object": obj, "oldObject": obj, "params": params}
    given["variables"] = cel.object_of("kubernetes.variables", variables)
    for variable in spec.variables:
        yield
        try:
            variables[variable.name] = program.compile(
                variable.expression, given, functions=authorizer.functions()
            ).type
        except CompileError:
            variables[variable.name] = cel.DYN  # what it is cannot be known; expressions that use it pass
    return given


def _check(source: str, scope: Mapping[str, cel.Type]) -> str:
    """What is wrong with it; "" when it fits."""
    try:
        program.compile(source, scope, functions=authorizer.functions())
    except CompileError as error:
        return str(error)
    return ""


def _param_kind(named: Any) -> Kind | None:
    if named.api_version not in kinds.MODULES:
        return None
    return kinds.kinds_of(named.api_version).get(named.kind)


def of_kind(kind: Kind) -> cel.Type:
    return _of_message(schema.descriptor_of(kind.message))


@cache
def _of_message(descriptor: Descriptor) -> cel.Type:
    if descriptor.full_name in schema.SPECIAL:
        return _SPECIAL.get(descriptor.full_name, cel.DYN)

    @cache
    def fields() -> Mapping[str, cel.Type]:
        found = {member.key: _of_field(member.field) for member in schema.members(descriptor)}
        if schema.type_meta_of(descriptor) is not None:
            found |= {"apiVersion": cel.STRING, "kind": cel.STRING}
        return found

    return cel.object_of(descriptor.full_name.removeprefix("wherry."), fields)


def _of_field(field: FieldDescriptor) -> cel.Type:
    if schema.is_map(field):
        return cel.map_of(cel.STRING, _of_value(schema.map_value(field)))
    value = _of_value(field)
    return cel.list_of(value) if field.is_repeated else value


def _of_value(field: FieldDescriptor) -> cel.Type:
    if field.message_type is not None:
        return _of_message(field.message_type)
    return _SCALARS.get(field.type, cel.INT)
