"""Making strategic merge patches: two-way (`diff`) and three-way, as kubectl's client-side apply does.

Pure, on plain values and a descriptor. Called by the CLI (apply, diff, edit, label). The three-way patch removes what the
last applied manifest had and the new one has not, and leaves alone what others have added.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor

from wherry.api.patch import same
from wherry.api.strategic import DELETE_FROM_LIST, PATCH, RETAIN_KEYS, SET_ORDER, FieldMeta, field_meta


def create(original: dict[str, Any], modified: dict[str, Any], descriptor: Descriptor | None) -> dict[str, Any]:
    """The patch that makes `modified` of `original`; {} when they are equal."""
    return create_three_way(original, modified, original, descriptor)


def create_three_way(
    original: dict[str, Any] | None, modified: dict[str, Any], current: dict[str, Any], descriptor: Descriptor | None
) -> dict[str, Any]:
    """`original` is what was applied last (None: never), `modified` what is to be applied, `current` the live object."""
    return _map(original or {}, modified, current, descriptor)


def _map(
    original: dict[str, Any], modified: dict[str, Any], current: dict[str, Any], descriptor: Descriptor | None
) -> dict[str, Any]:
    patch: dict[str, Any] = {}
    for key in original:
        if modified.get(key) is None and current.get(key) is not None:
            patch[key] = None
    for key, item in modified.items():
        if item is None:
            continue
        meta = field_meta(descriptor, key)
        there, before = current.get(key), original.get(key)
        if isinstance(item, dict) and isinstance(there, dict) and not meta.replace:
            inner = _map(before if isinstance(before, dict) else {}, item, there, meta.sub)
            if inner:
                patch[key] = _retaining(inner, item) if meta.retain_keys else inner
        elif isinstance(item, list) and isinstance(there, list) and meta.merge:
            patch |= _list(key, before if isinstance(before, list) else [], item, there, meta)
        elif there is None or not same(there, item):
            patch[key] = item
    return patch


def _retaining(patch: dict[str, Any], modified: dict[str, Any]) -> dict[str, Any]:
    """For a union: only the keys of the new value stay, whatever the server has defaulted of the old one."""
    return {RETAIN_KEYS: sorted(key for key, item in modified.items() if item is not None), **patch}


def _list(key: str, original: list[Any], modified: list[Any], current: list[Any], meta: FieldMeta) -> dict[str, Any]:
    if not all(isinstance(element, dict) for element in (*original, *modified, *current)):
        return _primitives(key, original, modified, current)
    if not meta.merge_key:
        return {} if same(modified, current) else {key: modified}
    changes: list[Any] = []
    by_key = {element.get(meta.merge_key): element for element in current}
    before = {element.get(meta.merge_key): element for element in original}
    wanted = [element.get(meta.merge_key) for element in modified]
    if None in wanted:
        return {} if same(modified, current) else {key: modified}
    present = [element.get(meta.merge_key) for element in current]
    if any(len(set(map(repr, names))) != len(names) for names in (wanted, present)):
        return _ambiguous(key, original, modified, current, meta)
    for name, element in zip(wanted, modified, strict=True):
        there = by_key.get(name)
        if there is None:
            changes.append(element)
            continue
        inner = _map(before.get(name, {}), element, there, meta.sub)
        if inner:
            inner = _retaining(inner, element) if meta.retain_keys else inner
            changes.append({meta.merge_key: name, **inner})
    removed = [name for name in before if name not in wanted and name in by_key]
    changes += [{meta.merge_key: name, PATCH: "delete"} for name in removed]
    order = [name for name in by_key if name in wanted]
    moved = order != [name for name in wanted if name in by_key]
    patch: dict[str, Any] = {}
    if changes or moved:
        patch[SET_ORDER + key] = [{meta.merge_key: name} for name in wanted]
    if changes:
        patch[key] = changes
    return patch


def _ambiguous(
    key: str, original: list[Any], modified: list[Any], current: list[Any], meta: FieldMeta
) -> dict[str, Any]:
    """Of elements that share a key (TCP and UDP of one port, say) a server finds the first only: they are compared by their
    place, and when something is different the list is replaced."""
    names = [element.get(meta.merge_key) for element in modified]
    if names == [element.get(meta.merge_key) for element in current]:
        before = original if names == [element.get(meta.merge_key) for element in original] else [{}] * len(names)
        if not any(_map(*elements, meta.sub) for elements in zip(before, modified, current, strict=True)):
            return {}
    return {key: [*modified, {PATCH: "replace"}]}


def _primitives(key: str, original: list[Any], modified: list[Any], current: list[Any]) -> dict[str, Any]:
    added = [element for element in modified if element not in current]
    removed = [element for element in original if element not in modified and element in current]
    moved = [element for element in current if element in modified] != [item for item in modified if item in current]
    patch: dict[str, Any] = {}
    if removed:
        patch[DELETE_FROM_LIST + key] = removed
    if added or moved or removed:
        patch[SET_ORDER + key] = modified
    if added:
        patch[key] = added
    return patch
