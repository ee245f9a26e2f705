"""A real cluster on this machine, and what happens to it: containers, agents and the control plane killed, a node cut off,
rollouts good and bad. Times that are promised are measured in `bench/` and proved on virtual time in tests/sim; limits here only
keep a broken build from hanging.
"""

import asyncio
import os
import secrets
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.api.errors import APIError
from wherry.client.base import Selection
from wherry.pb import core_v1_pb2
from wherry.testing.eventually import eventually
from wherry.testing.local import IMAGE, MAIN, LocalCluster, containers, deployment, is_ready, trace, until
from wherry.testing.require import require_containerd, require_root, strict

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    require_root()
    require_containerd()
    before = trace()
    made = LocalCluster()
    try:
        told = made.up()
        assert "says:" in told
        yield made
    finally:
        made.down()
    after = trace()
    mine = {what: [line for line in lines if made.name in line] for what, lines in after.items()}
    assert not any(mine.values()), f"left behind: {mine}"
    if strict():
        # Elsewhere other clusters of this machine may come and go meanwhile.
        new = {
            what: sorted(set(after[what]) - set(before[what])) for what in ("mounts", "links", "namespaces", "nftables")
        }
        assert not any(new.values()), f"left behind: {new}"


def running(cluster: LocalCluster, selector: str, count: int) -> list[dict]:  # type: ignore[type-arg]
    def check() -> list[dict]:  # type: ignore[type-arg]
        pods = cluster.pods(selector)
        return pods if len(pods) == count and all(map(is_ready, pods)) else []

    return until(check)


def remove(cluster: LocalCluster, name: str) -> None:
    cluster.ok("delete", "deployment", name, "--ignore-not-found")


def process_of(marker: str) -> int:
    """The process whose command line holds the marker (one of a test's own container)."""

    def check() -> int:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    command = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if marker.encode() in command and b"pytest" not in command:
                    return int(entry.name)
        return 0

    return until(check)


def test_a_second_up_changes_nothing(cluster: LocalCluster) -> None:
    before = containers(cluster.pods("app=hello"))
    pids = [cluster.server_pid(), cluster.agent_pid(1), cluster.agent_pid(2)]
    assert "nothing was changed" in cluster.up()
    assert containers(cluster.pods("app=hello")) == before
    assert [cluster.server_pid(), cluster.agent_pid(1), cluster.agent_pid(2)] == pids


def test_a_killed_container_runs_again(cluster: LocalCluster) -> None:
    cluster.apply(deployment("phoenix", 1, "echo started; exec sleep 314159"))
    (pod,) = running(cluster, "app=phoenix", 1)
    name = pod["metadata"]["name"]
    os.kill(process_of("sleep\x00314159"), signal.SIGKILL)

    def restarted() -> dict:  # type: ignore[type-arg]
        (now,) = cluster.pods("app=phoenix")
        status = now["status"]["containerStatuses"][0]
        return status if status["restartCount"] == 1 and status["ready"] else {}

    status = until(restarted)
    assert status["lastState"]["terminated"]["exitCode"] == 137
    assert cluster.ok("logs", name) == "started\n"
    assert cluster.ok("logs", name, "--previous") == "started\n"
    started = [
        event for event in cluster.json("events")["items"]
        if event["involvedObject"]["name"] == name and event["reason"] == "Started"
    ]  # fmt: skip
    assert sum(event.get("count", 1) for event in started) == 2
    remove(cluster, "phoenix")


