"""What is to go on and what is replaced when something breaks: docs/operations.md states each outcome that is tested here."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from wherry.testing.compose import NODES, ComposeCluster
from wherry.testing.dockerd import Dockerd
from wherry.testing.local import IMAGE, containers, deployment, is_ready, until

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

REPLICAS = 6
# A disk of its own for one node, small enough to be filled (overlayfs works on tmpfs). A clock of its own for another: what
# /run/faketimerc says is added to what its agent and containerd take for the time of day, a second later. (libfaketime 0.9.10
# takes a deadline that has just passed for an error of who sleeps until then.)
EXTRA = """
services:
  node-2:
    entrypoint:
      - sh
      - -c
      - |
        mkdir /run/python
        cat > /run/python/sitecustomize.py <<EOF
        import contextlib, time
        def sleep(seconds, really=time.sleep):
            with contextlib.suppress(OSError):
                really(seconds)
        time.sleep = sleep
        EOF
        exec wherry-entrypoint agent
    environment:
      PYTHONPATH: /run/python
      LD_PRELOAD: /usr/$$LIB/faketime/libfaketimeMT.so.1
      FAKETIME_TIMESTAMP_FILE: /run/faketimerc
      FAKETIME_CACHE_DURATION: "1"
      FAKETIME_DONT_FAKE_MONOTONIC: "1"
      NO_FAKE_STAT: "1"
  node-3:
    command: [agent, --eviction-pressure-transition-period, 15s, --minimum-image-ttl-duration, 1s]
volumes:
  node-3:
    driver: local
    driver_opts: {type: tmpfs, device: tmpfs, o: "size=600m"}
"""
# Links that appear in every network namespace when the kernel has their modules.
KERNELS_OWN = {"tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"}
IMPORT_UNUSED = """
import subprocess
from wherry.cli.cluster import images
archive = images.docker_archive("wherry.local/unused:1", images.Layer(files={"f": (b"unused", 0o644)}), cmd=["f"])
command = ["ctr", "-a", "/run/wherry-agent/containerd.sock", "-n", "k8s.io", "images", "import", "-"]
subprocess.run(command, input=archive, check=True)
"""


@pytest.fixture(scope="module")
def cluster(dockerd: Dockerd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeCluster]:
    made = ComposeCluster(dockerd, tmp_path_factory.mktemp("faults"), extra=EXTRA)
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
    assert made.left() == {}


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
    # What the last life has left on the disk is gone, and the new one's pods are all there is.
    cluster.apply(pinned("again", "node-2"))
    cluster.running("app=again", 1)
    until(lambda: counts(cluster, "node-2") == {"pods": 1, "namespaces": 1, "links": 1, "addresses": 1}, 60)
    cluster.wherry("delete", "pod", "again")
    until(lambda: counts(cluster, "node-2") == {"pods": 0, "namespaces": 0, "links": 0, "addresses": 0}, 60)


def counts(cluster: ComposeCluster, node: str) -> dict[str, int]:
    """What the node has of pods."""
    ways = {
        "pods": "ls /var/lib/wherry-agent/pods",
        "namespaces": "grep -c ' /run/wherry-agent/.*netns/' /proc/self/mountinfo",
        "links": "ls /sys/class/net | grep -c ^veth",
        "addresses": "find /var/lib/wherry-agent/cni/ipam -name '10.*' -type f | wc -l",
    }
    ways["pods"] += " | wc -l"
    return {what: int(cluster.inside(node, script, check=False)) for what, script in ways.items()}


def traces(cidr: str) -> dict[str, str]:
    """Commands that tell what a node has."""
    return {
        "links": "ls /sys/class/net",
        "routes": "ip route",
        "tables": "nft list tables | grep -i wherry",
        "rules": "iptables-save | grep -e CNI -e wherry",
        "flows": f"conntrack -L -r {cidr} 2>/dev/null",
        "mounts": "grep -e netns -e overlay -e shm /proc/self/mounts | grep wherry-agent",
        "processes": "ps -eo args | grep -e ^/usr/bin/containerd -e ^/pause",
        "files": "ls -A /var/lib/wherry-agent; ls -A /run/wherry-agent 2>/dev/null",
    }


def test_a_node_that_leaves_takes_everything_along(cluster: ComposeCluster) -> None:
    """And joins anew when its container starts again."""
    cidr = cluster.json("node", "node-2")["spec"]["podCIDR"]
    assert cidr in cluster.inside("node-1", "ip route")
    cluster.docker("kill", "node-2", "--signal", "STOP")  # the entrypoint, which would start the agent again
    try:
        cluster.inside("node-2", "kill -9 $(cat /run/wherry-agent/agent.pid); wherry agent --remove")
        found = {what: cluster.inside("node-2", script, check=False) for what, script in traces(cidr).items()}
        assert set(found.pop("links").split()) <= {"eth0", "lo"} | KERNELS_OWN
        assert "10.244." not in found.pop("routes")
        assert found == dict.fromkeys(found, "")
        cluster.wherry("delete", "node", "node-2")
        until(lambda: cidr not in cluster.inside("node-1", "ip route"))
    finally:
        cluster.docker("kill", "node-2")
        cluster.docker("start", "node-2")
    until(lambda: cluster.tries("get", "node", "node-2").returncode == 0, 120)
    until(lambda: cluster.node_ready("node-2") == "True", 120)


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


def pinned(name: str, node: str) -> str:
    """A pod for this node."""
    container = {"name": "c", "image": IMAGE, "command": ["sleep", "1000000"]}
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 0, "restartPolicy": "Never", "containers": [container]}
    return json.dumps(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}
    )


def pressure(cluster: ComposeCluster, node: str) -> tuple[str, list[str]]:
    """The condition, and the taints."""
    found = cluster.json("node", node)
    conditions = {item["type"]: str(item["status"]) for item in found["status"]["conditions"]}
    return conditions["DiskPressure"], [taint["key"] for taint in found["spec"].get("taints", [])]


def test_a_full_disk_is_said_and_given_back(cluster: ComposeCluster) -> None:
    """Images that nobody uses go, then pods; what comes is refused in so many words; all is as before when there is room."""
    taint = "node.kubernetes.io/disk-pressure"
    cluster.inside("node-3", f"python3 -c '{IMPORT_UNUSED}'")
    listed = "ctr -a /run/wherry-agent/containerd.sock -n k8s.io images ls -q"
    assert "wherry.local/unused:1" in cluster.inside("node-3", listed)
    # To the last byte.
    cluster.inside("node-3", "dd if=/dev/zero of=/var/lib/wherry-agent/ballast bs=64k 2>/dev/null", check=False)
    try:
        until(lambda: pressure(cluster, "node-3") == ("True", [taint]), 180)

        def evicted() -> list[str]:
            failed = [pod for pod in cluster.pods("app=web") if pod["status"].get("reason") == "Evicted"]
            return [pod["status"]["message"] for pod in failed if pod["spec"]["nodeName"] == "node-3"]

        assert "low on resource: ephemeral-storage" in until(evicted, 180)[0]
        until(lambda: "wherry.local/unused:1" not in cluster.inside("node-3", listed, check=False), 180)
        # Their successors run elsewhere, where new pods go too; one that is sent here all the same is told why not.
        until(lambda: len([pod for pod in cluster.pods("app=web") if is_ready(pod)]) == REPLICAS, 180)
        cluster.apply(pinned("refused", "node-3"))
        refused = until(lambda: [pod for pod in cluster.pods("app=refused") if pod["status"].get("phase") == "Failed"])
        assert "DiskPressure" in refused[0]["status"]["message"]
        assert answers(cluster, "node-3")  # its own network goes on
    finally:
        cluster.inside("node-3", "rm -f /var/lib/wherry-agent/ballast")
    until(lambda: pressure(cluster, "node-3") == ("False", []), 600)
    cluster.apply(pinned("welcome", "node-3"))
    cluster.running("app=welcome", 1)
    cluster.wherry("delete", "pod", "welcome", "refused")
    cluster.wherry("delete", "pods", "--field-selector", "status.phase=Failed")


def shift(cluster: ComposeCluster, offset: str) -> None:
    """Of node-2's clock."""
    cluster.inside("node-2", f"echo {offset} > /run/faketimerc")


