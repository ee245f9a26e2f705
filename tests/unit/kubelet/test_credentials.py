"""Which entries of a pull Secret fit an image, and in which order."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from kubelet.pods import credentials
from kubelet.runtime.base import RegistryAuth
from wherry.pb import core_v1_pb2


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("nginx", ("docker.io", "library/nginx")),
        ("nginx:1.25", ("docker.io", "library/nginx")),
        ("me/app:1", ("docker.io", "me/app")),
        ("index.docker.io/me/app", ("docker.io", "me/app")),
        ("localhost/app", ("localhost", "app")),
        ("localhost:5000/a/b:v1", ("localhost:5000", "a/b")),
        ("r.example.com/a@sha256:00", ("r.example.com", "a")),
        ("r.example.com/a/b:1@sha256:00", ("r.example.com", "a/b")),
    ],
)
def test_repositories(reference: str, expected: tuple[str, str]) -> None:
    assert credentials.repository_of(reference) == expected


@pytest.mark.parametrize(
    ("server", "reference", "fits"),
    [
        ("r.example.com", "r.example.com/a", True),
        ("https://r.example.com", "r.example.com/a", True),
        ("r.example.com", "r.example.com:5000/a", False),
        ("r.example.com:5000", "r.example.com:5000/a", True),
        ("*.example.com", "r.example.com/a", True),
        ("*.example.com", "r.s.example.com/a", False),
        ("*.*.example.com", "r.s.example.com/a", True),
        ("r*.example.com", "r2.example.com/a", True),
        ("*", "r.example.com/a", False),
        ("r.example.com/team", "r.example.com/team/app", True),
        ("r.example.com/team", "r.example.com/other/app", False),
        ("https://index.docker.io/v1/", "nginx", True),
        ("docker.io", "nginx", True),
        ("https://r.example.com/v2/", "r.example.com/a", True),
    ],
)
def test_which_fit(server: str, reference: str, fits: bool) -> None:
    assert credentials.fits(server, *credentials.repository_of(reference)) is fits


def secret(auths: Any, key: str = ".dockerconfigjson") -> core_v1_pb2.Secret:
    found = core_v1_pb2.Secret()
    document = {"auths": auths} if key == ".dockerconfigjson" else auths
    found.data[key] = json.dumps(document).encode()
    return found


def test_the_longest_fitting_entry_comes_first() -> None:
    auths = {
        "r.example.com": {"username": "all", "password": "1"},
        "r.example.com/team": {"auth": base64.b64encode(b"team:2:3").decode()},
        "r.example.com/else": {"username": "else", "password": "4"},
        "*.example.com": {"identitytoken": "t"},
        "r.example.com/broken": {"auth": "?"},
    }
    assert list(credentials.credentials_in(secret(auths), "r.example.com/team/app:1")) == [
        RegistryAuth(username="team", password="2:3"),
        RegistryAuth(username="all", password="1"),
        RegistryAuth(identity_token="t"),
    ]


@pytest.mark.parametrize(
    "made",
    [
        core_v1_pb2.Secret(),
        secret([1]),
        secret({"r.example.com": "x"}),
        secret({"r.example.com": {"auth": "!!!"}}),
        secret({"r.example.com": {}}),
    ],
)
def test_a_malformed_secret_holds_none(made: core_v1_pb2.Secret) -> None:
    assert not list(credentials.credentials_in(made, "r.example.com/a"))


def test_the_old_form() -> None:
    auths = {"r.example.com": {"username": "u", "password": "p"}}
    (found,) = credentials.credentials_in(secret(auths, ".dockercfg"), "r.example.com/a")
    assert found.username == "u"
