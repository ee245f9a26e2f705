"""A host behind a router joins a local cluster: pods reach each other through the overlay; the node leaves and nothing of it
stays, neither on its host nor on the others. Then again with another CNI. Host and router are network namespaces."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubelet.network import links
from kubelet.network.mesh.plan import LINK, OVERHEAD
from kubelet.runtime.containerd import Layout
from kubelet.runtime.processes import command_lines
from wherry.cli.cluster import images
from wherry.testing.inside import UDP, make_socket, namespaces, namespaces_in
from wherry.testing.local import IMAGE, LocalCluster, is_ready, until
from wherry.testing.require import require_containerd, require_root

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]

TAG = f"wf{os.getpid() % 100000}"
ROUTER, HOST = f"{TAG}-r", f"{TAG}-h"
ADDRESS = "10.79.1.3"


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """One node of its own, and a router to a segment with a host that is no node yet."""
    require_root()
    require_containerd()
    made = LocalCluster(1, prefix="f")
    cable = f"{TAG}-c"
    try:
        made.up()
        for netns in (ROUTER, HOST):
            run("ip", "netns", "add", netns)
            run("ip", "-n", netns, "link", "set", "lo", "up")
        run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", ROUTER)
        run("ip", "link", "set", cable, "master", made.description.bridge, "up")
        last = made.description.gateway.rpartition(".")[0] + ".250"
        run("ip", "-n", ROUTER, "address", "add", f"{last}/24", "dev", "eth0")
        run("ip", "-n", ROUTER, "link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns", HOST)
        run("ip", "-n", ROUTER, "address", "add", "10.79.1.1/24", "dev", "eth1")
        run("ip", "-n", HOST, "address", "add", f"{ADDRESS}/24", "dev", "eth0")
        for netns, link in ((ROUTER, "eth0"), (ROUTER, "eth1"), (HOST, "eth0")):
            run("ip", "-n", netns, "link", "set", link, "mtu", str(links.mtu_of("")), "up")  # as the cluster's own
        run("ip", "netns", "exec", ROUTER, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        run("ip", "-n", HOST, "route", "add", "default", "via", "10.79.1.1")
        # The node and the machine itself, where the control plane is, find the segment by the router.
        run("ip", "-n", made.description.node(1).netns, "route", "add", "10.79.1.0/24", "via", last)
        run("ip", "route", "add", "10.79.1.0/24", "via", last)
        until(lambda: all(is_ready(pod) for pod in made.pods("app=hello")))
        yield made
    finally:
        for netns in (HOST, ROUTER):
            run("ip", "netns", "del", netns, check=False)
        run("ip", "link", "del", cable, check=False)
        made.down()


class Agent:
    """A node's agent on the host. `more`: of its arguments."""

    def __init__(self, cluster: LocalCluster, folder: Path, name: str, *more: str) -> None:
        self._cluster, self.name = cluster, name
        self.data, self.run_dir = folder / "data", Path(f"/run/{TAG}-{name}")
        self._places = [
            "--data-dir", str(self.data), "--run-dir", str(self.run_dir),
            "--network", f"{TAG}-{name}", "--cgroup-parent", f"/wherry/{cluster.name}/{name}",
        ]  # fmt: skip
        self.log = folder / "log"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                self._command(
                    "--server", cluster.description.server_address, "--token", cluster.ok("token", "create").split()[-1],
                    "--node-name", name, *more,
                ),
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            until(self._is_ready)
            archives = cluster.description.data / "images"
            for archive in ("pause.tar", "demo.tar"):
                images.load(self.run_dir / "containerd.sock", archives / archive)
        except BaseException:
            self.kill()
            self.remove()
            print(self.log.read_text())
            raise

    def _command(self, *arguments: str) -> list[str]:
        program = [sys.executable, "-m", "wherry.cli.main", "agent"]
        return ["nsenter", f"--net=/run/netns/{HOST}", "--", *program, *self._places, *arguments]

    def _is_ready(self) -> bool:
        told = self._cluster.wherry("get", "node", self.name, "-o", "json")
        return told.returncode == 0 and is_ready(json.loads(told.stdout))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def remove(self) -> None:
        run(*self._command("--remove"))


def pod(name: str, node: str, **annotations: str) -> str:
    document = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "1000000"]}],
        },
    }  # fmt: skip
    return json.dumps(document)


def state() -> dict[str, Any]:
    """What the host has, and what of this test the machine has."""
    inside = ["ip", "netns", "exec", HOST]
    return {
        "links": run("ip", "-n", HOST, "-br", "link").split("\n"),
        "addresses": run("ip", "-n", HOST, "-4", "-o", "address").split("\n"),
        "routes": run("ip", "-n", HOST, "route"),
        "rules": [line for line in run(*inside, "nft", "list", "ruleset").splitlines() if "wherry" in line or "CNI" in line],
        "iptables": [line for line in run(*inside, "iptables-save").splitlines() if line.startswith("-A")],
        "flows": [line for line in run(*inside, "conntrack", "-L", check=False).splitlines() if "10.128." in line],
        "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if f"/run/{TAG}" in line],
        "processes": [args for args in command_lines().values() if f"/run/{TAG}" in " ".join(args)],
        "cgroups": sorted(str(path) for path in Path("/sys/fs/cgroup").glob("*/wherry/*/far")),
        "cni": sorted(str(path) for path in Path("/var/lib/cni").rglob(f"*{TAG}*")),
        "folders": sorted(str(path) for path in Path("/run").glob(f"{TAG}-*")),
    }  # fmt: skip


