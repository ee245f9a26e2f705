"""Server-side apply and field ownership (managedFields), as Kubernetes' field manager does it.

Pure: values and `now` in, values out. Called by the registry: `apply` for the apply verb, `track` for every other write.
Types and the merging itself are in `typed`, sets of paths in `fieldsets`. Which fields someone owns is kept in
`metadata.managedFields`, one entry per manager, operation and subresource.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeVar

from google.protobuf.message import Message

from wherry.api import codec, fieldsets, jsonforms, jsontext, schema, times, typed
from wherry.api.errors import BadRequest, Cause, Conflict
from wherry.api.fieldsets import EMPTY, PathSet
from wherry.api.typed import Type

Operation = Literal["Apply", "Update"]
M = TypeVar("M", bound=Message)

BEFORE_FIRST_APPLY = "before-first-apply"
ANCIENT_CHANGES = "ancient-changes"
MAX_UPDATE_MANAGERS = 10  # older ones are put together, or clients with a name per run would fill the object
MAX_MANAGER_CHARS = 128
MAX_READ_OFTEN_BYTES = 16 << 10

# Never owned: they identify the object, or the system writes them.
_UNOWNED = fieldsets.of_paths([
    ("f:apiVersion",), ("f:kind",), ("f:metadata",),
    *(("f:metadata", f"f:{name}") for name in (
        "name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields",
        "resourceVersion",
    )),
])  # fmt: skip


class ApplyConflict(Conflict):
    """Others own fields that this apply would change; `force` takes them over."""

    def __init__(self, conflicts: dict[ManagerKey, PathSet]) -> None:
        self.conflicts = conflicts
        ordered = sorted(conflicts.items(), key=lambda item: item[0].describe())
        causes, parts = [], []
        for manager, paths in ordered:
            name = manager.describe()
            shown = [fieldsets.describe(path) for path in paths.paths()]
            causes += [Cause("FieldManagerConflict", f"conflict with {name}", path) for path in shown]
            if len(shown) == 1:
                parts.append(f"conflict with {name}: {shown[0]}")
            else:
                parts.append(f"conflicts with {name}:" + "".join(f"\n- {path}" for path in shown))
        count = f"{len(causes)} conflict{'s' if len(causes) != 1 else ''}"
        super().__init__(f"Apply failed with {count}: " + "\n".join(parts), causes=causes)


@dataclass(frozen=True, slots=True)
class ManagerKey:
    """Who owns. An applier is the same across API versions, so its `api_version` is empty here."""

    operation: Operation
    manager: str
    api_version: str = ""
    subresource: str = ""

    def describe(self) -> str:
        text = f'"{self.manager}"'
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        return f"{text} using {self.api_version}" if self.operation == "Update" else text


@dataclass(frozen=True, slots=True)
class Owned:
    paths: PathSet
    api_version: str
    time: str | None


Managers = dict[ManagerKey, Owned]


def key_of(operation: Operation, manager: str, api_version: str, subresource: str = "") -> ManagerKey:
    return ManagerKey(operation, manager, "" if operation == "Apply" else api_version, subresource)


def decode_managers(entries: Sequence[Any]) -> Managers:
    """From `metadata.managedFields`. Raises ValueError for entries that are none."""
    found: Managers = {}
    for entry in entries:
        operation = entry.operation
        if operation not in ("Apply", "Update"):
            raise ValueError(f"managedFields: operation {operation!r} is neither Apply nor Update")
        key = key_of(operation, entry.manager, entry.api_version, entry.subresource)
        raw = entry.fields_v1.raw
        paths = _read_often(raw) if len(raw) <= MAX_READ_OFTEN_BYTES else _read_paths(raw)
        if key in found:
            paths = paths | found[key].paths
        found[key] = Owned(paths, entry.api_version, jsonforms.encode_time(entry.time))
    return found


def _read_paths(raw: bytes) -> PathSet:
    return fieldsets.from_fields(jsontext.load(raw) if raw else {})


# Pods of one template, and one object that is written again and again, have the same text.
_read_often = lru_cache(maxsize=128)(_read_paths)


def encode_managers(managers: Managers) -> list[tuple[dict[str, Any], PathSet]]:
    """The entries, each without its `fieldsV1` and with the paths that stand there; appliers first, then by time and name."""
    ordered = sorted(
        managers.items(),
        key=lambda item: (
            item[0].operation,
            item[1].time or "",
            item[0].manager,
            item[1].api_version,
            item[0].subresource,
        ),
    )
    entries = []
    for key, owned in ordered:
        entry: dict[str, Any] = {"manager": key.manager, "operation": key.operation, "apiVersion": owned.api_version}
        if owned.time:
            entry["time"] = owned.time
        entry["fieldsType"] = "FieldsV1"
        if key.subresource:
            entry["subresource"] = key.subresource
        entries.append((entry, owned.paths))
    return entries


def _owned_part(paths: PathSet, ignore: PathSet) -> PathSet:
    return (paths - _UNOWNED).without_under(ignore)


def _update(
    live: Any, new: Any, kind: Type, managers: Managers, own: ManagerKey | None, *, force: bool, ignore: PathSet
) -> tuple[Managers, typed.Comparison]:
    """Takes changed and removed fields from the other managers. Raises ApplyConflict unless `force`."""
    found = typed.compare(live, new, kind)
    found = typed.Comparison(*(_owned_part(part, ignore) for part in (found.added, found.modified, found.removed)))
    changed = found.changed
    conflicts = {key: owned.paths & changed for key, owned in managers.items() if key != own}
    conflicts = {key: paths for key, paths in conflicts.items() if paths}
    if conflicts and not force:
        raise ApplyConflict(conflicts)
    out: Managers = {}
    for key, owned in managers.items():
        paths = owned.paths if key == own else owned.paths - conflicts.get(key, EMPTY) - found.removed
        if paths:
            out[key] = owned if paths == owned.paths else replace(owned, paths=paths)
    return out, found


@dataclass(frozen=True, slots=True)
class Applied:
    """`value` is without managedFields; `changed` says whether it differs from the live object by meaning."""

    value: dict[str, Any]
    managers: Managers
    changed: bool


def apply_value(
    live: dict[str, Any],
    config: dict[str, Any],
    kind: Type,
    managers: Managers,
    *,
    manager: ManagerKey,
    api_version: str,
    now: str,
    force: bool = False,
    ignore: PathSet = EMPTY,
    normal: Callable[[dict[str, Any]], Any] = lambda value: value,
) -> Applied:
    """Lays `config` over `live` (both without managedFields). `normal` gives the form in which two objects are the same by
    meaning. Raises ApplyConflict, and typed.BadValue for lists whose keys are missing or double."""
    typed.check(config, kind)
    last = managers.get(manager)
    merged = typed.merge(live, config, kind)
    sent = typed.to_set(config, kind)
    if last is not None and last.paths:
        # Pruning counts all that was sent, the name included, or the metadata around a dropped label would go too.
        merged = _prune(
            merged, kind, [sent, *(owned.paths for key, owned in managers.items() if key != manager)], last.paths
        )
    managers = {**managers, manager: Owned(_owned_part(sent, ignore), api_version, last.time if last else None)}
    managers, _ = _update(live, merged, kind, managers, manager, force=force, ignore=ignore)
    changed = normal(merged) != normal(live)
    if changed and manager in managers:
        managers[manager] = replace(managers[manager], time=now)
    return Applied(merged, managers, changed)


def _prune(merged: Any, kind: Type, owners: Sequence[PathSet], last: PathSet) -> Any:
    """Without what this manager applied last time (`last`), unless an owner of now has it."""
    kept = typed.remove(merged, typed.with_named(last, kind), kind)
    all_paths = typed.with_named(typed.to_set(merged, kind), kind)
    owned = EMPTY
    for paths in owners:
        owned = owned | paths
    kept_paths = typed.with_named(typed.to_set(kept, kind), kind) if kept is not typed.ABSENT else EMPTY
    # Back comes what someone owns ...
    kept = typed.remove(merged, all_paths - (kept_paths | typed.with_named(owned, kind)), kind)
    # ... and what nobody ever applied, but lay inside something that did not survive.
    kept_paths = typed.with_named(typed.to_set(kept, kind), kind) if kept is not typed.ABSENT else EMPTY
    kept = typed.remove(merged, (all_paths - kept_paths) & typed.with_named(last, kind), kind)
    return {} if kept is typed.ABSENT else kept


def track_value(
    live: dict[str, Any],
    new: dict[str, Any],
    kind: Type,
    managers: Managers,
    *,
    manager: ManagerKey,
    api_version: str,
    now: str,
    ignore: PathSet = EMPTY,
) -> Managers:
    """The owners after a write that is no apply: the writer owns what it changed (`live` is the empty object for a
    create)."""
    managers, found = _update(live, new, kind, managers, None, force=True, ignore=ignore)
    changed = found.changed
    if changed:
        before = managers.get(manager)
        paths = before.paths | changed if before else changed
        managers[manager] = Owned(paths, api_version, now)
    return _capped(managers)


def _capped(managers: Managers) -> Managers:
    updates = [key for key in managers if key.operation == "Update"]
    surplus = len(updates) - MAX_UPDATE_MANAGERS
    if surplus <= 0:
        return managers
    updates.sort(key=lambda key: (managers[key].time or "", key.manager))
    out = dict(managers)
    # One more than the surplus, since their sum takes a place itself.
    for key in updates[: surplus + 1]:
        old = out.pop(key)
        sum_key = key_of("Update", ANCIENT_CHANGES, old.api_version)
        before = out.get(sum_key)
        paths = old.paths | before.paths if before else old.paths
        out[sum_key] = Owned(paths, old.api_version, old.time)
    return out


# --- on messages -----------------------------------------------------------------------------------------------------


def type_of(cls: type[Message]) -> Type:
    """The type of a built-in kind; custom resources have theirs from `typed.of_custom_resource`."""
    return typed.of_descriptor(schema.descriptor_of(cls))


def _plain(message: Any) -> dict[str, Any]:
    """The object without managedFields."""
    if message.metadata.managed_fields:
        bare = type(message)()
        bare.CopyFrom(message)
        del bare.metadata.managed_fields[:]
        message = bare
    value = codec.to_dict(message)
    value.setdefault("metadata", {})
    return value


def _differing(old: Any, new: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both without managedFields and without the large parts that are the same in both, which a comparison need not see."""
    cls = type(new)
    left, right = cls(), cls()
    left.CopyFrom(old)
    right.CopyFrom(new)
    for name in ("spec", "status", "template"):
        field = cls.DESCRIPTOR.fields_by_name.get(name)
        if field is None or field.message_type is None:
            continue
        if left.HasField(name) and right.HasField(name) and getattr(left, name) == getattr(right, name):
            left.ClearField(name)
            right.ClearField(name)
    return _plain(left), _plain(right)


