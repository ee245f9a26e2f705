"""Who owns whom, as far as the watches have told. Pure bookkeeping; called by `controller`.

Invariants: `_dependents[u]` holds exactly the uids of the nodes that have an owner reference with uid `u`, whether or
not an object with uid `u` is known; an empty entry is removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wherry.api import meta
from wherry.api.kinds import Kind

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"


@dataclass(frozen=True, slots=True)
class Owner:
    api_version: str
    kind: str
    name: str
    uid: str
    blocks: bool


@dataclass(frozen=True, slots=True)
class Node:
    uid: str
    kind: Kind
    namespace: str
    name: str
    owners: tuple[Owner, ...]
    deleting: bool
    foreground: bool  # has the finalizer, and waits for its dependents
    orphan: bool

    @property
    def waits_for_dependents(self) -> bool:
        return self.deleting and self.foreground

    def __str__(self) -> str:
        return f"{self.kind.group_resource} {meta.key_of(self.namespace, self.name)} ({self.uid})"


def node_of(kind: Kind, obj: Any) -> Node:
    return Node(
        uid=obj.metadata.uid,
        kind=kind,
        namespace=obj.metadata.namespace,
        name=obj.metadata.name,
        owners=owners_of(obj),
        deleting=meta.is_deleting(obj),
        foreground=FOREGROUND in obj.metadata.finalizers,
        orphan=ORPHAN in obj.metadata.finalizers,
    )


def owners_of(obj: Any) -> tuple[Owner, ...]:
    return tuple(
        Owner(each.api_version, each.kind, each.name, each.uid, each.block_owner_deletion)
        for each in obj.metadata.owner_references
    )


def _fits(reference: Owner, owner: Node, dependent: Node) -> bool:
    """An owner is looked for by name and beside its dependent, so one elsewhere or of another name will not be found."""
    return (
        (reference.kind, reference.name) == (owner.kind.kind, owner.name)
        and owner.namespace in ("", dependent.namespace)
    )  # fmt: skip


class Graph:
    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._dependents: dict[str, dict[str, None]] = {}

    def get(self, uid: str) -> Node | None:
        return self._nodes.get(uid)

    def dependents(self, uid: str) -> list[Node]:
        """In order of their arrival."""
        return [self._nodes[dependent] for dependent in self._dependents.get(uid, ())]

    def referring_to(self, api_version: str, kind: str) -> list[str]:
        """The uids of what has an owner of that kind."""
        return [
            node.uid
            for node in self._nodes.values()
            if any((owner.api_version, owner.kind) == (api_version, kind) for owner in node.owners)
        ]

    def put(self, node: Node) -> list[str]:
        """Returns the uids that have to be looked at because of it."""
        old = self._nodes.get(node.uid)
        self._unlink(old)
        self._nodes[node.uid] = node
        for owner in node.owners:
            self._dependents.setdefault(owner.uid, {})[node.uid] = None
        affected = []
        if (node.deleting and (node.foreground or node.orphan)) or self._is_suspicious(node):
            affected.append(node.uid)
        if node.waits_for_dependents and not (old is not None and old.waits_for_dependents):
            affected.extend(self._dependents.get(node.uid, ()))
        if old is not None and old.owners != node.owners:
            affected.extend(self._waiting(old))  # it may have let go of one that waited for it
        return affected

    def remove(self, uid: str) -> list[str]:
        node = self._nodes.pop(uid, None)
        if node is None:
            return []
        self._unlink(node)
        return [*self._dependents.get(uid, ()), *self._waiting(node)]

    def _is_suspicious(self, node: Node) -> bool:
        """An owner is not known, is not what the reference says, or goes and takes its dependents along."""
        if node.deleting:
            return False
        for reference in node.owners:
            owner = self._nodes.get(reference.uid)
            if owner is None or owner.waits_for_dependents or not _fits(reference, owner, node):
                return True
        return False

    def _waiting(self, node: Node) -> list[str]:
        owners = (self._nodes.get(reference.uid) for reference in node.owners)
        return [owner.uid for owner in owners if owner is not None and owner.waits_for_dependents]

    def _unlink(self, node: Node | None) -> None:
        for owner in node.owners if node is not None else ():
            dependents = self._dependents.get(owner.uid)
            if dependents is not None:
                dependents.pop(node.uid, None)  # type: ignore[union-attr]  # an owner comes from a node
                if not dependents:
                    del self._dependents[owner.uid]

    def check_invariants(self) -> None:
        wanted: dict[str, set[str]] = {}
        for node in self._nodes.values():
            for owner in node.owners:
                wanted.setdefault(owner.uid, set()).add(node.uid)
        assert {uid: set(dependents) for uid, dependents in self._dependents.items()} == wanted
