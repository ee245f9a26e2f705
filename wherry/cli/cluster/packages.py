"""Programs of the distribution that a node needs, and their installation. Called first by `wherry up`.

The distribution's own services (containerd's, haproxy's) are neither used nor left enabled when we are the ones who install them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kubelet.runtime.processes import SBIN
from wherry.cli.cluster.layout import ClusterError

# Program (or file) that shows the package to be there: the package, by Debian's and Ubuntu's names.
NEEDED: Mapping[str, str] = {
    "containerd": "containerd",
    "runc": "runc",
    "ctr": "containerd",
    "ip": "iproute2",
    "nft": "nftables",
    "iptables": "iptables",  # the portmap plugin calls it
    "conntrack": "conntrack",
    "nsenter": "util-linux",
}
INGRESS: Mapping[str, str] = {"haproxy": "haproxy"}
# Packages whose service would start at the next boot: what we run of them, we start ourselves.
SERVICES: Mapping[str, str] = {"containerd": "containerd.service", "haproxy": "haproxy.service"}
_CNI_PLUGINS = ("/usr/lib/cni/bridge", "/opt/cni/bin/bridge", "/usr/libexec/cni/bridge")
_BUSYBOX = ("/bin/busybox", "/usr/bin/busybox")
_POLICY = Path("/usr/sbin/policy-rc.d")
APT_TIMEOUT_S = 900


def missing(*, ingress: bool = True) -> list[str]:
    """The packages to install, sorted."""
    path = os.pathsep.join(SBIN)
    needed = {**NEEDED, **INGRESS} if ingress else NEEDED
    wanted = {package for program, package in needed.items() if shutil.which(program, path=path) is None}
    if not any(os.path.exists(place) for place in _CNI_PLUGINS):
        wanted.add("containernetworking-plugins")
    if not any(os.path.exists(place) and _is_static(place) for place in _BUSYBOX):
        wanted.add("busybox-static")
    return sorted(wanted)


def install(packages: list[str]) -> None:
    """With apt. Raises ClusterError that says what to install by hand where that is impossible."""
    apt = shutil.which("apt-get", path=os.pathsep.join(SBIN))
    listed = " ".join(packages)
    if apt is None:
        raise ClusterError(
            f"missing on this machine: {listed}. These are the names of the Debian and Ubuntu packages; there is no apt-get "
            "here, so install what this distribution calls them, then run `wherry up` again"
        )
    with _services_stay_off():
        # A fresh machine often updates itself at that moment: wait for its lock.
        patience = ["-o", "DPkg::Lock::Timeout=300"]
        for arguments in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *patience, *packages]):
            _apt([apt, *arguments], listed)
    for package in packages:
        if unit := SERVICES.get(package):
            _disable_service(unit)


def _apt(argv: list[str], listed: str) -> None:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "PATH": os.pathsep.join(SBIN)}
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=APT_TIMEOUT_S, check=False, env=env
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(
            f"{' '.join(argv[:2])} took longer than {APT_TIMEOUT_S} s; install by hand: {listed}"
        ) from error
    # A mirror that does not answer need not matter: the lists on disk may do.
    if done.returncode != 0 and argv[1] != "update":
        words = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise ClusterError(
            f"apt-get could not install {listed}:\n{words}\nInstall them by hand, then run `wherry up` again"
        )


@contextmanager
def _services_stay_off() -> Iterator[None]:
    """Debian's own switch: with this file saying 101, installing a package starts no service."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def _disable_service(unit: str) -> None:
    """Takes the links of a service away; no systemd need run. A small image has no systemctl, and yet the package has made the
    links, by the second program."""
    for program in ("systemctl", "deb-systemd-helper"):
        if found := shutil.which(program, path=os.pathsep.join(SBIN)):
            env = {
                **os.environ,
                "DPKG_MAINTSCRIPT_PACKAGE": unit.removesuffix(".service"),
            }  # deb-systemd-helper asks for it
            subprocess.run([found, "disable", unit], capture_output=True, timeout=60, check=False, env=env)
            return


def _is_static(path: str) -> bool:
    """busybox's dynamic build, which other distributions ship, can't run in an image of its own."""
    try:
        return b"/ld-linux" not in Path(path).read_bytes()
    except OSError:
        return False
