"""Draining nodes of a simulated cluster: a PodDisruptionBudget holds, through a crash of the control plane too."""

from __future__ import annotations

import asyncio

from wherry.api import codec
from wherry.api.context import Env
from wherry.api.errors import APIError, NotFound, TooManyRequests
from wherry.client.base import DeleteOptions
from wherry.pb import core_v1_pb2, policy_v1_pb2, resources_pb2
from wherry.testing.builders import make_pod
from wherry.testing.checkers import ReadyPodsNeverBelow
from wherry.testing.cluster import SimCluster, sim_cluster
from wherry.testing.manifests import deployment

BUDGET = """
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {maxUnavailable: 25%, selector: {matchLabels: {app: web}}}
"""


def status(cluster: SimCluster) -> policy_v1_pb2.PodDisruptionBudgetStatus:
    found: policy_v1_pb2.PodDisruptionBudget = cluster.objects("poddisruptionbudgets.policy")["default/web"]
    return found.status


async def cordon(cluster: SimCluster, name: str) -> None:
    def change(node: core_v1_pb2.Node) -> None:
        node.spec.unschedulable = True

    await cluster.change(core_v1_pb2.Node, name, change)


async def evict(cluster: SimCluster, pod: core_v1_pb2.Pod, refused: list[str]) -> None:
    """Until it is let go, as a drain does."""
    for _ in range(200):
        try:
            await cluster.client.evict(pod.metadata.name, pod.metadata.namespace)
            return
        except TooManyRequests as error:
            refused.append(error.causes[0].message)
        except NotFound:
            return
        except APIError:
            pass  # the control plane is away
        await asyncio.sleep(1)
    raise AssertionError(f"{pod.metadata.name} was never evicted")


async def test_a_drain_keeps_to_the_budget(env: Env) -> None:
    watch = ReadyPodsNeverBelow("default", {"app": "web"}, minimum=6, maximum=16)
    async with sim_cluster(env, nodes=4, checkers=[watch]) as cluster:
        await cluster.apply(deployment("web", replicas=8) + "---" + BUDGET)
        await cluster.converge()
        await cluster.wait_until(lambda: status(cluster).disruptions_allowed == 2)
        assert (status(cluster).expected_pods, status(cluster).desired_healthy) == (8, 6)
        refused: list[str] = []
        for name in ("node-1", "node-2"):
            await cordon(cluster, name)
        leaving = [pod for pod in cluster.pods(app="web") if pod.spec.node_name in ("node-1", "node-2")]
        assert len(leaving) == 4
        draining = asyncio.gather(*(evict(cluster, pod, refused) for pod in leaving))
        await asyncio.sleep(0.5)
        await cluster.crash_control_plane()
        await cluster.start_control_plane()
        await draining
        assert any(text.startswith("The disruption budget web needs 6 healthy pods") for text in refused)
        await cluster.wait_until(
            lambda: len(cluster.ready_pods(app="web")) == 8 and status(cluster).disruptions_allowed == 2
        )
        assert {pod.spec.node_name for pod in cluster.active_pods(app="web")} == {"node-3", "node-4"}
        assert not status(cluster).disrupted_pods


async def test_a_budget_that_nothing_is_known_for_allows_nothing(env: Env) -> None:
    async with sim_cluster(env, nodes=1) as cluster:
        await cluster.apply(
            BUDGET
            + """---
apiVersion: v1
kind: Pod
metadata:
  name: odd
  labels: {app: web}
  ownerReferences: [{apiVersion: example.com/v1, kind: Thing, name: t, uid: some-uid, controller: true}]
spec: {containers: [{name: c, image: web:1}]}
"""
        )
        await cluster.wait_until(lambda: bool(cluster.events("CalculateExpectedPodCountFailed")))
        assert status(cluster).conditions[0].reason == "SyncFailed"
        message = 'no matches for kind "Thing" in version "example.com/v1"'
        assert status(cluster).conditions[0].message == message
        assert cluster.events("CalculateExpectedPodCountFailed") == [
            f"Failed to calculate the number of expected pods: {message}"
        ]


DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %(plural)s.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: %(plural)s, kind: %(kind)s}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
    subresources: {%(subresources)s}
"""
SCALED = DEFINITION % {
    "plural": "fleets",
    "kind": "Fleet",
    "subresources": "scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}",
}
UNSCALED = DEFINITION % {"plural": "herds", "kind": "Herd", "subresources": ""}


def owned(name: str, api_version: str, kind: str, owner: str, uid: str) -> core_v1_pb2.Pod:
    made = make_pod(name).labels(app="web").build()
    made.metadata.owner_references.add(api_version=api_version, kind=kind, name=owner, uid=uid, controller=True)
    return made


async def custom(cluster: SimCluster, kind: str, name: str, spec: dict[str, int]) -> resources_pb2.Unstructured:
    """Made as soon as its kind is served."""
    body = {
        "apiVersion": "example.com/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }
    for _ in range(100):
        try:
            return await cluster.client.create(codec.from_dict(body, resources_pb2.Unstructured))
        except NotFound:
            await asyncio.sleep(0.5)
    raise AssertionError(f"{kind} was never served")


async def test_pods_of_a_custom_resource_are_counted_by_its_scale(env: Env) -> None:
    async with sim_cluster(env, nodes=2) as cluster:
        await cluster.apply(SCALED + "---" + BUDGET)
        fleet = await custom(cluster, "Fleet", "f", {"size": 8})
        for number in range(8):
            pod = owned(f"f-{number}", "example.com/v1", "Fleet", "f", fleet.metadata.uid)
            pod.metadata.namespace = "default"
            await cluster.client.create(pod)
        await cluster.wait_until(lambda: status(cluster).disruptions_allowed == 2)
        assert (status(cluster).expected_pods, status(cluster).desired_healthy) == (8, 6)
        refused: list[str] = []
        leaving = cluster.pods(app="web")[:2]
        await asyncio.gather(*(evict(cluster, pod, refused) for pod in leaving))
        await cluster.wait_until(lambda: status(cluster).disruptions_allowed == 0)
        assert status(cluster).expected_pods == 8  # whoever should make the two anew is not there


CASES = {
    "h": ("example.com/v1", "Herd", "herds.example.com does not implement the scale subresource"),
    "empty": (
        "example.com/v1",
        "Fleet",
        'Internal error occurred: the spec replicas field ".spec.size" does not exist',
    ),
    "f": ("example.com/v7", "Fleet", 'no matches for kind "Fleet" in version "example.com/v7"'),
}


async def test_owners_that_do_not_say_how_many(env: Env) -> None:
    async with sim_cluster(env, nodes=1) as cluster:
        await cluster.apply(SCALED + "---" + UNSCALED + "---" + BUDGET)
        made = {
            "h": await custom(cluster, "Herd", "h", {"size": 1}),
            "f": await custom(cluster, "Fleet", "f", {"size": 1}),
            "empty": await custom(cluster, "Fleet", "empty", {}),
        }
        for name, (api_version, kind, message) in CASES.items():
            pod = owned("odd", api_version, kind, name, made[name].metadata.uid)
            pod.metadata.namespace = "default"
            await cluster.client.create(pod)

            def told(message: str = message) -> bool:
                return [item.message for item in status(cluster).conditions] == [message]

            await cluster.wait_until(told, what=message)
            assert status(cluster).conditions[0].reason == "SyncFailed"
            assert status(cluster).disruptions_allowed == 0
            await cluster.client.delete(core_v1_pb2.Pod, "odd", "default", DeleteOptions(grace_period_s=0))
            await cluster.wait_until(lambda: not cluster.pods(app="web"))