_nothing: dict[type[Message], dict[str, Any]] = {}


def _empty(cls: type[Message], like: dict[str, Any]) -> dict[str, Any]:
    value = _nothing.get(cls)
    if value is None:
        value = _nothing[cls] = codec.to_dict(cls())
    return {
        **value,
        "apiVersion": like.get("apiVersion"),
        "kind": like.get("kind"),
        "metadata": value.get("metadata") or {},
    }


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _canonical(config: Any, decoded: Any) -> Any:
    """The configuration as it was sent, with the values in canonical form where decoding kept them (quantities)."""
    if isinstance(config, dict) and isinstance(decoded, dict):
        return {key: _canonical(item, decoded[key]) if key in decoded else item for key, item in config.items()}
    if isinstance(config, list) and isinstance(decoded, list) and len(config) == len(decoded):
        return [_canonical(one, other) for one, other in zip(config, decoded, strict=True)]
    return config if isinstance(config, dict | list) else decoded


def apply(
    live: M | None,
    config: dict[str, Any],
    cls: type[M],
    *,
    manager: str,
    now: float,
    force: bool = False,
    subresource: str = "",
    kind: Type | None = None,
    ignore: PathSet = EMPTY,
    strict: bool = True,
    warnings: list[str] | None = None,
) -> M:
    """The object after applying `config` (the body as plain values) to `live` (None: it does not exist), with managedFields.

    Not defaulted and not validated: that comes next in the registry. When nothing changed by meaning the result's
    managedFields keep their times. `ignore`: what this endpoint does not write (`status` on the main resource). Raises
    ApplyConflict, codec.DecodeError for a body that does not fit, BadRequest.
    """
    if not manager:
        raise BadRequest("fieldManager: Required value: is required for apply patch")
    config = _without_nulls(config)
    if (config.get("metadata") or {}).get("managedFields"):
        raise BadRequest("metadata.managedFields must be nil")
    decoded = codec.from_dict(config, cls, strict=strict, warnings=warnings)
    config = _canonical(config, codec.to_dict(decoded))
    kind = kind or type_of(cls)
    api_version = str(config.get("apiVersion") or codec.to_dict(decoded).get("apiVersion", ""))
    stamp = times.format_seconds(int(now))
    own = key_of("Apply", manager, api_version, subresource)
    if live is None:
        before, managers = _empty(cls, config), {}
    else:
        before = _plain(live)
        managers = managed_by(live)
        if not managers:
            first = key_of("Update", BEFORE_FIRST_APPLY, api_version)
            managers = track_value(
                _empty(cls, before), before, kind, {}, manager=first, api_version=api_version, now=stamp, ignore=ignore
            )
    try:
        result = apply_value(
            before, config, kind, managers, manager=own, api_version=api_version, now=stamp, force=force, ignore=ignore,
            normal=lambda value: codec.from_dict(value, cls, strict=False).SerializeToString(deterministic=True),
        )  # fmt: skip
    except typed.BadValue as error:
        meta = config.get("metadata") or {}
        where = f"{meta.get('namespace', '')}/{meta.get('name', '')}; {api_version}, Kind={config.get('kind', '')}"
        raise BadRequest(f"failed to create typed patch object ({where}): {error}") from error
    out = codec.from_dict(result.value, cls, strict=False)
    set_managers(out, result.managers)
    return out


