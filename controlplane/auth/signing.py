"""The keys that sign service account tokens: made once, kept in the store beside the CA, so that every replica signs and verifies
with the same ones.

`/wherry/pki/service-account` holds private keys as PEM, one after another, each with the time when it was added and the longest
lifetime among its tokens, if that is beyond the usual. The newest signs, from SETTLE_S after it was added on; all verify.
`keyring` changes and follows them; `accounttokens` uses them. The tokens are JWTs (RFC 7519) signed with ES256: one algorithm and
one form, so that nothing about them is up to whoever shows one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from controlplane.auth.ca import private_pem
from controlplane.store.base import Compare, KeyValue, Put, Store
from wherry.api import jsontext

KEYS_KEY = "/wherry/pki/service-account"
ALGORITHM = "ES256"
_HALF = 32  # bytes of each of the two numbers of a P-256 signature
MAX_TOKEN_CHARS = 16 * 1024
SETTLE_S = 60.0  # in which every replica learns of a new key, before there is a token signed by it
_PEM = re.compile(
    rb"(?:longest: (?P<longest>\d+)\n)?(?:added: (?P<since>[\d.]+)\n)?"
    rb"(?P<pem>-----BEGIN PRIVATE KEY-----.*?-----END PRIVATE KEY-----\n?)",
    re.DOTALL,
)


class InvalidToken(Exception):
    """It is not a token of ours, or not one any more. The message may be told to whoever may review tokens."""


class Key:
    """`since` is when it was added, in Unix seconds; 0 for the first one of all. `longest_s` is the longest lifetime of a token
    that it may have signed; 0 while none was beyond the usual (see `keyring`)."""

    algorithm = ALGORITHM

    def __init__(self, private: ec.EllipticCurvePrivateKey, since: float = 0.0, longest_s: int = 0) -> None:
        self._private = private
        self.since = since
        self.longest_s = longest_s

    def lasting(self, longest_s: int) -> Key:
        """The same key, of which longer tokens are known."""
        return Key(self._private, self.since, longest_s)

    def older(self) -> Key:
        """The same key, as if it had been the first one of all."""
        return Key(self._private, 0.0, self.longest_s)

    @property
    def signs_from(self) -> float:
        return self.since + SETTLE_S if self.since else 0.0

    def pem(self) -> bytes:
        return private_pem(self._private)

    @cached_property
    def id(self) -> str:
        return key_id(self._private.public_key())

    def sign(self, data: bytes) -> bytes:
        first, second = decode_dss_signature(self._private.sign(data, ec.ECDSA(hashes.SHA256())))
        return first.to_bytes(_HALF, "big") + second.to_bytes(_HALF, "big")

    def verifies(self, signature: bytes, data: bytes) -> bool:
        if len(signature) != 2 * _HALF:
            return False
        numbers = int.from_bytes(signature[:_HALF], "big"), int.from_bytes(signature[_HALF:], "big")
        try:
            self._private.public_key().verify(encode_dss_signature(*numbers), data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    def public(self) -> dict[str, str]:
        """As a JSON Web Key."""
        numbers = self._private.public_key().public_numbers()
        x, y = numbers.x.to_bytes(_HALF, "big"), numbers.y.to_bytes(_HALF, "big")
        return {
            "use": "sig",
            "kty": "EC",
            "kid": self.id,
            "crv": "P-256",
            "alg": ALGORITHM,
            "x": encode(x),
            "y": encode(y),
        }


def key_id(public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> str:
    """As Kubernetes names keys: so that anybody who has it finds it in a key set."""
    info = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encode(hashlib.sha256(info).digest())


class Keys:
    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = tuple(keys)

    @property
    def all(self) -> tuple[Key, ...]:
        """In the order in which they were added."""
        return self._keys

    def signer(self, now: float) -> Key:
        """The newest of those that have settled; the first when none has."""
        settled = [key for key in self._keys if key.signs_from <= now]
        return max(settled, key=lambda key: key.signs_from) if settled else self._keys[0]

    def signs_until(self, key: Key) -> float:
        """When the next one takes over: infinity while there is none. Of keys that are gone nothing is known, so it may be said
        to be later than it was."""
        return min((other.signs_from for other in self._keys if other.signs_from > key.signs_from), default=math.inf)

    def sign(self, claims: Mapping[str, Any], now: float) -> str:
        """The token, in JWT's compact form."""
        key = self.signer(now)
        head = encode(_json({"alg": key.algorithm, "kid": key.id}))
        signed = f"{head}.{encode(_json(claims))}"
        return f"{signed}.{encode(key.sign(signed.encode()))}"

    def verify(self, token: str) -> dict[str, Any]:
        """The claims, of which nothing but the signature has been looked at. Raises InvalidToken."""
        parts = token.split(".")
        if len(parts) != 3 or len(token) > MAX_TOKEN_CHARS:
            raise InvalidToken("invalid bearer token")
        try:
            head, claims, signature = jsontext.read(decode(parts[0])), decode(parts[1]), decode(parts[2])
        except ValueError as error:
            raise InvalidToken("invalid bearer token") from error
        if not isinstance(head, dict) or "crit" in head:
            raise InvalidToken("invalid bearer token")
        signed = f"{parts[0]}.{parts[1]}".encode()
        # A key has one algorithm: which one is not up to the token.
        wanted = [key for key in self._keys if key.id == head.get("kid") and key.algorithm == head.get("alg")]
        if not any(key.verifies(signature, signed) for key in wanted):
            raise InvalidToken("invalid bearer token")
        try:
            found = jsontext.read(claims)
        except ValueError as error:  # with a key from a file, by somebody else
            raise InvalidToken("invalid bearer token") from error
        if not isinstance(found, dict):
            raise InvalidToken("invalid bearer token")
        return found

    def public(self) -> dict[str, list[dict[str, str]]]:
        """The key set by which others verify our tokens (RFC 7517)."""
        return {"keys": [key.public() for key in self._keys]}


async def load_keys(store: Store) -> KeyValue:
    """The cluster's keys as they are kept; the first of several replicas that start at once makes one."""
    kept = await store.get(KEYS_KEY)
    if kept is None:
        made = private_pem(ec.generate_private_key(ec.SECP256R1()))
        await store.txn([Compare(KEYS_KEY, 0)], [Put(KEYS_KEY, made)])  # or another replica has
        kept = await store.get(KEYS_KEY)
        assert kept is not None
    return kept


def write_keys(keys: Sequence[Key]) -> bytes:
    """What `parse_keys` reads."""
    return b"".join(
        (b"longest: %d\n" % key.longest_s if key.longest_s else b"")
        + (b"added: %.3f\n" % key.since if key.since else b"")
        + key.pem()
        for key in keys
    )


def parse_keys(pem: bytes, *, since: float = 0.0) -> Keys:
    """`since` is for those that do not tell. Raises ValueError."""
    keys = []
    for match in _PEM.finditer(pem):
        key = serialization.load_pem_private_key(match["pem"], password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError(f"{KEYS_KEY}: a key is not one of the curve P-256")
        keys.append(Key(key, float(match["since"]) if match["since"] else since, int(match["longest"] or 0)))
    if not keys:
        raise ValueError(f"{KEYS_KEY}: it holds no private key")
    return Keys(keys)


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """The one form that `encode` gives, and no other of the same bytes. Raises ValueError."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    if encode(data) != text:
        raise ValueError("not in the canonical form")
    return data


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
