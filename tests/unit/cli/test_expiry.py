"""What is said of a client certificate that has expired: a server closes such a connection and cannot tell why."""

from __future__ import annotations

import random

import pytest

from controlplane.auth.ca import make_authority
from controlplane.auth.certificates import issue_client
from wherry.api.context import Env
from wherry.cli import session
from wherry.client.config import ClientConfig


@pytest.mark.parametrize(
    ("lifetime_s", "passed_s", "said"),
    [(3600, 0, ""), (3600, 3500, ""), (3600, 3700, "expired at 20")],
    ids=["fresh", "nearly", "over"],
)
def test_expired_certificate(monkeypatch: pytest.MonkeyPatch, lifetime_s: int, passed_s: int, said: str) -> None:
    env = Env(rng=random.Random(1))
    authority = make_authority(env, "c")
    pair = issue_client(authority, env, "me", (), lifetime_s=lifetime_s)
    now = env.now() + passed_s
    monkeypatch.setattr(session, "Env", lambda: Env(now=lambda: now))
    note = session.expiry_note(ClientConfig("h:1", b"", pair.certificate_pem, pair.key_pem))
    assert bool(note) == bool(said)
    assert said in note


def test_no_certificate_or_one_that_cannot_be_read() -> None:
    assert session.expiry_note(ClientConfig("h:1", b"")) == ""
    assert session.expiry_note(ClientConfig("h:1", b"", b"rubbish", b"")) == ""
