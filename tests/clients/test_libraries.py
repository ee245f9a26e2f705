"""The official Python client, kr8s and lightkube do what their users do with them: create, read, change, apply, watch, run
commands, read logs, delete. A program in a pod finds the API by itself, as whom its service account is.

Each library's way of saying a thing is its own; what is checked is what its user would see.
"""

from __future__ import annotations

import io
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wherry.testing import kubectl
from wherry.testing.local import IMAGE, LocalCluster, until

pytestmark = [
    pytest.mark.timeout(200),
    # Each of them leaves a socket or a pool for the collector to close.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SCRIPT = "for i in 1 2 3; do echo line-$i; done; exec sleep 1000000"


def deployment(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod_spec()},
        },
    }


def pod_spec() -> dict[str, Any]:
    container = {"name": "c", "image": IMAGE, "command": ["sh", "-c", SCRIPT]}
    return {"terminationGracePeriodSeconds": 0, "containers": [container]}


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


@pytest.fixture
def own() -> str:
    """A name that nothing else has, not even an earlier try of the same test."""
    return f"own-{secrets.token_hex(3)}"


# the official client


@pytest.fixture
def official(kubeconfig: Path) -> Iterator[Any]:
    from kubernetes import client, config

    with config.new_client_from_config(str(kubeconfig)) as api:
        yield api
    assert client  # used by the tests through its modules


def test_official_objects(official: Any) -> None:
    from kubernetes import client
    from kubernetes.client.rest import ApiException

    core = client.CoreV1Api(official)
    made = core.create_namespaced_config_map("default", client.V1ConfigMap(
        metadata=client.V1ObjectMeta(generate_name="official-", labels={"of": "official"}), data={"k": "v"},
    ))  # fmt: skip
    name = made.metadata.name
    made.data["k"] = "w"
    stale = made.metadata.resource_version
    assert core.replace_namespaced_config_map(name, "default", made).metadata.resource_version != stale
    with pytest.raises(ApiException) as refused:
        core.replace_namespaced_config_map(name, "default", made)
    assert refused.value.status == 409
    core.patch_namespaced_config_map(name, "default", {"data": {"more": "x"}})
    core.patch_namespaced_config_map(name, "default", [{"op": "remove", "path": "/data/k"}])
    (found,) = core.list_namespaced_config_map("default", label_selector="of=official").items
    assert found.data == {"more": "x"}
    applied = core.patch_namespaced_config_map(
        name, "default", {"apiVersion": "v1", "kind": "ConfigMap", "data": {"own": "y"}}, field_manager="test",
        force=True, _content_type="application/apply-patch+yaml",
    )  # fmt: skip
    assert applied.data == {"more": "x", "own": "y"}
    assert {entry.operation for entry in applied.metadata.managed_fields} == {"Update", "Apply"}
    core.delete_namespaced_config_map(name, "default")
    with pytest.raises(ApiException) as gone:
        core.read_namespaced_config_map(name, "default")
    assert (gone.value.status, gone.value.reason) == (404, "Not Found")


