"""What remains of a namespace that is being deleted, and how its conditions say so. Pure; called by `controller`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wherry.api import meta
from wherry.pb import core_v1_pb2

FINALIZER = "kubernetes"


@dataclass(slots=True)
class Remains:
    """What one round of deletion left behind. Keys are `resource.group` with the dot always there, as Kubernetes has it."""

    counts: Counter[str] = field(default_factory=Counter)
    finalizers: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        return not self.counts and not self.errors


def group_key(plural: str, group: str) -> str:
    return f"{plural}.{group}"


def plan_status(namespace: core_v1_pb2.Namespace, remains: Remains, now: float) -> core_v1_pb2.NamespaceStatus | None:
    """None: unchanged."""
    status = core_v1_pb2.NamespaceStatus()
    status.CopyFrom(namespace.status)
    status.phase = "Terminating"
    for kind, bad, reason, message in _conditions(remains):
        meta.set_condition(status.conditions, kind, "True" if bad else "False", reason=reason, message=message, now=now)
    return None if meta.equal(status, namespace.status) else status


def _conditions(remains: Remains) -> Sequence[tuple[str, bool, str, str]]:
    failed, left, held = bool(remains.errors), bool(remains.counts), bool(remains.finalizers)
    return (
        ("NamespaceDeletionDiscoveryFailure", False, "ResourcesDiscovered", "All resources successfully discovered"),
        (
            "NamespaceDeletionGroupVersionParsingFailure", False, "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure", failed,
            "ContentDeletionFailed" if failed else "ContentDeleted",
            f"Failed to delete all resource types, {len(remains.errors)} remaining: {', '.join(remains.errors)}"
            if failed else "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining", left,
            "SomeResourcesRemain" if left else "ContentRemoved",
            "Some resources are remaining: " + _listed(remains.counts, "{} has {} resource instances")
            if left else "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining", held,
            "SomeFinalizersRemain" if held else "ContentHasNoFinalizers",
            "Some content in the namespace has finalizers remaining: "
            + _listed(remains.finalizers, "{} in {} resource instances")
            if held else "All content-preserving finalizers finished",
        ),
    )  # fmt: skip


def _listed(counts: Mapping[str, int], form: str) -> str:
    return ", ".join(form.format(key, count) for key, count in sorted(counts.items()))


def finalized(namespace: core_v1_pb2.Namespace) -> core_v1_pb2.Namespace:
    """Without our finalizer."""
    copy = core_v1_pb2.Namespace()
    copy.CopyFrom(namespace)
    del copy.spec.finalizers[:]
    copy.spec.finalizers.extend(name for name in namespace.spec.finalizers if name != FINALIZER)
    return copy
