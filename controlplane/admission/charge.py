"""What a write costs the quotas of its namespace: other keys that go into its transaction. The face of `quota.ledger`, apart
from it so that a cluster without quotas does not load it. Made by `chain`, used by the registry's writes."""

from __future__ import annotations

from typing import Any, Protocol

from controlplane.store.base import Compare, Operation


class Charge(Protocol):
    """For one write, within `Chain.charging`. The compares make the transaction fail when a quota was charged meanwhile by
    another replica; `plan` is then called again."""

    async def plan(self, obj: Any | None, old: Any | None) -> tuple[tuple[Compare, ...], tuple[Operation, ...]]:
        """`obj` as it is to be stored (None: it goes), `old` as it is (None: it is new). Raises Forbidden."""
        ...

    def settle(self, revision: int) -> None:
        """The transaction was made at this revision."""
        ...


class Free:
    """Where there is no quota."""

    async def plan(self, obj: Any | None, old: Any | None) -> tuple[tuple[Compare, ...], tuple[Operation, ...]]:
        return (), ()

    def settle(self, revision: int) -> None:
        return


FREE = Free()