def track(
    live: Message | None,
    new: Any,
    *,
    manager: str,
    now: float,
    subresource: str = "",
    kind: Type | None = None,
    ignore: PathSet = EMPTY,
) -> None:
    """Sets `new.metadata.managedFields` for a create (no `live`), an update or a patch by `manager`.

    The writer may hand back the entries it read, leave them out (they stay), or send `[{}]` (they are cleared). An object
    that has none is not tracked until it is first applied, but every created object is.
    """
    cls = type(new)
    entries = new.metadata.managed_fields
    if len(entries) == 1 and not entries[0].ListFields():
        set_managers(new, {})
        return
    if live is None and kind is None and (ignore is EMPTY or ignore is IGNORE_STATUS):
        _track_new(new, manager[:MAX_MANAGER_CHARS] or "unknown", int(now), subresource, ignore is IGNORE_STATUS)
        return
    kind = kind or type_of(cls)
    managers: Managers = {}
    if live is None:
        value = _plain(new)
        before = _empty(cls, value)
    else:
        managers = managed_by(new) or managed_by(live)
        if not managers:
            set_managers(new, {})
            return
        before, value = _differing(live, new)
    api_version = str(value.get("apiVersion", ""))
    own = key_of("Update", manager[:MAX_MANAGER_CHARS] or "unknown", api_version, subresource)
    stamp = times.format_seconds(int(now))
    set_managers(
        new,
        track_value(before, value, kind, managers, manager=own, api_version=api_version, now=stamp, ignore=ignore),
    )


