"""The compose cluster's containers: how the first member of the store makes the certificates, killed at any moment."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ENTRYPOINT = Path(__file__).parents[2] / "deploy" / "entrypoint"
FILES = (
    "etcd-tls/ca.crt",
    "etcd-tls/member.crt",
    "etcd-tls/member.key",
    "store-tls/ca.crt",
    "store-tls/client.crt",
    "store-tls/client.key",
)
MARKS = ("etcd-tls/done", "store-tls/done")


def start(place: Path) -> dict[str, bytes]:
    """The first member, with an etcd that ends at once. What there is then."""
    script, program = place / "entrypoint", place / "bin" / "etcd"
    script.write_text(ENTRYPOINT.read_text().replace("/var/lib/wherry", str(place)))
    program.parent.mkdir(exist_ok=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for mark in MARKS:
        (place / mark).parent.mkdir(exist_ok=True)
    env = {
        "PATH": f"{program.parent}:{os.environ['PATH']}", "ETCD_MAKE_CERTIFICATES": "1", "ETCD_NAMES": "DNS:etcd-1,DNS:etcd-2",
        "ETCD_MEMBERS": "etcd-1=https://etcd-1:2380",
    }  # fmt: skip
    subprocess.run(["bash", str(script), "etcd"], env=env, timeout=60, check=True, capture_output=True)
    assert all((place / mark).exists() for mark in MARKS)
    return {name: (place / name).read_bytes() for name in FILES}


@pytest.mark.parametrize(
    ("lost", "anew"),
    [
        pytest.param((), False, id="all is there"),
        pytest.param(("store-tls/done",), False, id="killed between the marks"),
        pytest.param(("etcd-tls/done",), False, id="killed between the marks, the other way"),
        pytest.param(MARKS, True, id="killed before the marks"),
        pytest.param((*MARKS, "store-tls/client.key"), True, id="killed while copying"),
        pytest.param(("store-tls",), True, id="a volume is gone"),
    ],
)
def test_certificates_are_made_once(lost: tuple[str, ...], anew: bool, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine")
    first = start(tmp_path)
    for name in lost:
        if (tmp_path / name).is_dir():
            shutil.rmtree(tmp_path / name)
        else:
            (tmp_path / name).unlink()
    second = start(tmp_path)
    assert (first != second) == anew
    for name in ("etcd-tls/member.crt", "store-tls/client.crt"):
        command = ["openssl", "verify", "-CAfile", str(tmp_path / "etcd-tls" / "ca.crt"), str(tmp_path / name)]
        subprocess.run(command, check=True, capture_output=True)
    assert second["etcd-tls/ca.crt"] == second["store-tls/ca.crt"]
