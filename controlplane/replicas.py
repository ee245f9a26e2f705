"""Which control plane replicas live, and where they are reached: each keeps a key with a short time to live in the store; who
does not renew it is gone. Run by `controlplane.server` where several replicas may share a store; a single one writes nothing.

Asked by `apiservice`, which leads pods to those that live, and by `nodelink.others`. The store's clock alone counts, so no
replica's clock can be wrong. The value changes with what a replica announces only, and the compaction takes the renewals.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from controlplane.store.base import Delete, Put, Store, StoreError, Watch

log = logging.getLogger(__name__)

PREFIX = "/wherry/replicas/"
# Pods' connections to the Service `kubernetes` go to a dead replica for no longer than this, and a turn of the store's own clock.
TTL_S = 3
RENEWAL_S = 1.5
RETRY_S = 0.5
LEAVING_S = 3.0


@dataclass(frozen=True, slots=True)
class Replica:
    """`address` is that of its gRPC front (HOST:PORT), `host` where pods reach its HTTPS front; either may be empty."""

    name: str
    address: str
    host: str


class Replicas:
    """`name` and `address` are our own. Calls raise StoreError."""

    def __init__(self, store: Store, name: str, address: str) -> None:
        self._store = store
        self._name = name
        self._address = address
        self._host = ""
        self._left = False  # no renewal begins any more
        self._puts: set[asyncio.Task[None]] = set()  # that are under way: our key is deleted after them
        self._watch: Watch | None = None

    async def run(self) -> None:
        """Says that we live, until cancelled."""
        try:
            while not self._left:
                try:
                    async with asyncio.timeout(RENEWAL_S):
                        await self._renew()
                    delay_s = RENEWAL_S
                except (StoreError, TimeoutError) as error:
                    log.debug("not renewed: %s", error)
                    delay_s = RETRY_S
                await asyncio.sleep(delay_s)
        except asyncio.CancelledError:  # after any other failure it is begun again
            with contextlib.suppress(StoreError, TimeoutError):
                async with asyncio.timeout(LEAVING_S):
                    await self.leave()
            raise
        finally:
            await self._end_watch()

    async def announce(self, host: str) -> None:
        """Pods reach our HTTPS front there."""
        self._host = host
        await self._renew()

    async def leave(self) -> None:
        """We live no longer, for all others; called twice it does nothing more."""
        if not self._left:
            self._left = True
            if self._puts:
                await asyncio.wait(self._puts)
            await self._store.txn((), (Delete(PREFIX + self._name),))

    async def all(self) -> list[Replica]:
        """That live, by name, ourselves among them."""
        listed = await self._store.list(PREFIX)
        return [_decode(item.key.removeprefix(PREFIX), item.value) for item in listed.items]

    async def others(self) -> list[Replica]:
        return [replica for replica in await self.all() if replica.name != self._name]

    async def hosts(self) -> list[str]:
        """Of all that live, each once and in order."""
        return sorted({replica.host for replica in await self.all() if replica.host})

    async def changed(self, timeout_s: float) -> None:
        """Returns when one has come, gone or announced something else since the last call, or after that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    if self._watch is None:
                        self._watch = self._store.watch(PREFIX)
                    try:
                        batch = await anext(self._watch)
                    except (StoreError, StopAsyncIteration) as error:
                        log.debug("the watch of replicas broke: %s", error)
                        await self._end_watch()
                        await asyncio.sleep(RETRY_S)
                        return
                    if any(
                        event.deleted or event.previous is None or event.previous.value != event.kv.value
                        for event in batch.events
                    ):
                        return

    async def _renew(self) -> None:
        if not self._left:
            put = asyncio.get_running_loop().create_task(self._put(), name="replica-put")
            self._puts.add(put)
            put.add_done_callback(self._written)
            await asyncio.shield(put)

    async def _put(self) -> None:
        value = f"{self._address} {self._host}".encode()
        await self._store.txn((), (Put(PREFIX + self._name, value, TTL_S),))

    def _written(self, put: asyncio.Task[None]) -> None:
        self._puts.discard(put)
        if not put.cancelled():
            put.exception()  # seen, also when nobody waits any more

    async def _end_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.aclose()


def _decode(name: str, value: bytes) -> Replica:
    address, space, host = value.decode("utf-8", "replace").partition(" ")
    if not space:  # by a Wherry that wrote the host only
        return Replica(name, "", address)
    return Replica(name, address, host)
