"""What becomes of a Secret that is to hold a token, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.auth.accountsecrets import NAME, TYPE, UID, plan
from wherry.pb import core_v1_pb2

FULL = {"token": b"signed", "ca.crt": b"pem", "namespace": b"ns"}


def secret(uid: str = "", **data: bytes) -> core_v1_pb2.Secret:
    made = core_v1_pb2.Secret(type=TYPE)
    made.metadata.namespace, made.metadata.name = "ns", "s"
    made.metadata.annotations[NAME] = "robot"
    if uid:
        made.metadata.annotations[UID] = uid
    for key, value in data.items():
        made.data[key] = value
    return made


def account(uid: str = "u1") -> core_v1_pb2.ServiceAccount:
    made = core_v1_pb2.ServiceAccount()
    made.metadata.name, made.metadata.uid = "robot", uid
    return made


def sign(claims: dict[str, Any]) -> str:
    assert claims["sub"] == "system:serviceaccount:ns:robot"
    assert claims["kubernetes.io/serviceaccount/secret.name"] == "s"
    assert "exp" not in claims
    return "signed"


@pytest.mark.parametrize(
    ("found", "owner", "wanted"),
    [
        (secret(), account(), secret("u1", **FULL)),
        (secret("u1"), account(), secret("u1", **FULL)),
        (secret("u1", **{**FULL, "token": b"mine"}), account(), secret("u1", **{**FULL, "token": b"mine"})),
        (secret("u1", **{**FULL, "ca.crt": b"other"}), account(), secret("u1", **FULL)),
        (secret("u1", extra=b"kept"), account(), secret("u1", extra=b"kept", **FULL)),
        (secret(), None, None),
        (secret("u0", **FULL), account(), None),
    ],
    ids=["new", "with its uid", "filled", "another CA", "more in it", "no account", "another account of that name"],
)
def test_plan(
    found: core_v1_pb2.Secret, owner: core_v1_pb2.ServiceAccount | None, wanted: core_v1_pb2.Secret | None
) -> None:
    assert plan(found, owner, b"pem", sign) == wanted


def test_what_is_right_is_left_alone() -> None:
    found = secret("u1", **FULL)
    assert plan(found, account(), b"pem", sign) is found
