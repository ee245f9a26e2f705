"""What is to go on, what is replaced, when, and what is said when something breaks: docs/operations.md states each outcome that
is tested here. Times are taken from what the control plane wrote, not from when a test on a busy machine looked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest

from wherry.testing.compose import NODES, ComposeCluster, seconds
from wherry.testing.dockerd import Dockerd
from wherry.testing.kubectl import binaries
from wherry.testing.load import Report
from wherry.testing.local import IMAGE, containers, deployment, is_ready, until
from wherry.testing.toolbox import HostLoad

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

REPLICAS = 6
# docs/operations.md: on a machine with nothing else to do, and what a busy one may add to each.
NOTICED_S, TOLERATED_S, BACK_S, PRESSURE_S, BUSY_S = 5.0, 10.0, 15.0, 10.0, 15.0
LOAD_PER_S = 100
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


def condition(cluster: ComposeCluster, node: str, type_: str = "Ready") -> dict[str, str]:
    conditions: list[dict[str, str]] = cluster.json("node", node)["status"]["conditions"]
    return next(item for item in conditions if item["type"] == type_)


def shown(cluster: ComposeCluster, kind: str, name: str) -> list[str]:
    """The columns of `get`."""
    return cluster.wherry("get", kind, name, "--no-headers").split()


@contextmanager
def load_on(cluster: ComposeCluster, *nodes: str) -> Iterator[None]:
    """A constant load on the nodes' ports, of which nothing is lost."""
    loads: list[HostLoad] = []
    try:
        for node in nodes:
            loads.append(HostLoad(cluster, node, 30080, per_s=LOAD_PER_S))
        for each in loads:
            each.began()
        yield
    except BaseException:
        for each in loads:
            each.stop()
        raise
    found = Report()
    for each in loads:
        found.add(each.results())
    assert found.lost == {}
    assert found.per_s >= LOAD_PER_S / 4


def is_silent(cluster: ComposeCluster, node: str, since_s: float) -> float:
    """When the node was noticed to be silent: in time, and told in every place where somebody might look."""
    until(lambda: cluster.node_ready(node) == "Unknown")
    for found in (
        item for item in cluster.json("node", node)["status"]["conditions"] if item["type"] != "NetworkUnavailable"
    ):
        assert (found["status"], found["reason"]) == ("Unknown", "NodeStatusUnknown")
        assert found["message"] == "Kubelet stopped posting node status."
    noticed_s = seconds(condition(cluster, node)["lastTransitionTime"])
    assert int(since_s) <= noticed_s <= since_s + NOTICED_S + BUSY_S
    unreachable = {("node.kubernetes.io/unreachable", effect) for effect in ("NoSchedule", "NoExecute")}
    until(
        lambda: (
            {(item["key"], item["effect"]) for item in cluster.json("node", node)["spec"].get("taints", [])}
            == unreachable
        )
    )
    said = until(lambda: cluster.events(node, since_s).get("NodeNotReady"))
    assert said == f"Node {node} status is now: NodeNotReady"
    assert shown(cluster, "node", node)[1] == "NotReady"
    commands = [cluster.wherry, *([cluster.kubectl] if binaries() else [])]
    for command in commands:
        described = command("describe", "node", node)
        assert "Kubelet stopped posting node status." in described
        assert "node.kubernetes.io/unreachable:NoExecute" in described
        assert "NodeNotReady" in described
    return noticed_s