# What all that was ever made has of metadata, and nobody owns.
_OWN_METADATA = (
    "name", "namespace", "self_link", "uid", "resource_version", "generation", "creation_timestamp", "managed_fields",
)  # fmt: skip


def _track_new(new: Any, manager: str, now: int, subresource: str, without_status: bool) -> None:
    """Of a new object its maker owns everything. Many objects have that alike, but for their names: it is found again by the
    bytes of the spec, and of the rest."""
    from wherry.pb import meta_v1_pb2

    cls = type(new)
    rest = cls()
    rest.CopyFrom(new)
    for name in _OWN_METADATA:
        rest.metadata.ClearField(name)
    if without_status and "status" in cls.DESCRIPTOR.fields_by_name:
        rest.ClearField("status")
    spec = b""
    if "spec" in cls.DESCRIPTOR.fields_by_name and rest.HasField("spec"):
        spec = rest.spec.SerializeToString(deterministic=True)
        if spec:
            rest.ClearField("spec")
    paths = _paths_of_new(cls, rest.SerializeToString(deterministic=True), spec)
    del new.metadata.managed_fields[:]
    if not paths:
        return
    meta = schema.type_meta(cls)
    entry: Any = meta_v1_pb2.ManagedFieldsEntry(
        manager=manager, operation="Update", api_version=meta[0] if meta else "", subresource=subresource,
        fields_type="FieldsV1", time=meta_v1_pb2.Time(seconds=now),
    )  # fmt: skip
    entry.fields_v1.raw = paths.to_json().encode()
    new.metadata.managed_fields.append(entry)


