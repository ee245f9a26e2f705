"""What is to go on and what is replaced when something breaks: docs/operations.md states each outcome that is tested here."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from wherry.testing.compose import NODES, ComposeCluster
from wherry.testing.dockerd import Dockerd
from wherry.testing.local import containers, deployment, until

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

REPLICAS = 6
# A disk of its own for one node, small enough to be filled: overlayfs works on tmpfs.
SMALL_DISK = """
volumes:
  node-3:
    driver: local
    driver_opts: {type: tmpfs, device: tmpfs, o: "size=600m"}
"""


@pytest.fixture(scope="module")
def cluster(dockerd: Dockerd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeCluster]:
    made = ComposeCluster(dockerd, tmp_path_factory.mktemp("faults"), extra=SMALL_DISK)
    try:
        made.up()
        made.apply(
            deployment(
                "web",
                REPLICAS,
                "hostname > /www/index.html; exec httpd -f -p 8080 -h /www",
                extra="ports: [{containerPort: 8080}]",
            )
            + "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: NodePort\n"
            "  selector: {app: web}\n  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]\n"
        )
        yield made
    finally:
        made.down()


@pytest.fixture(autouse=True)
def whole(cluster: ComposeCluster) -> None:
    """Each test begins with three Ready nodes and all pods, spread over them."""
    for node in NODES:
        until(lambda node=node: cluster.node_ready(node) == "True", 120)  # type: ignore[misc]
    cluster.running("app=web", REPLICAS)
    if len({pod["spec"]["nodeName"] for pod in cluster.pods("app=web")}) < len(NODES):
        cluster.wherry("rollout", "restart", "deployment/web")
        cluster.wherry("rollout", "status", "deployment/web")
        cluster.running("app=web", REPLICAS)


def on(cluster: ComposeCluster, node: str) -> list[str]:
    return [pod["metadata"]["name"] for pod in cluster.pods("app=web") if pod["spec"]["nodeName"] == node]


def answers(cluster: ComposeCluster, node: str) -> bool:
    url = f"http://{cluster.address(node)}:30080/"
    return cluster.dockerd.host("curl", "-sf", "-m", "3", url, check=False).returncode == 0


def cut(cluster: ComposeCluster, node: str, match: str = "") -> None:
    """Drops everything that comes to or goes from the node (or what `match` says of each), until `mend`."""
    rules = "; ".join(
        f"add rule ip fault {hook} {side} eth0 {match.format(way=way)} drop"
        for hook, side, way in (
            ("input", "iifname", "saddr"), ("output", "oifname", "daddr"),
            ("forward", "iifname", "saddr"), ("forward", "oifname", "daddr"),
        )
    )  # fmt: skip
    chains = "; ".join(
        f"add chain ip fault {hook} {{ type filter hook {hook} priority -300; }}"
        for hook in ("input", "output", "forward")
    )
    cluster.inside(node, f"nft 'add table ip fault; {chains}; {rules}'")


def mend(cluster: ComposeCluster, node: str) -> None:
    cluster.inside(node, "nft delete table ip fault")


def replaced(cluster: ComposeCluster, node: str) -> None:
    """The node is not Ready, its pods are made anew elsewhere, and the Service answers without it."""
    until(lambda: cluster.node_ready(node) != "True", 60)

    def elsewhere() -> bool:
        ready = [pod for pod in cluster.pods("app=web") if pod["spec"]["nodeName"] != node]
        return len(ready) >= REPLICAS

    until(elsewhere, 120)
    other = next(name for name in NODES if name != node)
    for _ in range(5):
        assert until(lambda: answers(cluster, other))


def test_a_node_whose_network_is_cut_is_replaced_and_comes_back(cluster: ComposeCluster) -> None:
    cut(cluster, "node-2")
    replaced(cluster, "node-2")
    mend(cluster, "node-2")
    until(lambda: cluster.node_ready("node-2") == "True", 120)
    until(lambda: not on(cluster, "node-2"), 120)  # what ran there has been given up


def test_a_node_that_only_the_control_plane_has_lost_serves_until_it_is_replaced(cluster: ComposeCluster) -> None:
    before = on(cluster, "node-2")
    cut(cluster, "node-2", "ip {way} " + cluster.address("control-plane"))
    assert cluster.inside("node-2", "curl --version >/dev/null 2>&1; echo ok").strip() == "ok"
    assert answers(cluster, "node-2")  # its own routes and pods still work
    replaced(cluster, "node-2")
    mend(cluster, "node-2")
    until(lambda: cluster.node_ready("node-2") == "True", 120)
    until(lambda: not set(before) & set(on(cluster, "node-2")), 120)


def test_a_killed_node_is_replaced_and_starts_again(cluster: ComposeCluster) -> None:
    cluster.docker("kill", "node-2")
    replaced(cluster, "node-2")
    cluster.docker("start", "node-2")
    until(lambda: cluster.node_ready("node-2") == "True", 120)
    until(lambda: not on(cluster, "node-2"), 120)


def test_a_pause_of_the_control_plane_changes_nothing(cluster: ComposeCluster) -> None:
    before = containers(cluster.pods("app=web"))
    cluster.docker("pause", "control-plane")
    try:
        until_s = time.monotonic() + 30  # the fault itself: so long is the pause
        while time.monotonic() < until_s:
            assert answers(cluster, "node-1")
            time.sleep(1)
    finally:
        cluster.docker("unpause", "control-plane")
    for node in NODES:
        until(lambda node=node: cluster.node_ready(node) == "True", 60)  # type: ignore[misc]
    assert containers(cluster.pods("app=web")) == before


def test_a_full_disk_is_said_and_given_back(cluster: ComposeCluster) -> None:
    cluster.inside("node-3", "fallocate -l 560M /var/lib/wherry-agent/ballast", check=False)

    def pressure() -> str:
        conditions = cluster.json("node", "node-3")["status"]["conditions"]
        return next(str(item["status"]) for item in conditions if item["type"] == "DiskPressure")

    try:
        until(lambda: pressure() == "True", 180)
        until(lambda: len([pod for pod in cluster.pods("app=web") if pod["spec"]["nodeName"] != "node-3"]) >= 1, 60)
    finally:
        cluster.inside("node-3", "rm -f /var/lib/wherry-agent/ballast")
    until(lambda: pressure() == "False", 600)


def test_an_agent_restarted_under_load_loses_nothing(cluster: ComposeCluster) -> None:
    before = containers(cluster.pods("app=web"))
    for _ in range(3):
        cluster.inside("node-2", "kill -9 $(cat /run/wherry-agent/agent.pid)")
        for _ in range(20):
            assert answers(cluster, "node-2")
    until(lambda: cluster.node_ready("node-2") == "True", 60)
    assert containers(cluster.pods("app=web")) == before


def test_containers_outlive_containerd(cluster: ComposeCluster) -> None:
    before = containers(cluster.pods("app=web"))
    # A pid file of ours names the boot too.
    cluster.inside("node-2", "pkill -9 -x containerd")
    for _ in range(10):
        assert answers(cluster, "node-2")
    name = on(cluster, "node-2")[0]
    until(lambda: cluster.wherry("exec", name, "--", "hostname", check=False).strip() == name, 60)
    assert containers(cluster.pods("app=web")) == before
