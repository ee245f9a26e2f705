"""Everything that happened to the objects of a simulated cluster, read from its store: what checkers check and traces show.

The store outlives every crash of the control plane, so its watch is the one account that misses nothing. Used by
`wherry.testing.cluster` (which feeds it) and `wherry.testing.checkers`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from controlplane.store.base import Event
from wherry.api import kinds, meta
from wherry.api.kinds import Kind

ROOT = "/registry/"


@dataclass(frozen=True, slots=True)
class Change:
    """One revision of one object. `old` is None when it was made, `new` when it went; neither may be changed."""

    at_s: float  # virtual seconds since the start of the run
    revision: int
    kind: Kind
    key: str  # namespace/name
    old: Any
    new: Any
    digest: str  # of the new value's bytes

    @property
    def type(self) -> str:
        if self.old is None:
            return "ADDED"
        return "MODIFIED" if self.new is not None else "DELETED"

    def __str__(self) -> str:
        return f"{self.at_s:9.3f} {self.revision:6d} {self.type:8} {self.kind.group_resource} {self.key} {self.digest}"


class History:
    """Invariants: revisions never go back; `_objects` are the live ones at the newest revision."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self._objects: dict[str, dict[str, Any]] = {}
        self._kinds: dict[str, Kind | None] = {}

    def take(self, event: Event, at_s: float) -> Change | None:
        """None for what is no object of a kind (the store's own keys)."""
        found = self._kind(event.kv.key)
        if found is None:
            return None
        kind, key = found
        living = self._objects.setdefault(kind.group_resource, {})
        old = living.get(key)
        new = None
        if not event.deleted:
            new = kind.message.FromString(event.kv.value)
            living[key] = new
        else:
            living.pop(key, None)
        digest = "" if event.deleted else hashlib.blake2s(event.kv.value, digest_size=6).hexdigest()
        change = Change(at_s, event.kv.mod_revision, kind, key, old, new, digest)
        assert not self.changes or self.changes[-1].revision <= change.revision
        self.changes.append(change)
        return change

    def objects(self, resource: str) -> dict[str, Any]:
        """The live ones by namespace/name; `resource` is such as `pods` or `deployments.apps`."""
        return self._objects.get(resource, {})

    def of(self, resource: str, key: str = "") -> Iterator[Change]:
        for change in self.changes:
            if change.kind.group_resource == resource and key in ("", change.key):
                yield change

    def lines(self) -> list[str]:
        return [str(change) for change in self.changes]

    def _kind(self, store_key: str) -> tuple[Kind, str] | None:
        parts = store_key.removeprefix(ROOT).split("/")
        if not store_key.startswith(ROOT) or len(parts) not in (3, 4):
            return None
        prefix = "/".join(parts[:2])
        if prefix not in self._kinds:
            self._kinds[prefix] = _find(*parts[:2])
        kind = self._kinds[prefix]
        return (kind, meta.key_of(parts[2] if len(parts) == 4 else "", parts[-1])) if kind is not None else None


def _find(group: str, plural: str) -> Kind | None:
    for api_version in kinds.MODULES:
        own_group = api_version.rpartition("/")[0] or "core"
        if own_group == group:
            for kind in kinds.kinds_of(api_version).values():
                if kind.plural == plural:
                    return kind
    return None
