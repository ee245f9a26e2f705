"""JSON patch (RFC 6902) and JSON merge patch (RFC 7386), applied to and made from plain values.

Pure: the value given is never changed. Called by the registry's patch verb and by the CLI (three-way apply of custom
resources, `--type json|merge`). Strategic merge patch is in `strategic`, server-side apply in `apply`.
"""

from __future__ import annotations

import json
import marshal
from typing import Any

from wherry.api.errors import APIError, BadRequest, Invalid, RequestEntityTooLarge

MAX_OPERATIONS = 10_000
# What `copy` operations may add up to, in characters of JSON: a few doublings of a list are a bomb.
MAX_COPIED_CHARS = 3 * 1024 * 1024


class PatchFailed(Invalid):
    """A well-formed patch that does not apply to this object. Kubernetes says no more than this; `problem` tells what it is."""

    def __init__(self, reason: str) -> None:
        super().__init__("the server rejected our request due to an error in our request")
        self.problem = reason

    def __str__(self) -> str:
        return self.problem


class BadPatch(BadRequest):
    """A body that is no patch of its type."""


def merge(value: Any, patch: Any) -> Any:
    """RFC 7386: objects are merged, null removes, everything else is replaced."""
    if not isinstance(patch, dict):
        return patch
    out = dict(value) if isinstance(value, dict) else {}
    for key, item in patch.items():
        if item is None:
            out.pop(key, None)
        else:
            out[key] = merge(out.get(key), item)
    return out


def create_merge_patch(original: Any, modified: Any) -> Any:
    """The merge patch that makes `modified` of `original`; {} when they are equal. nulls in `modified` are lost."""
    if not isinstance(original, dict) or not isinstance(modified, dict):
        return modified
    patch: dict[str, Any] = {key: None for key in original if key not in modified or modified[key] is None}
    for key, item in modified.items():
        if item is None or (key in original and original[key] == item and type(original[key]) is type(item)):
            continue
        if isinstance(item, dict) and isinstance(original.get(key), dict):
            inner = create_merge_patch(original[key], item)
            if inner:
                patch[key] = inner
        else:
            patch[key] = item
    return patch


def create_three_way_merge_patch(original: Any, modified: Any, current: Any) -> dict[str, Any]:
    """What takes `current` to `modified`, removing only what `original` (last applied) had and `modified` has not."""
    patch: dict[str, Any] = {}
    for key in original if isinstance(original, dict) else ():
        if (key not in modified or modified[key] is None) and current.get(key) is not None:
            patch[key] = None
    for key, item in modified.items():
        if item is None:
            continue
        there = current.get(key)
        if isinstance(item, dict) and isinstance(there, dict):
            before = original.get(key) if isinstance(original, dict) else None
            inner = create_three_way_merge_patch(before, item, there)
            if inner:
                patch[key] = inner
        elif there != item or type(there) is not type(item):
            patch[key] = item
    return patch


def duplicate(value: Any) -> Any:
    """A deep copy of plain values, in a tenth of the time that `copy.deepcopy` takes."""
    return marshal.loads(marshal.dumps(value))


def identical(left: Any, right: Any) -> bool:
    """Sure to be the same plain values; true is not 1 here either. False may only mean another order of keys."""
    return bool(left == right) and marshal.dumps(left, 0) == marshal.dumps(right, 0)


def apply_json_patch(value: Any, operations: Any) -> Any:
    """RFC 6902; additionally negative indices count from the end, as in Kubernetes. Raises BadPatch, PatchFailed."""
    if not isinstance(operations, list):
        raise BadPatch(f"a JSON patch is a list of operations, got {_short(operations)}")
    if len(operations) > MAX_OPERATIONS:
        raise RequestEntityTooLarge(
            f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(operations)}"
        )
    document = _Document(duplicate(value))
    for operation in operations:
        document.run(operation)
    return document.root