def test_official_pods(official: Any, own: str) -> None:
    from kubernetes import client, utils, watch
    from kubernetes.stream import stream

    utils.create_from_dict(official, deployment(own))
    core, apps = client.CoreV1Api(official), client.AppsV1Api(official)
    seen: list[str] = []
    watcher = watch.Watch()
    for event in watcher.stream(apps.list_namespaced_deployment, "default", field_selector=f"metadata.name={own}",
                                timeout_seconds=60):  # fmt: skip
        seen.append(event["type"])
        if event["object"].status.ready_replicas == 1:
            watcher.stop()
    assert seen[0] == "ADDED"
    assert set(seen[1:]) <= {"MODIFIED"}
    (pod,) = core.list_namespaced_pod("default", label_selector=f"app={own}").items
    name = pod.metadata.name
    assert core.read_namespaced_pod_log(name, "default") == "line-1\nline-2\nline-3\n"
    assert core.read_namespaced_pod_log(name, "default", tail_lines=1) == "line-3\n"
    follower = watch.Watch()
    followed = []
    for line in follower.stream(core.read_namespaced_pod_log, name, "default"):
        followed.append(line)
        if len(followed) == 3:
            follower.stop()
    assert followed == ["line-1", "line-2", "line-3"]
    answer = stream(
        core.connect_get_namespaced_pod_exec, name, "default", command=["sh", "-c", "echo out; echo err >&2"],
        stdout=True, stderr=True, stdin=False, tty=False, _preload_content=False,
    )  # fmt: skip
    answer.run_forever(timeout=30)
    assert (answer.read_stdout(), answer.read_stderr(), answer.returncode) == ("out\n", "err\n", 0)
    failing = stream(
        core.connect_get_namespaced_pod_exec, name, "default", command=["sh", "-c", "read x; exit $x"], stdin=True,
        stdout=True, stderr=True, tty=False, _preload_content=False,
    )  # fmt: skip
    failing.write_stdin("7\n")
    failing.run_forever(timeout=30)
    assert failing.returncode == 7
    scale = apps.patch_namespaced_deployment_scale(own, "default", {"spec": {"replicas": 2}})
    assert scale.spec.replicas == 2
    apps.delete_namespaced_deployment(own, "default", propagation_policy="Foreground")
    until(lambda: not core.list_namespaced_pod("default", label_selector=f"app={own}").items)


def test_official_dynamic(official: Any, own: str) -> None:
    from kubernetes.dynamic import DynamicClient

    dynamic = DynamicClient(official)
    maps = dynamic.resources.get(api_version="v1", kind="ConfigMap")
    applied = dynamic.server_side_apply(maps, config_map(own, a="1"), field_manager="test")
    assert applied.data.a == "1"
    events = maps.watch(namespace="default", field_selector=f"metadata.name={own}", timeout=5)
    assert next(iter(events))["object"].metadata.name == own
    maps.delete(name=own, namespace="default")
    names = {item.name for item in dynamic.resources.search(kind="Deployment") if hasattr(item, "name")}
    assert "deployments" in names


# kr8s


@pytest.mark.filterwarnings("ignore:Kubernetes version .* is not supported:UserWarning")  # newer than it knows
async def test_kr8s(kubeconfig: Path, own: str) -> None:
    import kr8s
    from kr8s.asyncio.objects import ConfigMap, Deployment, Pod

    api = await kr8s.asyncio.api(kubeconfig=str(kubeconfig))
    assert await api.whoami()
    made = await ConfigMap(config_map(own, a="1"), api=api)
    await made.create()
    await made.patch({"data": {"b": "2"}})
    await made.label({"color": own})
    await made.annotate({"note": "hi"})
    (found,) = [item async for item in api.get("configmaps", namespace="default", label_selector=f"color={own}")]
    assert found.raw["data"] == {"a": "1", "b": "2"}
    # It has no verb for server-side apply, and lets one say it.
    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": own}, "data": {"c": "3"}}
    async with api.call_api(
        "PATCH", version="v1", url=f"configmaps/{own}", namespace="default", params={"fieldManager": "kr8s"},
        content=json.dumps(wanted), headers={"Content-Type": "application/apply-patch+yaml"},
    ) as answer:  # fmt: skip
        assert answer.status_code == 200
    await made.refresh()
    assert made.raw["data"] == {"a": "1", "b": "2", "c": "3"}
    assert ("kr8s", "Apply") in [(entry["manager"], entry["operation"]) for entry in made.metadata["managedFields"]]
    await made.delete()
    assert not await made.exists()
    await made.create()
    async for event, item in api.watch("configmaps", namespace="default", field_selector=f"metadata.name={own}"):
        assert (event, item.name) == ("ADDED", own)
        break

    workload = await Deployment(deployment(own), api=api)
    await workload.create()
    await workload.wait("condition=Available", timeout=90)
    (pod,) = await workload.pods()
    assert isinstance(pod, Pod)
    assert [line async for line in pod.logs()] == ["line-1", "line-2", "line-3"]
    done = await pod.exec(["sh", "-c", "echo out; echo err >&2; exit 3"], check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 3)
    await workload.scale(2)
    await workload.wait("jsonpath='{.status.readyReplicas}'=2", timeout=90)
    await workload.delete(propagation_policy="Background")
    await workload.wait("delete", timeout=60)


