"""Who the agent is: its key, its certificate and the cluster's CA, in its directory; joining, and renewing long before the end.

Called by `wherry.cli.agent`. The key is made here and never leaves the node. Key and certificate are one file, replaced by
renaming, so a killed agent never finds a key without its certificate. Cryptography's library is loaded for a new key only.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from wherry.api.context import Env
from wherry.api.errors import APIError, ServiceUnavailable, Unauthorized
from wherry.client.base import BidiStream, Transport
from wherry.pb import nodelink_pb2

log = logging.getLogger(__name__)

JOIN = "/wherry.v1.NodeLink/Join"
JOIN_TIMEOUT_S = 15.0
RENEW_AT = 0.7  # of the lifetime, and up to a tenth later
RENEW_RETRY_S = 60.0


class IdentityError(Exception):
    """What a person has to know; without a traceback."""


@dataclass(frozen=True, slots=True)
class Identity:
    """PEM; times are Unix seconds."""

    key: bytes
    certificate: bytes
    ca: bytes
    cluster_id: str
    not_before: float
    not_after: float

    def renew_at(self, jitter: float) -> float:
        return self.not_before + (self.not_after - self.not_before) * (RENEW_AT + 0.1 * jitter)


class IdentityStore:
    """DIRECTORY/node.pem (key and certificate), ca.pem, identity.json."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self) -> Identity | None:
        try:
            pem = (self._directory / "node.pem").read_bytes()
            ca = (self._directory / "ca.pem").read_bytes()
            facts = json.loads((self._directory / "identity.json").read_text())
            key, separator, rest = pem.partition(b"-----BEGIN CERTIFICATE-----")
            times = validity(separator + rest)
            return Identity(key, separator + rest, ca, str(facts["cluster"]), *times)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError) as error:
            raise IdentityError(
                f"{self._directory}: the node's identity is damaged ({error}); remove node.pem there and join with a token"
            ) from error

    def save(self, identity: Identity) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._replace("identity.json", json.dumps({"cluster": identity.cluster_id}).encode() + b"\n")
        self._replace("ca.pem", identity.ca)
        self._replace("node.pem", identity.key + identity.certificate)  # last: it is what says that we have joined

    def _replace(self, name: str, data: bytes) -> None:
        temporary = self._directory / f".{name}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._directory / name)


def validity(certificate_pem: bytes) -> tuple[float, float]:
    """(notBefore, notAfter). By the standard library: `cryptography` would stay in memory for ever."""
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(certificate_pem)
        file.flush()
        try:
            decoded: Mapping[str, Any] = ssl._ssl._test_decode_cert(file.name)  # type: ignore[attr-defined]  # not in the stubs
        except ssl.SSLError as error:
            raise ValueError(f"the certificate cannot be read: {error}") from error
    return ssl.cert_time_to_seconds(decoded["notBefore"]), ssl.cert_time_to_seconds(decoded["notAfter"])


_MAKE_REQUEST = """
import sys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
key = ec.generate_private_key(ec.SECP256R1())
subject = x509.Name([
    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
    x509.NameAttribute(NameOID.COMMON_NAME, "system:node:" + sys.argv[1]),
])
csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
sys.stdout.buffer.write(key.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
sys.stdout.buffer.write(csr.public_bytes(serialization.Encoding.PEM))
"""


