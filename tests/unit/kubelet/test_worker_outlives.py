"""What a pod keeps when its agent is new or its control plane away: adoption, back-off, causes, handlers, connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from kubelet.pods import model as m
from kubelet.pods.services import NoFiles, StartSlots
from kubelet.pods.worker import PodWorker
from kubelet.runtime.base import SandboxState, SandboxStatus
from kubelet.streams.sessions import Sessions
from wherry.api.tasks import TaskGroup
from wherry.pb import core_v1_pb2, node_v1_pb2, nodelink_pb2, pods_pb2
from wherry.testing.podworkers import Node, behave


async def test_a_new_agent_adopts_and_restarts_nothing(node: Node) -> None:
    made = behave("")
    made._pod.spec.containers[0].readiness_probe.handler.exec.command.append("true")
    made._pod.spec.containers[0].readiness_probe.period_seconds = 1
    node.run(made)
    await node.until(node.ready)
    started = node.reasons().count("Started")
    node.tasks.pop().cancel()
    node.workers.clear()
    await asyncio.sleep(0.1)
    made._pod.status.CopyFrom(node.status)
    node.statuses.clear()
    observed = m.Observed(tuple(await node.runtime.list_sandboxes()), tuple(await node.runtime.list_containers()))
    node.run(made, observed, adopted=True)
    await asyncio.sleep(30)
    assert node.reasons().count("Started") == started
    assert "Killing" not in node.reasons()
    assert all(any(c.type == "Ready" and c.status == "True" for c in s.conditions) for s in node.statuses)


async def test_the_crash_backoff_survives_the_agent(node: Node) -> None:
    made = behave("exit-after=1,exit-code=3")
    worker = node.run(made)
    await node.until(lambda: node.reasons().count("BackOff") == 2)
    node.tasks.pop().cancel()
    node.workers.clear()
    await asyncio.sleep(0.1)
    made._pod.status.CopyFrom(node.status)
    before = node.reasons().count("Started")
    node.run(made, worker.observed, adopted=True)
    await asyncio.sleep(18)
    assert node.reasons().count("Started") == before
    await node.until(lambda: node.reasons().count("Started") == before + 1, 5)


async def test_what_is_remembered_of_containers_goes_with_them(node: Node) -> None:
    class Files(NoFiles):
        def termination_file(self, pod: core_v1_pb2.Pod, container: str, attempt: int) -> str:
            return "/nowhere/it"

        def read_termination(self, path: str, log_path: str) -> str:
            return "the end"

    node.services.files = Files()
    worker = node.run(behave("exit-after=1,exit-code=1"))
    other = node.run(behave("start-error", "q"))
    await node.until(lambda: node.reasons().count("Started") == 5 and other.container("c"))
    worker.memory.resize_kills.update(c.id for c in worker.observed.containers)
    worker.memory.hooks_failed.update(c.id for c in worker.observed.containers)
    await node.until(lambda: node.reasons().count("Started") == 8, 2000)
    for one in (worker, other):
        known, memory = {c.id for c in one.observed.containers}, one.memory
        assert memory.applied
        assert memory.termination_messages
        by_id = (memory.applied, memory.termination_messages, memory.start_failures, memory.resize_kills)
        assert all(known.issuperset(ids) for ids in (*by_id, memory.hooks_failed))
    for made in worker.memory.applied.values():
        made.limits.get_or_create("cpu")
    assert "cpu" not in worker.pod.spec.containers[0].resources.limits, "it must not be a part of the pod"
    removed = worker.sandbox_id()
    node.runtime.kill_sandbox(removed)
    await node.until(lambda: worker.sandbox_id() not in ("", removed))
    await node.until(lambda: removed not in {s.id for s in worker.observed.sandboxes}, 2000)
    assert removed not in worker.memory.stopped_sandboxes


async def test_without_a_control_plane_a_container_starts_again_in_its_sandbox(node: Node, monkeypatch: Any) -> None:
    handlers = []
    create = node.runtime.create_container

    async def noted(sandbox_id: str, config: Any, sandbox: Any) -> str:
        handlers.append(sandbox.runtime_handler)
        return await create(sandbox_id, config, sandbox)

    monkeypatch.setattr(node.runtime, "create_container", noted)
    made = behave("").annotations({m.RUNTIME_HANDLER: "of-the-user"})
    made._pod.spec.runtime_class_name = "fast"
    node.config_maps["fast"] = node_v1_pb2.RuntimeClass(handler="crun")  # type: ignore[assignment]
    node.run(made)
    await node.until(node.ready)
    node.config_maps.clear()
    node.tasks.pop().cancel()
    node.workers.clear()
    await asyncio.sleep(0.1)
    made._pod.status.CopyFrom(node.status)
    sandboxes, containers = await node.runtime.list_sandboxes(), await node.runtime.list_containers()
    worker = node.run(made, m.Observed(tuple(sandboxes), tuple(containers)), adopted=True)
    node.runtime.kill_process(containers[0].id)
    await node.until(lambda: node.reasons().count("Started") == 2, 5)
    assert handlers == ["crun", "crun"]
    assert worker.sandbox_id() == sandboxes[0].id


async def test_the_name_of_a_handler_is_the_runtime_classs_to_say(node: Node) -> None:
    made = behave("").annotations({m.RUNTIME_HANDLER: "of-the-user"})
    worker = node.run(made)
    await node.until(node.ready)
    assert worker.observed.sandboxes[0].annotations[m.RUNTIME_HANDLER] == ""


async def test_asking_for_a_runtime_class_holds_up_no_other_pod(node: Node) -> None:
    class Slow:
        async def get(self, cls: Any, namespace: str, name: str) -> Any:
            await asyncio.sleep(1000)

    node.services.starts, node.services.objects = StartSlots(1), Slow()
    slow = behave("", "slow")
    slow._pod.spec.runtime_class_name = "slow"
    node.run(slow)
    await asyncio.sleep(0.1)
    node.run(behave("", "quick"))
    await node.until(lambda: "Started" in node.reasons(), 5)


async def test_a_cause_that_was_told_stays(node: Node) -> None:
    """The kernel's log forgets, and so does what the agent keeps of it."""
    victims: set[str] = set()
    node.services.out_of_memory = victims.__contains__
    made = behave("", policy="Never").container("other")
    worker = node.run(made)
    await node.until(node.ready)
    running = worker.container("c")
    assert running is not None
    victims.add(running.id)
    node.runtime.kill_process(running.id)

    def reason() -> str:
        return node.status.container_statuses[0].state.terminated.reason

    await node.until(reason)
    assert reason() == "OOMKilled"
    victims.clear()
    worker.touch(running.id)
    await asyncio.sleep(5)
    assert reason() == "OOMKilled"
    node.tasks.pop().cancel()
    node.workers.clear()
    await asyncio.sleep(0.1)
    made._pod.status.CopyFrom(node.status)
    node.statuses.clear()
    observed = m.Observed(tuple(await node.runtime.list_sandboxes()), tuple(await node.runtime.list_containers()))
    adopted = node.run(made, observed, adopted=True)
    await node.until(lambda: node.statuses)
    await asyncio.sleep(5)
    assert reason() == "OOMKilled"
    end = adopted.container("c")
    assert end is not None
    assert end.reason == "OOMKilled"