# lightkube


def test_lightkube(kubeconfig: Path, own: str) -> None:
    from lightkube import ApiError, Client, KubeConfig
    from lightkube.models.meta_v1 import ObjectMeta
    from lightkube.resources.apps_v1 import Deployment
    from lightkube.resources.core_v1 import ConfigMap, Pod
    from lightkube.types import PatchType

    with Client(config=KubeConfig.from_file(str(kubeconfig)), field_manager="lightkube") as client:
        client.create(ConfigMap(metadata=ObjectMeta(name=own, namespace="default"), data={"a": "1"}))
        client.patch(ConfigMap, own, {"data": {"b": "2"}}, namespace="default", patch_type=PatchType.MERGE)
        applied = client.apply(ConfigMap(
            apiVersion="v1", kind="ConfigMap", metadata=ObjectMeta(name=own, namespace="default"), data={"c": "3"},
        ))  # fmt: skip
        assert applied.data == {"a": "1", "b": "2", "c": "3"}
        with pytest.raises(ApiError) as conflict:
            client.apply(ConfigMap(
                apiVersion="v1", kind="ConfigMap", metadata=ObjectMeta(name=own, namespace="default"), data={"c": "4"},
            ), field_manager="another")  # fmt: skip
        assert conflict.value.status.reason == "Conflict"
        assert 'conflict with "lightkube"' in str(conflict.value)
        event, item = next(iter(client.watch(ConfigMap, namespace="default", fields={"metadata.name": own})))
        assert (event, item.data["c"]) == ("ADDED", "3")
        client.delete(ConfigMap, own, namespace="default")
        with pytest.raises(ApiError, match=f'configmaps "{own}" not found'):
            client.get(ConfigMap, own, namespace="default")

        client.create(Deployment.from_dict(deployment(own)))
        client.wait(Deployment, own, namespace="default", for_conditions=["Available"])
        (pod,) = client.list(Pod, namespace="default", labels={"app": own})
        name = pod.metadata.name
        assert list(client.log(name, namespace="default", newlines=False)) == ["line-1", "line-2", "line-3"]
        done = client.exec(
            name, namespace="default", command=["sh", "-c", "cat; exit 4"], stdin="typed", stdout=True, timeout=30
        )
        assert (done.stdout, done.exit_code) == ("typed", 4)
        streamed = io.BytesIO()
        client.exec(name, namespace="default", command=["echo", "hi"], stdout=streamed, timeout=30)
        assert streamed.getvalue() == b"hi\n"
        client.delete(Deployment, own, namespace="default")


# a program in a pod

IN_POD = """
apiVersion: v1
kind: ServiceAccount
metadata: {{name: reader}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: reader}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}}
subjects: [{{kind: ServiceAccount, name: reader}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: in-pod}}
spec:
  serviceAccountName: reader
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  volumes: [{{name: k, hostPath: {{path: {kubectl}, type: File}}}}]
  containers:
  - name: c
    image: {image}
    command: [sh, -c, "kubectl auth whoami && kubectl get pod in-pod -o name && ! kubectl get secrets"]
    volumeMounts: [{{name: k, mountPath: /usr/bin/kubectl}}]
"""


def test_a_program_in_a_pod(cluster: LocalCluster) -> None:
    """kubectl is Go's client library with a face: in a pod, and told nothing, it asks as the pod's service account."""
    kubectl.require_kubectl()
    binary = os.path.realpath(kubectl.BINARIES[kubectl.NEWEST[0]])
    cluster.apply(IN_POD.format(kubectl=binary, image=IMAGE))

    def ended() -> str:
        phase = cluster.json("pod", "in-pod")["status"].get("phase", "")
        return phase if phase in ("Succeeded", "Failed") else ""

    phase, text = until(ended), cluster.ok("logs", "in-pod")
    assert phase == "Succeeded", text
    assert "system:serviceaccount:default:reader" in text
    assert "pod/in-pod" in text
    assert 'User "system:serviceaccount:default:reader" cannot list resource "secrets"' in text
