"""The agent against a control plane of a few lines: registering, adopting, losing the stream, orphans, resizing."""

from __future__ import annotations

import asyncio

import pytest

from wherry.testing.agents import World, pod


async def test_the_node_registers_reports_and_beats(world: World) -> None:
    await world.until(
        lambda: any(c.type == "Ready" and c.status == "True" for c in world.control.node_status.conditions)
    )
    assert world.control.node is not None
    assert world.control.node.metadata.labels["kubernetes.io/hostname"] == "n1"
    status = world.control.node_status
    assert status.capacity["cpu"].string == "2"
    assert [(a.type, a.address) for a in status.addresses] == [("InternalIP", "192.0.2.1"), ("Hostname", "n1")]
    assert status.node_info.container_runtime_version == "hollow://1.0"
    before = world.control.beats
    await asyncio.sleep(10)
    assert world.control.beats - before == 5


async def test_a_pod_comes_and_goes(world: World) -> None:
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    world.control.put(pod("a").version(2).deleting(grace_s=1))
    await world.until(lambda: world.control.terminated == ["a"])
    await world.until(lambda: not world.agent.statuses._latest)
    assert await world.ids() == []
    assert list((world.root / "checkpoints").iterdir()) == []


async def test_without_a_control_plane_pods_run_on_and_restart(world: World) -> None:
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    world.control.go_down()
    await asyncio.sleep(60)
    (only,) = await world.ids()
    world.runtime.kill_process(only)
    await asyncio.sleep(5)
    assert len(await world.ids()) == 2, "the dead one and its successor"
    world.control.up = True
    await world.until(lambda: world.control.statuses["a"].container_statuses[0].restart_count == 1)


async def test_a_killed_agent_adopts_everything_also_without_a_control_plane(world: World) -> None:
    for name in ("a", "b"):
        world.control.put(pod(name))
    await world.until(lambda: world.control.phase("a") == world.control.phase("b") == "Running")
    await asyncio.sleep(2)
    before = await world.ids()
    await world.kill()
    world.control.go_down()
    world.start()
    await asyncio.sleep(30)
    assert await world.ids() == before
    world.runtime.kill_process(before[0])
    await asyncio.sleep(5)
    assert len(await world.ids()) == 3, "it is still looked after"
    world.control.up = True
    await asyncio.sleep(30)
    assert world.control.terminated == []
    assert len(await world.ids()) == 3


async def test_pods_that_are_no_longer_its_own_go_after_the_sync_and_not_before(world: World) -> None:
    world.control.put(pod("a"))
    world.control.put(pod("b"))
    await world.until(lambda: world.control.phase("a") == world.control.phase("b") == "Running")
    world.control.go_down()
    del world.control.pods["uid-default-a"]
    await asyncio.sleep(30)
    assert len(await world.ids()) == 2
    world.control.up = True
    await world.until(lambda: list(world.agent.stages()) == ["b"])
    await asyncio.sleep(1)
    assert len(await world.ids()) == 1
    assert world.control.terminated == []


async def test_orphans_without_a_checkpoint_are_removed_and_strangers_stay(world: World) -> None:
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    await world.kill()
    for file in list((world.root / "checkpoints").iterdir()):
        file.unlink()
    (mine,) = await world.runtime.list_sandboxes()
    from kubelet.runtime.base import SandboxConfig

    stranger = await world.runtime.run_sandbox(SandboxConfig("other", "x", "u", 0, "x", "/l"))
    world.control.pods.clear()
    world.start()
    await asyncio.sleep(60)
    left = [sandbox.id for sandbox in await world.runtime.list_sandboxes()]
    assert left == [stranger]
    assert mine.id not in left


async def test_without_its_checkpoints_it_adopts_what_the_control_plane_names(world: World) -> None:
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    before = await world.ids()
    await world.kill()
    for file in list((world.root / "checkpoints").iterdir()):
        file.unlink()
    world.start()
    await asyncio.sleep(60)
    assert await world.ids() == before
    assert len(await world.runtime.list_sandboxes()) == 1


async def test_a_deletion_that_the_control_plane_did_not_hear_of_is_told_again(world: World) -> None:
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    world.control.put(pod("a").version(2).deleting(grace_s=1))
    await asyncio.sleep(0.001)
    world.control.go_down()
    await asyncio.sleep(20)
    assert await world.ids() == []
    world.control.up = True
    await world.until(lambda: world.control.terminated == ["a"])


async def test_a_status_that_was_sent_and_lost_is_sent_again(world: World) -> None:
    await world.until(lambda: world.control.links)
    world.control.deaf = True
    world.control.put(pod("a"))
    await asyncio.sleep(5)
    assert world.control.statuses == {}
    world.control.go_down()
    world.control.up, world.control.deaf = True, False
    await world.until(lambda: world.control.phase("a") == "Running", 10)


