"""Strategic merge patch: a merge patch that knows the schema, so that lists of objects are merged by their key.

Pure, on plain values and the descriptor of the patched message. Called by the registry's patch verb; making such patches is
in `strategic_diff`. Directives: `$patch` (replace, delete), `$retainKeys`, `$deleteFromPrimitiveList/F`,
`$setElementOrder/F`. Order of lists, and the words of errors, follow Kubernetes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor

from wherry.api import schema
from wherry.api.errors import InternalError
from wherry.api.patch import BadPatch, duplicate

PATCH = "$patch"
RETAIN_KEYS = "$retainKeys"
DELETE_FROM_LIST = "$deleteFromPrimitiveList/"
SET_ORDER = "$setElementOrder/"


def is_directive(key: str) -> bool:
    """Not every key with a dollar sign: a JSON schema has `$ref`."""
    return key in (PATCH, RETAIN_KEYS) or key.startswith((DELETE_FROM_LIST, SET_ORDER))


class BadOrder(InternalError):
    """The `$setElementOrder` list and the list that it orders disagree; Kubernetes answers with 500."""


@dataclass(frozen=True, slots=True)
class FieldMeta:
    """How one key is patched. `sub` is the type of its objects, None for scalars and free-form values."""

    merge: bool
    retain_keys: bool
    replace: bool
    merge_key: str
    sub: Descriptor | None


FREE = FieldMeta(False, False, False, "", None)


@cache
def field_meta(descriptor: Descriptor | None, key: str) -> FieldMeta:
    """Rules of a key of a message; free-form for a key that the schema does not have."""
    if descriptor is None:
        return FREE
    member = schema.member_table(descriptor).get(key)
    if member is None:
        return FREE
    rules = schema.rules(member.field)
    strategies = rules.patch_strategy.split(",")
    sub = member.field.message_type
    if sub is not None and (schema.is_map(member.field) or sub.full_name in schema.SPECIAL):
        sub = None
    return FieldMeta(
        "merge" in strategies, "retainKeys" in strategies, "replace" in strategies, rules.patch_merge_key, sub
    )


def apply(value: dict[str, Any], patch: Any, descriptor: Descriptor) -> dict[str, Any]:
    """The patched value; neither argument is changed. Raises BadPatch, BadOrder."""
    if not isinstance(patch, dict):
        raise BadPatch("a strategic merge patch is an object")
    return _merge_map(duplicate(value), duplicate(patch), descriptor)


def _merge_map(original: dict[str, Any], patch: dict[str, Any], descriptor: Descriptor | None) -> dict[str, Any]:
    if PATCH in patch:
        directive = patch.pop(PATCH)
        if directive == "replace":
            return patch
        if directive == "delete":
            return {}
        if directive != "merge":
            raise BadPatch(f"unknown patch type: {go(directive)} in map: {go({**patch, PATCH: directive})}")
    _retain_keys(original, patch)
    _ordered_lists(original, patch, descriptor)
    for directive in [key for key in patch if key.startswith(DELETE_FROM_LIST)]:
        removed = patch.pop(directive)
        name = directive.removeprefix(DELETE_FROM_LIST)
        if not isinstance(removed, list):
            raise BadPatch(f"{directive}: expected a list, got {go(removed)}")
        if isinstance(original.get(name), list):
            original[name] = [element for element in original[name] if element not in removed]
    for key, item in patch.items():
        if item is None:
            original.pop(key, None)
        else:
            original[key] = _merge_value(original.get(key), item, field_meta(descriptor, key), key)
    return original


def _merge_value(original: Any, item: Any, meta: FieldMeta, key: str) -> Any:
    if isinstance(original, dict) and isinstance(item, dict):
        return drop_directives(item, meta.sub) if meta.replace else _merge_map(original, item, meta.sub)
    if isinstance(original, list) and isinstance(item, list) and meta.merge:
        return _merge_list(original, item, meta, key)
    return drop_directives(item, meta.sub)


def drop_directives(item: Any, descriptor: Descriptor | None) -> Any:
    """What a patch adds where there was nothing: directives have no effect, nulls add nothing."""
    if isinstance(item, dict):
        return {
            key: drop_directives(value, field_meta(descriptor, key).sub)
            for key, value in item.items()
            if not is_directive(key) and value is not None
        }
    if isinstance(item, list):
        return [
            drop_directives(element, descriptor)
            for element in item
            if not (isinstance(element, dict) and PATCH in element)
        ]
    return item


def _retain_keys(original: dict[str, Any], patch: dict[str, Any]) -> None:
    if RETAIN_KEYS not in patch:
        return
    kept = patch.pop(RETAIN_KEYS)
    named = [key for key, item in patch.items() if item is not None and not is_directive(key)]
    if not isinstance(kept, list) or not set(named) <= set(map(str, kept)):
        raise BadPatch("invalid patch format of retainKeys")
    for key in [key for key in original if key not in kept]:
        del original[key]


def _ordered_lists(original: dict[str, Any], patch: dict[str, Any], descriptor: Descriptor | None) -> None:
    """`$setElementOrder/F` together with the patch of F, which is then done."""
    for directive in [key for key in patch if key.startswith(SET_ORDER)]:
        order = patch.pop(directive)
        name = directive.removeprefix(SET_ORDER)
        if not isinstance(order, list):
            raise BadPatch(f"{directive}: expected a list, got {go(order)}")
        meta = field_meta(descriptor, name)
        removed = patch.pop(DELETE_FROM_LIST + name, None)
        changes = patch.pop(name, None)
        before = original.get(name)
        if isinstance(changes, list):
            _check_order(changes, order, meta.merge_key)
        if changes is None and before is None:
            continue
        if isinstance(before, list) and isinstance(removed, list):
            before = [element for element in before if element not in removed]
        if changes is None:
            merged = before
        elif before is None:
            merged = drop_directives(changes, meta.sub)
        else:
            merged = _merge_value(before, changes, meta, name)
        if not isinstance(merged, list):
            raise BadPatch(f"{directive}: {name} is no list")
        original[name] = _arrange(merged, order, before or [], meta.merge_key)


def _check_order(changes: list[Any], order: list[Any], merge_key: str) -> None:
    """Every element of the patch stands in the order, in the same sequence."""
    identify = _identity(merge_key)
    wanted = [identify(element) for element in order]
    at = 0
    for element in changes:
        if isinstance(element, dict) and PATCH in element:
            continue
        while at < len(wanted) and wanted[at] != identify(element):
            at += 1
        if at == len(wanted):
            raise BadOrder(
                f"The order in patch list:\n{go(changes)}\n doesn't match $setElementOrder list:\n{go(order)}\n"
            )
        at += 1


def _merge_list(original: list[Any], changes: list[Any], meta: FieldMeta, key: str) -> list[Any]:
    if not original and not changes:
        return original
    if not all(isinstance(element, dict) for element in (*original, *changes)):
        merged = [*original]
        merged += [element for index, element in enumerate(changes) if element not in merged + changes[:index]]
        return _arrange(merged, changes, original, "")
    if not meta.merge_key:
        raise BadPatch(f"cannot merge lists without merge key for {key}")
    original, changes, replaced = _special_elements(original, changes, meta.merge_key)
    if replaced:
        return [drop_directives(element, meta.sub) for element in changes]
    merged = list(original)
    for element in changes:
        name = _key_of(element, meta.merge_key)
        found = next((index for index, other in enumerate(merged) if other.get(meta.merge_key) == name), None)
        if found is None:
            merged.append(drop_directives(element, meta.sub))
        else:
            merged[found] = _merge_map(merged[found], element, meta.sub)
    return _arrange(merged, changes, original, meta.merge_key)


def _special_elements(original: list[Any], changes: list[Any], merge_key: str) -> tuple[list[Any], list[Any], bool]:
    """Elements with `$patch` taken out of the changes and, for `delete`, done; True when the list is to be replaced."""
    kept, replaced = [], False
    for element in changes:
        if PATCH not in element:
            kept.append(element)
            continue
        directive = element[PATCH]
        if directive == "delete":
            name = _key_of(element, merge_key)
            original = [other for other in original if other.get(merge_key) != name]
        elif directive == "replace":
            replaced = True
        elif directive == "merge":
            raise BadPatch("merging lists cannot yet be specified in the patch")
        else:
            raise BadPatch(f"unknown patch type: {go(directive)} in map: {go(element)}")
    return original, kept, replaced


def _key_of(element: dict[str, Any], merge_key: str) -> Any:
    if merge_key not in element:
        raise BadPatch(f"map: {go(element)} does not contain declared merge key: {merge_key}")
    return element[merge_key]


def _identity(merge_key: str) -> Callable[[Any], Any]:
    if not merge_key:
        return lambda element: element
    return lambda element: element.get(merge_key) if isinstance(element, dict) else None


def _arrange(merged: list[Any], order: list[Any], server: list[Any], merge_key: str) -> list[Any]:
    """Elements that the patch names in the patch's order; the others stay before those they stood before."""
    identify = _identity(merge_key)
    patched = [identify(element) for element in order]
    placed = [identify(element) for element in server]
    first = [element for element in merged if identify(element) in patched]
    first.sort(key=lambda element: patched.index(identify(element)))
    others = [element for element in merged if identify(element) not in patched]
    out = []
    while others and first:
        left, right = identify(others[0]), identify(first[0])
        known = left in placed and right in placed
        out.append((others if known and placed.index(left) < placed.index(right) else first).pop(0))
    return [*out, *others, *first]


def go(value: Any) -> str:
    """As Go's %v prints it, which these messages show."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{go(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(go(item) for item in value) + "]"
    if value is None:
        return "<nil>"
    return str(value).lower() if isinstance(value, bool) else str(value)