class _Document:
    """The value while operations change it."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self._copied = 0

    def run(self, operation: Any) -> None:
        if not isinstance(operation, dict) or not isinstance(operation.get("op"), str):
            raise BadPatch(f'an operation of a JSON patch is an object with "op" and "path", got {_short(operation)}')
        name = operation["op"]
        path = _pointer(operation, "path", name)
        if name in ("add", "replace", "test") and "value" not in operation and name != "test":
            raise PatchFailed(f"{name} operation does not apply: {_text(operation, 'path')}: missing value")
        match name:
            case "add":
                self._add(path, duplicate(operation["value"]), "add")
            case "remove":
                self._remove(path, "remove")
            case "replace":
                self._replace(path, duplicate(operation["value"]))
            case "move":
                source = _pointer(operation, "from", name)
                if path[: len(source)] == source and len(path) > len(source):
                    raise PatchFailed("move operation does not apply: a value cannot be moved into itself")
                self._add(path, self._remove(source, "move"), "move")
            case "copy":
                found = duplicate(self._get(_pointer(operation, "from", name), "copy"))
                self._copied += len(json.dumps(found))
                if self._copied > MAX_COPIED_CHARS:
                    raise PatchFailed("copy operation does not apply: the copies add up to more than 3 MiB")
                self._add(path, found, "copy")
            case "test":
                self._test(path, operation.get("value"), operation["path"])
            case _:
                raise PatchFailed(f"Unexpected kind: {name}")

    def _get(self, path: tuple[str, ...], verb: str) -> Any:
        value = self.root
        for depth, step in enumerate(path):
            if isinstance(value, dict):
                if step not in value:
                    raise _missing(verb, path[: depth + 1])
                value = value[step]
            elif isinstance(value, list):
                value = value[_index(step, len(value) - 1, verb, path)]
            else:
                raise _missing(verb, path[: depth + 1])
        return value

    def _parent(self, path: tuple[str, ...], verb: str) -> Any:
        try:
            parent = self._get(path[:-1], verb)
        except PatchFailed as error:
            raise PatchFailed(
                f'{verb} operation does not apply: doc is missing path: "{_join(path)}": missing value'
            ) from error
        if not isinstance(parent, dict | list):
            raise PatchFailed(f'{verb} operation does not apply: doc is missing path: "{_join(path)}": missing value')
        return parent

    def _add(self, path: tuple[str, ...], value: Any, verb: str) -> None:
        if not path:
            self.root = value
            return
        parent = self._parent(path, verb)
        if isinstance(parent, dict):
            parent[path[-1]] = value
        elif path[-1] == "-":
            parent.append(value)
        else:
            parent.insert(_index(path[-1], len(parent), verb, path), value)

    def _remove(self, path: tuple[str, ...], verb: str) -> Any:
        if not path:
            raise PatchFailed(f"{verb} operation does not apply: the whole object cannot be removed")
        parent = self._parent(path, verb)
        if isinstance(parent, list):
            return parent.pop(_index(path[-1], len(parent) - 1, verb, path))
        if path[-1] not in parent:
            raise PatchFailed(
                f"{verb} operation does not apply: Unable to {verb} nonexistent key: {path[-1]}: missing value"
            )
        return parent.pop(path[-1])

    def _replace(self, path: tuple[str, ...], value: Any) -> None:
        if not path:
            self.root = value
            return
        parent = self._parent(path, "replace")
        if isinstance(parent, list):
            parent[_index(path[-1], len(parent) - 1, "replace", path)] = value
        elif path[-1] in parent:
            parent[path[-1]] = value
        else:
            raise PatchFailed(f"replace operation does not apply: doc is missing key: {_join(path)}: missing value")

    def _test(self, path: tuple[str, ...], expected: Any, shown: str) -> None:
        try:
            found = self._get(path, "test")
        except PatchFailed:
            found = None
            if expected is not None:
                raise
        if not same(found, expected):
            raise PatchFailed(f"testing value {shown} failed: test failed")


def same(left: Any, right: Any) -> bool:
    """Equal JSON values: 1 and 1.0 are, 1 and true are not."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same(one, other) for one, other in zip(left, right, strict=True))
    return bool(left == right)


def _pointer(operation: dict[str, Any], member: str, name: str) -> tuple[str, ...]:
    text = operation.get(member)
    if not isinstance(text, str):
        raise PatchFailed(f'{name} operation does not apply: "{member}" is missing or no string: missing value')
    if not text:
        return ()
    if not text.startswith("/"):
        raise PatchFailed(f'{name} operation does not apply: "{text}" is no JSON pointer: it starts with "/"')
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in text[1:].split("/"))


def _index(step: str, last: int, verb: str, path: tuple[str, ...]) -> int:
    digits = step.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 9 or (digits != "0" and digits.startswith("0")):
        raise PatchFailed(f'{verb} operation does not apply: "{step}" in {_join(path)} is no index of a list')
    index = int(step)
    if step.startswith("-"):
        index += last + 1
    if not 0 <= index <= last:
        raise PatchFailed(
            f"{verb} operation does not apply: Unable to access invalid index: {step}: invalid index referenced"
        )
    return index


def _missing(verb: str, path: tuple[str, ...]) -> APIError:
    return PatchFailed(f"{verb} operation does not apply: doc is missing key: {_join(path)}: missing value")


def _join(path: tuple[str, ...]) -> str:
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in path)


def _text(operation: dict[str, Any], member: str) -> str:
    return str(operation.get(member, ""))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
