"""The three-replica profile: three control planes on three etcd members, each container killed in turn."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from wherry.testing.compose import CONTROL_PLANES, NODES, ComposeCluster
from wherry.testing.dockerd import Dockerd
from wherry.testing.local import deployment, until

pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]

ETCD = ("etcd-1", "etcd-2", "etcd-3")
PROGRAM = """
import asyncio, json, sys, time
from wherry.api.errors import AlreadyExists, APIError
from wherry.client.base import Selection
from wherry.client.config import load_config
from wherry.client.grpc import connect
from wherry.pb import core_v1_pb2

async def main():
    client = connect(load_config(sys.argv[1]), timeout_s=3)
    loop, end, done, gap, last = asyncio.get_running_loop(), float(sys.argv[2]), [], 0.0, None
    start = loop.time()
    while loop.time() - start < end:
        obj = core_v1_pb2.ConfigMap()
        obj.metadata.name, obj.metadata.namespace = f"{sys.argv[3]}-{len(done)}", "default"
        try:
            await client.create(obj)
        except AlreadyExists:
            pass
        except APIError:
            await asyncio.sleep(0.05)
            continue
        done.append(obj.metadata.name)
        if last is not None:
            gap = max(gap, loop.time() - last)
        last = loop.time()
        await asyncio.sleep(0.02)
    page = await client.list(core_v1_pb2.ConfigMap, Selection(namespace="default"))
    there = {item.metadata.name for item in page.items}
    await client.close()
    print(json.dumps({"written": len(done), "gap_s": gap + max(0, loop.time() - last - 3), "lost": sorted(set(done) - there)}))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def cluster(dockerd: Dockerd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeCluster]:
    made = ComposeCluster(dockerd, tmp_path_factory.mktemp("replicas"), replicas=3)
    try:
        made.up()
        yield made
    finally:
        made.down()
    assert made.left() == {}


@pytest.mark.parametrize("victim", [*ETCD, *CONTROL_PLANES])
def test_writes_go_on_within_5_s_and_nothing_is_lost(cluster: ComposeCluster, victim: str) -> None:
    for node in NODES:
        until(lambda node=node: cluster.node_ready(node) == "True", 120)  # type: ignore[misc]
    killer = threading.Timer(4, lambda: cluster.docker("kill", victim))
    killer.start()
    program = cluster.directory / "writer.py"
    program.write_text(PROGRAM)
    try:
        said = cluster.python(str(program), str(cluster.directory / "admin.conf"), "15", victim)
    finally:
        killer.join()
        cluster.docker("start", victim)
    result = json.loads(said)
    assert result["lost"] == []
    assert result["written"] > 50
    assert result["gap_s"] < 5, result


def over_https(cluster: ComposeCluster, seconds: int, prefix: str, during: Callable[[], None]) -> dict[str, Any]:
    """What a client that knows the balancer alone has to tell; `during` is done 4 s after it began."""
    told: list[BaseException] = []

    def act() -> None:
        try:
            during()
        except BaseException as error:
            told.append(error)

    acting = threading.Timer(4, act)
    acting.start()
    try:
        said = cluster.python(
            "-m", "wherry.testing.failover", str(cluster.directory / "kubeconfig"), str(seconds), prefix
        )
    finally:
        acting.join()
    assert not told, told
    result: dict[str, Any] = json.loads(said)
    assert not [what for what in ("lost", "unread", "missed", "twice") if result[what]], result
    return result


@pytest.mark.parametrize("victim", [*ETCD, *CONTROL_PLANES])
def test_https_through_the_balancer_goes_on_within_5_s(cluster: ComposeCluster, victim: str) -> None:
    def kill() -> None:
        cluster.docker("kill", victim)
        cluster.kubectl("create", "configmap", f"kubectl-{victim}")
        cluster.kubectl("get", "configmap", f"kubectl-{victim}")

    try:
        result = over_https(cluster, 20, f"https-{victim}", kill)
    finally:
        cluster.docker("start", victim)
    assert result["written"] > 50
    assert result["gap_s"] < 5, result


def test_one_after_the_other_restarts_under_load(cluster: ComposeCluster) -> None:
    def restart() -> None:
        for name in CONTROL_PLANES:
            cluster.docker("restart", name)
            until(lambda name=name: answers_ready(cluster, name), 120)  # type: ignore[misc]

    result = over_https(cluster, 60, "rolling", restart)
    assert result["written"] > 100
    assert result["gap_s"] < 5, result


