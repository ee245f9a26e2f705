"""The node's key and certificate on disk, and what the CA is recognised by."""

from __future__ import annotations

import asyncio
import random
import stat
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from controlplane.auth.ca import DAY_S, make_authority
from controlplane.auth.certificates import issue_client, sign_node
from kubelet import identity as identity_module
from kubelet.identity import Identity, IdentityError, IdentityStore, new_request, public_key_info
from kubelet.link import CONNECT, SESSION
from wherry.api.context import Env
from wherry.cli import agent
from wherry.cli.agent_runtime import removed_name
from wherry.client.validity import is_due, validity


async def test_a_request_is_signed_kept_and_found_again(tmp_path: Path) -> None:
    env = Env(rng=random.Random(1))
    authority = make_authority(env, "c")
    key, csr = await new_request("n1")
    certificate = sign_node(authority, env, csr, "n1")
    not_before, not_after = validity(certificate)
    assert not_before <= env.now() < not_after
    identity = Identity(key, certificate, authority.certificate_pem, "c", not_before, not_after)
    store = IdentityStore(tmp_path / "identity")
    assert store.load() is None
    store.save(identity)
    assert store.load() == identity
    leaving = agent.parser().parse_args(["--data-dir", str(tmp_path), "--remove"])
    assert removed_name(leaving) == "n1"
    leaving.node_name = "other"
    assert removed_name(leaving) == "other"
    assert stat.S_IMODE((tmp_path / "identity" / "node.pem").stat().st_mode) == 0o600
    assert not is_due(certificate, not_before + 0.69 * (not_after - not_before))
    assert is_due(certificate, not_before + 0.71 * (not_after - not_before))
    assert is_due(b"rubbish", 0)
    assert 0.7 * (not_after - not_before) <= identity.renew_at(0.5) - not_before <= 0.8 * (not_after - not_before)


def test_a_damaged_identity_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "node.pem").write_text("rubbish")
    (tmp_path / "ca.pem").write_text("")
    (tmp_path / "identity.json").write_text('{"cluster": "c"}')
    with pytest.raises(IdentityError, match="join with a token"):
        IdentityStore(tmp_path).load()


def test_the_hash_is_of_the_same_bytes_as_the_control_plane_says() -> None:
    import hashlib
    import ssl

    authority = make_authority(Env(rng=random.Random(1)), "c")
    der = ssl.PEM_cert_to_DER_cert(authority.certificate_pem.decode())
    assert "sha256:" + hashlib.sha256(public_key_info(der)).hexdigest() == authority.public_key_hash()


class Transport:
    """Remembers whether it is closed."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    def bidi(self, method: str, *, metadata: Mapping[str, str] | None = None) -> Stream:
        return Stream()

    async def close(self) -> None:
        self.gone.set()


class Stream:
    async def cancel(self) -> None: ...


async def test_a_renewal_leaves_the_sessions_that_stand_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_module, "CLOSE_AFTER_S", 0.0)
    made: list[Transport] = []

    def make(identity: Identity) -> Any:
        made.append(Transport())
        return made[-1]

    now = Identity(b"", b"", b"", "c", 0, 100)
    transport = identity_module.RenewingTransport(make, now)
    sessions = [transport.bidi(SESSION) for _ in range(2)]
    transport.bidi(CONNECT)
    transport.replace(now)
    await sessions[0].cancel()
    await asyncio.sleep(0.01)
    assert not made[0].gone.is_set(), "a session stands on it"
    await sessions[1].cancel()
    await sessions[1].cancel()
    await asyncio.wait_for(made[0].gone.wait(), 20)
    transport.replace(now)
    await asyncio.wait_for(made[1].gone.wait(), 20)
    assert not made[2].gone.is_set()
    await transport.close()
    assert made[2].gone.is_set()


def test_of_a_short_certificate_little_is_in_the_past_and_a_ca_near_its_end_is_told_of() -> None:
    env = Env(rng=random.Random(1))
    authority = make_authority(env, "c")
    pair = issue_client(authority, env, "u", [], lifetime_s=100)
    start, end = validity(pair.certificate_pem)
    assert 105 <= end - start <= 111
    assert authority.warning(env.now()) == ""
    ca_end = authority.certificate.not_valid_after_utc.timestamp()
    assert "the cluster's CA ends in 10 days" in authority.warning(ca_end - 10 * DAY_S)
    assert "the cluster's CA has ended" in authority.warning(ca_end + 1)


async def test_a_clock_that_is_far_ahead_does_not_make_it_renew_without_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What it gets is due at once again."""
    joins = 0
    waits: list[float] = []
    old = Identity(b"k", b"c", b"ca", "c", 0, 1000)

    async def join(*_: object) -> Identity:
        nonlocal joins
        joins += 1
        return old

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(identity_module, "join", join)
    monkeypatch.setattr(identity_module.asyncio, "sleep", sleep)
    transport: Any = SimpleNamespace(identity=old, replace=lambda _: None)
    with pytest.raises(asyncio.CancelledError):
        await identity_module.keep_renewing(
            Env(now=lambda: 900.0), transport, IdentityStore(tmp_path), "n1", lambda: None
        )
    assert joins == 3
    assert waits == [50, 50, 50]
