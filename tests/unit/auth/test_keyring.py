"""The keys that sign tokens: several replicas over one store, a rotation at each moment of it, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.auth import keyring, signing
from controlplane.auth.ca import private_pem
from controlplane.auth.keyring import KeyRing
from controlplane.auth.signing import SETTLE_S, InvalidToken, Keys, load_keys
from controlplane.store.base import Store
from controlplane.store.open import open_store
from wherry.api.context import Env
from wherry.api.errors import BadRequest, Conflict, NotFound


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


def test_what_is_written_is_read() -> None:
    pem = private_pem(ec.generate_private_key(ec.SECP256R1()))
    first = signing.parse_keys(pem)
    second = signing.parse_keys(pem, since=1234.5)
    both = signing.parse_keys(signing.write_keys([*first.all, *second.all]))
    assert [key.since for key in both.all] == [0.0, 1234.5]
    with pytest.raises(ValueError, match="no private key"):
        signing.parse_keys(b"added: 1\n")
