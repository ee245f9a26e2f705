"""The real kubectl against a real server with a hollow node: what a person types, and reads.

The newest version that is installed runs always, the oldest where it speaks another protocol, all of them under `-m full`.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from pathlib import Path

import pytest

from wherry.testing.kubectl import NEWEST, OLDEST, WEB, Kubectl, versions

pytestmark = pytest.mark.timeout(180)


@versions(NEWEST, OLDEST)
def test_what_there_is(kubectl: Kubectl) -> None:
    assert "+wherry" in kubectl("version")
    resources = kubectl("api-resources", "-o", "wide")
    assert re.search(r"deployments +deploy +apps/v1 +true +Deployment +create,delete,deletecollection,get", resources)
    assert re.search(r"nodes +no +v1 +false +Node ", resources)
    versions = kubectl("api-versions").split()
    assert {"v1", "apps/v1", "coordination.k8s.io/v1"} <= set(versions)
    assert kubectl("get", "--raw", "/readyz") == "ok"
    assert "readyz check passed" in kubectl("get", "--raw", "/readyz?verbose")
    assert "Wherry" in kubectl("get", "--raw", "/openapi/v2")


@versions(NEWEST)
def test_explain(kubectl: Kubectl) -> None:
    text = kubectl("explain", "deployment.spec.template.spec.containers.ports")
    assert re.search(r"containerPort\s+<integer> -required-", text)
    tree = kubectl("explain", "pods", "--recursive")
    assert len(tree.splitlines()) > 1000
    assert re.search(r"livenessProbe\s+<Probe>", tree)
    assert "does not exist" in kubectl.fails("explain", "pods.spec.nope")


@versions(NEWEST, OLDEST)
def test_apply_is_idempotent_and_says_what_changed(kubectl: Kubectl) -> None:
    assert kubectl("apply", "-f", "-", stdin=WEB).splitlines() == [
        "deployment.apps/web created", "service/web created", "configmap/settings created",
    ]  # fmt: skip
    assert {line.split()[-1] for line in kubectl("apply", "-f", "-", stdin=WEB).splitlines()} == {"unchanged"}
    changed = WEB.replace("web:1", "web:2").replace("red", "blue")
    difference = kubectl.run("diff", "-f", "-", stdin=changed)
    assert difference.returncode == 1, difference.stderr
    assert re.search(r"^\+ +-? ?image: web:2$", difference.stdout, re.MULTILINE)
    assert kubectl("apply", "-f", "-", stdin=changed).splitlines() == [
        "deployment.apps/web configured", "service/web unchanged", "configmap/settings configured",
    ]  # fmt: skip
    # A field that is no longer in the file goes.
    kubectl("apply", "-f", "-", stdin=changed.replace('\n        env: [{name: A, value: "1"}]', ""))
    assert kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].env}") == ""
    assert "server dry run" in kubectl("apply", "--dry-run=server", "-f", "-", stdin=WEB)


@versions(NEWEST)
def test_server_side_apply_knows_owners(kubectl: Kubectl) -> None:
    assert "serverside-applied" in kubectl("apply", "--server-side", "-f", "-", stdin=WEB)
    other = WEB.replace("replicas: 2", "replicas: 3")
    conflict = kubectl.fails("apply", "--server-side", "--field-manager=other", "-f", "-", stdin=other)
    assert 'conflict with "kubectl": .spec.replicas' in conflict
    kubectl("apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-", stdin=other)
    managers = kubectl(
        "get", "deployment", "web", "-o", "jsonpath={.metadata.managedFields[*].manager}", "--show-managed-fields"
    )
    assert {"kubectl", "other"} <= set(managers.split())


@versions(NEWEST)
def test_from_client_side_to_server_side_and_back(kubectl: Kubectl) -> None:
    """What kubectl has applied itself is in its own way no more than in Kubernetes."""
    changed = WEB.replace("web:1", "web:2").replace("color: red", "color: blue")
    kubectl("apply", "-f", "-", stdin=WEB)
    assert "deployment.apps/web serverside-applied" in kubectl("apply", "--server-side", "-f", "-", stdin=changed)
    assert kubectl("get", "configmap", "settings", "-o", "jsonpath={.data}") == '{"color":"blue"}'
    managers = kubectl("get", "deployment", "web", "--show-managed-fields", "-o", "yaml")
    assert "kubectl-client-side-apply" not in managers, "kubectl has moved what it owned"
    kubectl("scale", "deployment", "web", "--replicas=5")
    refused = kubectl.fails("apply", "--server-side", "-f", "-", stdin=changed)
    assert 'with subresource "scale" using apps/v1: .spec.replicas' in refused
    kubectl("scale", "deployment", "web", "--replicas=2")
    # Back: the annotation says what is applied, if not quite as client-side apply writes it.
    spec = kubectl("get", "deployment", "web", "-o", "jsonpath={.spec}")
    kubectl("apply", "-f", "-", stdin=changed)
    assert kubectl("get", "deployment", "web", "-o", "jsonpath={.spec}") == spec
    again = kubectl("apply", "-f", "-", stdin=changed)
    assert {line.rpartition(" ")[2] for line in again.splitlines()} == {"unchanged"}
    kubectl("apply", "-f", "-", stdin=changed.replace("data: {color: blue}", "data: {size: large}"))
    assert kubectl("get", "configmap", "settings", "-o", "jsonpath={.data}") == '{"size":"large"}'


@versions(NEWEST)
def test_mistakes_are_told_before_anything_is_made(kubectl: Kubectl) -> None:
    one = WEB.partition("---")[0]
    unknown = kubectl.fails("create", "-f", "-", stdin=one.replace("replicas:", "replica:"))
    assert 'unknown field "spec.replica"' in unknown
    wrong = kubectl.fails("create", "-f", "-", stdin=one.replace("containerPort: 80", "containerPort: x"))
    assert "containerPort" in wrong
    invalid = kubectl.fails("create", "-f", "-", stdin=one.replace("matchLabels: {app: web}", "matchLabels: {app: x}"))
    assert "`selector` does not match template `labels`" in invalid
    assert 'the server doesn\'t have a resource type "nopes"' in kubectl.fails("get", "nopes")
    assert kubectl.fails("get", "pod", "nope") == 'Error from server (NotFound): pods "nope" not found\n'
    assert kubectl("get", "all", "-o", "name") == ""


@versions(NEWEST)
def test_get_in_every_output(web: Kubectl) -> None:
    table = web("get", "deployments")
    assert re.search(r"^NAME +READY +UP-TO-DATE +AVAILABLE +AGE\nweb +2/2 +2 +2 ", table)
    assert re.search(r"CONTAINERS +IMAGES +SELECTOR\n.* web +web:1 +app=web", web("get", "deploy", "-o", "wide"))
    assert web("get", "svc,cm", "web", "settings", "-o", "name", "--ignore-not-found").count("/") == 2
    assert re.search(r"web +2/2 .* app=web", web("get", "deploy", "--show-labels"))
    assert re.search(r"APP\n.* web\n", web("get", "deploy", "-L", "app"))
    assert json.loads(web("get", "deploy", "web", "-o", "json"))["kind"] == "Deployment"
    listed = json.loads(web("get", "pods", "-l", "app=web", "-o", "json"))
    assert [item["kind"] for item in listed["items"]] == ["Pod", "Pod"]
    assert "\nkind: Deployment\n" in web("get", "deploy", "web", "-o", "yaml")
    assert web("get", "deploy", "web", "-o", "jsonpath={.spec.replicas}") == "2"
    assert web("get", "deploy", "-o", "custom-columns=N:.metadata.name,R:.spec.replicas").split() == [
        "N",
        "R",
        "web",
        "2",
    ]
    assert web("get", "deploy", "web", "-o", "go-template={{.spec.replicas}}") == "2"
    # By a number, since kubectl sorts text in an order of its own.
    counts = web("get", "rs", "--sort-by=.status.replicas", "-o", "jsonpath={.items[*].status.replicas}").split()
    assert counts == sorted(counts, key=int)
    assert web.namespace in web("get", "deploy", "-A")
    assert web("get", "pods", "--field-selector=status.phase=Failed", "-o", "name") == ""
    assert web("get", "pods", "--chunk-size=1", "-o", "name").count("pod/") == 2
    assert re.search(rf"{web.node} +Ready ", web("get", "nodes"))


@versions(NEWEST)
def test_get_by_templates_and_columns_from_files(web: Kubectl, tmp_path: Path) -> None:
    def file(text: str) -> str:
        path = tmp_path / f"template-{len(list(tmp_path.iterdir()))}"
        path.write_text(text)
        return str(path)

    kubectl = web
    columns = file("NAME COPIES IMAGES\n.metadata.name .spec.replicas .spec.template.spec.containers[*].image\n")
    shown = kubectl("get", "deploy", "-o", f"custom-columns-file={columns}")
    assert [line.split() for line in shown.splitlines()] == [["NAME", "COPIES", "IMAGES"], ["web", "2", "web:1"]]
    path = "{range .items[*]}{.kind}/{.metadata.name} {end}"
    objects = "deployment/web", "service/web", "configmap/settings"
    assert (
        kubectl("get", *objects, "-o", f"jsonpath-file={file(path)}")
        == "Deployment/web Service/web ConfigMap/settings "
    )
    assert json.loads(kubectl("get", "svc", "web", "-o", "jsonpath-as-json={.spec.ports[*].port}")) == [80]
    template = '{{range .spec.template.spec.containers}}{{.name}} {{.image | printf "%s!"}}{{end}}'
    for output in (f"go-template={template}", f"go-template-file={file(template)}", f"templatefile={file(template)}"):
        assert kubectl("get", "deploy", "web", "-o", output) == "web web:1!"
    assert kubectl("get", "cm", "settings", "--template={{.data.color}}") == "red"
    for name, size in (("s-a", "3"), ("s-b", "1"), ("s-c", "2")):
        kubectl("create", "configmap", name, f"--from-literal=size={size}")
        kubectl("label", "configmap", name, "sorted=yes")
    names = kubectl("get", "cm", "-l", "sorted", "--sort-by={.data.size}", "--no-headers").splitlines()
    assert [line.split()[0] for line in names] == ["s-b", "s-c", "s-a"]
    wide = kubectl("get", "pods", "-l", "app=web", "-o", "wide").splitlines()
    header = ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES"]
    assert re.split(r" {2,}", wide[0].strip()) == header
    assert all(re.search(rf" \d+(\.\d+){{3}} +{web.node} +<none> +<none>$", line.strip()) for line in wide[1:])
    assert re.search(
        r"CLUSTER-IP +EXTERNAL-IP +PORT\(S\) +AGE +SELECTOR\n.* 80/TCP .* app=web",
        kubectl("get", "svc", "web", "-o", "wide"),
    )
    labels = kubectl("get", "cm", "-l", "sorted", "--show-labels", "--label-columns=sorted").splitlines()
    assert labels[0].split() == ["NAME", "DATA", "AGE", "SORTED", "LABELS"]
    assert labels[1].split()[-2:] == ["yes", "sorted=yes"]


@versions(NEWEST)
def test_get_watches(web: Kubectl) -> None:
    with web.going("get", "configmaps", "--watch", "--output-watch-events") as watching:
        assert watching.stdout is not None
        first = watching.stdout.readline() + watching.stdout.readline()
        assert "EVENT" in first
        web("create", "configmap", "seen", "--from-literal=a=b")
        web("delete", "configmap", "seen")
        lines = []
        for line in watching.stdout:
            lines.append(line)
            if re.match(r"DELETED +seen", line):
                break
        assert any(re.match(r"ADDED +seen +1 ", line) for line in lines)


@pytest.mark.about_pods
@versions(NEWEST)
def test_describe(web: Kubectl) -> None:
    deployment = web("describe", "deployment", "web")
    assert re.search(r"Replicas: +2 desired \| 2 updated \| 2 total \| 2 available", deployment)
    assert "ScalingReplicaSet" in deployment
    pod = web("get", "pods", "-o", "name").split()[0]
    text = web("describe", pod)
    assert re.search(r"Status: +Running", text)
    assert re.search(r"Scheduled +\S+ +default-scheduler", text)
    for kind in (f"node/{web.node}", f"namespace/{web.namespace}", "service/web", "configmap/settings", "rs", "sa"):
        assert "Name:" in web("describe", kind)


@versions(NEWEST)
def test_patches(web: Kubectl) -> None:
    def image() -> str:
        return web("get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[*].image}")

    strategic = {
        "spec": {"template": {"spec": {"containers": [{"name": "web", "image": "web:2"}, {"name": "b", "image": "b"}]}}}
    }
    assert web("patch", "deploy", "web", "-p", json.dumps(strategic)) == "deployment.apps/web patched\n"
    assert image() == "web:2 b"
    web("patch", "deploy", "web", "--type=json", "-p", '[{"op": "remove", "path": "/spec/template/spec/containers/1"}]')
    assert image() == "web:2"
    web("patch", "cm", "settings", "--type=merge", "-p", '{"data": {"color": null, "size": "1"}}')
    assert json.loads(web("get", "cm", "settings", "-o", "jsonpath={.data}")) == {"size": "1"}
    assert "(no change)" in web("patch", "cm", "settings", "--type=merge", "-p", '{"data": {"size": "1"}}')
    condition = {"status": {"conditions": [{"type": "Seen", "status": "True"}]}}
    web("patch", "deploy", "web", "--subresource=status", "-p", json.dumps(condition))
    assert "Seen" in web("get", "deploy", "web", "-o", "jsonpath={.status.conditions[*].type}")
    assert "spec.replicas" in web.fails("patch", "deploy", "web", "-p", '{"spec": {"replicas": -1}}')


@versions(NEWEST)
def test_edit_and_replace(web: Kubectl, tmp_path: Path) -> None:
    editor = tmp_path / "editor.py"
    editor.write_text(
        "import pathlib, sys\np = pathlib.Path(sys.argv[1])\np.write_text(p.read_text().replace('red', 'green'))\n"
    )
    web.environment["KUBE_EDITOR"] = f"{sys.executable} {editor}"
    assert web("edit", "configmap", "settings") == "configmap/settings edited\n"
    found = web("get", "configmap", "settings", "-o", "json")
    assert json.loads(found)["data"] == {"color": "green"}
    assert web("replace", "-f", "-", stdin=found.replace("green", "grey")) == "configmap/settings replaced\n"
    stale = web.fails("replace", "-f", "-", stdin=found)
    assert "the object has been modified" in stale
    assert "replaced" in web("replace", "--force", "-f", "-", stdin=re.sub(r'"resourceVersion": "\d+",', "", found))


@versions(NEWEST)
def test_labels_annotations_taints_and_cordon(web: Kubectl) -> None:
    assert "labeled" in web("label", "deploy", "web", "tier=front")
    assert "already has a value" in web.fails("label", "deploy", "web", "tier=back")
    web("label", "deploy", "web", "tier=back", "--overwrite")
    assert web("get", "deploy", "-l", "tier in (back)", "-o", "name") == "deployment.apps/web\n"
    assert "unlabeled" in web("label", "deploy", "web", "tier-")
    web("annotate", "deploy", "web", "note=a b")
    assert web("get", "deploy", "web", "-o", "jsonpath={.metadata.annotations.note}") == "a b"
    try:
        web("cordon", web.node)
        assert "SchedulingDisabled" in web("get", "node", web.node)
        web("taint", "nodes", web.node, "k=v:NoSchedule")
        assert "k=v:NoSchedule" in web("describe", "node", web.node)
    finally:
        web("taint", "nodes", web.node, "k-")
        web("uncordon", web.node)


@versions(NEWEST)
def test_scale_set_and_rollout(web: Kubectl) -> None:
    web("scale", "deploy/web", "--replicas=3")
    assert (
        "expected replicas to be 7" in web.fails("scale", "deploy/web", "--current-replicas=7", "--replicas=1").lower()
    )
    web("set", "image", "deploy/web", "web=web:2")
    web("annotate", "deploy", "web", "kubernetes.io/change-cause=second")
    assert "successfully rolled out" in web("rollout", "status", "deploy/web", "--timeout=60s")
    web("set", "env", "deploy/web", "B=2")
    web("set", "resources", "deploy/web", "--limits=cpu=100m")
    web("rollout", "pause", "deploy/web")
    assert "already paused" in web.fails("rollout", "pause", "deploy/web")
    web("rollout", "resume", "deploy/web")
    web("rollout", "status", "deploy/web", "--timeout=60s")
    history = web("rollout", "history", "deploy/web")
    assert "second" in history
    web("rollout", "undo", "deploy/web", "--to-revision=1")
    web("rollout", "status", "deploy/web", "--timeout=60s")
    assert web("get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}") == "web:1"
    web("rollout", "restart", "deploy/web")
    assert "restartedAt" in web("get", "deploy", "web", "-o", "yaml")


@versions(NEWEST)
def test_generators(kubectl: Kubectl) -> None:
    kubectl("create", "deployment", "made", "--image=a:1", "--replicas=1", "--port=80")
    kubectl("create", "configmap", "made", "--from-literal=a=b")
    kubectl("create", "secret", "generic", "made", "--from-literal=a=b")
    kubectl("create", "serviceaccount", "made")
    kubectl("create", "service", "clusterip", "made", "--tcp=80:80")
    kubectl("create", "service", "nodeport", "port", "--tcp=80")
    kubectl("expose", "deployment", "made", "--name=shown", "--port=80")
    kubectl("run", "alone", "--image=a:1", "--restart=Never", "--labels=run=alone")
    assert "dry run" in kubectl("create", "deployment", "not", "--image=a", "--dry-run=server")
    assert kubectl("get", "secret", "made", "-o", "jsonpath={.data.a}") == "Yg=="
    assert re.search(r"made +ClusterIP +10\.", kubectl("get", "services"))
    # What a person did not change is not rolled out again: kubectl sends its own objects in protobuf.
    kubectl("rollout", "status", "deploy/made", "--timeout=60s")
    kubectl("annotate", "deploy", "made", "x=y")
    assert len(kubectl("get", "rs", "-l", "app=made", "-o", "name").split()) == 1


@versions(NEWEST)
def test_wait_and_delete(web: Kubectl) -> None:
    pods = web("get", "pods", "-o", "name").split()
    assert web("wait", "--for=condition=Ready", "pod", "-l", "app=web", "--timeout=60s").count("condition met") == 2
    assert "condition met" in web("wait", "--for=jsonpath={.status.phase}=Running", pods[0], "--timeout=30s")
    web("delete", pods[0], "--now")
    web("wait", "--for=delete", pods[0], "--timeout=60s")
    web("delete", "deployment", "web", "--cascade=orphan")
    assert web("get", "rs", "-o", "name").startswith("replicaset.apps/web-")
    web("delete", "rs", "--all", "--cascade=foreground", "--timeout=60s")
    web("wait", "--for=delete", "pod", "-l", "app=web", "--timeout=60s")
    web("delete", "configmap", "-l", "nothing=here")
    assert "deleted" in web("delete", "configmap/settings", "service/web")
    assert "not found" in web.fails("delete", "configmap", "settings")
    web("delete", "configmap", "settings", "--ignore-not-found")
    assert web("delete", "namespace", web.namespace, "--timeout=60s").startswith(f'namespace "{web.namespace}" deleted')


@pytest.mark.about_pods
@versions(NEWEST)
def test_events(web: Kubectl) -> None:
    assert "ScalingReplicaSet" in web("get", "events", "--sort-by=.metadata.creationTimestamp")
    assert "ScalingReplicaSet" in web("events", "--for", "deployment/web")


@pytest.mark.about_pods
@versions(NEWEST, OLDEST)
def test_a_session_with_a_container(web: Kubectl) -> None:
    """Over WebSockets, and over SPDY as older kubectls have it."""
    pod = web("get", "pods", "-o", "jsonpath={.items[0].metadata.name}")
    assert web("exec", pod, "--", "echo", "hello") == "hello\n"
    assert web("exec", "-i", pod, "--", "cat", stdin="typed\n") == "typed\n"
    assert "exit code 1" in web.fails("exec", pod, "--", "false")
    assert web.run("exec", pod, "--", "false").returncode == 1
    assert 'pods "nope" not found' in web.fails("exec", "nope", "--", "x")
    assert "not valid for pod" in web.fails("logs", pod, "-c", "nope")
    assert web.run("logs", pod, "--tail=5").returncode == 0
    assert web.run("logs", "-l", "app=web", "--prefix", "--all-containers").returncode == 0
    # What is typed is echoed and answered, the size follows the terminal, the exit code comes.
    with web.on_terminal("exec", "-it", pod, "--", "sh") as terminal:
        terminal.until(r"\r\n24 80\r\n", typing="stty size\r")
        terminal.resize(132, 43)
        terminal.until(r"\r\n43 132\r\n", typing="stty size\r")
        terminal.type("echo hello out there\r")
        terminal.until(r"(?s)echo hello out there\r\n(.*\n)?hello out there\r\n")
        terminal.type("exit 7\r")
        assert terminal.end() == 7
        assert "command terminated with exit code 7" in terminal.seen
    with web.on_terminal("exec", "-it", pod, "--", "echo", "hi") as terminal:
        assert terminal.end() == 0
        assert "hi" in terminal.seen


@pytest.mark.about_pods
@versions(NEWEST, OLDEST)
def test_port_forward(web: Kubectl) -> None:
    with web.going("port-forward", "deploy/web", ":80", "--address=127.0.0.1") as forwarding:
        assert forwarding.stdout is not None
        line = forwarding.stdout.readline()
        port = int(re.search(r"127\.0\.0\.1:(\d+) -> 80", line).group(1))  # type: ignore[union-attr]
        for text in (b"one", b"two"):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(text)
                deadline = time.monotonic() + 30
                seen = b""
                while seen != text and time.monotonic() < deadline:
                    seen += connection.recv(100)
                assert seen == text
