"""What a test needs from the machine it runs on. Called by fixtures and tests that drive real things (tests/node and others).

Locally a test that lacks root or a program is skipped with the reason; under CI (`CI=true`) or with `WHERRY_REQUIRE_ALL=1` it
fails instead, so that nothing goes untested without anyone seeing it.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

# Where distributions keep administrators' programs; an ordinary user's PATH often lacks them.
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/cni", "/opt/cni/bin")


def strict() -> bool:
    """Whether what is missing is a failure rather than a reason to skip."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes") or os.environ.get("WHERRY_REQUIRE_ALL") == "1"


def missing(what: str) -> NoReturn:
    """Skips the current test, or fails it when `strict()`."""
    if strict():
        pytest.fail(f"required here: {what}", pytrace=False)
    pytest.skip(what)


def require_root() -> None:
    """The current test needs root (namespaces, mounts, cgroups)."""
    if os.geteuid() != 0:
        missing("needs root")


def require_binary(name: str, package: str) -> str:
    """The path of the program `name`, which the distribution's `package` brings."""
    path = shutil.which(name) or shutil.which(name, path=os.pathsep.join(_SBIN))
    if path is None:
        missing(f"needs the program {name}: apt-get install {package}")
    return path


def require_containerd() -> None:
    """Root, containerd, runc, the CNI plugins and the network tools: what a local node is made of."""
    require_root()
    for name, package in (
        ("containerd", "containerd"),
        ("runc", "runc"),
        ("bridge", "containernetworking-plugins"),
        ("ip", "iproute2"),
        ("nft", "nftables"),
        ("busybox", "busybox-static"),
    ):
        require_binary(name, package)
