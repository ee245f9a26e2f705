"""kubectl drain and the disruption budgets."""

from __future__ import annotations

import json

import pytest

from wherry.testing.kubectl import NEWEST, OLDEST, Kubectl, KubectlCluster, versions

pytestmark = pytest.mark.timeout(180)


@pytest.mark.about_pods
@versions(NEWEST, OLDEST)
def test_a_drain_keeps_to_a_budget(web: Kubectl, cluster: KubectlCluster) -> None:
    web("create", "pdb", "web", "--selector=app=web", "--min-available=1")
    web("wait", "--for=jsonpath={.status.disruptionsAllowed}=1", "pdb/web", "--timeout=30s")
    row = web("get", "pdb", "web").splitlines()[1].split()
    assert row[:4] == ["web", "1", "N/A", "1"]
    assert "app=web" in web("describe", "pdb", "web")
    try:
        # Only pods of this test: the node has others'. Two of them, one of which may go while no other node takes it.
        drain = ("drain", web.node, f"--pod-selector=app=web,ns={web.namespace}", "--ignore-daemonsets")
        web("patch", "deployment", "web", "-p", json.dumps({"spec": {"template": {"metadata": {"labels": {
            "ns": web.namespace,
        }}}}}))  # fmt: skip
        web("rollout", "status", "deployment/web", "--timeout=60s")
        web("wait", "--for=jsonpath={.status.disruptionsAllowed}=1", "pdb/web", "--timeout=30s")
        text = web.fails(*drain, "--timeout=4s")
        assert "Cannot evict pod as it would violate the pod's disruption budget" in text
        assert web("get", "pdb", "web", "-o", "jsonpath={.status.disruptionsAllowed}") == "0"
        ours = cluster.wherry(*drain, "--timeout", "1s")
        assert ours.returncode == 1
        assert "Cannot evict pod as it would violate the pod's disruption budget" in ours.stderr
        web("patch", "pdb", "web", "-p", '{"spec":{"minAvailable":0}}')
        assert f"node/{web.node} drained" in web(*drain, "--timeout=60s")
    finally:
        web("uncordon", web.node)
    web("rollout", "status", "deployment/web", "--timeout=60s")


@pytest.mark.full
@versions(NEWEST)
def test_what_a_drain_leaves_alone_and_how_it_is_made_to(web: Kubectl, cluster: KubectlCluster) -> None:
    web("run", "alone", "--image=a:1")
    web("wait", "--for=condition=Ready", "pod/alone", "--timeout=60s")
    mine = ("drain", web.node, "--ignore-daemonsets")
    try:
        refused = web.fails(*mine, "--pod-selector=run=alone")
        assert "declare no controller (use --force to override)" in refused
        web("create", "pdb", "web", "--selector=app=web", "--min-available=2")
        text = web(*mine, "--pod-selector=run=alone", "--force", "--grace-period=1", "--timeout=60s")
        assert "pod/alone evicted" in text
        past = web(*mine, "--pod-selector=app=web", "--disable-eviction", "--grace-period=1", "--timeout=60s")
        assert past.count(" deleted\n") >= 2
        assert f"node/{web.node} drained" in past
    finally:
        web("uncordon", web.node)
    assert web("uncordon", web.node) == f"node/{web.node} already uncordoned\n"