def answers_ready(cluster: ComposeCluster, name: str) -> bool:
    return cluster.inside(name, "curl -sk --max-time 5 https://127.0.0.1:6443/readyz", check=False) == "ok"


def test_a_replica_without_its_store_is_left_out(cluster: ComposeCluster) -> None:
    """Cut off from etcd, not from nodes and clients: what it could say may be old, so it says nothing, and is asked nothing."""
    victim, store = "control-plane-2", f"{cluster.project}_store"

    def cut() -> None:
        cluster.dockerd.docker("network", "disconnect", store, cluster.container(victim))

    until(lambda: answers_ready(cluster, victim), 120)
    try:
        result = over_https(cluster, 25, "cut", cut)
        verbose = "curl -sk --max-time 5 https://127.0.0.1:6443/readyz?verbose"
        assert "[-]etcd failed" in cluster.inside(victim, verbose)
    finally:
        cluster.dockerd.docker("network", "connect", "--alias", victim, store, cluster.container(victim))
    assert result["gap_s"] < 10, result  # a read that hangs is given up after 3 s
    until(lambda: answers_ready(cluster, victim), 120)
    for node in NODES:
        until(lambda node=node: cluster.node_ready(node) == "True", 120)  # type: ignore[misc]


CALLER = """
end=$(( $(date +%s) + 20 ))
while [ "$(date +%s)" -lt "$end" ]; do
  [ "$(curl -sk --max-time 1 https://10.96.0.1/readyz)" = ok ] && date +%s.%N
  sleep 0.2
done
"""


def test_the_service_kubernetes_leaves_a_dead_replica_out(cluster: ComposeCluster) -> None:
    """By the cluster address that pods use, with a connection for each call: what a client does that tries again."""
    victim = "control-plane-3"

    def addresses() -> list[str]:
        told = cluster.tries("get", "endpointslices", "kubernetes", "-o", "json")
        items = json.loads(told.stdout)["endpoints"] if told.returncode == 0 else []
        return sorted(address for item in items for address in item["addresses"])

    until(lambda: len(addresses()) == 3, 120)
    killing = threading.Timer(4, lambda: cluster.docker("kill", victim))
    killing.start()
    try:
        answered = [float(line) for line in cluster.inside("node-1", CALLER, check=False).split()]
        killing.join()
        left = addresses()
    finally:
        killing.join()
        cluster.docker("start", victim)
    assert len(left) == 2
    assert max(after - before for before, after in itertools.pairwise(answered)) < 5
    until(lambda: len(addresses()) == 3, 120)


def test_no_pod_is_placed_twice_when_the_leader_dies(cluster: ComposeCluster) -> None:
    def leader() -> str:
        lease = cluster.json("lease", "wherry-control-plane", "-n", "kube-system")
        return str(lease["spec"]["holderIdentity"])

    victim = until(leader)
    cluster.apply(deployment("many", 24))
    cluster.docker("kill", victim)
    placed: dict[str, str] = {}
    deadline = time.monotonic() + 300
    while True:
        listed = cluster.tries("get", "pods", "-l", "app=many", "-o", "json")
        pods = json.loads(listed.stdout)["items"] if listed.returncode == 0 else []
        for pod in pods:
            node = pod["spec"].get("nodeName", "")
            if node:
                assert placed.setdefault(pod["metadata"]["uid"], node) == node
        if len(placed) >= 24 and len(pods) == 24 and all(pod["status"].get("phase") == "Running" for pod in pods):
            break
        assert time.monotonic() < deadline, f"{len(pods)} pods, {len(placed)} placed"
    cluster.docker("start", victim)
    # Containers: one sandbox per pod, on its node and nowhere else.
    ran: dict[str, list[str]] = {}
    for node in NODES:
        listed = cluster.inside(node, "ls /var/lib/wherry-agent/pods")
        for uid in listed.split():
            ran.setdefault(uid, []).append(node)
    assert all(ran[uid] == [node] for uid, node in placed.items())
    pod = cluster.pods("app=many")[0]["metadata"]["name"]
    assert cluster.wherry("exec", pod, "--", "hostname").strip() == pod
