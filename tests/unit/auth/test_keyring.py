"""The keys that sign tokens: several replicas over one store, a rotation at each moment of it, and what is refused."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.auth import keyring, signing
from controlplane.auth.accountclaims import POD_LIFETIME_S
from controlplane.auth.ca import private_pem
from controlplane.auth.keyring import KeyRing
from controlplane.auth.signing import SETTLE_S, InvalidToken, Keys, load_keys
from controlplane.fronts.keys import KeysServicer
from controlplane.store.base import Delete, Put, Store
from controlplane.store.faulty import FaultyStore
from controlplane.store.open import open_store
from wherry.api.context import Env
from wherry.api.errors import BadRequest, Conflict, NotFound, ServiceUnavailable
from wherry.api.times import format_seconds
from wherry.pb import keys_pb2


@pytest.fixture
async def store(env: Env) -> AsyncIterator[Store]:
    found = await open_store("sqlite::memory:", env, inline=True)
    yield found
    await found.close()


async def ring_of(store: Store, env: Env) -> KeyRing:
    return KeyRing(store, env, await load_keys(store))


def good(keys: Keys, token: str) -> bool:
    try:
        return keys.verify(token) == {"a": 1}
    except InvalidToken:
        return False


async def test_a_token_is_good_on_every_replica_before_and_after_a_rotation(store: Store, env: Env) -> None:
    one, other = await ring_of(store, env), await ring_of(store, env)
    assert one.keys.public() == other.keys.public(), "a second replica has the same key"
    taken: list[Keys] = []
    other.taken = taken.append
    following = asyncio.ensure_future(other.follow())
    first = one.keys.sign({"a": 1}, env.now())
    await one.rotate()
    second = one.keys.sign({"a": 1}, env.now())
    assert good(other.keys, second), "nobody signs with a key that the others have not learnt of"
    await asyncio.sleep(SETTLE_S + 1)
    assert len(taken) == 1
    third = one.keys.sign({"a": 1}, env.now())
    assert one.keys.signer(env.now()).id == other.keys.signer(env.now()).id == one.keys.all[1].id
    restarted = await ring_of(store, env)
    for ring in (one, other, restarted):
        assert [good(ring.keys, token) for token in (first, second, third)] == [True, True, True]
        assert len(ring.keys.public()["keys"]) == 2
    with pytest.raises(Conflict, match="are good until"):
        await one.remove(one.keys.all[0].id)
    await asyncio.sleep(POD_LIFETIME_S)
    await one.remove(one.keys.all[0].id[:12])
    await asyncio.sleep(5)
    for ring in (one, other):
        assert [good(ring.keys, token) for token in (first, second, third)] == [False, False, True]
    following.cancel()
    await asyncio.wait((following,))


async def test_what_a_rotation_refuses(store: Store, env: Env) -> None:
    ring = await ring_of(store, env)
    with pytest.raises(BadRequest, match="signs; rotate first"):
        await ring.remove(ring.keys.all[0].id)
    await ring.rotate()
    with pytest.raises(Conflict, match="does not sign yet"):
        await ring.rotate()
    for wrong in ("", "nope"):
        with pytest.raises(NotFound):
            await ring.remove(wrong)
    await ring.remove(ring.keys.all[1].id)
    for _ in range(keyring.MAX_KEYS - 1):
        await ring.rotate()
        await asyncio.sleep(SETTLE_S + 1)
    with pytest.raises(BadRequest, match="remove one"):
        await ring.rotate()


async def test_of_two_rotations_at_once_one_is_made(store: Store, env: Env) -> None:
    one, other = await ring_of(store, env), await ring_of(store, env)
    results = await asyncio.gather(one.rotate(), other.rotate(), return_exceptions=True)
    assert len([result for result in results if isinstance(result, Conflict)]) == 1
    assert len((await ring_of(store, env)).keys.all) == 2


async def test_the_ring_goes_on_when_the_history_is_gone(store: Store, env: Env) -> None:
    one, other = await ring_of(store, env), await ring_of(store, env)
    following = asyncio.ensure_future(other.follow())
    await asyncio.sleep(1)
    await one.rotate()
    await store.compact(await store.revision())
    await asyncio.sleep(5)
    assert len(other.keys.all) == 2
    following.cancel()
    await asyncio.wait((following,))


async def test_a_key_stays_as_long_as_the_longest_token_that_it_has_signed(store: Store, env: Env) -> None:
    one, other = await ring_of(store, env), await ring_of(store, env)
    revision = await store.revision()
    await one.remember(POD_LIFETIME_S, env.now())
    assert await store.revision() == revision, "what is usual is not written"
    await asyncio.gather(one.remember(86_400, env.now()), other.remember(50_000, env.now()))
    await other.remember(7_200, env.now())
    await one.rotate()
    taken_over = one.keys.all[1].signs_from
    await asyncio.sleep(SETTLE_S + 1)
    await one.remember(1 << 32, env.now())  # of the new key, so it does not hold the old one
    restarted = await ring_of(store, env)
    old, new = restarted.keys.all
    assert (old.longest_s, new.longest_s) == (86_400, 1 << 32)
    assert restarted.needed_until(old) == taken_over + 86_400
    await asyncio.sleep(86_400 - 2)
    with pytest.raises(Conflict, match=f"are good until {format_seconds(math.ceil(taken_over + 86_400))}, .*by force"):
        await restarted.remove(old.id)
    await asyncio.sleep(2)
    assert [key.id for key in (await restarted.remove(old.id)).all] == [new.id]


async def test_force_and_keys_that_have_never_signed(store: Store, env: Env) -> None:
    ring = await ring_of(store, env)
    await ring.remember(1 << 32, env.now())
    await ring.rotate()
    await ring.remove(ring.keys.all[1].id)
    await ring.rotate()
    await asyncio.sleep(SETTLE_S + 1)
    with pytest.raises(Conflict):
        await ring.remove(ring.keys.all[0].id)
    assert len((await ring.remove(ring.keys.all[0].id, force=True)).all) == 1


async def test_a_store_that_is_away_is_said_to_be(store: Store, env: Env) -> None:
    faulty = FaultyStore(store, env)
    ring = await ring_of(faulty, env)
    await ring.rotate()
    faulty.go_down()
    for change in (ring.rotate(), ring.remove(ring.keys.all[1].id), ring.remember(1 << 20, env.now())):
        with pytest.raises(ServiceUnavailable, match="the store is unavailable"):
            await change
    faulty.come_up()
    faulty.faults.after = 1.0
    with pytest.raises(ServiceUnavailable, match="the store is unavailable"):
        await ring.remove(ring.keys.all[1].id)


async def test_the_ring_goes_on_when_the_store_is_back(store: Store, env: Env) -> None:
    faulty = FaultyStore(store, env)
    one, other = await ring_of(store, env), await ring_of(faulty, env)
    following = asyncio.ensure_future(other.follow())
    await asyncio.sleep(1)
    faulty.go_down()
    kept = await store.get(signing.KEYS_KEY)
    assert kept is not None
    await store.txn([], [Delete(signing.KEYS_KEY)])
    await asyncio.sleep(5)
    faulty.come_up()
    await asyncio.sleep(5)
    await store.txn([], [Put(signing.KEYS_KEY, kept.value)])
    await one.rotate()
    await asyncio.sleep(5)
    assert not following.done()
    assert len(other.keys.all) == 2
    following.cancel()
    await asyncio.wait((following,))


async def test_the_key_that_was_looked_at_is_the_one_that_is_removed(store: Store, env: Env) -> None:
    """However many ids begin as the request says by then."""
    removed: list[str] = []

    class Ring(KeyRing):
        async def remove(self, beginning: str, *, force: bool = False) -> Keys:
            removed.append(beginning)
            return self.keys

    async def check(*args: object) -> None:
        pass

    async def run(work: Awaitable[Any]) -> Any:
        return await work

    async def nothing(*args: object) -> Any:
        return SimpleNamespace(items=[])

    ring = Ring(store, env, await load_keys(store))
    registry: Any = SimpleNamespace(list=nothing)
    authorizer: Any = SimpleNamespace(check=check)
    commits: Any = SimpleNamespace(run=run)
    call: Any = SimpleNamespace(identity=None, context=lambda: None)
    key = ring.keys.all[0]
    await KeysServicer(registry, authorizer, commits, env, ring).Remove(keys_pb2.RemoveKeyRequest(id=key.id[:5]), call)
    assert removed == [key.id]


def test_what_is_written_is_read() -> None:
    pem = private_pem(ec.generate_private_key(ec.SECP256R1()))
    first = signing.parse_keys(pem)
    second = signing.parse_keys(pem, since=1234.5)
    both = signing.parse_keys(signing.write_keys([*first.all, *second.all]))
    assert [key.since for key in both.all] == [0.0, 1234.5]
    longer = signing.parse_keys(signing.write_keys([key.lasting(7200) for key in both.all]))
    assert [(key.id, key.since, key.longest_s) for key in longer.all] == [(key.id, key.since, 7200) for key in both.all]
    with pytest.raises(ValueError, match="no private key"):
        signing.parse_keys(b"added: 1\n")