def test_a_node_whose_clock_is_ahead_goes_on_and_it_is_told(cluster: ComposeCluster) -> None:
    before = containers(cluster.pods("app=web"))
    shift(cluster, "+3600")
    try:
        cluster.apply(pinned("late", "node-2"))  # with the volume of its service account, whose token is made for it
        cluster.running("app=late", 1)
        assert cluster.wherry("exec", "late", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token")

        def told() -> list[dict[str, str]]:
            events = cluster.json("events")["items"]
            return [event for event in events if event["reason"] == "ClockSkew" and event["type"] == "Warning"]

        said = until(told)[-1]
        assert "s ahead of the control plane's" in said["message"]
        # The node is not judged by its clock: it is Ready, and the Lease has the control plane's time.
        lease = cluster.json("lease", "node-2", "-n", "kube-node-lease")["spec"]["renewTime"]
        assert abs(datetime.fromisoformat(lease).timestamp() - time.time()) < 1800
        assert cluster.node_ready("node-2") == "True"
        assert answers(cluster, "node-2")
    finally:
        shift(cluster, "+0")
    cluster.wherry("delete", "pod", "late")
    until(lambda: any("agrees" in event["message"] for event in cluster.json("events")["items"]))
    assert containers(cluster.pods("app=web")) == before


@pytest.mark.parametrize(
    ("offset", "said"),
    [("-86400", "which is before the node's own certificate"), ("+34560000", "has expired")],
    ids=["before its certificate", "after it"],
)
def test_a_node_whose_clock_is_far_off_says_so_and_is_replaced(cluster: ComposeCluster, offset: str, said: str) -> None:
    """By a day back or 400 days ahead, when its agent dials anew: TLS holds nobody's certificate for valid."""
    before = on(cluster, "node-2")
    shift(cluster, offset)
    try:
        cluster.inside("node-2", "kill -9 $(cat /run/wherry-agent/agent.pid)")
        replaced(cluster, "node-2")
        until(lambda: said in cluster.logs("node-2"))
        assert answers(cluster, "node-2")  # what it knew still holds
    finally:
        shift(cluster, "+0")
    until(lambda: cluster.node_ready("node-2") == "True", 120)
    until(lambda: not set(before) & set(on(cluster, "node-2")), 120)


def test_an_agent_restarted_under_load_loses_nothing(cluster: ComposeCluster) -> None:
    before = containers(cluster.pods("app=web"))
    name = on(cluster, "node-2")[0]
    for _ in range(3):
        cluster.inside("node-2", "kill -9 $(cat /run/wherry-agent/agent.pid)")
        for _ in range(20):
            assert answers(cluster, "node-2")
        # Back before the next one: three times away in a row would be long enough for the node to be replaced.
        until(lambda: cluster.wherry("exec", name, "--", "hostname", check=False).strip() == name, 60)
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
