"""What a node may do, as a table: its own Node, Lease, CSRs and pods, what its pods refer to, and nothing else."""

from __future__ import annotations

import pytest

from controlplane.auth.authorizer import Attributes, Authorizer
from controlplane.auth.deciders import CONTROLLER_MANAGER, SCHEDULER, Components, Everyone, Masters
from controlplane.auth.nodes import Nodes, references
from controlplane.registry.base import ADMIN, ANONYMOUS, Identity
from wherry.api.errors import Forbidden
from wherry.pb.core_v1_pb2 import Pod
from wherry.testing.serving import node_identity

N1 = node_identity("n1")


def a_pod() -> Pod:
    """Bound to n1; refers to every kind of thing that a pod can refer to."""
    pod = Pod()
    pod.metadata.name = "mine"
    pod.metadata.namespace = "ns"
    pod.spec.node_name = "n1"
    pod.spec.service_account_name = "sa"
    pod.spec.image_pull_secrets.add(name="pull")
    pod.spec.volumes.add(name="a").volume_source.config_map.local_object_reference.name = "cm-volume"
    pod.spec.volumes.add(name="b").volume_source.secret.secret_name = "s-volume"
    pod.spec.volumes.add(name="c").volume_source.persistent_volume_claim.claim_name = "claim"
    projected = pod.spec.volumes.add(name="d").volume_source.projected
    projected.sources.add().config_map.local_object_reference.name = "cm-projected"
    projected.sources.add().secret.local_object_reference.name = "s-projected"
    container = pod.spec.containers.add(name="main")
    container.env_from.add().config_map_ref.local_object_reference.name = "cm-all"
    container.env_from.add().secret_ref.local_object_reference.name = "s-all"
    container.env.add(name="K").value_from.config_map_key_ref.local_object_reference.name = "cm-key"
    init = pod.spec.init_containers.add(name="init")
    init.env.add(name="K").value_from.secret_key_ref.local_object_reference.name = "s-init"
    debug = pod.spec.ephemeral_containers.add()
    debug.ephemeral_container_common.env.add(name="K").value_from.secret_key_ref.local_object_reference.name = "s-debug"
    return pod


async def pods_of(node: str) -> list[Pod]:
    return [a_pod()] if node == "n1" else []


async def requester_of(name: str) -> str:
    return {"my-csr": "system:node:n1", "other-csr": "system:node:n2"}.get(name, "")


AUTHORIZER = Authorizer([Masters(), Components(), Everyone(), Nodes(pods_of, requester_of)])


def ask(text: str) -> Attributes:
    """`verb group/resource/subresource namespace/name ?selector`; "-" stands for an empty part."""
    verb, what, place, *selector = text.split()
    group, resource, subresource = ([*what.split("/"), ""])[:3] if what.count("/") else ("", what, "")
    namespace, name = place.split("/")
    clean = {"-": ""}
    return Attributes(
        verb,
        clean.get(group, group),
        resource,
        subresource,
        clean.get(namespace, namespace),
        clean.get(name, name),
        selector[0] if selector else "",
    )


ALLOWED_TO_NODES = [
    "create -/nodes -/n1",
    "get -/nodes -/n2",
    "watch -/nodes -/-",
    "update -/nodes -/n1",
    "patch -/nodes/status -/n1",
    "get coordination.k8s.io/leases kube-node-lease/n1",
    "update coordination.k8s.io/leases kube-node-lease/n1",
    "create certificates.k8s.io/certificatesigningrequests -/-",
    "get certificates.k8s.io/certificatesigningrequests -/my-csr",
    "watch certificates.k8s.io/certificatesigningrequests -/- metadata.name=my-csr",
    "create -/events ns/-",
    "patch -/events ns/e",
    "list -/pods -/- spec.nodeName=n1",
    "watch -/pods -/- spec.nodeName=n1",
    "get -/pods ns/mine",
    "update -/pods/status ns/mine",
    "delete -/pods ns/mine",
    "create -/pods/eviction ns/mine",
    "list -/services -/-",
    "get -/serviceaccounts ns/sa",
    "create -/serviceaccounts/token ns/sa",
    *(f"get -/configmaps ns/{name}" for name in ("cm-volume", "cm-projected", "cm-all", "cm-key")),
    *(f"get -/secrets ns/{name}" for name in ("pull", "s-volume", "s-projected", "s-all", "s-init", "s-debug")),
    "get -/persistentvolumeclaims ns/claim",
    "watch -/secrets ns/- metadata.name=s-volume",
]

