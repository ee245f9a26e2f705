"""The command line for real: a `wherry server` without nodes, and what a person types and reads."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from wherry.testing.server import MAIN, Server

Wherry = Callable[..., "subprocess.CompletedProcess[str]"]

WEB = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web, tier: front}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: web:1
        env: [{name: A, value: "1"}, {name: B, value: "2"}]
        ports: [{name: http, containerPort: 80}]
"""


@pytest.fixture
def ns(server: Server, request: pytest.FixtureRequest) -> Iterator[Wherry]:
    """The command line in a namespace of the test's own."""
    name = "t-" + request.node.name.replace("_", "-").replace("[", "-").replace("]", "")[:50].strip("-").lower()
    namespace = f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n"
    assert ok(server.run("apply", "-f", "-", stdin=namespace)) == f"namespace/{name} created\n"

    def run(*words: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        return server.run(*words, "-n", name, stdin=stdin)

    yield run
    server.run("delete", "namespace", name, "--no-wait")


def ok(result: "subprocess.CompletedProcess[str]") -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_apply_says_created_configured_unchanged(ns: Wherry) -> None:
    assert ok(ns("apply", "-f", "-", stdin=WEB)) == "deployment.apps/web created\n"
    assert ok(ns("apply", "-f", "-", stdin=WEB)) == "deployment.apps/web unchanged\n"
    assert ok(ns("apply", "-f", "-", stdin=WEB.replace("web:1", "web:2"))) == "deployment.apps/web configured\n"
    assert ok(ns("get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}")) == "web:2"


def test_apply_merges_three_ways(ns: Wherry) -> None:
    """What others set stays; what the file no longer has goes; lists merge by their keys."""
    ok(ns("apply", "-f", "-", stdin=WEB))
    ok(ns("scale", "deploy/web", "--replicas", "7"))
    ok(ns("label", "deploy/web", "mine=yes"))
    changed = WEB.replace(', {name: B, value: "2"}', "").replace("  replicas: 2\n", "").replace(", tier: front", "")
    ok(ns("apply", "-f", "-", stdin=changed))
    value = json.loads(ok(ns("get", "deploy", "web", "-o", "json")))
    assert value["spec"]["template"]["spec"]["containers"][0]["env"] == [{"name": "A", "value": "1"}]
    assert value["metadata"]["labels"] == {"app": "web", "mine": "yes"}
    # replicas was in the file before and is not now, so the default comes back, as with kubectl
    assert value["spec"]["replicas"] == 1


def test_dry_runs_change_nothing(ns: Wherry) -> None:
    assert "created (server dry run)" in ok(ns("apply", "-f", "-", "--dry-run", "server", stdin=WEB))
    assert "created (dry run)" in ok(ns("apply", "-f", "-", "--dry-run", "client", stdin=WEB))
    assert ns("get", "deploy", "web").returncode == 1


def test_several_documents_directories_and_files(ns: Wherry, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(WEB)
    (tmp_path / "b.json").write_text(json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}))
    (tmp_path / "ignored.txt").write_text("not a manifest")
    assert ok(ns("apply", "-f", str(tmp_path))) == "deployment.apps/web created\nconfigmap/c created\n"
    assert ns("apply", "-f", str(tmp_path / "absent.yaml")).stderr.count("absent.yaml") == 1


def test_prune_deletes_what_left_the_manifests(ns: Wherry) -> None:
    maps = [f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{set: x}}}}\n" for name in "ab"]
    ok(ns("apply", "-f", "-", "--prune", "-l", "set=x", stdin="---\n".join(maps)))
    assert ok(ns("apply", "-f", "-", "--prune", "-l", "set=x", stdin=maps[0])).splitlines() == [
        "configmap/a unchanged",
        "configmap/b pruned",
    ]
    assert "needs -l" in ns("apply", "-f", "-", "--prune", stdin=maps[0]).stderr


def test_server_side_apply_and_its_conflicts(ns: Wherry) -> None:
    body = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {k: one}\n"
    assert ok(ns("apply", "-f", "-", "--server-side", stdin=body)) == "configmap/c serverside-applied\n"
    other = ns("apply", "-f", "-", "--server-side", "--field-manager", "else", stdin=body.replace("one", "two"))
    assert other.returncode == 1
    assert "conflict" in other.stderr
    assert ".data.k" in other.stderr
    ok(
        ns(
            "apply",
            "-f",
            "-",
            "--server-side",
            "--field-manager",
            "else",
            "--force-conflicts",
            stdin=body.replace("one", "two"),
        )
    )
    assert ok(ns("get", "cm", "c", "-o", "jsonpath={.data.k}")) == "two"


