"""The fence of a leader's writes (design, section 9): each is made on condition that the Lease is still the leader's.

A process that was stopped for longer than its Lease lives goes on with what it was about to write before it notices; by then
another replica leads, and the store refuses. Carried by the calls of scheduler and controllers; made by `server`. Bindings name
the Lease themselves (`registry.pods`).
"""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.registry.keys import key as key_of
from controlplane.store.base import Compare, KeyValue, Operation
from wherry.api import kinds, meta
from wherry.api.errors import Conflict
from wherry.client.leader import LeaderElector
from wherry.pb import coordination_v1_pb2


class Fence:
    """A `registry.conditions.Condition`. Invariant: `_revision` is one at which the Lease was ours."""

    def __init__(self, elector: LeaderElector) -> None:
        self._elector = elector
        self._key = key_of(kinds.by_name("coordination.k8s.io/v1", "Lease"), *meta.split_key(elector.lease))
        self._revision = 0

    def plan(self) -> tuple[tuple[Compare, ...], tuple[Operation, ...]]:
        revision = max(self._revision, self._elector.revision)
        if not self._elector.leading:
            raise self._lost()
        return (Compare(self._key, revision),), ()

    def failed(self, current: Sequence[KeyValue | None]) -> None:
        """A renewal of ours whose answer is still under way is none of another's."""
        found = current[0]
        holder = "" if found is None else coordination_v1_pb2.Lease.FromString(found.value).spec.holder_identity
        if found is None or holder != self._elector.identity:
            raise self._lost()
        self._revision = found.mod_revision

    def _lost(self) -> Conflict:
        return Conflict(f"the lease {self._elector.lease} has passed to another holder")
