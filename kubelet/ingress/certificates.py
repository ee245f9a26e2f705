"""TLS Secrets as PEM files for haproxy. One that is broken is found here, since haproxy would refuse everything else with it.
Called by `controller`.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from wherry.client.config import write_private
from wherry.pb import core_v1_pb2

FALLBACK_NAME = "Wherry ingress default certificate"
FALLBACK_DAYS = 3650


def pem(secret: core_v1_pb2.Secret) -> bytes:
    """Certificate chain and key in one. Raises ValueError that says what is wrong with the Secret."""
    missing = [key for key in ("tls.crt", "tls.key") if not secret.data.get(key)]
    if missing:
        raise ValueError(f"has no {' and no '.join(missing)}")
    try:
        chain = x509.load_pem_x509_certificates(secret.data["tls.crt"])
    except ValueError as error:
        raise ValueError(f"tls.crt holds no certificate in PEM: {error}") from error
    try:
        key = serialization.load_pem_private_key(secret.data["tls.key"], None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"tls.key holds no private key in PEM without a password: {error}") from error
    if chain[0].public_key() != key.public_key():
        raise ValueError("tls.key does not belong to the first certificate of tls.crt")
    parts = [certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain]
    parts.append(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return b"".join(parts)


def write(folder: Path, contents: Mapping[str, bytes]) -> dict[str, Path]:
    """Secret -> its file, whose name changes with the content."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = {}
    for name, content in contents.items():
        path = folder / f"{hashlib.sha256(content).hexdigest()[:40]}.pem"
        if not path.exists():
            write_private(path, content)
        found[name] = path
    return found


def forget(folder: Path, kept: Iterable[Path]) -> None:
    wanted = set(kept)
    for path in folder.glob("*.pem"):
        if path not in wanted:
            path.unlink(missing_ok=True)


def fallback(path: Path, now: datetime.datetime) -> Path:
    """A self-signed certificate for hosts that have none, made once."""
    if path.exists():
        return path
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, FALLBACK_NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=FALLBACK_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("ingress.invalid")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(
        path,
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    return path
