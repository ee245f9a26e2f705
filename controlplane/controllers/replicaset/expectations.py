"""What a ReplicaSet's last step must have done to the cache before the next one may look at it.

A controller that makes three pods and then looks at a cache that has not seen them yet would make three more. Writes
answer with the revision at which they happened, so it is enough to wait until pod events of that revision have
arrived; a deletion that leaves nothing behind has no revision to answer with and is awaited by uid. Nothing here
outlives the process, and need not: a new one starts from a list that is as new as any acknowledged write.

Called by `controller` only. Invariant: `_pending` has an entry only while something is awaited.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Pending:
    revision: int = 0
    doubt: bool = False
    deletions: dict[str, str] = field(default_factory=dict)  # uid -> pod name


class Expectations:
    def __init__(self) -> None:
        self._pending: dict[str, _Pending] = {}
        self._seen = 0

    def observe(self, revision: str) -> None:
        """Of each pod that arrives in the cache."""
        self._seen = max(self._seen, int(revision or "0"))

    def expect_revision(self, key: str, revision: str) -> None:
        pending = self._pending.setdefault(key, _Pending())
        pending.revision = max(pending.revision, int(revision or "0"))

    def expect_deletion(self, key: str, name: str, uid: str) -> None:
        self._pending.setdefault(key, _Pending()).deletions[uid] = name

    def doubt(self, key: str) -> None:
        """A write ended without an answer: it may or may not have happened."""
        self._pending.setdefault(key, _Pending()).doubt = True

    def in_doubt(self, key: str) -> bool:
        pending = self._pending.get(key)
        return pending is not None and pending.doubt

    def settle(self, key: str, revision: str) -> None:
        """Whatever came of the doubtful write shows at this revision, read from the server after it."""
        self._pending.setdefault(key, _Pending()).doubt = False
        self.expect_revision(key, revision)

    def forget(self, key: str) -> None:
        """The ReplicaSet is gone."""
        self._pending.pop(key, None)

    def satisfied(self, key: str, is_present: Callable[[str, str], bool]) -> bool:
        """`is_present(name, uid)`: whether the cache still has that pod, and not as one that is being deleted."""
        pending = self._pending.get(key)
        if pending is None:
            return True
        if pending.doubt or pending.revision > self._seen:
            return False
        for uid, name in list(pending.deletions.items()):
            if is_present(name, uid):
                return False
            del pending.deletions[uid]
        del self._pending[key]
        return True

    def check_invariants(self) -> None:
        assert all(pending.revision or pending.deletions or pending.doubt for pending in self._pending.values())
