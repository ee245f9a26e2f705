"""What `wherry up` says and leaves behind when something is in its way. The way that goes well is in tests/cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.cli.cluster import hosts, launch, layout, packages
from wherry.cli.cluster import up as up_module
from wherry.cli.cluster.down import down
from wherry.cli.cluster.layout import ClusterError
from wherry.cli.cluster.progress import Progress
from wherry.testing.require import require_containerd

pytestmark = [pytest.mark.root, pytest.mark.containerd]

SETTINGS = {"ingress": False}


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    require_containerd()
    monkeypatch.setenv("WHERRY_CONFIG", str(tmp_path / "config"))
    chosen = f"u{os.getpid() % 1000000}"
    yield chosen
    down(chosen, Progress(quiet=True))


def leftovers(name: str, data: Path) -> list[str]:
    places = [data, layout.RUN_DIR / name, layout.state_file(name)]
    return [*hosts.links_of(name), *hosts.namespaces_of(name), *(str(place) for place in places if place.exists())]


async def test_control_plane_that_ends_at_once_is_reported_and_cleared_away(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import sys; sys.exit('the disk is on fire')"
    monkeypatch.setattr(launch, "server_argv", lambda cluster: [sys.executable, "-c", program])
    with pytest.raises(ClusterError, match=r"control plane did not start(.|\n)*the disk is on fire"):
        await up_module.up(name, 2, tmp_path / "data", Progress(quiet=True))
    assert leftovers(name, tmp_path / "data") == []


async def test_agent_that_ends_at_once_is_reported_and_cleared_away(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import sys; sys.exit('no kernel today')"
    monkeypatch.setattr(launch, "agent_argv", lambda cluster, node: [sys.executable, "-c", program])
    with pytest.raises(ClusterError, match=r"node-1(.|\n)*no kernel today"):
        await up_module.up(name, 1, tmp_path / "data", Progress(quiet=True))
    assert leftovers(name, tmp_path / "data") == []


async def test_existing_cluster_is_not_taken_down_when_mending_it_fails(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = up_module._decide(name, 1, tmp_path / "data", SETTINGS)
    monkeypatch.setattr(launch, "server_argv", lambda cluster: [sys.executable, "-c", "raise SystemExit(1)"])
    with pytest.raises(ClusterError, match="control plane did not start"):
        await up_module.up(name, 1, None, Progress(quiet=True))
    assert layout.load(name) == cluster
    assert hosts.links_of(name) != []


def test_other_data_directory_or_fewer_nodes_are_refused(name: str, tmp_path: Path) -> None:
    up_module._decide(name, 2, tmp_path / "data", SETTINGS)
    with pytest.raises(ClusterError, match="has its data in"):
        up_module._decide(name, 2, tmp_path / "elsewhere", SETTINGS)
    with pytest.raises(ClusterError, match="has 2 nodes, 1 asked for"):
        up_module._decide(name, 1, None, SETTINGS)
    assert up_module._decide(name, 3, None, SETTINGS).node_count == 3


def test_without_root_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(packages, "missing", lambda: ["containerd", "runc"])
    with pytest.raises(ClusterError, match=r"needs root: run `sudo wherry up` \(and have .* containerd runc\)"):
        up_module.check_machine()


def test_another_distribution_is_told_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "SBIN", ("/nowhere",))
    assert {"containerd", "runc", "iproute2", "nftables"} <= set(packages.missing())
    with pytest.raises(ClusterError, match=r"missing on this machine: runc nftables.*no apt-get"):
        packages.install(["runc", "nftables"])


def test_services_of_what_was_installed_are_disabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small image has no systemctl, and yet its packages make the links of their services, by deb-systemd-helper."""
    calls = tmp_path / "calls"

    def put(program: str, condition: str) -> None:
        script = tmp_path / program
        script.write_text(f'#!/bin/sh\n{condition} && echo {program} "$@" >> {calls}\n')
        script.chmod(0o755)

    monkeypatch.setattr(packages, "SBIN", (str(tmp_path),))
    monkeypatch.setattr(packages, "_POLICY", tmp_path / "policy-rc.d")
    put("apt-get", "true")
    put("deb-systemd-helper", 'test -n "$DPKG_MAINTSCRIPT_PACKAGE"')
    packages.install(["containerd", "haproxy", "runc"])
    put("systemctl", "true")
    packages.install(["haproxy"])

    assert [line for line in calls.read_text().splitlines() if "apt-get" not in line] == [
        "deb-systemd-helper disable containerd.service",
        "deb-systemd-helper disable haproxy.service",
        "systemctl disable haproxy.service",
    ]
