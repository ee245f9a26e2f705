"""What a running cluster does for itself, on one real node: certificates renew while containers, watches and sessions go on;
pods are evicted while memory or disk is short. The node's directory is a small file system of its own.
"""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from kubelet.identity import IdentityStore
from wherry.cli.cluster import layout
from wherry.client.config import load_config
from wherry.testing.local import IMAGE, MAIN, LocalCluster, containers, deployment, is_ready, until
from wherry.testing.require import require_containerd, require_root

pytestmark = pytest.mark.timeout(300)

LIFETIME_S = 24
MEMORY_MIB = 400


DISK_MIB = 400


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    require_root()
    require_containerd()
    made = LocalCluster(nodes=1)
    # The node's directory: nothing of the machine's disk is filled, nor of the control plane's.
    data = layout.STATE_DIR / made.name / "node-1"
    data.mkdir(parents=True)
    # On a loop device: what is in a tmpfs counts as its writer's memory.
    image = tmp_path_factory.mktemp("disk") / "image"
    with image.open("wb") as file:
        file.truncate(DISK_MIB << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(data)], check=True)
    try:
        made.up()
        short_lived(made)
        yield made
    finally:
        try:
            made.down()
        finally:
            subprocess.run(["umount", str(data)], check=False, capture_output=True)
            for folder in (data, data.parent):
                if folder.is_dir():
                    folder.rmdir()


def short_lived(cluster: LocalCluster) -> None:
    """From long lives to short ones: the node joins again, as a new one would. It has little memory and a short memory too."""
    node = cluster.description.node(1)
    node.token_file.write_text(cluster.ok("token", "create").strip())
    shutil.rmtree(node.data / "identity")
    cluster.restart_server("--certificate-lifetime", f"{LIFETIME_S}s")
    cluster.restart_agent(
        1, "--capacity", f"cpu=2,memory={MEMORY_MIB}Mi", "--eviction-pressure-transition-period", "12s"
    )
    cluster.up()
    until(lambda: (node.data / "identity" / "node.pem").exists())