def test_a_node_behind_a_router_joins_and_leaves_nothing(cluster: LocalCluster, tmp_path: Path) -> None:
    before = state()
    near = cluster.description.node(1).netns
    assert LINK not in run("ip", "-n", near, "-br", "link")
    agent = Agent(cluster, tmp_path, "far")
    try:
        bounds = {"kubernetes.io/ingress-bandwidth": "8M", "kubernetes.io/egress-bandwidth": "16M"}
        cluster.apply(pod("far-pod", "far") + "\n---\n" + pod("slow", "far", **bounds))
        until(lambda: all(is_ready(cluster.json("pod", name)) for name in ("far-pod", "slow")))
        (hello, *_) = [item for item in cluster.pods("app=hello") if item["spec"]["nodeName"] == "node-1"]
        service = cluster.json("service", "hello")["spec"]["clusterIP"]
        for host, port in ((hello["status"]["podIP"], 8080), (service, 80)):
            told = until(lambda host=host, port=port: fetch(cluster, host, port))  # type: ignore[misc]
            assert "Served by" in told
        assert LINK in run("ip", "-n", near, "-br", "link")
        sends_whole_packets(cluster, agent, hello["status"]["podIP"])
        shaped = run("tc", "-n", HOST, "qdisc", "show")
        assert "rate 8Mbit" in shaped
        assert "rate 16Mbit" in shaped
        # It crashes, and is taken away in that state.
        agent.kill()
    finally:
        agent.kill()
        agent.remove()
    assert state() == before
    cluster.ok("delete", "node", "far")
    until(lambda: LINK not in run("ip", "-n", near, "-br", "link"))
    assert run("ip", "-n", near, "route", "show", "proto", "77") == ""


def sends_whole_packets(cluster: LocalCluster, agent: Agent, to: str) -> None:
    """A pod's MTU leaves room for the overlay; what is as large as that arrives in one piece and with the pod's address."""
    own = cluster.json("pod", "far-pod")["status"]["podIP"]
    place = namespaces_in(Layout(agent.data, agent.run_dir).netns_dir)[own]
    (there,) = [path for ip, path in namespaces(cluster.description.nodes).items() if ip == to]
    mtu, outer = (
        int(json.loads(run(*inside, "ip", "-j", "link", "show", "dev", "eth0"))[0]["mtu"])
        for inside in (("nsenter", f"--net={place}"), ("ip", "netns", "exec", HOST))
    )
    assert mtu == outer - OVERHEAD
    with make_socket(place, UDP) as sock, make_socket(there, UDP) as other:
        other.bind(("0.0.0.0", 9000))
        other.settimeout(20)
        sock.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER: never in pieces
        sock.connect((to, 9000))
        sock.send(bytes(mtu - 28))
        data, sender = other.recvfrom(65535)
        assert (len(data), sender[0]) == (mtu - 28, own)
        with pytest.raises(OSError, match="Message too long"):
            sock.send(bytes(mtu - 27))


def fetch(cluster: LocalCluster, host: str, port: int) -> str:
    told = cluster.wherry(
        "exec", "far-pod", "--", "sh", "-c", f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {host} {port}"
    )
    return told.stdout if "200 OK" in told.stdout else ""


@pytest.mark.full
def test_another_cni_makes_the_pods_network(cluster: LocalCluster, tmp_path: Path) -> None:
    directory = tmp_path / "net.d"
    directory.mkdir()
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.66.0.0/24"}]], "dataDir": str(tmp_path / "ipam")}
    plugins = [{"type": "ptp", "ipam": {**ipam, "routes": [{"dst": "0.0.0.0/0"}]}}]
    document = {"cniVersion": "0.4.0", "name": f"{TAG}-ptp", "plugins": plugins}
    (directory / "10-ptp.conflist").write_text(json.dumps(document))
    before = state()
    agent = Agent(cluster, tmp_path, "other", "--cni-conf-dir", str(directory))
    try:
        cluster.apply(pod("other-pod", "other"))
        until(lambda: is_ready(cluster.json("pod", "other-pod")))
        assert cluster.json("pod", "other-pod")["status"]["podIP"].startswith("10.66.0.")
        # Names and Services are still ours.
        until(lambda: "hello.default.svc" in cluster.wherry("exec", "other-pod", "--", "nslookup", "hello").stdout)
        assert LINK not in run("ip", "-n", HOST, "-br", "link")
        cluster.ok("delete", "pod", "other-pod")
    finally:
        agent.kill()
        agent.remove()
    assert state() == before
    cluster.ok("delete", "node", "other")