def test_diff_shows_and_counts(ns: Wherry) -> None:
    ok(ns("apply", "-f", "-", stdin=WEB))
    same = ns("diff", "-f", "-", stdin=WEB)
    assert (same.returncode, same.stdout) == (0, "")
    changed = ns("diff", "-f", "-", stdin=WEB.replace("web:1", "web:2"))
    assert changed.returncode == 1
    assert [line[0] + line.split()[-1] for line in changed.stdout.splitlines() if "image: web" in line] == [
        "-web:1",
        "+web:2",
    ]
    assert "web:2" in changed.stdout
    assert ok(ns("get", "deploy", "web", "-o", "jsonpath={..image}")) == "web:1"


@pytest.mark.parametrize(
    ("output", "check"),
    [
        pytest.param("name", lambda text: text == "deployment.apps/web\n", id="name"),
        pytest.param("json", lambda text: json.loads(text)["items"][0]["kind"] == "Deployment", id="json"),
        pytest.param("yaml", lambda text: yaml.safe_load(text)["kind"] == "List", id="yaml"),
        pytest.param("jsonpath={.items[*].metadata.name}", lambda text: text == "web", id="jsonpath"),
        pytest.param("custom-columns=N:.metadata.name,R:.spec.replicas", lambda text: text == "N     R\nweb   2\n", id="columns"),
        pytest.param("", lambda text: text.split()[:5] == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"], id="table"),
        pytest.param("wide", lambda text: "CONTAINERS" in text and "web:1" in text, id="wide"),
    ],
)  # fmt: skip
def test_output_formats(ns: Wherry, output: str, check: Callable[[str], bool]) -> None:
    ok(ns("apply", "-f", "-", stdin=WEB))
    text = ok(ns("get", "deploy", *(["-o", output] if output else [])))
    assert check(text), text


def test_get_by_label_and_field(ns: Wherry) -> None:
    for name, tier in (("a", "one"), ("b", "two")):
        ok(
            ns(
                "apply",
                "-f",
                "-",
                stdin=f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{tier: {tier}}}}}\n",
            )
        )
    assert ok(ns("get", "cm", "-l", "tier in (one)", "-o", "name")) == "configmap/a\n"
    assert ok(ns("get", "cm", "--field-selector", "metadata.name=b", "-o", "name")) == "configmap/b\n"
    shown = ok(ns("get", "cm", "-l", "tier", "--show-labels", "-L", "tier"))
    assert "TIER" in shown
    assert "tier=one" in shown


def test_describe_tells_the_object_and_its_events(ns: Wherry) -> None:
    ok(ns("apply", "-f", "-", stdin=WEB))
    ok(ns("wait", "deploy/web", "--for", "jsonpath={.status.replicas}=2"))
    text = ok(ns("describe", "deploy", "web"))
    for part in (
        "Name:",
        "2 desired",
        "RollingUpdateStrategy:",
        "Image:",
        "ScalingReplicaSet",
        "Scaled up replica set",
    ):
        assert part in text


def test_why_a_pod_waits(ns: Wherry) -> None:
    """There is no node, and the scheduler says so in Kubernetes' words."""
    ok(ns("apply", "-f", "-", stdin=WEB.replace("replicas: 2", "replicas: 1")))
    ok(ns("wait", "pods", "-l", "app=web", "--for", "condition=PodScheduled=False", "--timeout", "20s")
       if ok(ns("wait", "deploy/web", "--for", "jsonpath={.status.replicas}=1")) else None)  # fmt: skip
    text = ok(ns("describe", "pods", "-l", "app=web"))
    assert "FailedScheduling" in text or "no nodes available to schedule pods" in text


def test_labels_and_annotations(ns: Wherry) -> None:
    ok(ns("apply", "-f", "-", stdin=WEB))
    assert ok(ns("label", "deploy", "web", "x=1")) == "deployment.apps/web labeled\n"
    refused = ns("label", "deploy", "web", "x=2")
    assert refused.returncode == 1
    assert "'x' already has a value (1), and --overwrite is false" in refused.stderr
    ok(ns("label", "deploy", "web", "x=2", "--overwrite"))
    assert ok(ns("label", "deploy", "web", "x-")) == "deployment.apps/web unlabeled\n"
    assert ok(ns("annotate", "deploy/web", "note=hello")) == "deployment.apps/web annotated\n"
    assert ok(ns("get", "deploy", "web", "-o", "jsonpath={.metadata.annotations.note}")) == "hello"


