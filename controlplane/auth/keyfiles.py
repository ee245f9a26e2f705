"""Keys of service account tokens in files of one's own, by kube-apiserver's flags and in its formats: one private key that signs,
and others, public or private, whose tokens are good as well.

For who must keep keys elsewhere. Tokens of a Kubernetes that had the keys before are good only if their issuer is
https://kubernetes.default.svc, they say the key (`kid`), and the service account has the same uid here. RSA keys and those of
the curves P-256, P-384 and P-521, in PEM. The files are read once, by `wherry server` when it starts; where there are several
replicas each has the same ones. Keys that the store has (see `signing`) still verify, so that pods that run do not lose their
tokens, but sign no more.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from controlplane.auth.keyring import KeyRing
from controlplane.auth.signing import KEYS_KEY, Key, Keys, encode, key_id, parse_keys
from controlplane.store.base import Store
from wherry.api.context import Env
from wherry.api.errors import BadRequest

SIGNING_FLAG, VERIFYING_FLAG = "--service-account-signing-key-file", "--service-account-key-file"
MIN_RSA_BITS = 2048
_PEM = re.compile(rb"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)

Private: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Public: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_CURVES: dict[str, tuple[str, str, hashes.HashAlgorithm]] = {
    "secp256r1": ("ES256", "P-256", hashes.SHA256()),
    "secp384r1": ("ES384", "P-384", hashes.SHA384()),
    "secp521r1": ("ES512", "P-521", hashes.SHA512()),
}


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """What stands in the files: the one that signs, and those that verify besides."""

    signing: bytes
    verifying: Sequence[bytes] = ()


class FileKey(Key):
    """Signs only with a private half."""

    def __init__(self, public: Public, private: Private | None = None) -> None:
        self._public, self._own = public, private
        self.since, self.longest_s = 0.0, 0
        if isinstance(public, rsa.RSAPublicKey):
            self.algorithm = "RS256"
        else:
            self.algorithm, self._curve, self._hash = _CURVES[public.curve.name]
            self._half = (public.curve.key_size + 7) // 8

    @cached_property
    def id(self) -> str:
        return key_id(self._public)

    def sign(self, data: bytes) -> bytes:
        assert self._own is not None
        if isinstance(self._own, rsa.RSAPrivateKey):
            return self._own.sign(data, padding.PKCS1v15(), hashes.SHA256())
        first, second = decode_dss_signature(self._own.sign(data, ec.ECDSA(self._hash)))
        return first.to_bytes(self._half, "big") + second.to_bytes(self._half, "big")

    def verifies(self, signature: bytes, data: bytes) -> bool:
        try:
            if isinstance(self._public, rsa.RSAPublicKey):
                self._public.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
                return True
            if len(signature) != 2 * self._half:
                return False
            parts = (signature[: self._half], signature[self._half :])
            first, second = (int.from_bytes(part, "big") for part in parts)
            self._public.verify(encode_dss_signature(first, second), data, ec.ECDSA(self._hash))
        except InvalidSignature:
            return False
        return True

    def public(self) -> dict[str, str]:
        head = {"use": "sig", "kid": self.id, "alg": self.algorithm}
        if isinstance(self._public, rsa.RSAPublicKey):
            numbers = self._public.public_numbers()
            return {**head, "kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
        point = self._public.public_numbers()
        x, y = point.x.to_bytes(self._half, "big"), point.y.to_bytes(self._half, "big")
        return {**head, "kty": "EC", "crv": self._curve, "x": encode(x), "y": encode(y)}


def keys_of(files: KeyFiles, kept: Keys | None = None) -> Keys:
    """The key that signs first, then the others, then those of the store. Raises ValueError, naming the flag."""
    signing = [key for key in read_keys(files.signing, SIGNING_FLAG) if key.signs]
    if len(signing) != 1:
        raise ValueError(f"{SIGNING_FLAG}: the file holds {len(signing)} private keys; wanted one")
    found: dict[str, Key] = {signing[0].id: signing[0].key}
    for pem in files.verifying:
        for each in read_keys(pem, VERIFYING_FLAG):
            found.setdefault(each.id, each.key)
    for key in kept.all if kept is not None else ():
        found.setdefault(key.id, key.older())  # so that the first one signs
    return Keys(list(found.values()))


@dataclass(frozen=True, slots=True)
class _Read:
    key: FileKey
    signs: bool

    @property
    def id(self) -> str:
        return self.key.id


def read_keys(pem: bytes, flag: str) -> list[_Read]:
    """All that a file holds. Raises ValueError, naming the flag."""
    found = []
    for match in _PEM.finditer(pem):
        label, text = match[1].decode(), match[0]
        private: Private | None = None
        try:
            if label.endswith("PRIVATE KEY"):
                loaded = serialization.load_pem_private_key(text, password=None)
                public: object = loaded.public_key()
                private = loaded if isinstance(loaded, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) else None
            elif label == "CERTIFICATE":
                public = x509.load_pem_x509_certificate(text).public_key()
            elif label.endswith("PUBLIC KEY"):
                public = serialization.load_pem_public_key(text)
            else:
                continue  # the parameters of a curve, say
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a password
            raise ValueError(f"{flag}: a {label} can't be read: {error}") from error
        if isinstance(public, rsa.RSAPublicKey):
            if public.key_size < MIN_RSA_BITS:
                raise ValueError(f"{flag}: an RSA key of {public.key_size} bits; wanted at least {MIN_RSA_BITS}")
        elif not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name not in _CURVES:
            raise ValueError(f"{flag}: a key is neither an RSA key nor one of the curves P-256, P-384 and P-521")
        found.append(_Read(FileKey(public, private), private is not None))
    if not found:
        raise ValueError(f"{flag}: the file holds no key in PEM")
    return found


async def file_ring(store: Store, env: Env, files: KeyFiles) -> FileRing:
    """Raises ValueError."""
    kept = await store.get(KEYS_KEY)
    return FileRing(store, env, keys_of(files, parse_keys(kept.value) if kept is not None else None))


class FileRing(KeyRing):
    """Keys that change by other files and a restart."""

    def __init__(self, store: Store, env: Env, keys: Keys) -> None:
        self._store, self._env = store, env
        self.keys = keys
        self.taken = None

    async def follow(self) -> None:
        """There is nothing to follow."""
        await asyncio.Event().wait()

    async def rotate(self) -> Keys:
        raise BadRequest(
            f"the keys are in files: start the servers with another {SIGNING_FLAG}, and the old one as a {VERIFYING_FLAG}"
        )

    async def remove(self, beginning: str, *, force: bool = False) -> Keys:
        self.find(beginning)
        raise BadRequest(f"the keys are in files: start the servers without it as a {VERIFYING_FLAG}")

    async def remember(self, lifetime_s: int, now: float) -> None:
        """Whoever takes a key file away knows for how long he waits."""


def _number(value: int) -> str:
    return encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))
