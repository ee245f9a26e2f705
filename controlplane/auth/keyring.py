"""The signing keys as they are in the store: followed by every replica, rotated and removed by whoever administers the cluster.

A rotation is one transaction that adds a key, so a crash leaves the old keys or the new ones. The added key verifies at once and
signs SETTLE_S later (see `signing.Keys`): until then each replica has learnt of it, so no token is refused that another one has
just issued. Nothing is taken away by itself, since a token may be good for years. Tokens are not stored, so the longest lifetime
that a key has signed is: before the token is issued, and only when it is beyond the usual of an hour. For the tokens of pods that
hour is what counts, in which their agents renew them, not the year for which they work (see `accountclaims`). Made by
`controlplane.server`, which keeps `follow` going; asked by `fronts.keys` and, through a hook, by `accounttokens`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.auth.accountclaims import POD_LIFETIME_S
from controlplane.auth.ca import private_pem
from controlplane.auth.signing import KEYS_KEY, Key, Keys, parse_keys, write_keys
from controlplane.registry.state import translated
from controlplane.store.base import Compacted, Compare, KeyValue, Put, Store, StoreError
from wherry.api.context import Env
from wherry.api.errors import APIError, BadRequest, Conflict, NotFound, ServiceUnavailable
from wherry.api.times import format_seconds

log = logging.getLogger(__name__)

MAX_KEYS = 8
RETRY_S = 1.0
REMEMBER_ATTEMPTS = 5


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
            except (StoreError, APIError, ValueError) as error:
                log.warning("the signing keys cannot be followed: %s", error)
                await asyncio.sleep(RETRY_S)

    async def rotate(self) -> Keys:
        """With one more key. Raises Conflict, BadRequest, ServiceUnavailable."""
        kept = await self._read()
        if any(key.signs_from > self._env.now() for key in self.keys.all):
            raise Conflict("the keys are being rotated already: the newest one does not sign yet")
        if len(self.keys.all) >= MAX_KEYS:
            raise BadRequest(f"there are {MAX_KEYS} keys already; remove one whose tokens are over first")
        made = private_pem(ec.generate_private_key(ec.SECP256R1()))
        return await self._write(kept, [*self.keys.all, *parse_keys(made, since=self._env.now()).all])

    async def remove(self, beginning: str, *, force: bool = False) -> Keys:
        """Without the key whose id begins so. Raises NotFound, BadRequest, ServiceUnavailable; Conflict, too, while tokens that
        it has signed may be good, unless it is to be done by `force`."""
        kept = await self._read()
        key, now = self.find(beginning), self._env.now()
        if key.id == self.keys.signer(now).id:
            raise BadRequest(f'key "{key.id}" signs; rotate first, so that another one does')
        until = self.needed_until(key)
        if until > now and not force:
            raise Conflict(
                f'tokens that key "{key.id}" has signed are good until {format_seconds(math.ceil(until))}, and would be refused: '
                "remove it after that, or by force"
            )
        return await self._write(kept, [other for other in self.keys.all if other.id != key.id])

    def needed_until(self, key: Key) -> float:
        """When the last token of a key that signs no more is over; 0 for one that has never signed."""
        if key.signs_from > self._env.now():
            return 0.0
        return self.keys.signs_until(key) + max(key.longest_s, POD_LIFETIME_S)

    async def remember(self, lifetime_s: int, now: float) -> None:
        """Before a token of this lifetime is signed as of `now`. Raises ServiceUnavailable."""
        for _ in range(REMEMBER_ATTEMPTS):
            if lifetime_s <= max(self.keys.signer(now).longest_s, POD_LIFETIME_S):
                return
            kept = await self._read()
            signer = self.keys.signer(now)
            if lifetime_s > signer.longest_s:
                keys = [key.lasting(lifetime_s) if key is signer else key for key in self.keys.all]
                try:
                    await self._write(kept, keys)
                except Conflict:
                    continue  # another replica has signed one like it, or somebody rotates
        if lifetime_s > self.keys.signer(now).longest_s:
            raise ServiceUnavailable("the signing keys are being changed by others all the time; try again")

    def find(self, beginning: str) -> Key:
        """Raises NotFound, BadRequest."""
        found = [key for key in self.keys.all if beginning and key.id.startswith(beginning)]
        if not found:
            raise NotFound(f'no signing key has the id "{beginning}"')
        if len(found) > 1:
            raise BadRequest(f'id: more than one key begins with "{beginning}"')
        return found[0]

    async def _read(self) -> KeyValue:
        try:
            kept = await self._store.get(KEYS_KEY)
        except StoreError as error:
            raise translated(error) from error
        if kept is None:
            raise ServiceUnavailable("the signing keys are not in the store")
        self._take(kept)
        return kept

    async def _write(self, kept: KeyValue, keys: list[Key]) -> Keys:
        value = write_keys(keys)
        try:
            result = await self._store.txn([Compare(KEYS_KEY, kept.mod_revision)], [Put(KEYS_KEY, value)])
        except StoreError as error:
            raise translated(error) from error
        if not result.succeeded:
            raise Conflict("the signing keys have been changed by somebody else at the same time; try again")
        self._take(KeyValue(KEYS_KEY, value, kept.create_revision, result.revision))
        return self.keys

    def _take(self, kept: KeyValue) -> None:
        if kept.mod_revision <= self._revision:
            return
        self._revision = kept.mod_revision
        self.keys = parse_keys(kept.value)
        log.info("there are %d keys of service account tokens now", len(self.keys.all))
        if self.taken is not None:
            self.taken(self.keys)