def replaced(cluster: ComposeCluster, node: str, before: list[str], since_s: float) -> None:
    """The node is silent, its pods are evicted and made anew elsewhere in time, and the Service answers without it."""
    noticed_s = is_silent(cluster, node, since_s)
    latest_s = TOLERATED_S + BUSY_S

    def marked() -> bool:
        return all("TaintManagerEviction" in cluster.events(name, since_s) for name in before)

    until(marked)
    for name in before:
        said = cluster.events(name, since_s)
        assert said["NodeNotReady"] == "Node is not ready"
        assert said["TaintManagerEviction"] == f"Marking for deletion Pod default/{name}"
        assert shown(cluster, "pod", name)[2] == "Terminating"
        pod = cluster.json("pod", name)
        found = {item["type"]: item for item in pod["status"]["conditions"]}
        assert found["Ready"]["status"] == "False"
        disrupted = found["DisruptionTarget"]
        assert (disrupted["status"], disrupted["reason"]) == ("True", "DeletionByTaintManager")
        # A second less: times are written in whole ones.
        assert TOLERATED_S - 1 <= seconds(disrupted["lastTransitionTime"]) - noticed_s <= latest_s
        refused = cluster.tries("exec", name, "--", "true")
        assert refused.returncode != 0
        assert f'node "{node}" is not connected' in refused.stderr

    def elsewhere() -> list[str]:
        ready = [pod for pod in cluster.pods("app=web") if pod["spec"]["nodeName"] != node and is_ready(pod)]
        return [pod["metadata"]["creationTimestamp"] for pod in ready] if len(ready) >= REPLICAS else []

    made = sorted(seconds(each) for each in until(elsewhere, 120))[-len(before) :]
    assert all(TOLERATED_S - 1 <= each - noticed_s <= latest_s for each in made)
    until(
        lambda: (
            not any(
                endpoint.get("nodeName") == node and endpoint["conditions"]["ready"] for endpoint in endpoints(cluster)
            )
        )
    )
    # From now on nobody is led to the node.
    with load_on(cluster, *(name for name in NODES if name != node)):
        time.sleep(3)  # of load


def endpoints(cluster: ComposeCluster) -> list[dict[str, Any]]:
    found = cluster.json("endpointslices", "-l", "kubernetes.io/service-name=web")["items"]
    return [endpoint for item in found for endpoint in item.get("endpoints", [])]


def is_back(cluster: ComposeCluster, node: str, before: list[str], since_s: float) -> None:
    """The node is Ready in time and takes pods, and has let go of what was replaced."""
    until(lambda: cluster.node_ready(node) == "True", 120)
    ready = condition(cluster, node)
    assert ready["reason"] == "KubeletReady"
    assert int(since_s) <= seconds(ready["lastTransitionTime"]) <= since_s + BACK_S + BUSY_S
    until(lambda: not cluster.json("node", node)["spec"].get("taints"))
    assert until(lambda: cluster.events(node, since_s).get("NodeReady")) == f"Node {node} status is now: NodeReady"
    assert shown(cluster, "node", node)[1] == "Ready"
    until(lambda: not set(before) & {pod["metadata"]["name"] for pod in cluster.json("pods")["items"]}, 120)


def test_a_node_whose_network_is_cut_is_replaced_and_comes_back(cluster: ComposeCluster) -> None:
    before, since_s = on(cluster, "node-2"), time.time()
    cut(cluster, "node-2")
    try:
        replaced(cluster, "node-2", before, since_s)
    finally:
        mend(cluster, "node-2")
    is_back(cluster, "node-2", before, time.time())


def test_a_node_that_only_the_control_plane_has_lost_serves_until_it_is_replaced(cluster: ComposeCluster) -> None:
    before, since_s = on(cluster, "node-2"), time.time()
    addresses = [pod["status"]["podIP"] for pod in cluster.pods("app=web") if pod["metadata"]["name"] in before]
    try:
        with load_on(cluster, "node-2"):  # through its node port: its own routes and pods still work
            cut(cluster, "node-2", "ip {way} " + cluster.address("control-plane"))
            is_silent(cluster, "node-2", since_s)
        replaced(cluster, "node-2", before, since_s)
        # It has not heard that they are to end: they run in both places, and answer who has their addresses.
        for address in addresses:
            cluster.inside("node-1", f"curl -sf -m 5 http://{address}:8080/")
        assert answers(cluster, "node-2")
    finally:
        mend(cluster, "node-2")
    is_back(cluster, "node-2", before, time.time())


def test_a_killed_node_is_replaced_and_starts_again(cluster: ComposeCluster) -> None:
    before, since_s = on(cluster, "node-2"), time.time()
    addresses = [pod["status"]["podIP"] for pod in cluster.pods("app=web") if pod["metadata"]["name"] in before]
    cluster.docker("kill", "node-2")
    try:
        replaced(cluster, "node-2", before, since_s)
    finally:
        started_s = time.time()
        cluster.docker("start", "node-2")
    is_back(cluster, "node-2", before, started_s)
    # What the last life has left on the disk is gone, and the new one's pods are all there is.
    cluster.apply(pinned("again", "node-2"))
    cluster.running("app=again", 1)
    cluster.wherry("delete", "pod", "again")
    until(lambda: set(counts(cluster, "node-2").values()) == {0})
    # Nobody leads to them any more, nor lets them through.
    rule = " ".join(f"-e '{address}[^0-9]'" for address in addresses)
    for node in NODES:
        until(lambda node=node: not cluster.inside(node, f"nft list ruleset | grep {rule}", check=False))  # type: ignore[misc]


