"""Which ReplicaSet belongs to which pod template: comparison, hash, names, and the annotations that carry the rollout's memory.

Pure; called by the plan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from wherry.api import times
from wherry.pb import apps_v1_pb2, core_v1_pb2

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED_REPLICAS = "deployment.kubernetes.io/desired-replicas"
MAX_REPLICAS = "deployment.kubernetes.io/max-replicas"
REVISION_HISTORY_CHARS = 2000  # of the annotation; the oldest revisions are dropped first

# What a ReplicaSet does not take over from its Deployment's annotations.
_OWN_ANNOTATIONS = frozenset(
    (
        "kubectl.kubernetes.io/last-applied-configuration",
        REVISION,
        REVISION_HISTORY,
        DESIRED_REPLICAS,
        MAX_REPLICAS,
        "deprecated.deployment.rollback.to",
    )
)
# No vowels and no digits that look like them, so that no word comes out.
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"

ReplicaSets = Sequence[apps_v1_pb2.ReplicaSet]


def canonical(template: core_v1_pb2.PodTemplateSpec) -> bytes:
    """Equal for templates that make equal pods: the hash label, which we add ourselves, is left out."""
    copy = core_v1_pb2.PodTemplateSpec()
    copy.CopyFrom(template)
    copy.metadata.labels.pop(HASH_LABEL, None)
    return copy.SerializeToString(deterministic=True)


def hash_of(template: core_v1_pb2.PodTemplateSpec, collisions: int) -> str:
    """A name part of up to ten letters. `collisions` makes another one when a stranger has the name already."""
    digest = hashlib.blake2s(canonical(template), digest_size=4, salt=collisions.to_bytes(8, "big")).digest()
    return "".join(_ALPHABET[ord(digit) % len(_ALPHABET)] for digit in str(int.from_bytes(digest, "big")))


def by_age(sets: ReplicaSets) -> list[apps_v1_pb2.ReplicaSet]:
    """Oldest first."""
    return sorted(sets, key=lambda rs: (times.from_time(rs.metadata.creation_timestamp), rs.metadata.name))


def find_new(deployment: apps_v1_pb2.Deployment, sets: ReplicaSets) -> apps_v1_pb2.ReplicaSet | None:
    """The ReplicaSet of the Deployment's present template. Should there be several, the oldest, so that every run agrees."""
    wanted = canonical(deployment.spec.template)
    for rs in by_age(sets):
        if canonical(rs.spec.template) == wanted:
            return rs
    return None


def revision_of(rs: apps_v1_pb2.ReplicaSet) -> int:
    return annotated_int(rs, REVISION) or 0


def annotated_int(rs: apps_v1_pb2.ReplicaSet, key: str) -> int | None:
    text = rs.metadata.annotations.get(key, "")
    try:
        return int(text)
    except ValueError:
        return None


def annotate_replicas(rs: apps_v1_pb2.ReplicaSet, desired: int, maximum: int) -> bool:
    """Records the size that this ReplicaSet was last scaled for; a later scaling is proportional to it."""
    wanted = {DESIRED_REPLICAS: str(desired), MAX_REPLICAS: str(maximum)}
    changed = any(rs.metadata.annotations.get(key) != value for key, value in wanted.items())
    rs.metadata.annotations.update(wanted)
    return changed


def annotate_revision(deployment: apps_v1_pb2.Deployment, rs: apps_v1_pb2.ReplicaSet, revision: int) -> bool:
    """The Deployment's annotations, and the revision where it is newer than what the ReplicaSet has."""
    changed = False
    for key, value in sorted(deployment.metadata.annotations.items()):
        if key not in _OWN_ANNOTATIONS and rs.metadata.annotations.get(key) != value:
            rs.metadata.annotations[key] = value
            changed = True
    old = rs.metadata.annotations.get(REVISION)
    if revision_of(rs) < revision:
        rs.metadata.annotations[REVISION] = str(revision)
        changed = True
        if old:
            history = [*rs.metadata.annotations.get(REVISION_HISTORY, "").split(","), old]
            while len(text := ",".join(part for part in history if part)) > REVISION_HISTORY_CHARS:
                history.pop(0)
            rs.metadata.annotations[REVISION_HISTORY] = text
    return changed
