"""What a DELETE does to an object: the grace period, the finalizers, and whether it goes now. Pure; called by `writes`.

The rules are those of Kubernetes' registry: a grace period can be shortened and never prolonged; an object with
finalizers lives on with a deletionTimestamp until the last one is taken off; propagationPolicy turns into the finalizers
on which the garbage collector acts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from controlplane.registry import violations
from wherry.api.errors import Cause, Conflict
from wherry.api.kinds import Kind
from wherry.pb import meta_v1_pb2

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
_POLICIES = ("Foreground", "Background", "Orphan", "nil")

# Kinds whose deletion is answered with what was deleted, and not with a Status.
ANSWERED_WITH_OBJECT = frozenset(
    (
        *(("", plural) for plural in (
            "persistentvolumeclaims", "persistentvolumes", "pods", "podtemplates", "resourcequotas", "serviceaccounts",
            "services",
        )),
        *(("resource.k8s.io", plural) for plural in (
            "deviceclasses", "resourceclaims", "resourceclaimtemplates", "resourceslices",
        )),
        *(("storage.k8s.io", plural) for plural in (
            "csidrivers", "csinodes", "csistoragecapacities", "storageclasses", "volumeattachments",
            "volumeattributesclasses",
        )),
    )
)  # fmt: skip


@dataclass(slots=True)
class Deletion:
    """`remove`: take the object out of the store now; else write `changed`, unless that is None (nothing to do).

    `changed` may be set along with `remove`: the state in which the object goes."""

    remove: bool
    changed: Any | None


def validate_options(options: meta_v1_pb2.DeleteOptions) -> list[Cause]:
    causes = []
    if options.HasField("propagation_policy"):
        if options.HasField("orphan_dependents"):
            detail = "orphanDependents and deletionPropagation cannot be both set"
            causes.append(violations.invalid("propagationPolicy", options.propagation_policy, detail))
        elif options.propagation_policy not in _POLICIES[:3]:
            causes.append(violations.unsupported("propagationPolicy", options.propagation_policy, _POLICIES))
    for value in options.dry_run:
        if value != "All":
            causes.append(violations.unsupported("dryRun", list(options.dry_run), ("All",)))
            break
    return causes


def check_preconditions(kind: Kind, name: str, obj: Any, revision: int, options: meta_v1_pb2.DeleteOptions) -> None:
    """Raises Conflict in Kubernetes' words."""
    wanted = options.preconditions
    detail = ""
    if wanted.HasField("uid") and wanted.uid != obj.metadata.uid:
        detail = (
            f"the UID in the precondition ({wanted.uid}) does not match the UID in record ({obj.metadata.uid}). "
            "The object might have been deleted and then recreated"
        )
    elif wanted.HasField("resource_version") and wanted.resource_version != str(revision):
        detail = (
            f"the ResourceVersion in the precondition ({wanted.resource_version}) does not match the ResourceVersion in "
            f"record ({revision}). The object might have been modified"
        )
    if detail:
        full = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
        message = f'Operation cannot be fulfilled on {full} "{name}": {detail}'
        raise Conflict(message, group=kind.group, kind=kind.kind, name=name)


def plan(
    obj: Any, options: meta_v1_pb2.DeleteOptions, grace_s: Callable[[Any, int | None], int | None], now: float
) -> Deletion:
    """`obj` is the caller's own and is changed in place when `changed` is given back. `grace_s(obj, asked)` is the kind's."""
    meta = obj.metadata
    asked = options.grace_period_seconds if options.HasField("grace_period_seconds") else None
    if asked is not None and asked < 0:
        asked = 1
    graceful = False
    grace = grace_s(obj, asked)
    if grace is not None:
        if meta.HasField("deletion_timestamp"):
            left = meta.deletion_grace_period_seconds
            if meta.HasField("deletion_grace_period_seconds"):
                if asked is None or asked >= left:
                    return Deletion(remove=not meta.finalizers and left == 0, changed=None)
                meta.deletion_timestamp.seconds += asked - left
                meta.deletion_grace_period_seconds = asked
                grace, graceful = asked, True
        else:
            meta.deletion_timestamp.seconds = int(now // 1) + grace
            meta.deletion_grace_period_seconds = grace
            if meta.generation > 0:
                meta.generation += 1
            graceful = True
    touched = _set_collector_finalizers(meta, options) or graceful
    if meta.finalizers:
        return Deletion(remove=False, changed=obj if _mark(meta, now) or touched else None)
    if graceful and grace:
        return Deletion(remove=False, changed=obj)
    return Deletion(remove=True, changed=obj if graceful else None)


def _mark(meta: Any, now: float) -> bool:
    """An object without a grace period of its own that waits for finalizers."""
    changed = False
    if not meta.HasField("deletion_timestamp"):
        meta.deletion_timestamp.seconds = int(now // 1)
        if meta.generation > 0:
            meta.generation += 1
        changed = True
    if not meta.HasField("deletion_grace_period_seconds"):
        meta.deletion_grace_period_seconds = 0
        changed = True
    return changed


def _set_collector_finalizers(meta: Any, options: meta_v1_pb2.DeleteOptions) -> bool:
    before = list(meta.finalizers)
    wanted = [name for name in before if name not in (ORPHAN, FOREGROUND)]
    choice = _propagation(before, options)
    if choice:
        wanted.append(choice)
    if wanted == before or sorted(wanted) == sorted(before):
        return False
    del meta.finalizers[:]
    meta.finalizers.extend(wanted)
    return True


def _propagation(finalizers: list[str], options: meta_v1_pb2.DeleteOptions) -> str:
    """What was asked for now wins over what an earlier request left in the finalizers; the default is background."""
    if options.HasField("orphan_dependents"):
        return ORPHAN if options.orphan_dependents else ""
    if options.HasField("propagation_policy"):
        return {"Orphan": ORPHAN, "Foreground": FOREGROUND}.get(options.propagation_policy, "")
    for name in finalizers:
        if name in (ORPHAN, FOREGROUND):
            return name
    return ""


def plan_namespace(namespace: Any, options: meta_v1_pb2.DeleteOptions, now: float) -> Deletion:
    """A namespace turns to Terminating first; it goes when `spec.finalizers` (its contents) and its own are empty."""
    meta = namespace.metadata
    if not meta.HasField("deletion_timestamp"):
        meta.deletion_timestamp.seconds = int(now // 1)
        namespace.status.phase = "Terminating"
        _set_collector_finalizers(meta, options)
        return Deletion(remove=False, changed=namespace)
    if namespace.spec.finalizers or meta.finalizers:
        return Deletion(remove=False, changed=None)
    return Deletion(remove=True, changed=None)
