"""What `wherry up --runtime docker` refuses and says, without a daemon."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from kubelet.runtime.base import RuntimeFailure
from wherry.cli.cluster import commands, dockerhost, dockerup, launch, layout, nodeimage
from wherry.cli.cluster.dockerhost import Daemon
from wherry.cli.cluster.layout import CONTAINERD, DOCKER, Cluster, ClusterError

CLUSTER = Cluster(
    name="a", data_dir="/data/a", node_count=1, port=7443, host_subnet="10.78.16.0/20", cluster_cidr="10.78.16.0/24",
    ingress=False, runtime=DOCKER, docker_host="unix:///run/docker.sock",
)  # fmt: skip


def test_pods_node_and_services_share_one_network() -> None:
    assert CLUSTER.gateway == "10.78.16.1"
    assert CLUSTER.node(1).address == "10.78.17.1"
    assert CLUSTER.services == "10.78.24.0/21"
    argv = launch.server_argv(CLUSTER)
    assert argv[argv.index("--service-cluster-ip-range") + 1] == CLUSTER.services
    assert "--service-cluster-ip-range" not in launch.server_argv(replace(CLUSTER, runtime=CONTAINERD))
    assert launch.agent_argv(CLUSTER, CLUSTER.node(1))[2:].count("nsenter") == 0


@pytest.mark.parametrize(
    ("known", "asked", "chosen"),
    [
        pytest.param(None, "", CONTAINERD, id="containerd is what one gets"),
        pytest.param(None, DOCKER, DOCKER, id="docker when asked for"),
        pytest.param(CLUSTER, "", DOCKER, id="a cluster stays what it is"),
        pytest.param(CLUSTER, DOCKER, DOCKER, id="asked again"),
    ],
)
def test_the_runtime_is_chosen_once(known: Cluster | None, asked: str, chosen: str) -> None:
    assert commands.runtime_of(known, "a", asked) == chosen


@pytest.mark.parametrize(
    ("known", "asked", "said"),
    [
        pytest.param(CLUSTER, CONTAINERD, 'cluster "a" is on docker, not on containerd', id="another one"),
        pytest.param(None, "podman", '--runtime "podman": want containerd or docker', id="unknown"),
    ],
)
def test_another_runtime_is_refused(known: Cluster | None, asked: str, said: str) -> None:
    with pytest.raises(ClusterError, match=said):
        commands.runtime_of(known, "a", asked)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param({"nodes": 2}, "--nodes 2: with --runtime docker there is one node", id="several nodes"),
        pytest.param({"registry_config_dir": "/x"}, "--registry-config-dir is containerd's", id="registries"),
    ],
)
def test_what_only_containerd_has_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ClusterError, match=said):
        commands.refuse_with_docker(**{"nodes": None, "registry_config_dir": "", **given})
    commands.refuse_with_docker(1, "")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        pytest.param({"OSType": "linux", "SecurityOptions": ["name=seccomp,profile=default"]}, "", id="fit"),
        pytest.param({"SecurityOptions": ["name=rootless"]}, "is rootless", id="rootless"),
        pytest.param({"SecurityOptions": ["name=userns"]}, "userns-remap", id="userns"),
        pytest.param({"OSType": "windows"}, "runs windows containers", id="windows"),
        pytest.param({"OperatingSystem": "Docker Desktop"}, "is Docker Desktop", id="desktop"),
    ],
)
def test_daemons_on_which_no_node_can_be(facts: dict[str, Any], said: str) -> None:
    found = dockerhost.unfit(facts)
    assert said in found
    assert bool(found) == bool(said)


def test_a_daemon_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"No such file or directory. Install and start it .*--docker-host"):
        dockerhost.reach(f"unix://{tmp_path}/docker.sock")
    with pytest.raises(ClusterError, match=r'"tcp://other:2375": want unix:///PATH'):
        dockerhost.reach("tcp://other:2375")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{tmp_path}/dead.sock")
    with pytest.raises(ClusterError, match="Connection refused"):
        dockerhost.reach(f"unix://{tmp_path}/dead.sock")


def test_a_daemon_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dockerhost, "FACTS_TIMEOUT_S", 1)
    monkeypatch.setattr(dockerhost, "CALL_TIMEOUT_S", 60)
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(f"{tmp_path}/hung.sock")
        hung.listen()
        with pytest.raises(ClusterError, match=r"hung.sock does not answer: .*read timeout=1\b"):
            dockerhost.reach(f"unix://{tmp_path}/hung.sock")


@pytest.mark.parametrize("code", [0, 1])
def test_a_sweeper_is_found_by_down_and_its_failure_told(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = Daemon("unix:///nowhere")
    asked: list[tuple[str, Any]] = []

    def call(name: str, *args: Any, **options: Any) -> Any:
        asked.append((name, args))
        return {"create_container_from_config": {"Id": "1"}, "wait": {"StatusCode": code}}.get(name)

    monkeypatch.setattr(daemon, "call", call)
    with pytest.raises(RuntimeFailure, match="emptying /there: rm ended with exit code 1") if code else nullcontext():
        daemon.sweep(Path("/there"), "wherry-a")
    assert asked[0][1][0]["Labels"]["wherry.dev/node"] == "wherry-a", "by which `containers` asks"
    assert asked[-1] == ("remove_container", ("1",))


def test_the_runtime_is_looked_at_under_the_lock(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Another `up` may have made the cluster while this one waited."""
    there: list[Cluster] = []

    @contextmanager
    def locked(name: str) -> Iterator[None]:
        there.append(replace(CLUSTER, runtime=CONTAINERD))
        yield

    async def up(*_: object) -> None:
        raise AssertionError("a cluster of the other sort is there")

    monkeypatch.setattr(layout, "locked", locked)
    monkeypatch.setattr(layout, "load", lambda name: there[0] if there else None)
    monkeypatch.setattr(dockerup, "up", up)
    with pytest.raises(typer.Exit):
        commands.up(name="a", runtime=DOCKER)
    assert 'cluster "a" is on containerd, not on docker' in capsys.readouterr().err


