"""The cluster's certificate authority: made once, kept in the store (so that every replica has the same one), used to sign.

Keys in the store, all under /wherry/pki/: `ca` holds certificate and key as one value, so no crash can part them. Called by
`controlplane.server` at start; `certificates` builds what is signed here.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controlplane.store.base import Compare, Put, Store
from wherry.api.context import Env

CA_KEY = "/wherry/pki/ca"
CA_DAYS = 3650
SEPARATOR = b"-----BEGIN PRIVATE KEY-----"
BACKDATE_S = 300.0  # for clocks that are a little behind ours; of a short certificate a tenth of its life
WARN_BEFORE_DAYS = 180  # of the CA's own end: a new one takes planning

DAY_S = 86_400


@dataclass(frozen=True)
class Authority:
    """The CA as PEM; the key never leaves the control plane."""

    certificate_pem: bytes
    key_pem: bytes

    @cached_property
    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate_pem)

    @cached_property
    def key(self) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key(self.key_pem, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the cluster CA's key is not an elliptic curve key")
        return key

    def sign(
        self,
        env: Env,
        public_key: CertificatePublicKeyTypes,
        subject: x509.Name,
        *,
        lifetime_s: float,
        client: bool = False,
        server: bool = False,
        names: x509.SubjectAlternativeName | None = None,
    ) -> bytes:
        """A certificate as PEM, for TLS clients or servers; never one that can sign others, never longer than the CA."""
        usages = []
        if client:
            usages.append(ExtendedKeyUsageOID.CLIENT_AUTH)
        if server:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        now = env.now()
        backdate_s = min(BACKDATE_S, lifetime_s / 10)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(serial_number(env))
            .not_valid_before(moment(now - backdate_s))
            .not_valid_after(min(moment(now + lifetime_s), self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(sign=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def warning(self, now: float) -> str:
        """What a person has to know about the CA's end; empty while it is far."""
        end = self.certificate.not_valid_after_utc
        days = (end.timestamp() - now) / DAY_S
        if days > WARN_BEFORE_DAYS:
            return ""
        left = f"ends in {days:.0f} days" if days > 0 else "has ended"
        return f"the cluster's CA {left} ({end:%Y-%m-%d}), and every certificate of the cluster with it"

    def public_key_hash(self) -> str:
        """`sha256:HEX` of the CA's public key, as in kubeadm's --discovery-token-ca-cert-hash."""
        return public_key_hash(self.certificate)


def public_key_hash(certificate: x509.Certificate) -> str:
    info = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = hashes.Hash(hashes.SHA256())
    digest.update(info)
    return "sha256:" + digest.finalize().hex()


def make_authority(env: Env, cluster_id: str) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"wherry-ca-{cluster_id}")])
    now = env.now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial_number(env))
        .not_valid_before(moment(now - BACKDATE_S))
        .not_valid_after(moment(now + CA_DAYS * DAY_S))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate.public_bytes(serialization.Encoding.PEM), private_pem(key))


async def load_authority(store: Store, env: Env, cluster_id: str) -> Authority:
    """The cluster's CA; the first of several replicas that start at once makes it."""
    kept = await store.get(CA_KEY)
    if kept is None:
        made = make_authority(env, cluster_id)
        result = await store.txn([Compare(CA_KEY, 0)], [Put(CA_KEY, made.certificate_pem + made.key_pem)])
        if result.succeeded:
            return made
        kept = await store.get(CA_KEY)
        assert kept is not None
    certificate, separator, key = kept.value.partition(SEPARATOR)
    return Authority(certificate, separator + key)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def serial_number(env: Env) -> int:
    return env.rng.getrandbits(126) | 1 << 126


def moment(unix_s: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(unix_s, datetime.UTC)


def key_usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )
