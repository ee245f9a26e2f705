"""Real etcd servers for tests: one or several members on free loopback ports, with mutual TLS. Called by the tests and
benchmarks of the store.

etcd writes to the folder it is given and ends with `stop()`; nothing else is left behind.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

START_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class TLSPaths:
    ca: Path
    certificate: Path
    key: Path


@dataclass(slots=True)
class Member:
    name: str
    client_port: int
    peer_port: int
    process: subprocess.Popen[bytes] | None = None


@dataclass(slots=True)
class EtcdCluster:
    """`start()` them all, then use `endpoints` with `tls`."""

    binary: str
    folder: Path
    tls: TLSPaths
    members: list[Member] = field(default_factory=list)
    flags: dict[str, str] = field(default_factory=dict)  # more of the members' flags

    @classmethod
    def make(cls, binary: str, folder: Path, size: int = 1) -> EtcdCluster:
        folder.mkdir(parents=True, exist_ok=True)
        ports = free_ports(2 * size)
        members = [Member(f"m{n}", ports[2 * n], ports[2 * n + 1]) for n in range(size)]
        return cls(binary, folder, make_certificates(folder), members)

    @property
    def endpoints(self) -> list[str]:
        return [f"127.0.0.1:{member.client_port}" for member in self.members]

    def start(self) -> None:
        for member in self.members:
            self.start_member(member, wait=False)
        for member in self.members:
            self._wait(member)

    def start_member(self, member: Member, *, wait: bool = True) -> None:
        """Also starts a stopped one again, with its data."""
        client = f"https://127.0.0.1:{member.client_port}"
        peer = f"http://127.0.0.1:{member.peer_port}"
        log = (self.folder / f"{member.name}.log").open("ab")
        arguments = {
            "name": member.name,
            "data-dir": str(self.folder / member.name),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": ",".join(f"{m.name}=http://127.0.0.1:{m.peer_port}" for m in self.members),
            "initial-cluster-state": "new",
            "cert-file": str(self.tls.certificate),
            "key-file": str(self.tls.key),
            "trusted-ca-file": str(self.tls.ca),
            "client-cert-auth": "true",
            "heartbeat-interval": "50",
            "election-timeout": "500",
            "logger": "zap",
            "log-level": "warn",
            **self.flags,
        }
        with log:
            member.process = subprocess.Popen(
                [self.binary, *(f"--{name}={value}" for name, value in arguments.items())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={"PATH": os.environ.get("PATH", ""), "ETCD_UNSUPPORTED_ARCH": os.uname().machine},
            )
        if wait:
            self._wait(member)

    def stop_member(self, member: Member, sign: int = signal.SIGKILL) -> None:
        if member.process is not None:
            member.process.send_signal(sign)
            member.process.wait(timeout=20)
            member.process = None

    def stop(self) -> None:
        for member in self.members:
            self.stop_member(member)
        for member in self.members:
            shutil.rmtree(self.folder / member.name, ignore_errors=True)

    def _wait(self, member: Member) -> None:
        """Until the member listens; that it has a leader, the first call will find out."""
        deadline = time.monotonic() + START_TIMEOUT_S
        assert member.process is not None
        while member.process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", member.client_port)) == 0:
                    return
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"etcd did not start:\n{(self.folder / f'{member.name}.log').read_text()[-2000:]}")


def free_ports(count: int) -> list[int]:
    """All at once, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def make_certificates(folder: Path) -> TLSPaths:
    """A CA and one certificate for servers on loopback and clients alike."""
    now = datetime.datetime.now(datetime.UTC)

    def builder(name: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-ca")])
    ca = (
        builder("test-ca", ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        builder("etcd", ca_name, key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    paths = TLSPaths(folder / "ca.crt", folder / "etcd.crt", folder / "etcd.key")
    paths.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    paths.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
