"""The signing keys as they are in the store: followed by every replica, rotated and removed by whoever administers the cluster.

A rotation is one transaction that adds a key, so a crash leaves the old keys or the new ones. The added key verifies at once and
signs SETTLE_S later (see `signing.Keys`): until then each replica has learnt of it, so no token is refused that another one has
just issued. Nothing is taken away by itself, since a token may be good for years. Made by `controlplane.server`, which keeps
`follow` going; asked by `fronts.keys`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.auth.ca import private_pem
from controlplane.auth.signing import KEYS_KEY, Key, Keys, parse_keys, write_keys
from controlplane.store.base import Compacted, Compare, KeyValue, Put, Store, StoreError
from wherry.api.context import Env
from wherry.api.errors import BadRequest, Conflict, NotFound, ServiceUnavailable

log = logging.getLogger(__name__)

MAX_KEYS = 8
RETRY_S = 1.0


class KeyRing:
    """`keys` are those of the newest revision that we know of; `taken` is called with each later set."""

    def __init__(self, store: Store, env: Env, kept: KeyValue) -> None:
        self._store, self._env = store, env
        self._revision = kept.mod_revision
        self.keys = parse_keys(kept.value)
        self.taken: Callable[[Keys], None] | None = None

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            try:
                since = await self._store.revision()
                await self._read()
                watch = self._store.watch(KEYS_KEY, from_revision=since + 1)
                try:
                    async for batch in watch:
                        for event in batch.events:
                            if event.kv.key == KEYS_KEY and not event.deleted:
                                self._take(event.kv)
                finally:
                    await watch.aclose()
            except Compacted:
                continue
            except (StoreError, ValueError) as error:
                log.warning("the signing keys cannot be followed: %s", error)
                await asyncio.sleep(RETRY_S)

    async def rotate(self) -> Keys:
        """With one more key. Raises Conflict, BadRequest."""
        kept = await self._read()
        if any(key.signs_from > self._env.now() for key in self.keys.all):
            raise Conflict("the keys are being rotated already: the newest one does not sign yet")
        if len(self.keys.all) >= MAX_KEYS:
            raise BadRequest(f"there are {MAX_KEYS} keys already; remove one whose tokens are over first")
        made = private_pem(ec.generate_private_key(ec.SECP256R1()))
        return await self._write(kept, [*self.keys.all, *parse_keys(made, since=self._env.now()).all])

    async def remove(self, beginning: str) -> Keys:
        """Without the key whose id begins so. Raises NotFound, BadRequest, Conflict."""
        kept = await self._read()
        key = self.find(beginning)
        if key.id == self.keys.signer(self._env.now()).id:
            raise BadRequest(f'key "{key.id}" signs; rotate first, so that another one does')
        return await self._write(kept, [other for other in self.keys.all if other.id != key.id])

    def find(self, beginning: str) -> Key:
        """Raises NotFound, BadRequest."""
        found = [key for key in self.keys.all if beginning and key.id.startswith(beginning)]
        if not found:
            raise NotFound(f'no signing key has the id "{beginning}"')
        if len(found) > 1:
            raise BadRequest(f'id: more than one key begins with "{beginning}"')
        return found[0]

    async def _read(self) -> KeyValue:
        kept = await self._store.get(KEYS_KEY)
        if kept is None:
            raise ServiceUnavailable("the signing keys are not in the store")
        self._take(kept)
        return kept

    async def _write(self, kept: KeyValue, keys: list[Key]) -> Keys:
        result = await self._store.txn([Compare(KEYS_KEY, kept.mod_revision)], [Put(KEYS_KEY, write_keys(keys))])
        if not result.succeeded:
            raise Conflict("the signing keys have been changed by somebody else at the same time; try again")
        await self._read()
        return self.keys

    def _take(self, kept: KeyValue) -> None:
        if kept.mod_revision <= self._revision:
            return
        self._revision = kept.mod_revision
        self.keys = parse_keys(kept.value)
        log.info("there are %d keys of service account tokens now", len(self.keys.all))
        if self.taken is not None:
            self.taken(self.keys)