def test_rollout_pause_history_undo(ns: Wherry) -> None:
    ok(ns("apply", "-f", "-", stdin=WEB))
    ok(ns("wait", "deploy/web", "--for", "jsonpath={.metadata.annotations.deployment\\.kubernetes\\.io/revision}=1"))
    ok(ns("apply", "-f", "-", stdin=WEB.replace("web:1", "web:bad")))
    ok(ns("wait", "deploy/web", "--for", "jsonpath={.metadata.annotations.deployment\\.kubernetes\\.io/revision}=2"))
    history = ok(ns("rollout", "history", "deploy/web"))
    assert [line.split()[0] for line in history.splitlines()[2:]] == ["1", "2"]
    assert "web:1" in ok(ns("rollout", "history", "deploy/web", "--revision", "1"))
    assert ok(ns("rollout", "pause", "deploy/web")) == "deployment.apps/web paused\n"
    assert "cannot rollback a paused deployment" in ns("rollout", "undo", "deploy/web").stderr
    assert ok(ns("rollout", "resume", "deploy/web")) == "deployment.apps/web resumed\n"
    assert ok(ns("rollout", "undo", "deploy/web")) == "deployment.apps/web rolled back\n"
    assert ok(ns("get", "deploy", "web", "-o", "jsonpath={..image}")) == "web:1"
    assert "unable to find specified revision 9" in ns("rollout", "undo", "deploy/web", "--to-revision", "9").stderr
    status = ns("rollout", "status", "deploy/web", "--timeout", "1s")
    assert "Waiting for deployment" in status.stdout
    assert status.returncode == 1


def test_edit_sends_what_was_changed(ns: Wherry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ok(ns("apply", "-f", "-", stdin=WEB))
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i "s/web:1/web:edited/" "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", str(editor))
    monkeypatch.delenv("KUBE_EDITOR", raising=False)
    assert ok(ns("edit", "deploy/web")) == "deployment.apps/web edited\n"
    assert ok(ns("get", "deploy", "web", "-o", "jsonpath={..image}")) == "web:edited"
    assert "no changes made" in ok(ns("edit", "deploy/web"))


def test_delete_by_file_name_and_label(ns: Wherry) -> None:
    ok(ns("apply", "-f", "-", stdin=WEB))
    assert ok(ns("delete", "-f", "-", stdin=WEB)).startswith('deployment.apps "web" deleted')
    assert ns("get", "deploy", "web").returncode == 1
    missing = ns("delete", "deploy", "web")
    assert missing.returncode == 1
    assert 'deployments.apps "web" not found' in missing.stderr
    ok(ns("delete", "deploy", "web", "--ignore-not-found"))


def test_wait_times_out(ns: Wherry) -> None:
    ok(ns("apply", "-f", "-", stdin=WEB))
    late = ns("wait", "deploy/web", "--for", "condition=Available", "--timeout", "300ms")
    assert late.returncode == 1
    assert "timed out waiting for the condition on deployment.apps/web" in late.stderr


def test_nodes_cordon_and_drain(server: Server) -> None:
    node = "apiVersion: v1\nkind: Node\nmetadata: {name: spare}\n"
    ok(server.run("apply", "-f", "-", stdin=node))
    assert ok(server.run("cordon", "spare")) == "node/spare cordoned\n"
    assert ok(server.run("cordon", "spare")) == "node/spare already cordoned\n"
    assert "SchedulingDisabled" in ok(server.run("get", "nodes"))
    assert ok(server.run("drain", "spare")).endswith("node/spare drained\n")
    assert ok(server.run("uncordon", "spare")) == "node/spare uncordoned\n"
    ok(server.run("delete", "node", "spare"))


def test_events_api_resources_explain_version(server: Server) -> None:
    assert "deployments" in ok(server.run("api-resources"))
    of_apps = ok(server.run("api-resources", "-o", "name", "--api-group", "apps")).split()
    assert {"deployments.apps", "replicasets.apps"} <= set(of_apps)
    assert all(name.endswith(".apps") for name in of_apps)
    assert "containers" in ok(server.run("explain", "pod.spec"))
    assert "imge" in server.run("explain", "pod.spec.containers.imge").stderr
    assert ok(server.run("--version")).startswith("wherry ")
    assert server.run("events", "-A").returncode == 0


