"""What the cluster CA issues: serving certificates, client certificates of users, and those of nodes.

Pure but for the key pairs that it draws. Called by `serving`, `join`, `csr` and `controlplane.server`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from controlplane.auth.ca import DAY_S, Authority, private_pem
from controlplane.auth.names import NODE_PREFIX, NODES_GROUP
from wherry.api.context import Env
from wherry.api.errors import BadRequest, Forbidden

SERVING_LIFETIME_S = 90 * DAY_S
NODE_LIFETIME_S = 30 * DAY_S
USER_LIFETIME_S = 365 * DAY_S
MIN_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long what is issued lives. Everybody renews at 70 to 80 % of it."""

    serving_s: float = SERVING_LIFETIME_S
    node_s: float = NODE_LIFETIME_S
    user_s: float = USER_LIFETIME_S

    @classmethod
    def all(cls, seconds: float) -> Lifetimes:
        return cls(seconds, seconds, seconds)


def check_s(lifetime_s: float, usual_s: float) -> float:
    """How often to look whether it is time: long before the certificate has ended, however short it lives."""
    return min(usual_s, lifetime_s / 20)


@dataclass(frozen=True, slots=True)
class KeyPair:
    certificate_pem: bytes
    key_pem: bytes


def issue_serving(ca: Authority, env: Env, names: Sequence[str], *, lifetime_s: float = SERVING_LIFETIME_S) -> KeyPair:
    """For the API server under each of `names` (host names and addresses)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wherry-server")])
    alternatives: list[x509.GeneralName] = []
    for name in names:
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            alternatives.append(x509.DNSName(name))
    certificate = ca.sign(
        env,
        key.public_key(),
        subject,
        lifetime_s=lifetime_s,
        server=True,
        client=True,  # replicas call each other
        names=x509.SubjectAlternativeName(alternatives),
    )
    return KeyPair(certificate, private_pem(key))


def issue_client(
    ca: Authority, env: Env, user: str, groups: Sequence[str], *, lifetime_s: float = USER_LIFETIME_S
) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = ca.sign(env, key.public_key(), subject_of(user, groups), lifetime_s=lifetime_s, client=True)
    return KeyPair(certificate, private_pem(key))


def subject_of(user: str, groups: Sequence[str]) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def load_csr(pem: bytes) -> x509.CertificateSigningRequest:
    """Raises BadRequest for what is no request, or one whose signature does not fit."""
    try:
        csr = x509.load_pem_x509_csr(pem)
        valid = csr.is_signature_valid
    except (ValueError, TypeError) as error:
        raise BadRequest(f"csr: not a PEM encoded certificate signing request: {error}") from error
    if not valid:
        raise BadRequest("csr: its signature does not fit its key")
    return csr


def sign_node(ca: Authority, env: Env, csr_pem: bytes, node: str, *, lifetime_s: float = NODE_LIFETIME_S) -> bytes:
    """A client certificate for system:node:`node`. Raises Forbidden when the request is for anything else."""
    csr = load_csr(csr_pem)
    problem = node_csr_problem(csr, node)
    if problem:
        raise Forbidden(f'the certificate request of node "{node}" is refused: {problem}')
    key = csr.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return ca.sign(env, key, subject_of(NODE_PREFIX + node, [NODES_GROUP]), lifetime_s=lifetime_s, client=True)


def sign_client(ca: Authority, env: Env, csr_pem: bytes, *, refused_groups: Sequence[str], lifetime_s: float) -> bytes:
    """A client certificate for the subject that the request names. Raises Forbidden for one in `refused_groups`."""
    csr = load_csr(csr_pem)
    groups = [str(part.value) for part in csr.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    users = [str(part.value) for part in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(users) != 1 or not users[0]:
        raise BadRequest(f"csr: its common names are {users}; wanted one, the user")
    for group in groups:
        if group in refused_groups:
            raise Forbidden(f'csr: certificates for group "{group}" are not signed on request')
    key = csr.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise BadRequest(f"csr: its RSA key has {key.key_size} bits; wanted at least {MIN_RSA_BITS}")
    elif not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise BadRequest("csr: its key is of no kind that TLS clients use: wanted RSA, ECDSA or Ed25519")
    return ca.sign(env, key, subject_of(users[0], groups), lifetime_s=lifetime_s, client=True)


def node_csr_problem(csr: x509.CertificateSigningRequest, node: str) -> str:
    """Why `csr` is no request for the client certificate of `node`; empty when it is."""
    names = [str(part.value) for part in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = [str(part.value) for part in csr.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    if names != [NODE_PREFIX + node]:
        return f'its common name is {names}; wanted "{NODE_PREFIX}{node}"'
    if groups != [NODES_GROUP]:
        return f'its organization is {groups}; wanted "{NODES_GROUP}"'
    if len(csr.extensions) and any(isinstance(part.value, x509.SubjectAlternativeName) for part in csr.extensions):
        return "it has subject alternative names; a client certificate has none"
    key = csr.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in ("secp256r1", "secp384r1"):
        return "its key is not an ECDSA key on P-256 or P-384"
    return ""


def expiry(certificate_pem: bytes) -> float:
    """Unix time of notAfter."""
    return x509.load_pem_x509_certificate(certificate_pem).not_valid_after_utc.timestamp()


def renew_at(certificate_pem: bytes, jitter: float) -> float:
    """When to renew, as Unix time: at 70 to 80 % of the lifetime. `jitter` is drawn from [0, 1)."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    start = certificate.not_valid_before_utc.timestamp()
    end = certificate.not_valid_after_utc.timestamp()
    return start + (end - start) * (0.7 + 0.1 * jitter)
