"""One pod from birth to removal: the worker on the hollow runtime, on virtual time."""

from __future__ import annotations

import asyncio

import pytest

from kubelet.pods.podstate import PodState
from kubelet.pods.services import StartSlots
from kubelet.pods.states import Stage
from kubelet.runtime.base import DNSConfig
from kubelet.runtime.hollow import Latency
from wherry.pb import core_v1_pb2
from wherry.testing.podworkers import Node, behave


async def test_a_pod_starts_with_little_added_to_the_runtime_calls(node: Node) -> None:
    node.run(behave(""))
    took_s = await node.until(node.ready)
    latency = node.runtime.latency
    assert took_s <= latency.sandbox_s + latency.create_s + latency.start_s + 0.011
    assert node.reasons() == ["Pulled", "Created", "Started"]
    entry = node.status.container_statuses[0]
    assert (node.status.phase, entry.ready, entry.container_id[:9]) == ("Running", True, "hollow://")
    assert node.status.pod_ip.startswith("10.244.")


async def test_a_resolver_over_the_limits_is_told_once_per_sandbox(node: Node) -> None:
    node.services.node.host_dns = DNSConfig(tuple(f"192.0.2.{number}" for number in range(1, 5)))
    made = behave("")
    made._pod.spec.dns_policy = "Default"
    node.run(made)
    await node.until(node.ready)
    told = [message for reason, message in node.events if reason == "DNSConfigForming"]
    assert told == [
        "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "
        "192.0.2.1 192.0.2.2 192.0.2.3"
    ]


async def test_the_image_is_pulled_beside_the_sandbox(node: Node) -> None:
    node.run(behave("").image("example.com/slow:1"))
    took_s = await node.until(node.ready)
    assert took_s <= 1.0 + 0.05 + 0.011
    assert node.reasons() == ["Pulling", "Pulled", "Created", "Started"]


async def test_a_long_pull_tells_how_far_it_is(node: Node) -> None:
    node.runtime.latency = Latency(pull_s=25.0)
    node.run(behave("").image("example.com/large:1"))
    await node.until(node.ready)
    told = [message for reason, message in node.events if reason == "Pulling"]
    assert told[0] == 'Pulling image "example.com/large:1"'
    progress = 'Pulling image "example.com/large:1": this node has {} MiB of the 1.0 MiB that it fetches now'
    assert told[1:] == [progress.format("0.4"), progress.format("0.8")]


async def test_a_killed_process_runs_again_at_once(node: Node) -> None:
    worker = node.run(behave(""))
    await node.until(node.ready)
    running = worker.container("c")
    assert running is not None
    node.runtime.kill_process(running.id)
    await node.until(lambda: not node.ready())
    assert await node.until(node.ready) < 0.1
    entry = node.status.container_statuses[0]
    assert entry.restart_count == 1
    assert (entry.last_state.terminated.exit_code, entry.last_state.terminated.reason) == (137, "Error")


async def test_a_crash_loop_backs_off_as_in_kubernetes(node: Node) -> None:
    node.run(behave("exit-after=1,exit-code=3"))
    starts: list[float] = []
    loop = asyncio.get_running_loop()
    began = loop.time()
    seen = 0
    while loop.time() - began < 100:
        await asyncio.sleep(0.05)
        if node.reasons().count("Started") > seen:
            seen += 1
            starts.append(round(loop.time() - began))
    # Starts at 0; 1 s later at once; then 10, 20 and 40 s after each end.
    assert starts == [0, 1, 12, 33, 74]
    state = node.status.container_statuses[0].state
    assert state.waiting.reason == "CrashLoopBackOff"
    assert node.reasons().count("BackOff") == 4


async def test_oom_killed(node: Node) -> None:
    node.run(behave("oom-after=5", policy="Never"))
    await node.until(lambda: node.statuses and node.status.phase == "Failed")
    terminated = node.status.container_statuses[0].state.terminated
    assert (terminated.reason, terminated.exit_code) == ("OOMKilled", 137)


async def test_a_job_like_pod_completes_and_keeps_its_container(node: Node) -> None:
    worker = node.run(behave("exit-after=2,exit-code=0", policy="Never"))
    await node.until(lambda: node.statuses and node.status.phase == "Succeeded")
    await node.until(lambda: worker.memory.cleaned)
    assert worker.stage is Stage.FINISHING
    assert worker.container("c") is not None
    assert worker.sandbox_id() == ""


async def test_missing_image(node: Node) -> None:
    node.runtime.missing_images.add("example.com/nowhere:1")
    node.run(behave("").image("example.com/nowhere:1"))
    await node.until(lambda: node.statuses and node.status.container_statuses[0].state.waiting.reason == "ErrImagePull")
    await node.until(lambda: node.status.container_statuses[0].state.waiting.reason == "ImagePullBackOff")
    await asyncio.sleep(100)
    # A pull takes a second: tries at 0, 11, 32, 73 s.
    assert node.reasons().count("Pulling") == 4
    node.runtime.missing_images.clear()
    await node.until(node.ready, 310)