@pytest.mark.parametrize("moment_s", [0.02, 0.12, 0.16, 0.3])
async def test_killed_at_any_moment_of_a_start_the_next_agent_finishes_it(world: World, moment_s: float) -> None:
    world.control.put(pod("a"))
    await asyncio.sleep(moment_s)
    await world.kill()
    await asyncio.sleep(1)
    world.start()
    await world.until(lambda: world.control.phase("a") == "Running", 60)
    await asyncio.sleep(30)
    ready = [s for s in await world.runtime.list_sandboxes() if s.state.value == "ready"]
    assert len(ready) == 1
    assert len([c for c in await world.runtime.list_containers() if c.state.value == "running"]) == 1


async def test_a_pod_that_does_not_fit_fails_and_leaves_the_others_alone(world: World) -> None:
    world.control.put(pod("a").cpu("1500m"))
    await world.until(lambda: world.control.phase("a") == "Running")
    world.control.put(pod("b").cpu("600m"))
    world.control.put(pod("c").cpu("500m"))
    await world.until(lambda: world.control.phase("b") == "Failed" and world.control.phase("c") == "Running")
    refused = world.control.statuses["b"]
    assert refused.reason == "OutOfcpu"
    assert not refused.container_statuses
    assert refused.message.endswith("resource: cpu, requested: 600, used: 1500, capacity: 2000")
    assert world.control.phase("a") == "Running"
    assert len(await world.ids()) == 2


async def test_a_pod_whose_host_port_is_taken_fails_until_that_is_free(world: World) -> None:
    world.control.put(pod("a").host_port(8080))
    await world.until(lambda: world.control.phase("a") == "Running")
    for name, made in {
        "same": pod("same").host_port(8080, ip="127.0.0.1"),
        "datagrams": pod("datagrams").host_port(8080, protocol="UDP"),
        "other": pod("other").host_port(8081, ip="127.0.0.1"),
        "beside": pod("beside").host_port(8081, ip="127.0.0.2"),
    }.items():
        world.control.put(made)
        await world.until(lambda name=name: world.control.phase(name) == ("Failed" if name == "same" else "Running"))  # type: ignore[misc]
    refused = world.control.statuses["same"]
    assert (refused.reason, refused.message) == ("NodePorts", "Pod was rejected: Predicate NodePorts failed")
    world.control.remove("a")
    world.control.put(pod("late").host_port(8080))
    await world.until(lambda: world.control.phase("late") == "Running")


async def test_addresses_are_given_back_only_when_the_runtime_has_lost_its_sandboxes(world: World) -> None:
    world.control.put(pod("a"))
    await world.until(lambda: world.control.phase("a") == "Running")
    assert world.network.asked == [set()]
    await world.kill()
    world.start()
    await asyncio.sleep(5)
    assert world.network.asked == [set()]


def _applied(world: World, name: str) -> str:
    entries = world.control.statuses[name].container_statuses
    return entries[0].resources.requests["cpu"].string if entries else ""


def _resizing(world: World, name: str) -> dict[str, str]:
    found = world.control.statuses[name].conditions
    return {item.type: item.reason for item in found if item.type.startswith("PodResize")}


async def test_a_pod_is_resized_in_place_when_there_is_room(world: World) -> None:
    world.control.put(pod("a").cpu("1"))
    world.control.put(pod("b").cpu("500m"))
    await world.until(lambda: world.control.phase("a") == world.control.phase("b") == "Running")
    before = await world.ids()
    world.control.put(pod("a").version(2).cpu("1200m"))
    await world.until(lambda: _applied(world, "a") == "1200m")
    shares = {found.config.resources.cpu_shares for found in world.runtime._containers.values()}
    assert shares == {1200 * 1024 // 1000, 512}
    assert await world.ids() == before, "nothing was restarted"
    # Two cores are all there is: one waits for the other, one will never have three.
    world.control.put(pod("a").version(3).cpu("1800m"))
    world.control.put(pod("b").version(3).cpu("3"))
    await world.until(lambda: _resizing(world, "a") == {"PodResizePending": "Deferred"})
    await world.until(lambda: _resizing(world, "b") == {"PodResizePending": "Infeasible"})
    assert (_applied(world, "a"), _applied(world, "b")) == ("1200m", "500m")
    # An agent that dies meanwhile knows from the status what is allocated.
    for name in ("a", "b"):
        made = world.control.pods[f"uid-default-{name}"]
        made.status.CopyFrom(world.control.statuses[name])
    await world.kill()
    world.start()
    await world.until(lambda: world.control.beats > 0)
    await asyncio.sleep(30)
    assert (_applied(world, "a"), _applied(world, "b")) == ("1200m", "500m")
    assert await world.ids() == before
    world.control.put(pod("b").version(4).cpu("500m").deleting(grace_s=1))
    await world.until(lambda: _applied(world, "a") == "1800m")
    assert _resizing(world, "a") == {}