DENIED_TO_NODES = [
    ("create -/nodes -/n2", "node 'n1' cannot create another node"),
    ("patch -/nodes/status -/n2", "node 'n1' cannot patch another node"),
    ("delete -/nodes -/n1", ""),
    ("deletecollection -/nodes -/-", ""),
    ("update coordination.k8s.io/leases kube-node-lease/n2", "the same name as the requesting node"),
    ("update coordination.k8s.io/leases kube-system/n1", '"kube-node-lease" system namespace'),
    ("list coordination.k8s.io/leases kube-node-lease/-", ""),
    ("get certificates.k8s.io/certificatesigningrequests -/other-csr", "only read its own"),
    ("list certificates.k8s.io/certificatesigningrequests -/-", ""),
    ("update certificates.k8s.io/certificatesigningrequests/approval -/my-csr", ""),
    ("list -/events ns/-", ""),
    ("list -/pods -/-", "can only list/watch pods with spec.nodeName field selector"),
    ("list -/pods -/- spec.nodeName=n2", "spec.nodeName field selector"),
    ("list -/pods -/- spec.nodeName!=n1", "spec.nodeName field selector"),
    ("get -/pods ns/other", "no relationship found between node 'n1' and this object"),
    ("update -/pods/status ns/other", "no relationship found"),
    ("delete -/pods ns/other", "no relationship found"),
    ("delete -/pods other/mine", "no relationship found"),
    ("create -/pods ns/-", ""),
    ("update -/pods ns/mine", ""),
    ("create -/pods/binding ns/mine", ""),
    ("create -/pods/exec ns/mine", ""),
    ("get -/pods/log ns/mine", ""),
    ("get -/secrets ns/other", "no relationship found"),
    ("get -/secrets other/s-volume", "no relationship found"),
    ("list -/secrets ns/-", "can only read namespaced object of this type"),
    ("watch -/secrets -/- metadata.name=s-volume", "can only read namespaced object of this type"),
    ("update -/secrets ns/s-volume", "can only read resources of this type, not update"),
    ("get -/configmaps ns/kube-root-ca.crt", "no relationship found"),
    ("get -/serviceaccounts ns/default", "no relationship found"),
    ("create -/serviceaccounts/token ns/default", "no relationship found"),
    ("update -/namespaces -/x", ""),
    ("update -/services ns/s", ""),
    ("get apps/deployments ns/d", ""),
    ("create rbac.authorization.k8s.io/clusterrolebindings -/x", ""),
]


@pytest.mark.parametrize("question", ALLOWED_TO_NODES)
async def test_a_node_may(question: str) -> None:
    await AUTHORIZER.check(N1, ask(question))


@pytest.mark.parametrize(("question", "why"), DENIED_TO_NODES, ids=[question for question, _ in DENIED_TO_NODES])
async def test_a_node_may_not(question: str, why: str) -> None:
    with pytest.raises(Forbidden) as caught:
        await AUTHORIZER.check(N1, ask(question))
    assert why in caught.value.message
    assert 'User "system:node:n1" cannot' in caught.value.message


@pytest.mark.parametrize("question", ["get -/pods ns/mine", "get -/nodes -/n1", "get -/secrets ns/s-volume"])
async def test_a_node_by_name_only_is_nobody(question: str) -> None:
    with pytest.raises(Forbidden):
        await AUTHORIZER.check(Identity("system:node:n1", ("system:authenticated",)), ask(question))


def test_references_are_complete() -> None:
    assert len(references(a_pod())) == 12


@pytest.mark.parametrize(
    ("identity", "question", "allowed"),
    [
        pytest.param(ADMIN, "delete -/nodes -/n1", True, id="an administrator, anything"),
        pytest.param(SCHEDULER, "create -/pods/binding ns/-", True, id="the scheduler binds"),
        pytest.param(SCHEDULER, "get -/secrets ns/s", False, id="the scheduler reads no secrets"),
        pytest.param(SCHEDULER, "create -/pods ns/-", False, id="the scheduler makes no pods"),
        pytest.param(CONTROLLER_MANAGER, "create apps/replicasets ns/-", True, id="controllers make replica sets"),
        pytest.param(CONTROLLER_MANAGER, "delete -/secrets ns/s", True, id="the garbage collector deletes anything"),
        pytest.param(CONTROLLER_MANAGER, "create -/pods/exec ns/p", False, id="controllers run nothing in pods"),
        pytest.param(CONTROLLER_MANAGER, "create -/nodes -/n", False, id="controllers make no nodes"),
        pytest.param(Identity("bob", ("system:authenticated",)), "get -/pods ns/p", False, id="anyone else"),
        pytest.param(ANONYMOUS, "get -/pods ns/p", False, id="nobody"),
    ],
)
async def test_components_and_people(identity: Identity, question: str, allowed: bool) -> None:
    decision = await AUTHORIZER.decide(identity, ask(question))
    assert (decision.verdict.value == "allow") is allowed


@pytest.mark.parametrize(
    ("identity", "path", "allowed"),
    [
        pytest.param(Identity("bob", ("system:authenticated",)), "/apis", True, id="whoever is known discovers"),
        pytest.param(N1, "/apis/apps/v1", True, id="a node too"),
        pytest.param(ANONYMOUS, "/apis", False, id="nobody does not"),
        pytest.param(Identity("bob", ("system:authenticated",)), "/metrics", False, id="metrics are not for all"),
        pytest.param(Identity("bob", ("system:authenticated",)), "/apisecret", False, id="no prefix of a word"),
    ],
)
async def test_paths(identity: Identity, path: str, allowed: bool) -> None:
    decision = await AUTHORIZER.decide(identity, Attributes("get", path=path))
    assert (decision.verdict.value == "allow") is allowed


@pytest.mark.parametrize(
    ("question", "words"),
    [
        pytest.param(
            "list -/pods golden/-",
            'pods is forbidden: User "alice" cannot list resource "pods" in API group "" in the namespace "golden"',
            id="a list",
        ),
        pytest.param(
            "list apps/deployments -/-",
            'deployments.apps is forbidden: User "alice" cannot list resource "deployments" in API group "apps" '
            "at the cluster scope",
            id="at the cluster scope",
        ),
        pytest.param(
            "get -/pods/log golden/upd",
            'pods "upd" is forbidden: User "alice" cannot get resource "pods/log" in API group "" '
            'in the namespace "golden"',
            id="a subresource",
        ),
    ],
)
async def test_refusals_are_in_kubernetes_words(question: str, words: str) -> None:
    with pytest.raises(Forbidden) as caught:
        await AUTHORIZER.check(Identity("alice", ("devs", "system:authenticated")), ask(question))
    assert caught.value.message == words
