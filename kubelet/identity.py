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
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from kubelet.clock import certificate_problem
from kubelet.link import SESSION
from wherry.api.context import Env
from wherry.api.errors import APIError, ServiceUnavailable, Unauthorized
from wherry.client.base import BidiStream, Transport
from wherry.client.validity import RENEW_AT, validity
from wherry.pb import nodelink_pb2

log = logging.getLogger(__name__)

JOIN = "/wherry.v1.NodeLink/Join"
JOIN_TIMEOUT_S = 15.0
RENEW_RETRY_S = 60.0  # or a twentieth of the lifetime
LOOK_S = 60.0
CLOSE_AFTER_S = 1.0


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

    @property
    def lifetime_s(self) -> float:
        return self.not_after - self.not_before

    def renew_at(self, jitter: float) -> float:
        return self.not_before + self.lifetime_s * (RENEW_AT + 0.1 * jitter)


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
    """A `Transport` over the present identity. `replace` hands later calls to a new connection; the old one stays for the
    sessions (a log that is followed, an exec, a port-forward) that stand on it, and is closed when the last of them has ended.

    Invariant: each connection in `_old` carries at least one session.
    """

    def __init__(self, make: Callable[[Identity], Transport], identity: Identity) -> None:
        self._make = make
        self._current = _Connection(make(identity))
        self._old: list[_Connection] = []
        self._closing: dict[asyncio.Task[None], None] = {}
        self.identity = identity

    def replace(self, identity: Identity) -> None:
        old, self._current = self._current, _Connection(self._make(identity))
        self.identity = identity
        self._old.append(old)
        self._sweep()

    async def unary(self, method: str, request: Message, *, timeout_s: float | None = None) -> Any:
        connection = self._current
        connection.calls += 1
        try:
            return await connection.transport.unary(method, request, timeout_s=timeout_s)
        finally:
            connection.calls -= 1
            self._sweep()

    def server_stream(self, method: str, request: Message) -> AsyncIterator[Any]:
        return self._current.transport.server_stream(method, request)

    def bidi(self, method: str, *, metadata: Mapping[str, str] | None = None) -> BidiStream:
        connection = self._current
        stream = connection.transport.bidi(method, metadata=metadata)
        if method != SESSION:
            return stream
        connection.calls += 1
        return _SessionStream(stream, partial(self._ended, connection))

    async def close(self) -> None:
        for connection in (*self._old, self._current):
            await connection.transport.close()
        if self._closing:
            await asyncio.wait(list(self._closing))

    def _ended(self, connection: _Connection) -> None:
        connection.calls -= 1
        self._sweep()

    def _sweep(self) -> None:
        for connection in [old for old in self._old if old.calls == 0]:
            self._old.remove(connection)
            # Soon: the control stream, told to, dials anew meanwhile; watches resume.
            task = asyncio.get_running_loop().create_task(_close_soon(connection.transport), name="old-connection")
            self._closing[task] = None
            task.add_done_callback(lambda done: self._closing.pop(done, None))


class _Connection:
    """`calls`: those that must not be broken off by us."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.calls = 0


async def _close_soon(transport: Transport) -> None:
    await asyncio.sleep(CLOSE_AFTER_S)
    await transport.close()


class _SessionStream:
    """A session's stream; every session ends with `cancel`, also one that was answered to its end."""

    def __init__(self, stream: BidiStream, ended: Callable[[], None]) -> None:
        self._stream = stream
        self._ended: Callable[[], None] | None = ended

    async def send(self, message: Message) -> None:
        await self._stream.send(message)

    async def done_sending(self) -> None:
        await self._stream.done_sending()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._stream.__aiter__()

    async def cancel(self) -> None:
        ended, self._ended = self._ended, None
        try:
            await self._stream.cancel()
        finally:
            if ended is not None:
                ended()


async def keep_renewing(
    env: Env, transport: RenewingTransport, store: IdentityStore, node_name: str, redial: Callable[[], None]
) -> None:
    """The identity that `transport` shows, until cancelled. `redial` makes the control stream show the new one. A failure is
    tried again every minute; the certificate lives on for weeks at that point. So is a new one that is due as soon as it is
    there: then our clock is wrong."""
    jitter = env.rng.random()
    told = ""
    while True:
        identity = transport.identity
        now = env.now()
        problem = certificate_problem(identity.not_before, identity.not_after, now)
        if problem and not told:
            log.error("%s", problem)
        told = problem
        wait_s = identity.renew_at(jitter) - now
        # The wall clock may jump: look again now and then.
        if wait_s > 0:
            await asyncio.sleep(min(wait_s, LOOK_S))
            continue
        try:
            renewed = await join(transport, node_name, "", identity.ca)
            store.save(renewed)
            transport.replace(renewed)
            redial()
            log.info("the node's certificate was renewed")
            jitter = env.rng.random()
            if renewed.renew_at(jitter) <= env.now():
                log.warning("the new certificate is to be renewed at once by this node's clock, which is ahead")
                await asyncio.sleep(min(RENEW_RETRY_S, renewed.lifetime_s / 20))
        except (APIError, IdentityError, OSError) as error:
            log.warning("the node's certificate could not be renewed yet: %s", error)
            await asyncio.sleep(min(RENEW_RETRY_S, identity.lifetime_s / 20))


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