def test_a_killed_agent_restarts_and_loses_nothing(cluster: LocalCluster) -> None:
    cluster.apply(deployment("steady", 4))
    before = containers(running(cluster, "app=steady", 4))
    victim = cluster.agent_pid(1)
    os.kill(victim, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{victim}").exists() or _zombie(victim))
    cluster.up()
    assert cluster.agent_pid(1) != victim
    assert containers(running(cluster, "app=steady", 4)) == before
    cluster.ok("scale", "deployment/steady", "--replicas", "6")
    after = containers(running(cluster, "app=steady", 6))
    assert {name: after[name] for name in before} == before
    remove(cluster, "steady")


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_control_plane_killed_amid_creates_loses_nothing_acknowledged(cluster: LocalCluster) -> None:
    cluster.apply(deployment("witness", 2))
    before = containers(running(cluster, "app=witness", 2))
    acknowledged: list[str] = []
    server = cluster.server_pid()
    label = f"set=many-{secrets.token_hex(3)}"

    async def create_many() -> None:
        client = cluster.client()
        in_flight = asyncio.Semaphore(64)

        async def one(number: int) -> None:
            config = core_v1_pb2.ConfigMap()
            config.metadata.name, config.metadata.namespace = f"{label.partition('=')[2]}-{number}", "default"
            config.metadata.labels["set"] = label.partition("=")[2]
            async with in_flight:
                await client.create(config)
            acknowledged.append(config.metadata.name)
            if len(acknowledged) == 300:
                os.kill(server, signal.SIGKILL)

        try:
            await asyncio.gather(*(one(number) for number in range(1000)), return_exceptions=True)
        finally:
            await client.close()

    asyncio.run(create_many())
    assert 300 <= len(acknowledged) < 1000, "the kill must fall into the middle of the creates"
    cluster.up()
    there = {item["metadata"]["name"] for item in cluster.json("configmaps", "-l", label)["items"]}
    assert set(acknowledged) <= there
    assert containers(running(cluster, "app=witness", 2)) == before
    # The agents came back by themselves: what is new runs.
    cluster.ok("scale", "deployment/witness", "--replicas", "4")
    running(cluster, "app=witness", 4)
    cluster.ok("delete", "configmaps", "-l", label, "--no-wait")
    remove(cluster, "witness")


def test_a_watch_goes_on_when_the_control_plane_comes_back(cluster: LocalCluster) -> None:
    """The client's informer, as any outsider would use it: it resumes by itself and misses nothing."""

    async def scenario() -> None:
        from wherry.api.context import Env
        from wherry.client.informer import Informer

        client = cluster.client()
        informer = Informer(client, core_v1_pb2.ConfigMap, Env(), selection=Selection("default", "set=watched"))
        task = asyncio.create_task(informer.run())
        try:
            await informer.wait_synced()
            await asyncio.to_thread(os.kill, cluster.server_pid(), signal.SIGKILL)
            await asyncio.to_thread(cluster.up)
            manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: late, labels: {set: watched}}\n"
            await asyncio.to_thread(cluster.apply, manifest)

            async def seen() -> bool:
                return informer.get("late", "default") is not None

            await eventually(seen, 60)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await client.close()

    asyncio.run(scenario())
    cluster.ok("delete", "configmap", "late")


def test_a_node_that_is_cut_off_is_replaced_and_cleans_up_when_it_returns(cluster: LocalCluster) -> None:
    cluster.apply(deployment("moving", 4))
    running(cluster, "app=moving", 4)
    lost = {pod["metadata"]["name"] for pod in cluster.pods("app=moving") if pod["spec"]["nodeName"] == "node-2"}
    assert lost, "the pods must be spread over both nodes"
    cluster.cable(2, connected=False)
    try:
        until(lambda: not is_ready(cluster.json("node", "node-2")), 30)

        def replaced() -> bool:
            pods = [pod for pod in cluster.pods("app=moving") if pod["spec"].get("nodeName") == "node-1"]
            return len(pods) == 4 and all(map(is_ready, pods))

        until(replaced, 60)
    finally:
        cluster.cable(2, connected=True)
    until(lambda: is_ready(cluster.json("node", "node-2")), 60)

    def cleaned() -> bool:
        names = {pod["metadata"]["name"] for pod in cluster.json("pods", "-l", "app=moving")["items"]}
        return not names & lost

    until(cleaned, 60)
    remove(cluster, "moving")


def test_a_rollout_to_a_bad_image_stops_and_undo_brings_it_back(cluster: LocalCluster) -> None:
    spec = "strategy: {rollingUpdate: {maxSurge: 2, maxUnavailable: 1}}"
    good = deployment("ten", 10, spec=spec)
    cluster.apply(good)
    running(cluster, "app=ten", 10)
    before = {pod["metadata"]["name"] for pod in cluster.pods("app=ten")}
    cluster.apply(good.replace(IMAGE, "wherry.local/no-such-image:1"))

    def stuck() -> list[dict]:  # type: ignore[type-arg]
        waiting = [
            pod for pod in cluster.pods("app=ten")
            for status in pod["status"].get("containerStatuses", [])
            if status["state"].get("waiting", {}).get("reason") in ("ErrImagePull", "ImagePullBackOff")
        ]  # fmt: skip
        return waiting if len(waiting) == 3 else []

    until(stuck)
    pods = cluster.pods("app=ten")
    assert len(pods) == 12
    assert sum(map(is_ready, pods)) == 9
    cluster.ok("rollout", "undo", "deployment/ten")
    assert "successfully rolled out" in cluster.ok("rollout", "status", "deployment/ten", "--timeout", "60s")
    survivors = {pod["metadata"]["name"] for pod in running(cluster, "app=ten", 10)}
    assert len(survivors & before) == 9
    remove(cluster, "ten")