async def test_deletion_removes_everything_and_says_so_last(node: Node) -> None:
    made = behave("stop-after=3")
    worker = node.run(made)
    await node.until(node.ready)
    worker.update(made.version(2).deleting().build())
    assert 3.0 <= await node.until(lambda: node.terminated == ["p"]) <= 3.2
    assert await node.runtime.list_sandboxes() == []
    assert await node.runtime.list_containers() == []
    assert node.status.container_statuses[0].state.terminated.exit_code == 143
    assert worker.stage is Stage.GONE


async def test_the_grace_period_ends_in_a_kill_and_can_be_cut_short(node: Node) -> None:
    made = behave("ignore-term")
    worker = node.run(made)
    await node.until(node.ready)
    worker.update(made.version(2).deleting(grace_s=30).build())
    await asyncio.sleep(5)
    assert node.terminated == []
    worker.update(made.version(3).deleting(grace_s=1).build())
    assert await node.until(lambda: node.terminated == ["p"]) < 1.5
    assert node.status.container_statuses[0].state.terminated.exit_code == 137


async def test_deletion_in_the_middle_of_the_start_leaks_nothing(node: Node) -> None:
    """At every moment of the first half second."""
    for step in range(0, 50, 3):
        made = behave("", f"p{step}")
        worker = node.run(made)
        await asyncio.sleep(step / 100 + 0.001)
        worker.update(made.version(2).deleting(grace_s=0).build())
        await node.until(lambda step=step: f"p{step}" in node.terminated, 10)
    assert await node.runtime.list_sandboxes() == []


async def test_a_dead_sandbox_is_replaced(node: Node) -> None:
    worker = node.run(behave(""))
    await node.until(node.ready)
    first_ip = node.status.pod_ip
    node.runtime.kill_sandbox(worker.sandbox_id())
    await node.until(lambda: not node.ready())
    await node.until(node.ready)
    assert "SandboxChanged" in node.reasons()
    assert node.status.container_statuses[0].restart_count == 1
    assert first_ip
    assert node.status.pod_ip
    assert len([s for s in await node.runtime.list_sandboxes() if s.state.value == "ready"]) == 1


PROBES = {
    "readiness comes late": ("ready-after=7", "readiness", True, 7.0, 9.5),
    "never ready": ("never-ready", "readiness", False, 0.0, 0.0),
    "startup gates readiness": ("ready-after=7", "startup", True, 7.0, 9.5),
}


@pytest.mark.parametrize(("words", "kind", "gets_ready", "least", "most"), PROBES.values(), ids=PROBES)
async def test_probes(node: Node, words: str, kind: str, gets_ready: bool, least: float, most: float) -> None:
    made = behave(words)
    probe = getattr(made._pod.spec.containers[0], f"{kind}_probe")
    probe.handler.http_get.port.int_val = 80
    probe.period_seconds, probe.failure_threshold = 2, 30
    node.run(made)
    if gets_ready:
        assert least <= await node.until(node.ready) <= most
        assert "Unhealthy" in node.reasons()
    else:
        await asyncio.sleep(100)
        assert not node.ready()
        assert node.status.phase == "Running"
        assert node.status.container_statuses[0].restart_count == 0