def counts(cluster: ComposeCluster, node: str) -> dict[str, int]:
    """What the node has of pods."""
    ways = {
        "pods": "ls /var/lib/wherry-agent/pods",
        "namespaces": "grep -c ' /run/wherry-agent/.*netns/' /proc/self/mountinfo",
        "links": "ls /sys/class/net | grep -c ^veth",
        "addresses": "find /var/lib/wherry-agent/cni/ipam -name '10.*' -type f | wc -l",
        "routes": "ip route | grep -c veth",
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
    taken = {node: condition(cluster, node)["lastTransitionTime"] for node in NODES}
    resolv = cluster.wherry("exec", next(iter(before)), "--", "cat", "/etc/resolv.conf")
    name_server = next(line.split()[1] for line in resolv.splitlines() if line.startswith("nameserver"))
    ask = (
        "nsenter --net=$(awk '/netns/ { print $5; exit }' /proc/self/mountinfo) "
        f"busybox nslookup -type=a web.default.svc.cluster.local {name_server}"
    )
    since_s = time.time()
    with load_on(cluster, *NODES):
        cluster.docker("pause", "control-plane")
        try:
            until_s = time.monotonic() + 30  # the fault itself: so long is the pause
            refused = cluster.tries("get", "nodes")
            assert refused.returncode != 0
            assert "The connection to the server 127.0.0.1:6440 failed" in refused.stderr
            while time.monotonic() < until_s:
                for node in NODES:
                    assert "Name:\tweb.default.svc.cluster.local" in cluster.inside(node, ask)
                time.sleep(1)
        finally:
            cluster.docker("unpause", "control-plane")
        cluster.apply(pinned("after", "node-1"))
        cluster.running("app=after", 1)
        cluster.wherry("delete", "pod", "after")
    assert containers(cluster.pods("app=web")) == before
    assert {node: condition(cluster, node)["lastTransitionTime"] for node in NODES} == taken
    for node in NODES:
        assert cluster.node_ready(node) == "True"
        assert "NodeNotReady" not in cluster.events(node, since_s)
    assert not any("TaintManagerEviction" in cluster.events(name, since_s) for name in before)


def pinned(name: str, node: str) -> str:
    """A pod for this node."""
    container = {"name": "c", "image": IMAGE, "command": ["sleep", "1000000"]}
    spec = {
        **({"nodeName": node} if node else {}),
        "terminationGracePeriodSeconds": 0,
        "restartPolicy": "Never",
        "containers": [container],
    }
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
    since_s = time.time()
    try:
        until(lambda: pressure(cluster, "node-3") == ("True", [taint]), 180)
        found = condition(cluster, "node-3", "DiskPressure")
        assert (found["reason"], found["message"]) == ("KubeletHasDiskPressure", "kubelet has disk pressure")
        assert seconds(found["lastTransitionTime"]) <= since_s + PRESSURE_S + BUSY_S
        said = until(lambda: told if len(told := cluster.events("node-3", since_s)) >= 2 else {})
        assert said["NodeHasDiskPressure"] == "Node node-3 status is now: NodeHasDiskPressure"
        assert said["EvictionThresholdMet"] == "Attempting to reclaim ephemeral-storage"
        assert f"{taint}:NoSchedule" in cluster.wherry("describe", "node", "node-3")

        def evicted() -> list[dict[str, Any]]:
            failed = [pod for pod in cluster.pods("app=web") if pod["status"].get("reason") == "Evicted"]
            return [pod for pod in failed if pod["spec"]["nodeName"] == "node-3"]

        victim = until(evicted, 180)[0]
        assert "low on resource: ephemeral-storage" in victim["status"]["message"]
        assert "Evicted" in cluster.wherry("describe", "pod", victim["metadata"]["name"])
        assert (
            until(lambda: cluster.events(victim["metadata"]["name"], since_s).get("Evicted"))
            == victim["status"]["message"]
        )
        until(lambda: "wherry.local/unused:1" not in cluster.inside("node-3", listed, check=False), 180)
        # Their successors run elsewhere, where new pods go too; one that is sent here all the same is told why not.
        until(lambda: len([pod for pod in cluster.pods("app=web") if is_ready(pod)]) == REPLICAS, 180)
        cluster.apply(pinned("refused", "node-3"))
        refused = until(lambda: [pod for pod in cluster.pods("app=refused") if pod["status"].get("phase") == "Failed"])
        assert "The node had condition: [DiskPressure]" in refused[0]["status"]["message"]
        waits = json.loads(pinned("waits", ""))
        waits["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "node-3"}
        cluster.apply(json.dumps(waits))
        why = until(lambda: cluster.events("waits", since_s).get("FailedScheduling"))
        assert "1 node(s) had untolerated taint(s)" in why
        with load_on(cluster, "node-3"):  # its own network goes on
            assert cluster.node_ready("node-3") == "True"
            assert all(answers(cluster, "node-3") for _ in range(10))
    finally:
        cluster.inside("node-3", "rm -f /var/lib/wherry-agent/ballast")
    until(lambda: pressure(cluster, "node-3") == ("False", []), 600)
    assert "NodeHasNoDiskPressure" in until(lambda: cluster.events("node-3", since_s).get("NodeHasNoDiskPressure", ""))
    assert condition(cluster, "node-3", "DiskPressure")["reason"] == "KubeletHasNoDiskPressure"
    cluster.running("app=waits", 1)
    cluster.apply(pinned("welcome", "node-3"))
    cluster.running("app=welcome", 1)
    cluster.wherry("delete", "pod", "welcome", "waits", "refused")
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
    since_s = time.time()
    try:
        cluster.inside("node-2", "kill -9 $(cat /run/wherry-agent/agent.pid)")
        replaced(cluster, "node-2", before, since_s)
        until(lambda: said in cluster.logs("node-2"))
        assert answers(cluster, "node-2")  # what it knew still holds
    finally:
        shift(cluster, "+0")
    is_back(cluster, "node-2", before, time.time())


def untouched(cluster: ComposeCluster, before: dict[str, tuple[str, int]], since_s: float) -> None:
    """All pods are what they were, and nobody has thought of ending one."""
    assert containers(cluster.pods("app=web")) == before
    for name in before:
        assert not {"Killing", "TaintManagerEviction"} & cluster.events(name, since_s).keys()


def test_an_agent_restarted_under_load_loses_nothing(cluster: ComposeCluster) -> None:
    before, since_s = containers(cluster.pods("app=web")), time.time()
    name = on(cluster, "node-2")[0]
    with load_on(cluster, *NODES):
        for _ in range(3):
            cluster.inside("node-2", "kill -9 $(cat /run/wherry-agent/agent.pid)")
            # Back before the next one: three times away in a row would be long enough for the node to be replaced.
            until(lambda: cluster.wherry("exec", name, "--", "hostname", check=False).strip() == name, 60)
        until(lambda: cluster.node_ready("node-2") == "True", 60)
    untouched(cluster, before, since_s)
    said = until(lambda: cluster.events("node-2", since_s).get("Starting"))
    assert said == "Starting kubelet: 2 pods are taken over"


def test_containers_outlive_containerd_under_load(cluster: ComposeCluster) -> None:
    before, since_s = containers(cluster.pods("app=web")), time.time()
    with load_on(cluster, *NODES):
        # A pid file of ours names the boot too.
        cluster.inside("node-2", "pkill -9 -x containerd")
        said = until(lambda: told if "ContainerRuntimeUp" in (told := cluster.events("node-2", since_s)) else {})
        assert said["ContainerRuntimeDown"].startswith("container runtime is ")
        assert said["ContainerRuntimeDown"].endswith("; its containers run on")
        assert said["ContainerRuntimeUp"] == "container runtime answers again"
        name = on(cluster, "node-2")[0]
        until(lambda: cluster.wherry("exec", name, "--", "hostname", check=False).strip() == name, 60)
        cluster.apply(pinned("new", "node-2"))
        cluster.running("app=new", 1)
        cluster.wherry("delete", "pod", "new")
    untouched(cluster, before, since_s)
