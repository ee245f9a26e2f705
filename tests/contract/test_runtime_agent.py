"""What an agent makes of each runtime: probes, images and their policies, restarts, adoption; with real processes also volumes,
init containers, sidecars and hooks. The agent and the pods are the same, so what users see has to be."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from controlplane.registry.defaults import pods as defaults
from kubelet import housekeeping, imagegc
from kubelet.runtime.archives import PAUSE_IMAGE
from kubelet.runtime.base import Runtime
from kubelet.runtime.hollow import BEHAVIOUR, HollowRuntime
from wherry.api import codec
from wherry.api.context import Env
from wherry.cli.cluster.images import DEMO_IMAGE
from wherry.pb import core_v1_pb2
from wherry.testing.agents import AnyWorld
from wherry.testing.eventually import eventually
from wherry.testing.imageregistry import PASSWORD, USER
from wherry.testing.realnode import CGROUP
from wherry.testing.runtimes import REAL, RUNS, Registries, shell_layer

ABSENT = "127.0.0.1:9/team/absent:1"


@pytest.fixture
async def world(runtime: Runtime, tmp_path: Path) -> AsyncIterator[AnyWorld[Runtime]]:
    real = not isinstance(runtime, HollowRuntime)
    options: dict[str, Any] = {"pod_cgroups": True, "cgroup_parent": f"/wherry/{CGROUP}/agent"} if real else {}
    (tmp_path / "root").mkdir()
    made = AnyWorld(Env(), tmp_path / "root", runtime, **options)
    made.start()
    yield made
    await made.kill()
    if made.runtime is not runtime:
        await made.runtime.close()


def pod(name: str, *containers: dict[str, Any], hollow: str = "", **spec: Any) -> core_v1_pb2.Pod:
    """As the control plane hands it out."""
    document = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "default", "uid": f"uid-{name}", "annotations": {f"{BEHAVIOUR}all": hollow},
        },
        "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 1, "containers": list(containers), **spec},
    }  # fmt: skip
    made = codec.from_dict(document, core_v1_pb2.Pod)
    defaults.pod(made)
    return made


def container(name: str, script: str = RUNS.script, **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": DEMO_IMAGE, "command": ["/bin/sh", "-c", script], **fields}


def status(world: AnyWorld[Runtime], name: str) -> core_v1_pb2.ContainerStatus:
    found = world.control.statuses.get(name)
    return found.container_statuses[0] if found and found.container_statuses else core_v1_pb2.ContainerStatus()


def said(world: AnyWorld[Runtime], name: str, reason: str) -> str:
    return "\n".join(
        event.message for event in world.control.events if event.involved_object.name == name and event.reason == reason
    )


# On a hollow runtime virtual time (tests/unit/kubelet) tells the same in no time.
HOLLOW_TOO = [pytest.param("hollow", marks=pytest.mark.full), *REAL]


@pytest.mark.parametrize("endpoint", HOLLOW_TOO, indirect=True)
async def test_probes_decide_when_it_starts_is_ready_and_is_killed(world: AnyWorld[Runtime]) -> None:
    script = (
        "sleep 0.5; mkdir -p /tmp/www; echo ok > /tmp/www/ok; httpd -p 8080 -h /tmp/www; sleep 10; rm /tmp/www/ok; "
        "trap 'exit 143' TERM; while :; do sleep 0.05; done"
    )
    looks = {"exec": {"command": ["cat", "/tmp/www/ok"]}, "periodSeconds": 1, "timeoutSeconds": 5}
    fetches = {"httpGet": {"path": "/ok", "port": 8080}, "periodSeconds": 1, "timeoutSeconds": 5}
    probed = container(
        "c", script, startupProbe=looks | {"failureThreshold": 60}, readinessProbe=fetches | {"failureThreshold": 1},
        livenessProbe=looks | {"failureThreshold": 1},
    )  # fmt: skip
    world.control.put(pod("probed", probed, hollow="ready-after=0.5,unhealthy-after=10.5"))
    await world.until(lambda: status(world, "probed").started and status(world, "probed").ready)
    first = status(world, "probed").container_id
    await world.until(lambda: status(world, "probed").restart_count == 1)
    await world.until(lambda: "Startup probe failed" in said(world, "probed", "Unhealthy"))
    await world.until(lambda: "Liveness probe failed" in said(world, "probed", "Unhealthy"))
    restarts = "Container c failed liveness probe, will be restarted"
    await world.until(lambda: said(world, "probed", "Killing") == restarts)
    last = status(world, "probed").last_state.terminated
    assert (last.container_id, last.exit_code, last.reason) == (first, 143, "Error")
    await world.until(lambda: status(world, "probed").ready and status(world, "probed").container_id != first)


@pytest.mark.parametrize("endpoint", HOLLOW_TOO, indirect=True)
async def test_policies_and_what_an_image_that_does_not_come_looks_like(world: AnyWorld[Runtime]) -> None:
    if isinstance(world.runtime, HollowRuntime):
        world.runtime.missing_images.add(ABSENT)
    world.control.put(pod("never", container("c", image=ABSENT, imagePullPolicy="Never")))
    world.control.put(pod("wrong", container("c", image="UPPER/case::")))
    world.control.put(pod("absent", container("c", image=ABSENT)))
    world.control.put(pod("there", container("c", imagePullPolicy="IfNotPresent")))

    def waits(name: str) -> tuple[str, str]:
        waiting = status(world, name).state.waiting
        return waiting.reason, waiting.message

    reasons: list[str] = []

    def backs_off() -> bool:
        reason = waits("absent")[0]
        if reason.startswith(("Err", "Image")) and reason not in reasons:
            reasons.append(reason)
        return reason == "ImagePullBackOff"

    await world.until(backs_off)
    assert reasons == ["ErrImagePull", "ImagePullBackOff"]
    assert waits("absent")[1].startswith(f'Back-off pulling image "{ABSENT}": ErrImagePull: ')
    await world.until(lambda: f'Failed to pull image "{ABSENT}": ' in said(world, "absent", "Failed"))
    await world.until(lambda: "Error: ErrImagePull" in said(world, "absent", "Failed"))
    await world.until(lambda: said(world, "absent", "BackOff") == f'Back-off pulling image "{ABSENT}"')
    never = f'Container image "{ABSENT}" is not present with pull policy of Never'
    await world.until(lambda: waits("never") == ("ErrImageNeverPull", never))
    await world.until(lambda: waits("wrong")[0] == "InvalidImageName")
    await world.until(lambda: status(world, "there").ready)
    there = f'Container image "{DEMO_IMAGE}" already present on machine'
    await world.until(lambda: said(world, "there", "Pulled") == there)


async def test_a_new_agent_takes_over_what_runs(
    world: AnyWorld[Runtime], connect: Callable[[], Runtime]
) -> None:  # fmt: skip
    counts = "trap 'exit 143' TERM; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done"
    world.control.put(pod("stays", container("c", counts)))
    world.control.put(pod("ends", container("c")))
    await world.until(lambda: status(world, "stays").ready and status(world, "ends").ready)
    stays, ends = (status(world, name).container_id.partition("://")[2] for name in ("stays", "ends"))
    log = Path((await world.runtime.container_status(stays)).log_path)
    await world.kill()
    if not isinstance(world.runtime, HollowRuntime):
        await world.runtime.close()
    world.runtime = connect()
    await world.runtime.stop_container(ends, 0)
    world.control.statuses.clear()
    world.start()
    await world.until(lambda: status(world, "ends").restart_count == 1 and status(world, "ends").ready)
    assert status(world, "ends").last_state.terminated.exit_code == 137
    await world.until(lambda: status(world, "stays").ready)
    assert status(world, "stays").container_id.endswith(stays)
    assert status(world, "stays").restart_count == 0
    if isinstance(world.runtime, HollowRuntime):
        return

    def numbers() -> list[int]:
        words = [line.split() for line in log.read_text().splitlines()]
        return [int(line[-1]) for line in words if line[3:4] == ["line"] and len(line) == 5]

    seen = (await asyncio.to_thread(numbers))[-1]

    async def more() -> bool:
        return (await asyncio.to_thread(numbers))[-1] > seen + 5

    await eventually(more)
    found = await asyncio.to_thread(numbers)
    assert found == list(range(1, len(found) + 1)), "each line once, also those of the time without an agent"


@pytest.mark.parametrize("endpoint", REAL, indirect=True)
async def test_a_pods_life_with_volumes_hooks_and_helpers(world: AnyWorld[Runtime], tmp_path: Path) -> None:
    shared = {"name": "shared", "mountPath": "/shared"}
    world.control.objects["configmap", "settings"] = core_v1_pb2.ConfigMap(
        metadata={"name": "settings", "namespace": "default"}, data={"a.conf": "of a map\n", "b": "more\n"}
    )
    world.control.objects["secret", "word"] = core_v1_pb2.Secret(
        metadata={"name": "word", "namespace": "default"}, data={"word": b"sesame\n"}
    )
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "x").write_text("of the host\n")
    volumes = [
        {"name": "shared", "emptyDir": {}},
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "all", "projected": {"sources": [
            {"secret": {"name": "word"}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        ]}},
        {"name": "host", "hostPath": {"path": str(tmp_path / "host"), "type": "Directory"}},
    ]  # fmt: skip
    main = (
        "until [ -e /shared/hook ] && [ -e /shared/sidecar ]; do sleep 0.05; done; "
        "cat /shared/init /settings/a.conf /one /all/word /all/name /host/x /env 2>/dev/null; echo; echo $WORD $ME; "
        "touch /settings/x 2>/dev/null || echo readonly; echo the end > /dev/termination-log; exit 3"
    )
    life = pod(
        "life",
        container(
            "c", main,
            volumeMounts=[
                shared, {"name": "settings", "mountPath": "/settings"}, {"name": "all", "mountPath": "/all"},
                {"name": "settings", "mountPath": "/one", "subPath": "b"}, {"name": "host", "mountPath": "/host"},
            ],
            env=[
                {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "word", "key": "word"}}},
                {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ],
            lifecycle={"postStart": {"exec": {"command": ["touch", "/shared/hook"]}}},
        ),
        initContainers=[
            container("first", "echo of init > /shared/init", volumeMounts=[shared]),
            container(
                "beside", f"touch /shared/sidecar; {RUNS.script}", restartPolicy="Always", volumeMounts=[shared],
                lifecycle={"preStop": {"exec": {"command": ["sh", "-c", "echo bye > /proc/1/fd/1"]}}},
            ),
        ],
        volumes=volumes, restartPolicy="Never", terminationGracePeriodSeconds=10,
    )  # fmt: skip
    grows = container("c", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done", resources={"limits": {"memory": "16Mi"}})
    world.control.put(life)
    world.control.put(pod("grows", grows, restartPolicy="Never"))
    await world.until(lambda: world.control.phase("life") == "Failed")
    ended = status(world, "life").state.terminated
    assert (ended.exit_code, ended.reason, ended.message) == (3, "Error", "the end\n")
    told = await asyncio.to_thread(
        Path((await world.runtime.container_status(ended.container_id.partition("://")[2])).log_path).read_text
    )
    lines = [line.split(" ", 3)[3] for line in told.splitlines()]
    assert lines == ["of init", "of a map", "more", "sesame", "lifeof the host", "", "sesame life", "readonly"]
    first, beside = world.control.statuses["life"].init_container_statuses
    assert (first.state.terminated.reason, first.state.terminated.exit_code) == ("Completed", 0)
    assert beside.state.terminated.exit_code == 143, "the sidecar ends when the rest has"
    beside_log = Path((await world.runtime.container_status(beside.container_id.partition("://")[2])).log_path)
    assert "stdout F bye" in await asyncio.to_thread(beside_log.read_text)
    await world.until(lambda: world.control.phase("grows") == "Failed")
    assert status(world, "grows").state.terminated.reason == "OOMKilled"
    assert status(world, "grows").state.terminated.exit_code == 137


@pytest.mark.parametrize("endpoint", REAL, indirect=True)
async def test_a_pull_secret_opens_a_registry(world: AnyWorld[Runtime], registry: Registries) -> None:
    registry.open.push("team/demo", "1", [shell_layer()], {})
    demo = f"{registry.private.host}/team/demo:1"

    def secret(name: str, password: str) -> None:
        encoded = base64.b64encode(f"{USER}:{password}".encode()).decode()
        document = json.dumps({"auths": {registry.private.host: {"auth": encoded}}})
        world.control.objects["secret", name] = core_v1_pb2.Secret(
            metadata={"name": name, "namespace": "default"}, type="kubernetes.io/dockerconfigjson",
            data={".dockerconfigjson": document.encode()},
        )  # fmt: skip

    secret("right", PASSWORD)
    secret("wrong", "other")
    always = container("c", "exec sleep 1000", image=demo, imagePullPolicy="Always")
    world.control.put(pod("refused", always, imagePullSecrets=[{"name": "wrong"}]))
    world.control.put(pod("allowed", always, imagePullSecrets=[{"name": "gone"}, {"name": "wrong"}, {"name": "right"}]))
    await world.until(lambda: status(world, "allowed").ready)
    gone = "Unable to retrieve some image pull secrets (gone)"
    await world.until(lambda: gone in said(world, "allowed", "FailedToRetrieveImagePullSecret"))
    await world.until(lambda: f'Successfully pulled image "{demo}" in ' in said(world, "allowed", "Pulled"))
    assert f'Pulling image "{demo}"' in said(world, "allowed", "Pulling")
    assert status(world, "allowed").image_id.startswith(f"{registry.private.host}/team/demo@sha256:")
    await world.until(lambda: status(world, "refused").state.waiting.reason in ("ErrImagePull", "ImagePullBackOff"))
    await world.until(lambda: bool(said(world, "refused", "Failed")))
    assert any(word in said(world, "refused", "Failed") for word in ("401", "unauthorized", "authorization failed"))


@pytest.mark.full
@pytest.mark.parametrize("endpoint", REAL, indirect=True)
async def test_a_full_disk_takes_the_images_that_nobody_uses(
    world: AnyWorld[Runtime], registry: Registries, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.kill()
    for name in ("ROUND_S", "IMAGE_ROUND_S"):
        monkeypatch.setattr(housekeeping, name, 0.2)
    world.control.put(pod("uses", container("c")))
    unused, named = f"{registry.open.host}/team/unused:1", f"{registry.open.host}/team/named:1"
    for reference in (unused, named):
        registry.open.push(
            reference.partition("/")[2].partition(":")[0], "1", [shell_layer()], {"config": {"Cmd": [reference]}}
        )
        await world.runtime.pull_image(reference, None)
    # A pod that waits for something else uses its image all the same.
    world.control.put(
        pod("waits", container("c", image=named), volumes=[{"name": "x", "secret": {"secretName": "gone"}}])
    )
    world.options["image_gc"] = imagegc.Thresholds(high=0.0001, low=0.0, min_age_s=0.5)
    world.start()
    await world.until(lambda: status(world, "uses").ready)

    async def gone() -> bool:
        return await world.runtime.image_status(unused) is None

    await eventually(gone, 60)
    for kept in (DEMO_IMAGE, PAUSE_IMAGE, named):
        assert await world.runtime.image_status(kept) is not None
    assert "Failed to garbage collect required amount of images" in said(world, "n1", "FreeDiskSpaceFailed")
