"""The example manifests, in the style of those that people apply everywhere: the real kubectl applies each cleanly, and once
more as unchanged; their workloads become ready on real containers, and do what they are for.

A workload whose controller is not there yet is only applied; the server says which (docs/stored-only.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from wherry.testing.kubectl import BINARIES, NEWEST, OLDEST, Kubectl, require_kubectl
from wherry.testing.local import LocalCluster, until
from wherry.testing.pythonimage import python_archive

pytestmark = pytest.mark.timeout(240)

MANIFESTS = Path(__file__).parents[2] / "manifests"
STORED_ONLY = Path(__file__).parents[2] / "docs" / "stored-only.md"
VERSIONS = "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}, {end}"
SETS = ("guestbook", "database", "node-agent", "operator", "pipeline", "chart")


def is_stored_only(*kinds: str) -> bool:
    lines = STORED_ONLY.read_text().splitlines()
    return any(line.startswith(f"| {kind} |") for kind in kinds for line in lines)


@pytest.fixture(scope="module")
def kubectl(cluster: LocalCluster, kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    require_kubectl()
    return Kubectl(BINARIES[NEWEST[0]], kubeconfig, tmp_path_factory.mktemp("home"), "")


@pytest.fixture(scope="module")
def applied(cluster: LocalCluster, kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """All of them at once, so that they become ready together; what kubectl said of each."""
    image = tmp_path_factory.mktemp("image") / "python.tar"
    image.write_bytes(python_archive())
    cluster.ok("image", "load", "--name", cluster.name, str(image))
    return {name: kubectl("apply", "-f", str(MANIFESTS / f"{name}.yaml")) for name in SETS}


def outcomes(text: str) -> set[str]:
    return {line.rpartition(" ")[2] for line in text.splitlines()}


@pytest.mark.parametrize("name", SETS)
def test_applies_cleanly_and_again_as_unchanged(
    cluster: LocalCluster, kubectl: Kubectl, applied: dict[str, str], name: str
) -> None:
    file = str(MANIFESTS / f"{name}.yaml")
    objects = len(re.findall(r"^kind: ", Path(file).read_text(), re.MULTILINE))
    assert len(applied[name].splitlines()) == objects
    assert outcomes(applied[name]) == {"created"}
    if name == "operator":  # it writes its certificate into its webhooks first
        operator_is_ready(kubectl)
    apply = ("apply", "-f", file)
    changes_nothing(kubectl, file, lambda: outcomes(kubectl(*apply)) == {"unchanged"})
    assert kubectl.run("diff", "-f", file).returncode == 0
    # wherry's own apply goes by the same annotation.
    changes_nothing(kubectl, file, lambda: outcomes(cluster.ok(*apply)) == {"unchanged"})
    # Server-side, which makes another manager of the same fields, and twice.
    server_side = (*apply, "--server-side", "--force-conflicts")
    assert outcomes(kubectl(*server_side)) == {"serverside-applied"}
    changes_nothing(kubectl, file, lambda: outcomes(kubectl(*server_side)) == {"serverside-applied"})


def changes_nothing(kubectl: Kubectl, file: str, apply: Callable[[], bool]) -> None:
    """Whatever the cluster does meanwhile of its own (a status): once it rests, applying writes nothing."""

    def same() -> bool:
        before = kubectl("get", "-f", file, "-o", VERSIONS)
        assert apply()
        return kubectl("get", "-f", file, "-o", VERSIONS) == before

    until(same, 90)


BUDGET = """
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: guestbook}
spec:
  maxUnavailable: 1
  selector: {matchLabels: {app: guestbook}}