@pytest.mark.parametrize(
    ("ips", "host_network", "address"),
    [((), False, ""), ((), True, "192.0.2.1"), (("10.0.0.9",), False, "10.0.0.9")],
    ids=["none yet", "the host's", "its own"],
)
async def test_a_proxied_connection_goes_to_the_pods_own_address(
    node: Node, ips: tuple[str, ...], host_network: bool, address: str
) -> None:
    made = behave("")
    made._pod.spec.host_network = host_network
    sandbox = SandboxStatus("s", "default", "p", "u", 0, SandboxState.READY, 0.0, ips, {}, {})
    worker = PodWorker(node.services, made.build(), m.Observed((sandbox,)))
    assert worker.address() == address
    frames: list[pods_pb2.StreamFrame] = []

    class Leg:
        async def send(self, frame: pods_pb2.StreamFrame) -> None:
            frames.append(frame)

        async def done_sending(self) -> None: ...
        async def cancel(self) -> None: ...

        async def __aiter__(self) -> AsyncIterator[pods_pb2.StreamFrame]:
            for frame in ():
                yield frame

    transport: Any = SimpleNamespace(bidi=lambda *_, **__: Leg())
    stats: Any = None
    sessions = Sessions(node.env, transport, node.runtime, lambda *_: worker, stats)
    start = pods_pb2.StreamStart(kind=pods_pb2.StreamStart.PORT_FORWARD, name="p", to_address=True)
    async with TaskGroup() as group:
        sessions.open(group, nodelink_pb2.OpenSession(session_id="1", start=start))
        await asyncio.sleep(1)
    result = frames[-1].result
    assert (result.status, result.message) == (("Success", "") if address else ("Failure", 'pod "p" has no address'))