def test_a_rolling_update_never_has_too_few_ready(cluster: LocalCluster) -> None:
    """From the watch history of the pods: with maxUnavailable 1 of 5, at least 4 are ready at every moment."""
    probe = "readinessProbe: {exec: {command: [test, -f, /tmp/ready]}, periodSeconds: 1}"
    script = "sleep 0.5; touch /tmp/ready; exec sleep 1000000"
    spec = "strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 1}}"
    first = deployment("careful", 5, script, extra=probe, spec=spec)
    cluster.apply(first)
    running(cluster, "app=careful", 5)
    ready_counts: list[int] = []

    async def watch_rollout() -> None:
        client = cluster.client()
        try:
            page = await client.list(core_v1_pb2.Pod, Selection("default", "app=careful"))
            ready = {pod.metadata.name: _ready(pod) for pod in page.items}

            async def count() -> None:
                stream = client.watch(
                    core_v1_pb2.Pod, Selection("default", "app=careful"), resource_version=page.resource_version
                )
                async for batch in stream:
                    for event in batch.events:
                        ready[event.object.metadata.name] = event.type != "DELETED" and _ready(event.object)
                        ready_counts.append(sum(ready.values()))

            counting = asyncio.create_task(count())
            await asyncio.to_thread(roll)
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)
        finally:
            await client.close()

    def roll() -> None:
        cluster.apply(first.replace("sleep 0.5", "sleep 0.4"))
        assert "successfully rolled out" in cluster.ok("rollout", "status", "deployment/careful", "--timeout", "120s")

    asyncio.run(watch_rollout())
    assert len(ready_counts) > 10
    assert min(ready_counts) >= 4
    remove(cluster, "careful")


def _ready(pod: core_v1_pb2.Pod) -> bool:
    if pod.metadata.HasField("deletion_timestamp"):
        return False
    return any(item.type == "Ready" and item.status == "True" for item in pod.status.conditions)


def test_exec_attach_logs_and_port_forward(cluster: LocalCluster) -> None:
    cluster.apply(
        deployment(
            "shell",
            1,
            "echo one; echo two; mkdir /tmp/w; echo page > /tmp/w/index.html; exec httpd -f -p 8081 -h /tmp/w",
        )
    )
    (pod,) = running(cluster, "app=shell", 1)
    name = pod["metadata"]["name"]
    assert cluster.ok("logs", name, "--tail", "1") == "two\n"
    assert cluster.wherry("exec", name, "--", "sh", "-c", "echo out; echo err >&2; exit 7").returncode == 7
    assert cluster.ok("exec", "-i", name, "--", "cat", stdin="through\n") == "through\n"
    forward = subprocess.Popen(
        [*MAIN, "port-forward", name, ":8081"],
        stdout=subprocess.PIPE, text=True, env=cluster.environment,
    )  # fmt: skip
    try:
        assert forward.stdout is not None
        line = forward.stdout.readline()
        port = int(line.partition(" -> ")[0].rpartition(":")[2])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
            assert page.read() == b"page\n"
    finally:
        forward.terminate()
        forward.wait()
        forward.stdout.close()
    remove(cluster, "shell")


def test_an_oom_kill_is_told(cluster: LocalCluster) -> None:
    script = "x=a; while true; do x=$x$x; done"
    cluster.apply(deployment("greedy", 1, script, extra="imagePullPolicy: IfNotPresent").replace(
        '"requests": {"cpu": "1m", "memory": "1Mi"}', '"limits": {"memory": "16Mi"}'
    ))  # fmt: skip

    def reason() -> str:
        for pod in cluster.pods("app=greedy"):
            for status in pod["status"].get("containerStatuses", []):
                for state in (status["state"], status.get("lastState", {})):
                    if state.get("terminated", {}).get("reason") == "OOMKilled":
                        return "OOMKilled"
        return ""

    assert until(reason) == "OOMKilled"
    remove(cluster, "greedy")


def test_errors_of_the_api_reach_the_client(cluster: LocalCluster) -> None:
    async def scenario() -> None:
        client = cluster.client()
        try:
            with pytest.raises(APIError, match='pods "nothing" not found'):
                await client.get(core_v1_pb2.Pod, "nothing", "default")
        finally:
            await client.close()

    asyncio.run(scenario())