class Going:
    """What goes on during all tests: a log that is followed, a watch, containers; and the certificates as they were first."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        self.cluster = cluster
        self.log, self.watched, self.nodes = folder / "log", folder / "watch", folder / "nodes"
        cluster.apply(deployment("steady", 2, "n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done"))
        until(lambda: len(pods := cluster.pods("app=steady")) == 2 and all(map(is_ready, pods)))
        pods = cluster.pods("app=steady")
        self.containers = containers(pods)
        self.ready_since = until(self.ready)
        self.serials = self.now()
        following = [*MAIN, "logs", "-f", "--tail=1", pods[0]["metadata"]["name"]]
        watching = [*MAIN, "get", "configmaps", "-w", "-o", "name"]
        commands = (
            (following, self.log),
            (watching, self.watched),
            ([*MAIN, "get", "node", "-w", "-o", "yaml"], self.nodes),
        )
        self.processes = []
        for command, path in commands:
            with path.open("wb") as output:
                self.processes.append(subprocess.Popen(command, stdout=output, env=cluster.environment))
        until(lambda: self.log.stat().st_size)

    def ready(self) -> str:
        """Since when the node is Ready."""
        found = condition(self.cluster, "Ready")
        assert found["status"] == "True", found
        return str(found["lastTransitionTime"])

    def now(self) -> dict[str, int]:
        """The serial numbers of certificates."""
        description = self.cluster.description
        identity = IdentityStore(description.node(1).data / "identity").load()
        assert identity is not None
        host, _, port = description.server_address.rpartition(":")
        found = {
            "server": ssl.get_server_certificate((host, int(port))).encode(),
            "node": identity.certificate,
            "administrator": load_config(description.server_data / "admin.conf").certificate,
            # The user's file follows when a command finds it due.
            "user": load_config(self.cluster.config).certificate,
        }
        return {name: x509.load_pem_x509_certificate(pem).serial_number for name, pem in found.items()}

    def end(self) -> None:
        for process in self.processes:
            process.terminate()
            process.wait(15)


@pytest.fixture(scope="module")
def going(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Going]:
    made = Going(cluster, tmp_path_factory.mktemp("going"))
    yield made
    made.end()


def pod(name: str, script: str, *, request: str = "", priority: str = "", volume: str = "") -> str:
    container = {"name": "c", "image": IMAGE, "command": ["sh", "-c", script], "resources": {}}
    spec: dict[str, Any] = {"terminationGracePeriodSeconds": 1, "containers": [container]}
    if request:
        container["resources"] = {"requests": {"memory": request}}
    if priority:
        spec["priorityClassName"] = priority
    if volume:
        spec["volumes"] = [{"name": "v", "emptyDir": {}}]
        container["volumeMounts"] = [{"name": "v", "mountPath": volume}]
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})


def using_memory(mib: int) -> str:
    """Held for ever, once the file /go is there."""
    return f"until [ -e /go ]; do sleep 0.2; done; (head -c {mib << 20} /dev/zero; sleep 1000000) | tail -c {mib << 20}"


def condition(cluster: LocalCluster, name: str) -> dict[str, Any]:
    conditions = cluster.json("node", "node-1")["status"]["conditions"]
    found: dict[str, Any] = next(item for item in conditions if item["type"] == name)
    return found


def evicted(cluster: LocalCluster, name: str) -> dict[str, Any]:
    """Its status, when it is."""

    def status() -> dict[str, Any]:
        found: dict[str, Any] = cluster.json("pod", name)["status"]
        return found if found.get("reason") == "Evicted" and found.get("phase") == "Failed" else {}

    return until(status, timeout_s=120, pause_s=0.5)


def test_pressure_evicts_in_order_and_passes(cluster: LocalCluster, going: Going) -> None:
    """The node has 400 MiB of memory, of which 100 are to stay free. Of three pods that use more than they asked for the one of
    lower priority goes, though another uses more; then enough is free. Of two that write to the disk the one that fills it goes.
    """
    writing = "until [ -e /go ]; do sleep 0.2; done; dd if=/dev/zero of=/v/x bs=1M count={}; sleep 1000000"
    names = ("modest", "important", "small", "filler", "greedy")
    for name in names:
        cluster.wherry("delete", "pod", name)  # of a first try
    cluster.apply(
        "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: high}\nvalue: 1000\n---\n"
        + "\n---\n".join(
            [
                pod("modest", using_memory(60), request="100Mi"),
                pod("important", using_memory(140), priority="high"),
                pod("greedy", using_memory(110)),
                pod("small", writing.format(5), volume="/v", request="1Mi"),
                pod("filler", writing.format(DISK_MIB), volume="/v", request="20Mi"),
            ]
        )
    )
    until(lambda: all(is_ready(cluster.json("pod", name)) for name in names))
    for name in names:
        cluster.ok("exec", name, "--", "touch", "/go")
    status = evicted(cluster, "greedy")
    assert re.fullmatch(
        r"The node was low on resource: memory\. Threshold quantity: 100Mi, available: \d+Ki\. "
        r"Container c was using \d+Ki, request is 0, has larger consumption of memory\. ",
        status["message"],
    ), status["message"]
    target = next(item for item in status["conditions"] if item["type"] == "DisruptionTarget")
    assert (target["status"], target["reason"]) == ("True", "TerminationByKubelet")
    status = evicted(cluster, "filler")
    assert re.match(
        r"The node was low on resource: ephemeral-storage\. Threshold quantity: \d+[KM]i, available: ",
        status["message"],
    ), status["message"]
    reasons = [
        event["reason"] for event in cluster.json("events")["items"] if event["involvedObject"]["name"] == "greedy"
    ]
    assert "Evicted" in reasons
    # Both may be over by now: the watch has seen them.
    for told in (
        "KubeletHasInsufficientMemory",
        "KubeletHasDiskPressure",
        "node.kubernetes.io/memory-pressure",
        "node.kubernetes.io/disk-pressure",
    ):
        until(lambda told=told: told in going.nodes.read_text())  # type: ignore[misc]  # mypy sees no type of a default
    until(lambda: all(condition(cluster, f"{name}Pressure")["status"] == "False" for name in ("Memory", "Disk")))
    until(lambda: not cluster.json("node", "node-1")["spec"].get("taints"))
    for name in ("modest", "important", "small"):
        found = cluster.json("pod", name)
        assert is_ready(found), found["status"]
        assert containers([found])[name][1] == 0


def test_certificates_renew_and_nothing_is_lost(cluster: LocalCluster, going: Going) -> None:
    """Of the server, the node, the administrator's file and the user's: each gets a new serial. Meanwhile a log is followed
    and a watch goes on, the node is never anything but Ready, and no container restarts."""
    until(
        lambda: going.ready() == going.ready_since and not going.serials.items() & going.now().items(),
        timeout_s=4 * LIFETIME_S,
        pause_s=1.0,
    )
    seen = going.log.stat().st_size
    until(lambda: going.log.stat().st_size > seen)
    cluster.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: late}\n")
    until(lambda: b"configmap/late" in going.watched.read_bytes())
    assert [process.poll() for process in going.processes] == [None] * 3
    numbers = [int(line) for line in going.log.read_text().splitlines()[:-1]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "a line is twice there, or left out"
    assert containers(cluster.pods("app=steady")) == going.containers
    assert {restarts for _, restarts in going.containers.values()} == {0}
    assert going.ready() == going.ready_since, "the node was not Ready all the time"
    events = cluster.json("events")["items"]
    assert not [event for event in events if event["reason"] == "NodeNotReady"], json.dumps(events)
