"""Keys of one's own in files: what a token is signed with, whose tokens are good, and which files are refused. pyjwt, which knows
nothing of us, holds both directions to account.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from controlplane.auth.accountclaims import ISSUER, read
from controlplane.auth.keyfiles import VERIFYING_FLAG, KeyFiles, file_ring, keys_of, read_keys
from controlplane.auth.keyring import KeyRing
from controlplane.auth.signing import InvalidToken, load_keys, parse_keys
from controlplane.store.base import Store
from controlplane.store.open import open_store
from wherry.api.context import Env
from wherry.api.errors import BadRequest, NotFound

PEM = serialization.Encoding.PEM
MAKERS: dict[str, Callable[[], Any]] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
}


@pytest.fixture
async def store(env: Env) -> AsyncIterator[Store]:
    found = await open_store("sqlite::memory:", env, inline=True)
    yield found
    await found.close()


def private_pem(key: Any, form: Any = serialization.PrivateFormat.TraditionalOpenSSL) -> bytes:
    found: bytes = key.private_bytes(PEM, form, serialization.NoEncryption())
    return found


def public_pem(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return found


@pytest.mark.parametrize("algorithm", MAKERS)
def test_each_algorithm_both_ways(algorithm: str) -> None:
    key = MAKERS[algorithm]()
    keys = keys_of(KeyFiles(private_pem(key)))
    token = keys.sign({"sub": "a"}, 0)
    assert keys.verify(token) == {"sub": "a"}
    head = jwt.get_unverified_header(token)
    assert (head["alg"], head["kid"]) == (algorithm, keys.all[0].id)
    shown = jwt.PyJWK(keys.public()["keys"][0])
    assert jwt.decode(token, shown.key, [algorithm]) == {"sub": "a"}
    theirs = jwt.encode({"sub": "b"}, key, algorithm, headers={"kid": keys.all[0].id})
    assert keys.verify(theirs) == {"sub": "b"}
    with pytest.raises(InvalidToken):
        keys.verify(theirs[:-8] + "AAAAAAAA")


def test_the_algorithm_is_the_keys_own() -> None:
    """A token that says another one is nobody's, above all with the public key taken for a secret."""
    key = MAKERS["RS256"]()
    keys = keys_of(KeyFiles(private_pem(key)))
    for token in (
        jwt.encode({"sub": "a"}, "x" * 64, "HS256", headers={"kid": keys.all[0].id}),
        jwt.encode({"sub": "a"}, None, "none", headers={"kid": keys.all[0].id}),
        jwt.encode({"sub": "a"}, key, "RS512", headers={"kid": keys.all[0].id}),
    ):
        with pytest.raises(InvalidToken):
            keys.verify(token)


async def test_others_verify_and_do_not_sign(store: Store, env: Env) -> None:
    first, second, third = (MAKERS[name]() for name in ("ES256", "RS256", "ES384"))
    own = parse_keys((await load_keys(store)).value)
    await KeyRing(store, env, await load_keys(store)).rotate()
    ring = await file_ring(store, env, KeyFiles(private_pem(first), [public_pem(second) + public_pem(third)]))
    for key, name in ((second, "RS256"), (third, "ES384")):
        other = keys_of(KeyFiles(private_pem(key)))
        token = other.sign({"sub": name}, 0)
        assert ring.keys.verify(token) == {"sub": name}
    assert ring.keys.verify(own.sign({"sub": "pod"}, 0)) == {"sub": "pod"}, "pods that run keep their tokens"
    assert jwt.get_unverified_header(ring.keys.sign({}, 1e12))["kid"] == keys_of(KeyFiles(private_pem(first))).all[0].id
    with pytest.raises(BadRequest, match="the keys are in files"):
        await ring.rotate()
    with pytest.raises(BadRequest, match="the keys are in files"):
        await ring.remove(ring.keys.all[1].id)
    with pytest.raises(NotFound):
        await ring.remove("nope")
    await ring.remember(10**9, 0)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (KeyFiles(b""), "--service-account-signing-key-file: the file holds no key in PEM"),
        (KeyFiles(public_pem(MAKERS["ES256"]())), "the file holds 0 private keys; wanted one"),
        (KeyFiles(private_pem(MAKERS["ES256"]()) + private_pem(MAKERS["ES256"]())), "the file holds 2 private keys"),
        (KeyFiles(private_pem(ec.generate_private_key(ec.SECP256K1()))), "neither an RSA key nor one of the curves"),
        (KeyFiles(private_pem(ed25519.Ed25519PrivateKey.generate(), serialization.PrivateFormat.PKCS8)), "neither an RSA key"),
        (KeyFiles(private_pem(rsa.generate_private_key(65537, 1024))), "an RSA key of 1024 bits; wanted at least 2048"),
        (KeyFiles(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"), "a PRIVATE KEY can't be read"),
        (KeyFiles(private_pem(MAKERS["ES256"]()), [b"x"]), "--service-account-key-file: the file holds no key"),
    ],
    ids=["empty", "public", "two", "a curve", "Ed25519", "short", "broken", "verifying"],
)  # fmt: skip
def test_files_that_are_refused(files: KeyFiles, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keys_of(files)


def test_a_key_of_an_unknown_kind_is_the_flags_error() -> None:
    der = bytes.fromhex("300d300506032a0304030400010203")
    pem = b"-----BEGIN PUBLIC KEY-----\n" + base64.b64encode(der) + b"\n-----END PUBLIC KEY-----\n"
    with pytest.raises(ValueError, match=r"^--service-account-key-file: a PUBLIC KEY can't be read"):
        read_keys(pem, VERIFYING_FLAG)


@pytest.mark.parametrize("audience", ["api", ["api"]])
def test_one_audience_may_be_no_list(audience: Any) -> None:
    private = {"namespace": "default", "serviceaccount": {"name": "a", "uid": "u"}}
    found = {"iss": ISSUER, "kubernetes.io": private, "exp": 2, "nbf": 0, "aud": audience}
    assert read(found, 1).audiences == ("api",)
