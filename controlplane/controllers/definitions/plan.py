"""What the status of a definition is to be. Pure; called by `controller`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from wherry.api import meta
from wherry.pb import apiextensions_v1_pb2

CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
_COMPLETED = ("InstanceDeletionCompleted", "removed all instances")
_IN_PROGRESS = ("InstanceDeletionInProgress", "CustomResource deletion is in progress")

Definition = apiextensions_v1_pb2.CustomResourceDefinition
Status = apiextensions_v1_pb2.CustomResourceDefinitionStatus


def needs_cleanup(definition: Definition) -> bool:
    return meta.is_deleting(definition) and CLEANUP in definition.metadata.finalizers


def is_established(definition: Definition) -> bool:
    condition: Any = meta.get_condition(definition.status.conditions, "Established")
    return condition is not None and condition.status == "True"


def plan_names(definition: Definition, others: Iterable[Definition], now: float) -> Status | None:
    """The status after looking at the names that the other definitions of the group have; None when it is that already."""
    status = Status()
    status.CopyFrom(definition.status)
    resources, kinds = _taken(definition, others)
    wanted, accepted = definition.spec.names, status.accepted_names
    conflicts: list[tuple[str, str]] = []

    def accept(field: str, reason: str, taken: set[str]) -> None:
        value = getattr(wanted, field)
        if value in taken:
            conflicts.append((reason, f'"{value}" is already in use'))
        else:
            setattr(accepted, field, value)

    accept("plural", "PluralConflict", resources)
    accept("singular", "SingularConflict", resources)
    bad = [name for name in wanted.short_names if name in resources]
    if bad:
        conflicts.append(("ShortNamesConflict", ", ".join(f'"{name}" is already in use' for name in bad)))
    else:
        accepted.ClearField("short_names")
        accepted.short_names.extend(wanted.short_names)
    accept("kind", "KindConflict", kinds)
    accept("list_kind", "ListKindConflict", kinds)
    accepted.ClearField("categories")
    accepted.categories.extend(wanted.categories)
    _conditions(status, conflicts, now)
    return None if meta.equal(status, definition.status) else status


def _taken(definition: Definition, others: Iterable[Definition]) -> tuple[set[str], set[str]]:
    resources: set[str] = set()
    kinds: set[str] = set()
    for other in others:
        if other.spec.group != definition.spec.group or other.metadata.uid == definition.metadata.uid:
            continue
        names = other.status.accepted_names
        resources.update((names.plural, names.singular, *names.short_names))
        kinds.update((names.kind, names.list_kind))
    return resources - {""}, kinds - {""}


def _conditions(status: Status, conflicts: list[tuple[str, str]], now: float) -> None:
    conditions = status.conditions
    if conflicts:
        reason, message = conflicts[0][0], ", ".join(text for _, text in conflicts)
        meta.set_condition(conditions, "NamesAccepted", "False", reason=reason, message=message, now=now)
    else:
        meta.set_condition(
            conditions, "NamesAccepted", "True", reason="NoConflicts", message="no conflicts found", now=now
        )
    before = meta.get_condition(conditions, "Established")
    if before is not None and before.status == "True":
        return  # once served, it stays so: its objects are there
    if conflicts:
        text = "not all names are accepted"
        meta.set_condition(conditions, "Established", "False", reason="NotAccepted", message=text, now=now)
    else:
        text = "the initial names have been accepted"
        meta.set_condition(conditions, "Established", "True", reason="InitialNamesAccepted", message=text, now=now)


def plan_cleanup(definition: Definition, left: int, now: float) -> Definition:
    """The definition as it is to be written while its objects go: `left` of them are there."""
    changed = Definition()
    changed.CopyFrom(definition)
    status, (reason, message) = ("True", _IN_PROGRESS) if left else ("False", _COMPLETED)
    meta.set_condition(changed.status.conditions, "Terminating", status, reason=reason, message=message, now=now)
    return changed


def finished(definition: Definition) -> Definition:
    """Without the finalizer that held it."""
    changed = Definition()
    changed.CopyFrom(definition)
    meta.remove_finalizer(changed, CLEANUP)
    return changed
