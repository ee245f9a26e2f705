"""What must hold besides, in every transaction that a request leads to: the fence of a leader's writes, the claim of who allots
something. Carried by a `RequestContext`; asked by `state.State.txn`, and implemented by those who make such contexts
(`controlplane.fence`, `nodelink.podcidrs`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from controlplane.store.base import Compare, KeyValue, Operation


class Condition(Protocol):
    def plan(self) -> tuple[tuple[Compare, ...], tuple[Operation, ...]]:
        """What goes into the transaction. Raises APIError when it is known not to hold. Asked again before each try."""
        ...

    def failed(self, current: Sequence[KeyValue | None]) -> None:
        """These are the planned compares' keys as they are, and not as planned. Raises APIError; when it returns, the
        transaction is tried again."""
        ...
