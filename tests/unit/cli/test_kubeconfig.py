"""The configuration for kubectl: the same context at the port of the Kubernetes API."""

from __future__ import annotations

from pathlib import Path

import pytest

from wherry.cli.commands.kubeconfig import for_kubectl, merge_target
from wherry.client.config import ClientConfig, ConfigError, load_config, write_config

SETTINGS = ClientConfig("127.0.0.1:6440", ca=b"ca", certificate=b"cert", key=b"key")


@pytest.mark.parametrize(
    ("server", "given", "expected"),
    [
        ("127.0.0.1:6440", "", "127.0.0.1:6443"),
        ("[::1]:7000", "", "[::1]:7003"),
        ("a:6440,b:6440", "", "a:6443"),
        ("a:6440", "b:443", "b:443"),
    ],
)
def test_the_address_is_that_of_https(server: str, given: str, expected: str) -> None:
    assert for_kubectl(SETTINGS.with_server(server), given).server == expected


def test_a_bad_address_is_named() -> None:
    with pytest.raises(ConfigError, match='"nowhere" is no address'):
        for_kubectl(SETTINGS, "nowhere")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [("/a:/b", Path("/a")), (":/b", Path("/b")), ("", Path("~/.kube/config").expanduser())],
)
def test_kubectl_would_change_this_file(environment: str, expected: Path) -> None:
    assert merge_target(environment) == expected


def test_other_contexts_stay(tmp_path: Path) -> None:
    file = tmp_path / "config"
    write_config(ClientConfig("x:1", ca=b"x", context="other", cluster="other", user="other"), file)
    write_config(for_kubectl(SETTINGS), file, merge=True)
    assert load_config(file).server == "127.0.0.1:6443"
    assert load_config(file, context="other").server == "x:1"
