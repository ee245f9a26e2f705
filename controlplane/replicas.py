"""Which control plane replicas live: each keeps a key with a short time to live in the store; who does not renew it is gone.

Read and written by `controlplane.apiservice`, where there are several replicas; a single one writes nothing. The store's
clock alone counts, so no replica's clock can be wrong. The value never changes, and a renewal every few seconds is little beside
that of the leader's Lease; the compaction takes both.
"""

from __future__ import annotations

from controlplane.store.base import Delete, Put, Store

PREFIX = "/wherry/replicas/"
TTL_S = 15


class Replicas:
    """`name` is this replica's, `host` where it is reached. Calls raise Unavailable."""

    def __init__(self, store: Store, name: str, host: str) -> None:
        self._store = store
        self._key = PREFIX + name
        self._host = host

    async def renew(self) -> None:
        await self._store.txn((), (Put(self._key, self._host.encode(), TTL_S),))

    async def leave(self) -> None:
        await self._store.txn((), (Delete(self._key),))

    async def hosts(self) -> list[str]:
        """Of all that live, each once and in order."""
        listed = await self._store.list(PREFIX)
        return sorted({item.value.decode("utf-8", "replace") for item in listed.items})
