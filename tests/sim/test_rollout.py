"""Rollouts in a simulated cluster: their bounds, judged from the watch history; a bad image and the way back; scaling."""

from __future__ import annotations

import pytest

from wherry.api import meta
from wherry.api.context import Env
from wherry.pb import apps_v1_pb2
from wherry.testing.checkers import ReadyPodsNeverBelow
from wherry.testing.cluster import SimCluster, sim_cluster
from wherry.testing.manifests import deployment

BAD = "example.com/app:bad"


def conditions(cluster: SimCluster, key: str) -> dict[str, tuple[str, str]]:
    found = cluster.objects("deployments.apps")[key].status.conditions
    return {condition.type: (condition.status, condition.reason) for condition in found}


async def test_a_first_rollout_completes_and_tells_its_story(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=3))
        await cluster.wait_until(lambda: cluster.is_complete("default/web"))
        (rs,) = cluster.objects("replicasets.apps").values()
        assert conditions(cluster, "default/web") == {
            "Available": ("True", "MinimumReplicasAvailable"),
            "Progressing": ("True", "NewReplicaSetAvailable"),
        }
        await cluster.wait_until(lambda: len(cluster.events("SuccessfulCreate")) == 3)
        assert cluster.events("ScalingReplicaSet") == [f"Scaled up replica set {rs.metadata.name} from 0 to 3"]
        created = {f"Created pod: {pod.metadata.name}" for pod in cluster.pods(app="web")}
        assert set(cluster.events("SuccessfulCreate")) == created


async def test_a_rollout_to_a_bad_image_stops_within_its_limits_and_can_be_undone(env: Env) -> None:
    watch = ReadyPodsNeverBelow("default", {"app": "web"}, minimum=8, maximum=13)
    async with sim_cluster(env, nodes=4, checkers=[watch]) as cluster:
        for node in cluster.nodes.values():
            node.refuse_image(BAD)
        await cluster.apply(deployment("web", replicas=10, deadline_s=60))
        await cluster.converge()
        (good,) = cluster.objects("replicasets.apps").values()
        await cluster.set_image("default/web", BAD)
        await cluster.wait_until(
            lambda: conditions(cluster, "default/web")["Progressing"] == ("False", "ProgressDeadlineExceeded")
        )
        assert len(cluster.ready_pods(app="web")) == 8
        bad = next(rs for rs in cluster.objects("replicasets.apps").values() if rs.metadata.name != good.metadata.name)
        assert (bad.spec.replicas, bad.status.ready_replicas) == (5, 0)
        # What `rollout undo` does: the template of the last revision, without our label, becomes the Deployment's again.
        template = apps_v1_pb2.ReplicaSet()
        template.CopyFrom(good)
        template.spec.template.metadata.labels.pop("pod-template-hash")

        def undo(found: apps_v1_pb2.Deployment) -> None:
            found.spec.template.CopyFrom(template.spec.template)

        await cluster.change(apps_v1_pb2.Deployment, "default/web", undo)
        await cluster.converge()
        sets = cluster.objects("replicasets.apps")
        assert {key: rs.spec.replicas for key, rs in sets.items()} == {meta.key(good): 10, meta.key(bad): 0}
        assert sets[meta.key(good)].metadata.annotations["deployment.kubernetes.io/revision"] == "3"
        assert cluster.objects("deployments.apps")["default/web"].metadata.annotations == {
            "deployment.kubernetes.io/revision": "3"
        }
        assert watch.lowest == 8