"""


def test_a_budget_is_sent_again_and_stays(kubectl: Kubectl) -> None:
    """Its selector is a field that patches replace as a whole: kubectl sends it each time, to any server, and says
    "configured"."""
    kubectl("apply", "-f", "-", stdin=BUDGET)
    words = ("get", "pdb", "guestbook", "-o", "jsonpath={.metadata.generation}")
    assert kubectl("apply", "-f", "-", stdin=BUDGET) == "poddisruptionbudget.policy/guestbook configured\n"
    assert kubectl(*words) == "1"
    kubectl("delete", "pdb", "guestbook")


def test_an_old_kubectl_applies_them_too(cluster: LocalCluster, kubectl: Kubectl, applied: dict[str, str]) -> None:
    old = Kubectl(BINARIES[OLDEST[0]], Path(kubectl.environment["KUBECONFIG"]), Path(kubectl.environment["HOME"]), "")
    for name in SETS:
        assert "error" not in old("apply", "--dry-run=server", "-f", str(MANIFESTS / f"{name}.yaml"))


def test_the_guestbook_is_signed(kubectl: Kubectl, applied: dict[str, str]) -> None:
    for tier in ("leader", "follower", "frontend"):
        kubectl("rollout", "status", f"deployment/guestbook-{tier}", "--timeout=50s")
    page = "http://guestbook/cgi-bin/store"
    for name in ("ann", "bob"):
        kubectl("exec", "deployment/guestbook-frontend", "--", "wget", "-q", "-O-", f"{page}?{name}")
    text = kubectl("exec", "deployment/guestbook-frontend", "--", "wget", "-q", "-O-", page)
    assert "The guestbook, by guestbook-frontend-" in text
    assert text.splitlines()[-2:] == ["ann", "bob"]


def operator_is_ready(kubectl: Kubectl) -> None:
    kubectl("-n", "backup-operator", "rollout", "status", "deployment/release-backup-operator", "--timeout=55s")


BACKUP = "apiVersion: storage.example.com/v1\nkind: Backup\nmetadata: {name: nightly}\nspec: {source: ledger}\n"


def copies(kubectl: Kubectl) -> list[str]:
    return kubectl("get", "configmaps", "-l", "storage.example.com/backup=nightly", "-o", "name").split()


def test_the_operator_follows_its_kind(kubectl: Kubectl, applied: dict[str, str]) -> None:
    """A program in a pod: it reaches the API as its service account, and the API reaches its webhooks by their Service."""
    operator_is_ready(kubectl)
    kubectl("delete", "backups,configmaps", "--ignore-not-found", "nightly", "ledger")  # of an earlier try
    assert kubectl("apply", "-f", "-", stdin=BACKUP) == "backup.storage.example.com/nightly created\n"
    # Nothing to copy yet; the mutating hook knew who asks.
    kubectl("wait", "bk/nightly", "--for=jsonpath={.status.phase}=Pending", "--timeout=50s")
    assert kubectl("get", "bk", "nightly", "-o", "jsonpath={.spec.requestedBy} {.spec.keep}") == "kubernetes-admin 7"
    assert "storage.example.com/copies" in kubectl("get", "bk", "nightly", "-o", "jsonpath={.metadata.finalizers}")
    assert kubectl("apply", "-f", "-", stdin=BACKUP) == "backup.storage.example.com/nightly unchanged\n"
    kubectl("create", "configmap", "ledger", "--from-literal=sum=42")
    kubectl("wait", "bk/nightly", "--for=condition=Ready", "--timeout=50s")
    assert copies(kubectl) == ["configmap/nightly-copy-0"]
    assert kubectl("get", "configmap", "nightly-copy-0", "-o", "jsonpath={.data}") == '{"sum":"42"}'
    columns = kubectl("get", "bk").splitlines()
    assert columns[0].split() == ["NAME", "SOURCE", "SCHEDULE", "COPIES", "PHASE", "AGE"]
    assert columns[1].split()[:5] == ["nightly", "ledger", "@daily", "1", "Done"]
    # The scale subresource.
    kubectl("scale", "bk/nightly", "--replicas=8")
    kubectl("wait", "bk/nightly", "--for=jsonpath={.status.copies}=8", "--timeout=50s")
    kubectl("scale", "bk/nightly", "--replicas=2")
    until(lambda: copies(kubectl) == ["configmap/nightly-copy-0", "configmap/nightly-copy-1"])


def test_the_operator_refuses(kubectl: Kubectl, applied: dict[str, str]) -> None:
    """Its kind's schema, its kind's rules, and its webhook, each in its own words."""
    low = BACKUP.replace("source: ledger", "source: ledger, keep: 0")
    refused = kubectl.fails("apply", "-f", "-", stdin=low)
    assert "spec.keep: Invalid value: 0: spec.keep in body should be greater than or equal to 1" in refused
    words = ("patch", "bk", "nightly", "--type=merge", "-p", '{"spec":{"copies":8}}')
    assert "Warning: spec.copies: 8 copies are more than the 7 that are kept" in kubectl.run(*words).stderr
    words = ("patch", "bk", "nightly", "--type=merge", "-p", '{"spec":{"source":"other"}}')
    assert "a backup keeps its source" in kubectl.fails(*words)
    denied = 'Error from server (Forbidden): {}admission webhook "checks.storage.example.com" denied the request: {}\n'
    own = BACKUP.replace("nightly", "own").replace("ledger", "kube-root-ca.crt")
    assert kubectl.fails("create", "-f", "-", stdin=own) == denied.format(
        'error when creating "STDIN": ', "kube-root-ca.crt is the cluster's own"
    )
    kubectl("annotate", "bk/nightly", "storage.example.com/protected=true")
    assert kubectl.fails("delete", "bk/nightly") == denied.format(
        "", "the backup nightly is protected: remove the annotation storage.example.com/protected first"
    )
    kubectl("annotate", "bk/nightly", "storage.example.com/protected-")
    kubectl("delete", "bk/nightly", "--timeout=50s")
    assert copies(kubectl) == [], "its finalizer went when they were gone"
    kubectl("delete", "configmap", "ledger")


def test_a_chart_is_served(kubectl: Kubectl, applied: dict[str, str]) -> None:
    kubectl("-n", "shop", "rollout", "status", "deployment/release-shop", "--timeout=55s")
    # Its test, as a hook of helm: it finds the page by the Service's name.
    kubectl(
        "-n", "shop", "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/release-shop-connection", "--timeout=55s"
    )
    assert kubectl("-n", "shop", "logs", "release-shop-connection") == "<h1>Shop & more</h1>"


@pytest.mark.skipif(is_stored_only("DaemonSet"), reason="no controller acts on DaemonSets yet")
def test_every_node_has_its_agent(kubectl: Kubectl, applied: dict[str, str]) -> None:
    kubectl("-n", "node-agent", "rollout", "status", "daemonset/node-agent", "--timeout=50s")
    (node,) = kubectl("get", "nodes", "-o", "name").split()
    found = kubectl("-n", "node-agent", "exec", "daemonset/node-agent", "--", "cat", "/report/ready")
    assert f"node/{found.strip()}" == node


@pytest.mark.skipif(
    is_stored_only("StatefulSet", "PersistentVolumeClaim"), reason="no controller acts on StatefulSets or claims yet"
)
def test_the_database_has_its_members(kubectl: Kubectl, applied: dict[str, str]) -> None:
    kubectl("-n", "database", "rollout", "status", "statefulset/database", "--timeout=55s")
    for number, role in ((0, "primary"), (2, "replica")):
        member = f"http://database-{number}.database-members:5432/role"
        assert kubectl("-n", "database", "exec", "database-1", "--", "wget", "-q", "-O-", member) == f"{role}\n"


@pytest.mark.skipif(is_stored_only("CronJob", "Job"), reason="no controller acts on CronJobs or Jobs yet")
def test_the_pipeline_runs(kubectl: Kubectl, applied: dict[str, str]) -> None:
    kubectl("-n", "pipeline", "create", "job", "now", "--from=cronjob/nightly")
    kubectl("-n", "pipeline", "wait", "--for=condition=Complete", "job/now", "--timeout=50s")
    assert kubectl("-n", "pipeline", "logs", "job/now") == "sum of squares: 338350\n"


def test_they_go_as_they_came(kubectl: Kubectl, applied: dict[str, str]) -> None:
    """Last in this file."""
    for name in SETS:
        words = ("delete", "--wait=false", "--ignore-not-found", "-f", str(MANIFESTS / f"{name}.yaml"))
        assert "error" not in kubectl(*words)
    until(lambda: "guestbook" not in kubectl("get", "pods,services,deployments", "-o", "name"), 90)
    left = ("database", "node-agent", "backup-operator", "pipeline", "shop")
    until(
        lambda: not set(left) & set(kubectl("get", "namespaces", "-o", "jsonpath={.items[*].metadata.name}").split()),
        90,
    )
