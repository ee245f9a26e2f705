"""What is to be done about one object, given what the server says of it and of its owners. Pure; called by `controller`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from controlplane.controllers.garbagecollector.graph import Node


class OwnerState(Enum):
    """What the server says of an owner right now."""

    SOLID = "there, and it stays"
    ABSENT = "not there, or another object by now has its name"
    WAITING = "being deleted in the foreground: it waits for its dependents"
    UNKNOWN = "not to be found out: its kind is not served, or can't own this object"


class Act(Enum):
    NOTHING = "nothing"
    LOOK_AGAIN = "later: the graph does not know an owner yet that the server knows"
    DELETE = "delete, with `policy`"
    DROP_OWNERS = "remove the references to `owners`"
    UNBLOCK_DEPENDENTS = "a circle of objects that wait for each other: stop blocking, then delete with `policy`"
    ORPHAN_DEPENDENTS = "remove the references to it from its dependents, then the finalizer"
    FINISH_FOREGROUND = "remove the foreground finalizer: its dependents are gone"


@dataclass(frozen=True, slots=True)
class Decision:
    act: Act
    policy: str = ""
    owners: tuple[str, ...] = ()


def decide_deleting(live: Node, dependents: Sequence[Node]) -> Decision:
    """Of an object that is being deleted."""
    if live.orphan:
        return Decision(Act.ORPHAN_DEPENDENTS)
    if not live.foreground:
        return Decision(Act.NOTHING)  # somebody else's finalizer holds it
    blocking = any(owner.uid == live.uid and owner.blocks for each in dependents for owner in each.owners)
    return Decision(Act.NOTHING if blocking else Act.FINISH_FOREGROUND)


def decide(live: Node, states: Mapping[str, OwnerState], known: Sequence[str], dependents: Sequence[Node]) -> Decision:
    """Of an object that is not being deleted. `states`: by owner uid. `known`: the owners' uids that the graph has."""
    if not live.owners or OwnerState.UNKNOWN in states.values():
        return Decision(Act.NOTHING)
    by_state = {
        state: tuple(owner.uid for owner in live.owners if states[owner.uid] is state)
        for state in (OwnerState.SOLID, OwnerState.ABSENT, OwnerState.WAITING)
    }
    if by_state[OwnerState.SOLID]:
        gone = by_state[OwnerState.ABSENT] + by_state[OwnerState.WAITING]
        if gone:
            return Decision(Act.DROP_OWNERS, owners=gone)
        if any(uid not in known for uid in by_state[OwnerState.SOLID]):
            # Should the owner go before the graph has ever seen it, no event would bring us back.
            return Decision(Act.LOOK_AGAIN)
        return Decision(Act.NOTHING)
    if by_state[OwnerState.WAITING] and dependents:
        if any(each.waits_for_dependents for each in dependents):
            return Decision(Act.UNBLOCK_DEPENDENTS, policy="Foreground")
        return Decision(Act.DELETE, policy="Foreground")
    if live.orphan:
        return Decision(Act.DELETE, policy="Orphan")
    return Decision(Act.DELETE, policy="Foreground" if live.foreground else "Background")


def may_own(owner_is_namespaced: bool, dependent: Node) -> bool:
    """An object without a namespace can't be owned by one with a namespace: which one would it be?"""
    return not owner_is_namespaced or dependent.kind.namespaced


def owner_namespace(owner_is_namespaced: bool, dependent: Node) -> str:
    """Where an owner of that kind is looked for: only beside its dependent."""
    return dependent.namespace if owner_is_namespaced else ""