class Networks(Daemon):
    """A daemon that has these networks and keeps what is asked of it."""

    def __init__(self, *networks: dict[str, Any]) -> None:
        super().__init__("unix:///nowhere")
        self.there = networks
        self.asked: list[str] = []

    def call(self, name: str, *args: Any, **options: Any) -> Any:
        self.asked.append(name)
        return {"networks": list(self.there), "containers": []}.get(name)


def network(data: str, subnet: str = CLUSTER.host_subnet) -> dict[str, Any]:
    labels = {
        "wherry.dev/node-address": "10.78.17.1",
        "wherry.dev/services": "10.78.24.0/21",
        "wherry.dev/node-name": "node-1",
    }
    labels |= {"wherry.dev/data": data} if data else {}
    return {"Name": "wherry-a", "Id": "1", "Labels": labels, "IPAM": {"Config": [{"Subnet": subnet}]}}


def test_the_network_is_made_once_and_kept_from_others() -> None:
    assert Networks().make_network(CLUSTER)
    there = Networks(network("/data/a"))
    assert not there.make_network(CLUSTER)
    assert there.asked == ["networks"]
    # One that an earlier cluster of the same place has left, with other addresses.
    old = Networks(network("/data/a", "10.99.0.0/20"))
    assert old.make_network(CLUSTER)
    assert old.asked[-2:] == ["remove_network", "create_network"]
    for data, whose in (("/home/other", "belongs to the cluster in /home/other"), ("", "is not a cluster's")):
        other = Networks(network(data))
        with pytest.raises(ClusterError, match=whose):
            other.make_network(CLUSTER)
        assert "remove_network" not in other.asked
        assert not Networks(network(data)).remove_network("wherry-a", "/data/a")


def test_a_cluster_stays_where_it_is() -> None:
    daemon = Networks()
    with pytest.raises(ClusterError, match=r"has its data in /data/a, not in /elsewhere"):
        dockerup.decide(CLUSTER, "a", Path("/elsewhere"), daemon)
    with pytest.raises(ClusterError, match=r"is on the Docker at unix:///run/docker.sock, not at unix:///nowhere"):
        dockerup.decide(CLUSTER, "a", None, daemon)


def test_libraries_are_found_by_the_loaders_own_list(monkeypatch: pytest.MonkeyPatch) -> None:
    told = (
        "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibnftables.so.1 => /lib/x/libnftables.so.1 (0x00007f1a)\n"
        "\t/lib64/ld-linux-x86-64.so.2 (0x00007f1b)\n"
    )
    monkeypatch.setattr(nodeimage.shutil, "which", lambda name, path: "/bin/ldd")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, told, ""))
    assert nodeimage.libraries_of("/bin/x") == {"/lib/x/libnftables.so.1", "/lib64/ld-linux-x86-64.so.2"}
    missing = "\tlibgone.so => not found\n"
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, missing, ""))
    with pytest.raises((nodeimage.ImageError, RuntimeFailure), match="libgone"):
        nodeimage.libraries_of("/bin/x")
