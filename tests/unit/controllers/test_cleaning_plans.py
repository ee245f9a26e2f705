"""podgc, namespace and service account plans, as tables."""

from __future__ import annotations

from collections import Counter

import pytest

from controlplane.controllers.namespace import plan as namespace_plan
from controlplane.controllers.namespace.plan import Remains
from controlplane.controllers.podgc import plan as podgc
from controlplane.controllers.serviceaccount import plan as accounts
from wherry.pb import core_v1_pb2, meta_v1_pb2
from wherry.testing.builders import CREATED_S, make_node, make_pod

NOW = CREATED_S + 1_000.0


def pod(name: str, *, node: str = "", phase: str = "Running", deleting: bool = False, age_s: int = 0, reason: str = "") -> core_v1_pb2.Pod:  # fmt: skip  # noqa: E501
    built = make_pod(name).build()
    built.spec.node_name = node
    built.status.phase = phase
    built.status.reason = reason
    built.metadata.creation_timestamp.seconds = CREATED_S - age_s
    if deleting:
        built.metadata.deletion_timestamp.seconds = CREATED_S
    return built


def names(collected: list[podgc.Collected]) -> list[str]:
    return [each.pod.metadata.name for each in collected]


def test_the_oldest_finished_pods_beyond_the_threshold_go() -> None:
    pods = [
        pod("old", phase="Succeeded", age_s=90),
        pod("young", phase="Failed", age_s=10),
        pod("evicted", phase="Failed", age_s=1, reason="Evicted"),
        pod("running", age_s=500),
        pod("going", phase="Failed", age_s=500, deleting=True),
    ]
    assert names(podgc.plan_finished(pods, 1)) == ["evicted", "old"]
    assert names(podgc.plan_finished(pods, 3)) == []


def test_pods_deleted_before_they_had_a_node_go() -> None:
    pods = [pod("a", deleting=True), pod("b", node="n1", deleting=True), pod("c")]
    assert names(podgc.plan_unscheduled(pods)) == ["a"]


def test_terminating_pods_on_a_node_out_of_service_go() -> None:
    lost = make_node("n1").build()
    del lost.status.conditions[:]
    lost.status.conditions.add(type="Ready", status="Unknown")
    lost.spec.taints.add(key=podgc.OUT_OF_SERVICE, effect="NoExecute")
    pods = [pod("a", node="n1", deleting=True), pod("b", node="n1"), pod("c", node="n2", deleting=True)]
    assert names(podgc.plan_out_of_service(pods, [lost])) == ["a"]
    lost.status.conditions[0].status = "True"
    assert names(podgc.plan_out_of_service(pods, [lost])) == []


def test_pods_of_missing_nodes() -> None:
    pods = [pod("a", node="gone"), pod("b", node="n1"), pod("c"), pod("d", node="also-gone")]
    assert podgc.missing_nodes(pods, {"n1"}) == ["also-gone", "gone"]
    (found,) = podgc.plan_orphaned(pods, ["gone"])
    assert (found.pod.metadata.name, found.reason) == ("a", "DeletionByPodGC")


def conditions(status: core_v1_pb2.NamespaceStatus | None) -> dict[str, tuple[str, str, str]]:
    assert status is not None
    return {each.type: (each.status, each.reason, each.message) for each in status.conditions}


def test_a_namespace_says_what_holds_it_up() -> None:
    namespace = core_v1_pb2.Namespace()
    remains = Remains(Counter({"pods.": 2, "deployments.apps": 1}), Counter({"example.com/f": 1}), [])
    found = conditions(namespace_plan.plan_status(namespace, remains, NOW))
    assert found["NamespaceContentRemaining"] == (
        "True", "SomeResourcesRemain",
        "Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances",
    )  # fmt: skip
    assert found["NamespaceFinalizersRemaining"] == (
        "True", "SomeFinalizersRemain",
        "Some content in the namespace has finalizers remaining: example.com/f in 1 resource instances",
    )  # fmt: skip
    assert found["NamespaceDeletionContentFailure"][0] == "False"
    assert not remains.nothing


def test_an_empty_namespace_is_let_go() -> None:
    namespace = core_v1_pb2.Namespace(spec=core_v1_pb2.NamespaceSpec(finalizers=["kubernetes", "example.com/f"]))
    status = namespace_plan.plan_status(namespace, Remains(), NOW)
    assert conditions(status)["NamespaceContentRemaining"][1] == "ContentRemoved"
    assert status is not None
    namespace.status.CopyFrom(status)
    assert namespace_plan.plan_status(namespace, Remains(), NOW + 9) is None
    assert Remains().nothing
    assert list(namespace_plan.finalized(namespace).spec.finalizers) == ["example.com/f"]


def test_a_failed_deletion_is_reported() -> None:
    remains = Remains(errors=["pods: no"])
    found = conditions(namespace_plan.plan_status(core_v1_pb2.Namespace(), remains, NOW))
    assert found["NamespaceDeletionContentFailure"] == (
        "True", "ContentDeletionFailed", "Failed to delete all resource types, 1 remaining: pods: no",
    )  # fmt: skip
    assert not remains.nothing


def namespace(*, deleting: bool = False) -> core_v1_pb2.Namespace:
    built = core_v1_pb2.Namespace(metadata=meta_v1_pb2.ObjectMeta(name="ns"))
    if deleting:
        built.metadata.deletion_timestamp.seconds = CREATED_S
    return built


def test_a_new_namespace_gets_its_account_and_bundle() -> None:
    decided = accounts.plan(namespace(), None, None, "PEM")
    assert decided.create_account is not None
    assert decided.create_bundle is not None
    assert (decided.create_account.metadata.name, decided.create_account.metadata.namespace) == ("default", "ns")
    assert (decided.create_bundle.metadata.name, dict(decided.create_bundle.data)) == (
        "kube-root-ca.crt",
        {"ca.crt": "PEM"},
    )
    assert accounts.plan(namespace(), decided.create_account, decided.create_bundle, "PEM") == accounts.Plan()


BUNDLES = [
    pytest.param({"ca.crt": "old"}, id="another CA"),
    pytest.param({"ca.crt": "PEM", "more": "x"}, id="something added"),
    pytest.param({}, id="emptied"),
]


@pytest.mark.parametrize("data", BUNDLES)
def test_a_changed_bundle_is_put_right(data: dict[str, str]) -> None:
    bundle = core_v1_pb2.ConfigMap(metadata=meta_v1_pb2.ObjectMeta(name="kube-root-ca.crt", uid="u"), data=data)
    decided = accounts.plan(namespace(), core_v1_pb2.ServiceAccount(), bundle, "PEM")
    assert decided.update_bundle is not None
    assert dict(decided.update_bundle.data) == {"ca.crt": "PEM"}
    assert decided.update_bundle.metadata.uid == "u"


def test_a_namespace_that_goes_gets_nothing() -> None:
    assert accounts.plan(namespace(deleting=True), None, None, "PEM") == accounts.Plan()


@pytest.mark.parametrize(
    ("one", "concerned"),
    [
        pytest.param(pod("a", node="n1"), False, id="runs"),
        pytest.param(pod("a", phase="Pending"), False, id="waits for a node"),
        pytest.param(pod("a", node="gone"), True, id="on a node that is no more"),
        pytest.param(pod("a", node="n1", deleting=True), True, id="goes"),
        pytest.param(pod("a", node="n1", phase="Failed"), True, id="has ended"),
    ],
)
def test_only_some_pods_are_looked_at_closely(one: core_v1_pb2.Pod, concerned: bool) -> None:
    assert podgc.concerns(one, {"n1"}) is concerned