def _paths_of_new(cls: Any, rest: bytes, spec: bytes) -> PathSet:
    look = _found_often if len(rest) + len(spec) <= MAX_READ_OFTEN_BYTES else _found
    return look(cls, rest, spec)


def _found(cls: Any, rest: bytes, spec: bytes) -> PathSet:
    found = _paths_set(cls, rest, False)
    if spec:
        look = _paths_set_often if len(spec) <= MAX_READ_OFTEN_BYTES else _paths_set
        found = found | look(cls, spec, True)
    found.to_json()  # kept with it
    return found


def _paths_set(cls: Any, raw: bytes, is_spec: bool) -> PathSet:
    """What an object sets that is nothing but these bytes (of its spec)."""
    obj: Any = cls()
    if is_spec:
        obj.spec.MergeFromString(raw)
    else:
        obj.MergeFromString(raw)
    value = _plain(obj)
    found = typed.compare(_empty(cls, value), value, type_of(cls))
    return _owned_part(found.added, EMPTY) | _owned_part(found.modified, EMPTY)


_found_often = lru_cache(maxsize=128)(_found)
_paths_set_often = lru_cache(maxsize=128)(_paths_set)


def set_managers(message: Any, managers: Managers) -> None:
    from wherry.pb import meta_v1_pb2

    del message.metadata.managed_fields[:]
    for entry, paths in encode_managers(managers):
        made = codec.from_dict(entry, meta_v1_pb2.ManagedFieldsEntry)
        made.fields_v1.raw = paths.to_json().encode()
        message.metadata.managed_fields.append(made)


def managed_by(message: Any) -> Managers:
    """Who owns what of an object. Entries that a client has broken count as none, as in Kubernetes."""
    try:
        return decode_managers(message.metadata.managed_fields)
    except ValueError:
        return {}


# What each endpoint does not write, so that nobody comes to own it there.
IGNORE_STATUS = fieldsets.of_paths([("f:status",)])