def test_errors_in_kubectls_words(server: Server) -> None:
    missing = server.run("get", "pod", "nothing")
    assert (missing.returncode, missing.stderr) == (1, 'Error from server (NotFound): pods "nothing" not found\n')
    assert 'resource type "podz"' in server.run("get", "podz").stderr
    assert "unable to match a printer" in server.run("get", "pods", "-o", "xml").stderr
    away = server.run("--server", "127.0.0.1:1", "get", "pods")
    assert away.returncode == 1
    assert "wherry up" in away.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(server: Server, shell: str) -> None:
    assert "_WHERRY_COMPLETE" in ok(server.run("completion", shell))


def test_flags_as_kubectls_users_write_them(ns: Wherry, server: Server) -> None:
    ok(ns("apply", "-f", "-", stdin=WEB))
    place = ok(ns("get", "deploy", "web", "-o", "jsonpath={.metadata.namespace}"))
    for words in (
        ["-n", place, "get", "deploy", "-oname"],
        ["get", "deploy", "-n", place, "-oname", "--watch=false"],
        ["get", "deploy", "-n", place, "-o=name", "--kubeconfig", str(server.config)],
        ["-n", "kube-system", "get", "deploy", f"--namespace={place}", "-o", "name", "--ignore-not-found=true"],
    ):
        assert ok(server.run(*words)) == "deployment.apps/web\n", words
    assert ok(ns("delete", "deploy", "web", "--wait=false", "--dry-run=server")).endswith("(server dry run)\n")
    assert ok(ns("apply", "--dry-run", "-f", "-", stdin=WEB)) == "deployment.apps/web unchanged (dry run)\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["label", "deploy/web", "a=b"], "labeled", id="label"),
        pytest.param(["annotate", "deploy/web", "a=b"], "annotated", id="annotate"),
        pytest.param(["scale", "deploy/web", "--replicas=9"], "scaled", id="scale"),
    ],
)
@pytest.mark.parametrize(
    ("dry_run", "mark"),
    [
        pytest.param("client", " (dry run)", id="client"),
        pytest.param("server", " (server dry run)", id="server"),
    ],
)
def test_small_changes_have_dry_runs(ns: Wherry, words: list[str], said: str, dry_run: str, mark: str) -> None:
    ok(ns("apply", "-f", "-", stdin=WEB))
    before = ok(
        ns("get", "deploy", "web", "-o", "jsonpath={.metadata.generation}{.metadata.labels}{.metadata.annotations}")
    )
    assert ok(ns(*words, f"--dry-run={dry_run}")) == f"deployment.apps/web {said}{mark}\n"
    after = ok(
        ns("get", "deploy", "web", "-o", "jsonpath={.metadata.generation}{.metadata.labels}{.metadata.annotations}")
    )
    assert before.replace('"deployment.kubernetes.io/revision":"1",', "") == after.replace(
        '"deployment.kubernetes.io/revision":"1",', ""
    )


def test_wrong_usage_is_one_line_and_a_hint(server: Server) -> None:
    for words, message in ((["get", "pods", "--foo"], "--foo"), (["gett"], "gett"), (["apply", "-f"], "-f")):
        result = server.run(*words)
        assert result.returncode == 2
        assert result.stderr.startswith("error: ")
        assert message in result.stderr.splitlines()[0]
        assert "--help" in result.stderr.splitlines()[1]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        pytest.param("wherry get config", "configmaps", id="kinds"),
        pytest.param("wherry get po,dep", "po,deployments", id="kinds-of-a-list"),
        pytest.param("wherry get ns kube-s", "kube-system", id="names"),
        pytest.param("wherry get ns/kube-s", "ns/kube-system", id="names-behind-a-slash"),
        pytest.param("wherry get cm -n kube-p", "kube-public", id="namespaces"),
        pytest.param("wherry get cm -n kube-system kube-r", "kube-root-ca.crt", id="names-in-a-namespace"),
        pytest.param("wherry get pods --all-n", "--all-namespaces", id="flags"),
        pytest.param("wherry rollout und", "undo", id="words"),
    ],
)
def test_the_shell_completes(server: Server, line: str, wanted: str) -> None:
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_WHERRY_COMPLETE": "complete_bash"}
    result = subprocess.run(
        [*MAIN], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "WHERRY_CONFIG": str(server.config), **asked},
    )  # fmt: skip
    assert wanted in result.stdout.split()
