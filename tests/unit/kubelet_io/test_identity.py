"""The node's key and certificate on disk, and what the CA is recognised by."""

from __future__ import annotations

import random
import stat
from pathlib import Path

import pytest

from controlplane.auth.ca import make_authority
from controlplane.auth.certificates import sign_node
from kubelet.identity import Identity, IdentityError, IdentityStore, new_request, public_key_info, validity
from wherry.api.context import Env


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
    assert stat.S_IMODE((tmp_path / "identity" / "node.pem").stat().st_mode) == 0o600
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