async def new_request(node_name: str) -> tuple[bytes, bytes]:
    """(key, certificate request). In a process of its own, whose memory goes with it: the libraries are a fifth of ours."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-I", "-c", _MAKE_REQUEST, node_name],
        capture_output=True,
        timeout=60,
        check=False,
    )
    key, separator, csr = done.stdout.partition(b"-----BEGIN CERTIFICATE REQUEST-----")
    if done.returncode != 0 or not separator:
        raise IdentityError(f"cannot make a key: {done.stderr.decode(errors='replace').strip()[-500:]}")
    return key, separator + csr


async def join(transport: Transport, node_name: str, token: str, expected_ca: bytes = b"") -> Identity:
    """By token, or (empty token) by the certificate that the transport shows. Raises APIError, IdentityError."""
    key, csr = await new_request(node_name)
    request = nodelink_pb2.JoinRequest(token=token, node_name=node_name, csr_pem=csr)
    response = await transport.unary(JOIN, request, timeout_s=JOIN_TIMEOUT_S)
    ca = bytes(response.ca_pem) or expected_ca
    return Identity(key, bytes(response.certificate_pem), ca, response.cluster_id, *validity(response.certificate_pem))


# -- the cluster's CA, from its hash


async def fetch_ca(host: str, port: int, wanted_hash: str) -> bytes:
    """The CA certificate that the server shows, if its public key has the hash; nothing else of that connection is used."""
    return await asyncio.to_thread(_fetch_ca, host, port, wanted_hash)


def _fetch_ca(host: str, port: int, wanted_hash: str) -> bytes:
    import socket

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # what arrives is compared with the hash
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((host, port), timeout=10) as raw, context.wrap_socket(raw) as connection:
            chain = connection._sslobj.get_unverified_chain() or []  # type: ignore[attr-defined]  # public from 3.13 on
            ders = [ssl.PEM_cert_to_DER_cert(c.public_bytes(1)) for c in chain]
    except OSError as error:
        raise IdentityError(f"cannot reach {host}:{port} to learn the cluster's CA: {error}") from error
    wanted = wanted_hash.removeprefix("sha256:").lower()
    for der in ders:
        if hashlib.sha256(public_key_info(der)).hexdigest() == wanted:
            return ssl.DER_cert_to_PEM_cert(der).encode()
    raise IdentityError(f"{host}:{port} shows no CA whose public key has the hash sha256:{wanted}")


def public_key_info(der: bytes) -> bytes:
    """SubjectPublicKeyInfo of a certificate: the seventh field of its TBSCertificate, the optional version counted."""
    _, position, _ = _element(der, 0)  # Certificate
    _, position, _ = _element(der, position)  # TBSCertificate
    fields: list[bytes] = []
    while len(fields) < 7:
        tag, _, end = _element(der, position)
        if not fields and tag != 0xA0:
            fields.append(b"")  # version 1 leaves the version out
        fields.append(der[position:end])
        position = end
    return fields[6]


def _element(der: bytes, start: int) -> tuple[int, int, int]:
    """(tag, start of the content, end) of a DER element."""
    length, content = der[start + 1], start + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(der[content : content + count], "big")
        content += count
    return der[start], content, content + length


# -- a transport whose certificate changes


class RenewingTransport:
    """A `Transport` over the present identity. `replace` hands later calls to a new connection and ends the old one soon after,
    so that the control stream and sessions dial again."""

    def __init__(self, make: Callable[[Identity], Transport], identity: Identity) -> None:
        self._make = make
        self._current = make(identity)
        self.identity = identity

    async def replace(self, identity: Identity) -> None:
        old, self._current = self._current, self._make(identity)
        self.identity = identity
        await old.close()

    async def unary(self, method: str, request: Message, *, timeout_s: float | None = None) -> Any:
        return await self._current.unary(method, request, timeout_s=timeout_s)

    def server_stream(self, method: str, request: Message) -> AsyncIterator[Any]:
        return self._current.server_stream(method, request)

    def bidi(self, method: str, *, metadata: Mapping[str, str] | None = None) -> BidiStream:
        return self._current.bidi(method, metadata=metadata)

    async def close(self) -> None:
        await self._current.close()


async def keep_renewing(env: Env, transport: RenewingTransport, store: IdentityStore, node_name: str) -> None:
    """The identity that `transport` shows, until cancelled. A failure is tried again every minute; the certificate lives
    on for weeks at that point."""
    while True:
        identity = transport.identity
        wait_s = identity.renew_at(env.rng.random()) - env.now()
        # The wall clock may jump: look again now and then.
        if wait_s > 0:
            await asyncio.sleep(min(wait_s, 3600.0))
            continue
        try:
            identity = await join(transport, node_name, "", identity.ca)
            store.save(identity)
            await transport.replace(identity)
            log.info("the node's certificate was renewed")
        except (APIError, IdentityError, OSError) as error:
            log.warning("the node's certificate could not be renewed yet: %s", error)
            await asyncio.sleep(RENEW_RETRY_S)


async def join_with_patience(transport: Transport, node_name: str, token: str, ca: bytes) -> Identity:
    """Waits for a control plane that is not up yet; a refusal is final."""
    delay_s = 0.1
    while True:
        try:
            return await join(transport, node_name, token, ca)
        except ServiceUnavailable as error:
            log.warning("cannot join yet: %s", error.message)
        except Unauthorized as error:
            raise IdentityError(f"the token was refused: {error.message}") from error
        except APIError as error:
            raise IdentityError(f"joining was refused: {error.message}") from error
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, 3.0)