async def test_probes_ask_nobody_while_the_pod_has_no_address(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Least of all the node, where something else may answer."""
    asked: list[str] = []

    async def tcp(container_id: str, host: str, port: int, timeout_s: float) -> tuple[bool, str]:
        asked.append(host)
        return True, ""

    monkeypatch.setattr(node.services.probes, "tcp", tcp)
    monkeypatch.setattr(PodState, "address", lambda self: "")
    made = behave("")
    probe = made._pod.spec.containers[0].readiness_probe
    probe.handler.tcp_socket.port.int_val = 80
    probe.period_seconds = 1
    node.run(made)
    await asyncio.sleep(10)
    assert (asked, node.status.container_statuses[0].ready) == ([], False)
    monkeypatch.undo()
    monkeypatch.setattr(node.services.probes, "tcp", tcp)
    node.workers[0].touch((await node.runtime.list_containers())[0].id)
    await node.until(node.ready)
    assert set(asked) == {node.status.pod_ip}


async def test_a_failed_liveness_probe_restarts_the_container(node: Node) -> None:
    made = behave("unhealthy-after=10")
    probe = made._pod.spec.containers[0].liveness_probe
    probe.handler.tcp_socket.port.int_val = 80
    probe.period_seconds, probe.failure_threshold = 2, 3
    node.run(made)
    await node.until(lambda: "Killing" in node.reasons())
    assert ("Killing", "Container c failed liveness probe, will be restarted") in node.events
    assert node.reasons().count("Unhealthy") == 3
    await node.until(lambda: node.status.container_statuses[0].restart_count == 1)


async def test_hooks_run_within_their_bounds(node: Node) -> None:
    made = behave("stop-after=1")
    lifecycle = made._pod.spec.containers[0].lifecycle
    lifecycle.post_start.sleep.seconds = 4
    lifecycle.pre_stop.sleep.seconds = 6
    worker = node.run(made)
    assert 4.0 <= await node.until(node.ready) <= 4.3
    worker.update(made.version(2).deleting(grace_s=30).build())
    assert 7.0 <= await node.until(lambda: node.terminated) <= 7.3


async def test_a_failed_post_start_hook_kills(node: Node) -> None:
    made = behave("")
    getattr(made._pod.spec.containers[0].lifecycle.post_start, "exec").command.append("false")  # noqa: B009
    node.run(made)
    await node.until(lambda: "FailedPostStartHook" in node.reasons())
    await node.until(lambda: node.status.container_statuses[0].state.waiting.reason == "CrashLoopBackOff")


async def test_a_missing_config_map_is_waited_for(node: Node) -> None:
    made = behave("")
    reference = made._pod.spec.containers[0].env.add(name="A").value_from.config_map_key_ref
    reference.local_object_reference.name, reference.key = "settings", "a"
    node.run(made)
    await node.until(
        lambda: node.statuses and node.status.container_statuses[0].state.waiting.reason == "CreateContainerConfigError"
    )
    assert node.status.container_statuses[0].state.waiting.message == 'configmap "settings" not found'
    node.config_maps["settings"] = core_v1_pb2.ConfigMap(data={"a": "1"})
    await node.until(node.ready, 20)


async def test_a_container_that_cannot_start_backs_off(node: Node) -> None:
    node.run(behave("start-error"))
    await node.until(lambda: ("Failed", "Error: hollow: start-error") in node.events)
    await node.until(lambda: node.status.container_statuses[0].state.waiting.reason == "RunContainerError")
    assert node.status.container_statuses[0].last_state.terminated.exit_code == 128


async def test_eviction(node: Node) -> None:
    worker = node.run(behave("ignore-term"))
    await node.until(node.ready)
    worker.end("Evicted", "The node was low on resource: memory. ", 1.0)
    assert await node.until(lambda: node.status.phase == "Failed") <= 1.2
    assert node.status.reason == "Evicted"
    await asyncio.sleep(60)
    assert node.status.phase == "Failed"
    assert node.reasons().count("Started") == 1


async def test_no_longer_ours(node: Node) -> None:
    worker = node.run(behave(""))
    await node.until(node.ready)
    worker.remove()
    await node.until(lambda: worker.stage is Stage.GONE)
    assert node.terminated == []
    assert await node.runtime.list_sandboxes() == []


@pytest.mark.parametrize("ending", [False, True], ids=["running", "already ending"])
async def test_a_forced_deletion_does_not_wait_for_the_grace_period(node: Node, ending: bool) -> None:
    made = behave("ignore-term")
    worker = node.run(made)
    await node.until(node.ready)
    if ending:
        worker.update(made.version(2).deleting(grace_s=30).build())
        await asyncio.sleep(1)
    worker.remove(2.0)
    assert 1.9 <= await node.until(lambda: worker.stage is Stage.GONE) <= 2.5
    assert await node.runtime.list_sandboxes() == []


async def test_sidecars_start_first_and_stop_last(node: Node) -> None:
    made = behave("exit-after=5,exit-code=0", policy="Never").sidecar("s").sidecar("t")
    node.run(made)
    await node.until(lambda: node.statuses and node.status.phase == "Succeeded")
    story = [message for reason, message in node.events if reason in ("Started", "Killing")]
    assert story == [
        "Container started: s", "Container started: t", "Container started: c",
        "Stopping container t", "Stopping container s",
    ]  # fmt: skip


async def test_simultaneous_starts_are_bounded_and_pods_begun_come_first(node: Node) -> None:
    node.services.starts = StartSlots(2)
    for number in range(6):
        node.run(behave("", f"p{number}"))
    took_s = await node.until(lambda: node.reasons().count("Started") == 6)
    # Three pairs of 0.15 s one after the other.
    assert 0.44 <= took_s <= 0.5


async def test_one_bad_container_leaves_the_others_alone(node: Node) -> None:
    made = behave("exit-after=1,exit-code=1").container("good")
    node.run(made)
    await asyncio.sleep(60)
    bad, good = node.status.container_statuses
    assert (bad.ready, good.ready, good.restart_count) == (False, True, 0)
    assert bad.restart_count >= 3
    assert node.status.phase == "Running"