ROLLOUTS = [
    pytest.param(10, "25%", "25%", 8, 13, id="defaults"),
    pytest.param(3, 1, 0, 3, 4, id="none may be missing"),
    pytest.param(4, 0, 1, 3, 4, id="no surge"),
    pytest.param(6, "100%", 0, 6, 12, id="all at once"),
]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("replicas", "surge", "unavailable", "minimum", "maximum"), ROLLOUTS)
async def test_no_moment_has_fewer_ready_pods_than_allowed(
    env: Env, replicas: int, surge: int | str, unavailable: int | str, minimum: int, maximum: int
) -> None:
    watch = ReadyPodsNeverBelow("default", {"app": "web"}, minimum=minimum, maximum=maximum)
    async with sim_cluster(env, checkers=[watch]) as cluster:
        manifest = deployment("web", replicas=replicas, surge=surge, unavailable=unavailable, ready_after_s=3)
        await cluster.apply(manifest)
        await cluster.converge()
        await cluster.set_image("default/web", "example.com/app:2")
        await cluster.wait_until(lambda: not cluster.is_complete("default/web"))
        await cluster.converge()
        assert {pod.spec.containers[0].image for pod in cluster.active_pods(app="web")} == {"example.com/app:2"}
        assert watch.armed
        assert minimum <= watch.lowest < replicas or minimum == replicas


async def test_min_ready_seconds_slow_a_rollout_down(env: Env) -> None:
    watch = ReadyPodsNeverBelow("default", {"app": "web"}, minimum=2, maximum=3)
    async with sim_cluster(env, checkers=[watch]) as cluster:
        await cluster.apply(deployment("web", replicas=2, surge=1, unavailable=0, min_ready_s=20))
        took = await cluster.wait_until(lambda: cluster.is_complete("default/web"))
        assert 19 <= took < 30
        await cluster.set_image("default/web", "example.com/app:2")
        await cluster.wait_until(lambda: not cluster.is_complete("default/web"))
        took = await cluster.wait_until(lambda: cluster.is_complete("default/web"))
        assert 39 <= took < 60


async def test_recreate_never_mixes_templates(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=3, strategy="Recreate"))
        await cluster.converge()
        await cluster.set_image("default/web", "example.com/app:2")
        images: set[frozenset[str]] = set()

        def rolled() -> bool:
            living = [pod for pod in cluster.pods(app="web") if pod.status.phase not in ("Succeeded", "Failed")]
            images.add(frozenset(pod.spec.containers[0].image for pod in living))
            done = cluster.is_complete("default/web")
            return done and images >= {frozenset({"example.com/app:2"})}

        await cluster.wait_until(rolled)
        assert frozenset({"example.com/app:1", "example.com/app:2"}) not in images


async def test_scaling_up_and_down(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=2))
        await cluster.converge()
        for replicas in (7, 0, 4):
            await cluster.scale("default/web", replicas)
            await cluster.wait_until(
                lambda replicas=replicas: (
                    len(cluster.pods(app="web")) == replicas and cluster.is_complete("default/web")
                )  # type: ignore[misc]
            )
        assert len(cluster.objects("replicasets.apps")) == 1


async def test_a_paused_deployment_rolls_once_it_is_resumed(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=2))
        await cluster.converge()

        def pause(found: apps_v1_pb2.Deployment) -> None:
            found.spec.paused = True
            found.spec.template.spec.containers[0].image = "example.com/app:2"

        def resume(found: apps_v1_pb2.Deployment) -> None:
            found.spec.paused = False

        await cluster.change(apps_v1_pb2.Deployment, "default/web", pause)
        await cluster.wait_until(
            lambda: conditions(cluster, "default/web")["Progressing"] == ("Unknown", "DeploymentPaused")
        )
        assert len(cluster.objects("replicasets.apps")) == 1
        await cluster.change(apps_v1_pb2.Deployment, "default/web", resume)
        await cluster.wait_until(lambda: len(cluster.objects("replicasets.apps")) == 2)
        await cluster.converge()
        assert {pod.spec.containers[0].image for pod in cluster.active_pods(app="web")} == {"example.com/app:2"}


async def test_old_replica_sets_beyond_the_history_limit_go(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=1, history=2))
        for number in range(2, 7):
            await cluster.converge()
            await cluster.set_image("default/web", f"example.com/app:{number}")
            await cluster.wait_until(lambda: not cluster.is_complete("default/web"))
        await cluster.converge()
        await cluster.wait_until(lambda: len(cluster.objects("replicasets.apps")) == 3)
        revisions = [
            rs.metadata.annotations["deployment.kubernetes.io/revision"]
            for rs in cluster.objects("replicasets.apps").values()
        ]
        assert sorted(revisions) == ["4", "5", "6"]
