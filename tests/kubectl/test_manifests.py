"""Changes with kubectl: what was applied last, pruning, apply sets, diff, edit with mistakes, replace, patches that fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from wherry.testing.kubectl import NEWEST, WEB, Kubectl, versions

pytestmark = pytest.mark.timeout(180)
PAIR = """
apiVersion: v1
kind: ConfigMap
metadata: {name: one, labels: {pair: "yes"}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: two, labels: {pair: "yes"}}
"""
ONE = PAIR.partition("---")[0]


def editing(kubectl: Kubectl, directory: Path, *steps: tuple[str, str]) -> Path:
    """From now on the editor of `kubectl` makes the n-th of these replacements when it is opened for the n-th time. The folder
    has what it was shown each time."""
    seen = directory / "seen"
    seen.mkdir(exist_ok=True)
    for old in seen.iterdir():
        old.unlink()
    script = directory / "editor.py"
    script.write_text(
        "import pathlib, sys\n"
        f"seen, steps = pathlib.Path({str(seen)!r}), {steps!r}\n"
        "file = pathlib.Path(sys.argv[1])\n"
        "text, number = file.read_text(), len(list(seen.iterdir()))\n"
        "(seen / str(number)).write_text(text)\n"
        "if number < len(steps):\n"
        "    assert steps[number][0] in text, text\n"
        "    file.write_text(text.replace(*steps[number]))\n"
    )
    kubectl.environment["KUBE_EDITOR"] = f"{sys.executable} {script}"
    return seen


@versions(NEWEST)
def test_what_was_applied_last(kubectl: Kubectl, tmp_path: Path) -> None:
    kubectl("apply", "-f", "-", stdin=WEB)
    assert "color: red" in kubectl("apply", "view-last-applied", "cm/settings")
    changed = WEB.replace("red", "blue")
    assert "settings configured" in kubectl("apply", "set-last-applied", "-f", "-", stdin=changed)
    assert "color: blue" in kubectl("apply", "view-last-applied", "cm/settings")
    assert kubectl("get", "cm", "settings", "-o", "jsonpath={.data.color}") == "red"
    editing(kubectl, tmp_path, ("blue", "green"))
    kubectl("apply", "edit-last-applied", "cm/settings")
    assert "color: green" in kubectl("apply", "view-last-applied", "cm/settings")
    said = kubectl("apply", "--dry-run=server", "-f", "-", stdin=WEB.replace("red", "white"))
    assert "configmap/settings configured (server dry run)" in said
    assert kubectl("get", "cm", "settings", "-o", "jsonpath={.data.color}") == "red"


@pytest.mark.full
@versions(NEWEST)
def test_pruning(kubectl: Kubectl) -> None:
    kinds = "--prune-allowlist=core/v1/ConfigMap"
    assert kubectl("apply", "--prune", "-l", "pair", kinds, "-f", "-", stdin=PAIR).count(" created\n") == 2
    said = kubectl("apply", "--prune", "-l", "pair", kinds, "-f", "-", stdin=ONE)
    assert said == "configmap/one unchanged\nconfigmap/two pruned\n"
    kubectl.environment["KUBECTL_APPLYSET"] = "true"
    kubectl("delete", "cm", "one")
    kubectl("apply", "--prune", "--applyset=secrets/mine", "-f", "-", stdin=PAIR)
    member = kubectl("get", "cm", "one", "-o", r"jsonpath={.metadata.labels.applyset\.kubernetes\.io/part-of}")
    parent = kubectl("get", "secret", "mine", "-o", r"jsonpath={.metadata.labels.applyset\.kubernetes\.io/id}")
    assert member == parent != ""
    assert "configmap/two pruned" in kubectl("apply", "--prune", "--applyset=secrets/mine", "-f", "-", stdin=ONE)
    assert kubectl("get", "cm", "-l", "pair", "-o", "name") == "configmap/one\n"


@versions(NEWEST)
def test_the_exit_codes_of_diff(kubectl: Kubectl) -> None:
    def code(*words: str, stdin: str | None = None) -> int:
        return kubectl.run("diff", *words, stdin=stdin).returncode

    assert code("-f", "-", stdin=ONE) == 1
    kubectl("apply", "-f", "-", stdin=ONE)
    assert code("-f", "-", stdin=ONE) == 0
    assert code("-f", "/nowhere.yaml") > 1
    changed = ONE.replace('"yes"', '"no"')
    shown = kubectl.run("diff", "--server-side", "--force-conflicts", "-f", "-", stdin=changed)
    assert shown.returncode == 1
    assert '-    pair: "yes"\n+    pair: "no"\n' in shown.stdout


@versions(NEWEST)
def test_an_editor_opens_again_after_a_mistake(web: Kubectl, tmp_path: Path) -> None:
    seen = editing(web, tmp_path, ("  replicas: 2\n", "  replicas: -1\n"), ("replicas: -1", "replicas: 3"))
    edited = web.run("edit", "deployment", "web")
    assert edited.stdout == "deployment.apps/web edited\n"
    assert 'error: deployments.apps "web" is invalid' in edited.stderr
    again = (seen / "1").read_text()
    assert '# deployments.apps "web" was not valid:\n' in again
    assert "# * spec.replicas: Invalid value: -1: must be greater than or equal to 0\n" in again
    assert web("get", "deployment", "web", "-o", "jsonpath={.spec.replicas}") == "3"
    editing(web, tmp_path)
    assert "no changes made" in web.run("edit", "deployment", "web").stderr
    editing(web, tmp_path, ("replicas: 3", "replicas: many"))
    given_up = web.run("edit", "deployment", "web")
    assert given_up.returncode == 1
    assert "A copy of your changes has been stored to" in given_up.stderr
    editing(web, tmp_path, ("kind: Deployment", "kind: Deploymint"))
    assert web.run("edit", "deployment", "web").returncode == 1


@versions(NEWEST)
def test_patches_of_subresources_and_patches_that_fail(web: Kubectl) -> None:
    scaled = web("patch", "deployment", "web", "--subresource=scale", "--type=merge", "-p", '{"spec": {"replicas": 3}}')
    assert scaled.startswith("scale.autoscaling/web patched")
    header, row = web("get", "deployment", "web", "--subresource=scale").splitlines()
    assert header.split() == ["NAME", "DESIRED", "AVAILABLE", "AGE"]
    assert row.split()[:2] == ["web", "3"]
    wrong = '[{"op": "test", "path": "/spec/replicas", "value": 9}]'
    assert web.fails("patch", "deployment", "web", "--type=json", "-p", wrong) == (
        "The request is invalid: the server rejected our request due to an error in our request\n"
    )
    assert (
        'unknown field "spec.replicaz"' in web.run("patch", "deploy", "web", "-p", '{"spec": {"replicaz": 1}}').stderr
    )
    shown = web(
        "patch",
        "deploy",
        "web",
        "--dry-run=server",
        "-p",
        '{"spec": {"replicas": 7}}',
        "-o",
        "jsonpath={.spec.replicas}",
    )
    assert shown == "7"
    assert web("get", "deploy", "web", "-o", "jsonpath={.spec.replicas}") == "3"
    found = web("get", "deploy", "web", "-o", "yaml")
    assert "replaced" in web("replace", "--subresource=status", "-f", "-", stdin=found.replace("web:1", "web:9"))
    assert web("get", "deploy", "web", "-o", "jsonpath={..image}") == "web:1"


@pytest.mark.full
@versions(NEWEST)
def test_labels_and_annotations_are_listed(web: Kubectl) -> None:
    web("label", "deploy", "web", "tier=front")
    assert sorted(web("label", "deploy", "web", "--list").split()) == ["app=web", "tier=front"]
    assert 'label "none" not found' in web("label", "deploy", "web", "none-")
    assert "a valid label must be an empty string" in web.fails("label", "deploy", "web", "a=not valid!")
    assert "has been modified" in web.fails("label", "deploy", "web", "b=c", "--resource-version=1")
    web("annotate", "deploy", "web", "note=1")
    assert "already has a value (1)" in web.fails("annotate", "deploy", "web", "note=2")
    assert "note=1\n" in web("annotate", "deploy", "web", "--list")
