"""Bad days for a simulated cluster, drawn from its seed: users who change their minds, nodes and cables that fail, a control
plane that crashes, a store that loses answers.

`storm` does damage for a while and then lets everything heal; what must hold meanwhile is the checkers' business, and that
everything converges afterwards the test's. Called by tests/sim.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from wherry.api.errors import AlreadyExists, NotFound
from wherry.client.base import DeleteOptions
from wherry.pb import apps_v1_pb2, core_v1_pb2
from wherry.testing.cluster import SimCluster
from wherry.testing.manifests import deployment

log = logging.getLogger(__name__)

NAMES = ("web", "api", "jobs")
IMAGES = tuple(f"example.com/app:{number}" for number in range(1, 5))
POLICIES = ("Background", "Foreground", "Orphan")


@dataclass(slots=True)
class Weather:
    """Mean seconds between two events of each sort; 0 switches one off."""

    users_s: float = 3.0
    nodes_s: float = 15.0
    crashes_s: float = 20.0
    stores_s: float = 15.0
    network_s: float = 15.0

    def rates(self) -> dict[str, float]:
        return {
            "user": self.users_s, "node": self.nodes_s, "crash": self.crashes_s, "store": self.stores_s,
            "network": self.network_s,
        }  # fmt: skip


async def storm(cluster: SimCluster, duration_s: float, weather: Weather | None = None) -> list[str]:
    """Returns what it did, one line each. At the end all nodes run, cables and store are well, the control plane is up."""
    done: list[str] = []
    rng = cluster.env.rng
    until = asyncio.get_running_loop().time() + duration_s
    acts: dict[str, Callable[[SimCluster], Awaitable[str]]] = {
        "user": _user, "node": _node, "crash": _crash, "store": _store, "network": _network,
    }  # fmt: skip
    rates = {sort: 1 / mean_s for sort, mean_s in (weather or Weather()).rates().items() if mean_s}
    while (left_s := until - asyncio.get_running_loop().time()) > 0:
        await asyncio.sleep(min(rng.expovariate(sum(rates.values())), left_s))
        (sort,) = rng.choices(list(rates), list(rates.values()))
        line = f"{cluster.now_s:9.3f} {await acts[sort](cluster)}"
        log.info("%s", line)
        done.append(line)
    await calm(cluster)
    return done


async def calm(cluster: SimCluster) -> None:
    """Everything that was broken is mended."""
    cluster.faults.before = cluster.faults.after = cluster.faults.watch = cluster.faults.delay_s = 0.0
    cluster.lag.watch_s = 0.0
    for node in cluster.nodes.values():
        node.link.faults.loss = node.link.faults.delay_s = 0.0
        node.heal()
        if not node.running:
            await node.start()


async def _user(cluster: SimCluster) -> str:
    rng = cluster.env.rng
    name = rng.choice(NAMES)
    key = f"default/{name}"
    act = rng.choice(("apply", "apply", "scale", "image", "image", "delete", "kill pod"))
    if act == "apply":
        surge, unavailable = rng.choice(((1, 0), (0, 1), ("25%", "25%"), (2, 2)))
        manifest = deployment(
            name, replicas=rng.randint(0, 6), image=rng.choice(IMAGES), surge=surge, unavailable=unavailable,
            ready_after_s=rng.randint(0, 3), grace_s=rng.randint(0, 3),
        )  # fmt: skip
        await cluster.apply(manifest)
        return f"apply {key}"
    try:
        if act == "scale":
            await cluster.scale(key, rng.randint(0, 6))
        elif act == "image":
            await cluster.set_image(key, rng.choice(IMAGES))
        elif act == "delete":
            policy = rng.choice(POLICIES)
            options = DeleteOptions(propagation_policy=policy)
            await cluster.insist(lambda: cluster.client.delete(apps_v1_pb2.Deployment, name, "default", options))
            return f"delete {key} {policy}"
        else:
            pods = cluster.pods(app=name)
            if not pods:
                return "nothing"
            pod = rng.choice(pods).metadata.name
            await cluster.insist(lambda: cluster.client.delete(core_v1_pb2.Pod, pod, "default"))
            return f"delete pod {pod}"
    except (NotFound, AlreadyExists):
        return f"{act} {key}: not there"
    return f"{act} {key}"


async def _node(cluster: SimCluster) -> str:
    """One thing at a time per node: what is broken gets mended, what is well breaks."""
    rng = cluster.env.rng
    node = cluster.nodes[rng.choice(list(cluster.nodes))]
    if not node.running:
        await node.start()
        return f"{node.name}: power on"
    if node.link.faults.cut:
        node.heal()
        return f"{node.name}: heal"
    chance = rng.random()
    if chance < 0.4:
        node.cut()
        return f"{node.name}: cut"
    if chance < 0.7:
        await node.stop()
        await asyncio.sleep(rng.random() * 10)
        await node.start()
        return f"{node.name}: the agent restarted"
    await node.power_off()
    return f"{node.name}: power off"


async def _crash(cluster: SimCluster) -> str:
    await cluster.restart_control_plane(down_s=cluster.env.rng.random() * 5)
    return "control plane restarted"


async def _store(cluster: SimCluster) -> str:
    rng, faults = cluster.env.rng, cluster.faults
    faults.before = rng.choice((0.0, 0.05, 0.2))
    faults.after = rng.choice((0.0, 0.05, 0.2))
    faults.watch = rng.choice((0.0, 0.02))
    faults.delay_s = rng.choice((0.0, 0.05))
    return f"store: {faults}"


async def _network(cluster: SimCluster) -> str:
    rng = cluster.env.rng
    if rng.random() < 0.3:
        cluster.lag.watch_s = rng.choice((0.0, 0.1, 1.0))
        return f"watches lag by up to {cluster.lag.watch_s} s"
    node = cluster.nodes[rng.choice(list(cluster.nodes))]
    node.link.faults.loss = rng.choice((0.0, 0.1, 0.3))
    node.link.faults.delay_s = rng.choice((0.0, 0.2))
    return f"{node.name}: loss {node.link.faults.loss}, delay {node.link.faults.delay_s} s"
