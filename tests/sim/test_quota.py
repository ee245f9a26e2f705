"""A quota in a simulated cluster: its status comes back to the truth after pods end and go, and through a crash."""

from __future__ import annotations

from wherry.api.context import Env
from wherry.testing.cluster import SimCluster, sim_cluster
from wherry.testing.manifests import deployment

QUOTA = """
apiVersion: v1
kind: ResourceQuota
metadata: {name: q, namespace: default}
spec: {hard: {pods: "3", count/replicasets.apps: "5"}}
"""


def used(cluster: SimCluster) -> dict[str, str]:
    found = cluster.objects("resourcequotas").get("default/q")
    return {name: amount.string for name, amount in found.status.used.items()} if found is not None else {}


async def test_the_status_follows_the_pods(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=2))
        await cluster.converge()
        await cluster.apply(QUOTA)
        await cluster.wait_until(lambda: used(cluster) == {"pods": "2", "count/replicasets.apps": "1"})
        await cluster.scale("default/web", 5)
        await cluster.wait_until(lambda: len(cluster.ready_pods(app="web")) == 3)
        assert used(cluster)["pods"] == "3"
        await cluster.crash_control_plane()
        await cluster.start_control_plane()
        await cluster.scale("default/web", 1)
        await cluster.wait_until(lambda: used(cluster).get("pods") == "1")
        await cluster.scale("default/web", 3)
        await cluster.wait_until(lambda: len(cluster.ready_pods(app="web")) == 3 and used(cluster)["pods"] == "3")


async def test_it_holds_while_everything_rolls_and_breaks(env: Env) -> None:
    """The checker `QuotasHold` looks at each pod that is made."""
    async with sim_cluster(env) as cluster:
        await cluster.apply(QUOTA + "---\n" + deployment("web", replicas=3))
        for replicas in (5, 1, 4, 0, 6, 2):
            await cluster.scale("default/web", replicas)
            if replicas in (1, 6):
                await cluster.crash_control_plane()
                await cluster.start_control_plane()
            wanted = min(replicas, 3)
            await cluster.wait_until(lambda wanted=wanted: len(cluster.ready_pods(app="web")) == wanted)
        await cluster.wait_until(lambda: used(cluster).get("pods") == "2")
