"""How a machine becomes a node, and how a node renews its certificate: the agent's side of NodeLink.Join.

Called by the agent at its first start (`join`) and long before its certificate ends (`renew`). The key is made here and never
leaves the machine. The server is trusted by the cluster's CA: given as PEM, or found in the TLS handshake by its hash.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from wherry.api.errors import ServiceUnavailable, Unauthorized
from wherry.client.base import Transport
from wherry.client.grpc import TLS, GrpcTransport
from wherry.pb import nodelink_pb2

JOIN = "/wherry.v1.NodeLink/Join"
TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM of a node: what it needs for every later call."""

    certificate: bytes
    key: bytes
    ca: bytes
    cluster_id: str

    def tls(self) -> TLS:
        return TLS(self.ca, self.certificate, self.key)


async def join(
    server: str, token: str, node_name: str, *, ca: bytes = b"", ca_hash: str = "", join_server: str = ""
) -> Credentials:
    """`server` is the HOST:PORT of the API; joining uses the port above it unless `join_server` says otherwise. One of `ca`
    (PEM) and `ca_hash` ("sha256:HEX" of the CA's public key) is needed. Raises Unauthorized, ServiceUnavailable, ..."""
    address = join_server or join_address(server)
    if not ca:
        if not ca_hash:
            raise Unauthorized("the server can't be trusted: give the cluster's CA, or its hash (sha256:...)")
        ca = await fetch_ca(address, ca_hash)
    transport = GrpcTransport([address], TLS(ca))
    try:
        return await _ask(transport, token, node_name)
    finally:
        await transport.close()


async def renew(transport: Transport, node_name: str) -> Credentials:
    """New credentials, asked for over a transport that still has the old ones."""
    return await _ask(transport, "", node_name)


def join_address(server: str) -> str:
    host, _, port = server.rpartition(":")
    return f"{host}:{int(port) + 1}"


def renewal_time(certificate: bytes, jitter: float) -> float:
    """When to renew, as Unix time: at 70 to 80 % of the lifetime. `jitter` is drawn from [0, 1)."""
    from cryptography import x509

    loaded = x509.load_pem_x509_certificate(certificate)
    start = loaded.not_valid_before_utc.timestamp()
    return start + (loaded.not_valid_after_utc.timestamp() - start) * (0.7 + 0.1 * jitter)


def ca_hash_of(ca: bytes) -> str:
    """`sha256:HEX` of the public key in a CA's PEM, as kubeadm writes it."""
    from cryptography import x509

    return _public_key_hash(x509.load_pem_x509_certificate(ca))


async def fetch_ca(address: str, ca_hash: str) -> bytes:
    """The PEM of the CA whose public key has this hash, from the chain that the server shows. Raises Unauthorized when there
    is none: then the server is not one of that cluster."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent or believed over this connection but what the hash proves
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
    except (OSError, TimeoutError) as error:
        raise ServiceUnavailable(f"{address}: {error or 'no answer'}") from error
    try:
        chain = list(_unverified_chain(writer.get_extra_info("ssl_object")))
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            pass
    for der in chain:
        certificate = x509.load_der_x509_certificate(der)
        if _public_key_hash(certificate) == ca_hash:
            return certificate.public_bytes(Encoding.PEM)
    raise Unauthorized(f"{address}: none of its certificates has the CA hash {ca_hash}: it is not the cluster you mean")


async def _ask(transport: Transport, token: str, node_name: str) -> Credentials:
    key, csr = make_request(node_name)
    request = nodelink_pb2.JoinRequest(token=token, node_name=node_name, csr_pem=csr)
    response = await transport.unary(JOIN, request, timeout_s=TIMEOUT_S)
    return Credentials(response.certificate_pem, key, response.ca_pem, response.cluster_id)


def make_request(node_name: str) -> tuple[bytes, bytes]:
    """A new private key and the request for the certificate of system:node:NAME, both PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node_name}"),
        ]
    )
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, csr.public_bytes(serialization.Encoding.PEM)


def _unverified_chain(ssl_object: Any) -> Iterable[bytes]:
    """DER of each certificate that the peer sent. Public from Python 3.13 on; the same function is there before."""
    if hasattr(ssl_object, "get_unverified_chain"):
        return list(ssl_object.get_unverified_chain())
    import _ssl

    return [certificate.public_bytes(_ssl.ENCODING_DER) for certificate in ssl_object._sslobj.get_unverified_chain()]


def _public_key_hash(certificate: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256:" + hashlib.sha256(info).hexdigest()
