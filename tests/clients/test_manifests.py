"""The example manifests, in the style of those that people apply everywhere: the real kubectl applies each cleanly, and once
more as unchanged; their workloads become ready on real containers, and do what they are for.

A workload whose controller is not there yet is only applied; the server says which (docs/stored-only.md).
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wherry.testing.kubectl import BINARIES, NEWEST, OLDEST, Kubectl, require_kubectl
from wherry.testing.local import LocalCluster, until

pytestmark = pytest.mark.timeout(240)

MANIFESTS = Path(__file__).parents[2] / "manifests"
STORED_ONLY = Path(__file__).parents[2] / "docs" / "stored-only.md"
VERSIONS = "jsonpath={range .items[*]}{.kind} {.metadata.generation} {.data}{.rules}{.webhooks}, {end}"
# Of these kubectl sends a part whenever it applies them (a selector that is replaced as a whole, a list of claims that the server
# completes), and says "configured" with any server.
SENT_AGAIN = {"poddisruptionbudget.policy/database", "statefulset.apps/database"}
SETS = ("guestbook", "database", "node-agent", "operator", "pipeline")


def is_stored_only(*kinds: str) -> bool:
    lines = STORED_ONLY.read_text().splitlines()
    return any(line.startswith(f"| {kind} |") for kind in kinds for line in lines)


@pytest.fixture(scope="module")
def kubectl(cluster: LocalCluster, kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    require_kubectl()
    return Kubectl(BINARIES[NEWEST[0]], kubeconfig, tmp_path_factory.mktemp("home"), "")


@pytest.fixture(scope="module")
def applied(kubectl: Kubectl) -> dict[str, str]:
    """All of them at once, so that they become ready together; what kubectl said of each, both times."""
    return {name: kubectl("apply", "-f", str(MANIFESTS / f"{name}.yaml")) for name in SETS}


def outcomes(text: str) -> set[str]:
    return {line.rpartition(" ")[2] for line in text.splitlines()}


@pytest.mark.parametrize("name", SETS)
def test_applies_cleanly_and_again_as_unchanged(kubectl: Kubectl, applied: dict[str, str], name: str) -> None:
    file = str(MANIFESTS / f"{name}.yaml")
    objects = len(re.findall(r"^kind: ", Path(file).read_text(), re.MULTILINE))
    assert len(applied[name].splitlines()) == objects
    assert outcomes(applied[name]) == {"created"}
    versions = kubectl("get", "-f", file, "-o", VERSIONS)
    again = kubectl("apply", "-f", file)
    assert {line.partition(" ")[0] for line in again.splitlines() if not line.endswith(" unchanged")} <= SENT_AGAIN
    assert kubectl("get", "-f", file, "-o", VERSIONS) == versions
    assert kubectl.run("diff", "-f", file).returncode == 0
    # Server-side, which makes another manager of the same fields, and twice.
    assert outcomes(kubectl("apply", "--server-side", "--force-conflicts", "-f", file)) == {"serverside-applied"}
    versions = kubectl("get", "-f", file, "-o", VERSIONS)
    kubectl("apply", "--server-side", "--force-conflicts", "-f", file)
    assert kubectl("get", "-f", file, "-o", VERSIONS) == versions


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


def test_the_operator_follows_its_kind(kubectl: Kubectl, applied: dict[str, str]) -> None:
    kubectl("-n", "backup-operator", "rollout", "status", "deployment/release-backup-operator", "--timeout=50s")
    backup = "apiVersion: storage.example.com/v1\nkind: Backup\nmetadata: {name: nightly}\nspec: {source: db}\n"
    assert kubectl("apply", "-f", "-", stdin=backup) == "backup.storage.example.com/nightly created\n"
    assert kubectl("apply", "-f", "-", stdin=backup) == "backup.storage.example.com/nightly unchanged\n"
    columns = kubectl("get", "bk").splitlines()
    assert columns[0].split() == ["NAME", "SCHEDULE", "PHASE", "AGE"]
    assert columns[1].split()[:2] == ["nightly", "@daily"]
    refused = kubectl.fails("apply", "-f", "-", stdin=backup.replace("source: db", "{source: db, keep: 0}"[1:-1]))
    assert "spec.keep: Invalid value: 0: spec.keep in body should be greater than or equal to 1" in refused
    words = ("exec", "deployment/release-backup-operator", "--", "cat", "/tmp/readyz")
    assert kubectl("-n", "backup-operator", *words) == "backup-operator"


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
    left = ("database", "node-agent", "backup-operator", "pipeline")
    until(
        lambda: not set(left) & set(kubectl("get", "namespaces", "-o", "jsonpath={.items[*].metadata.name}").split()),
        90,
    )
