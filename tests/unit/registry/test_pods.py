"""Pods: grace, binding, status batches from nodes, eviction, and what a node may do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.registry.base import ListOptions
from controlplane.registry.registry import Registry
from controlplane.registry.strategies import pods
from controlplane.store.base import Put
from wherry.api import kinds
from wherry.api.context import Env
from wherry.api.errors import AlreadyExists, APIError, Conflict, Forbidden, Invalid, NotFound
from wherry.pb import core_v1_pb2, meta_v1_pb2, pods_pb2, policy_v1_pb2
from wherry.testing.registries import admin, node, obj, open_registry, pod

POD = kinds.by_name("v1", "Pod")
NODE = kinds.by_name("v1", "Node")
LEASE = kinds.by_name("coordination.k8s.io/v1", "Lease")


@pytest.fixture
async def registry(env: Env) -> AsyncIterator[Registry]:
    async with open_registry(env) as found:
        yield found


async def create(registry: Registry, what: Any, namespace: str = "default") -> Any:
    return (await registry.create(admin(), kinds.of(type(what)), namespace, what)).message()


async def get(registry: Registry, name: str) -> Any:
    return (await registry.get(admin(), POD, "default", name)).message()


def grace(seconds: int | None) -> meta_v1_pb2.DeleteOptions:
    options = meta_v1_pb2.DeleteOptions()
    if seconds is not None:
        options.grace_period_seconds = seconds
    return options


@pytest.mark.parametrize(
    ("spec", "asked", "left"),
    [
        pytest.param({}, None, None, id="on no node: at once"),
        pytest.param({"nodeName": "n"}, None, 30, id="the default"),
        pytest.param({"nodeName": "n", "terminationGracePeriodSeconds": 5}, None, 5, id="its own"),
        pytest.param({"nodeName": "n"}, 60, 60, id="longer"),
        pytest.param({"nodeName": "n"}, 0, None, id="none"),
        pytest.param({"nodeName": "n"}, -5, 1, id="negative"),
    ],
)
async def test_grace(registry: Registry, env: Env, spec: dict[str, Any], asked: int | None, left: int | None) -> None:
    await create(registry, pod("p", **spec))
    result = await registry.delete(admin(), POD, "default", "p", grace(asked))
    if left is None:
        assert result.stored is None
        with pytest.raises(NotFound):
            await get(registry, "p")
    else:
        assert result.stored is not None
        meta = result.stored.message().metadata
        assert meta.deletion_grace_period_seconds == left
        assert meta.deletion_timestamp.seconds == int(env.now()) + left
        assert meta.generation == 2


async def test_grace_is_shortened_and_never_prolonged(registry: Registry, env: Env) -> None:
    await create(registry, pod("p", nodeName="n"))
    await registry.delete(admin(), POD, "default", "p", grace(30))
    await registry.delete(admin(), POD, "default", "p", grace(60))
    assert (await get(registry, "p")).metadata.deletion_grace_period_seconds == 30
    await registry.delete(admin(), POD, "default", "p", grace(5))
    meta = (await get(registry, "p")).metadata
    assert (meta.deletion_grace_period_seconds, meta.deletion_timestamp.seconds) == (5, int(env.now()) + 5)
    await registry.delete(admin(), POD, "default", "p", grace(0))
    with pytest.raises(NotFound):
        await get(registry, "p")


# binding


def bind(name: str, **facts: Any) -> pods_pb2.BindRequest:
    return pods_pb2.BindRequest(namespace="default", name=name, **{"node": "n1", **facts})


async def test_one_bad_binding_does_not_spoil_the_batch(registry: Registry) -> None:
    for name in ("good", "bound", "deleted", "uid", "version"):
        await create(registry, pod(name))
    await create(registry, pod("gated", schedulingGates=[{"name": "x.example/g"}]))
    await registry.bind(admin(), [bind("bound", node="n0"), bind("deleted", node="n0")])
    await registry.delete(admin(), POD, "default", "deleted", grace(30))
    results = await registry.bind(admin(), [
        bind("good"), bind("bound"), bind("deleted"), bind("uid", uid="other"), bind("version", resource_version="1"),
        bind("gated"), bind("absent"),
    ])  # fmt: skip
    told = ["" if result.error is None else str(result.error) for result in results]
    assert told[0] == ""
    assert told[1].endswith('pods/binding "bound": pod bound is already assigned to node "n0"')
    assert "is being deleted, cannot be assigned to a host" in told[2]
    assert "the UID in the precondition (other)" in told[3]
    assert "the object has been modified" in told[4]
    assert "has non-empty .spec.schedulingGates" in told[5]
    assert told[6] == 'pods "absent" not found'
    bound = await get(registry, "good")
    assert bound.spec.node_name == "n1"
    assert [(c.type, c.status) for c in bound.status.conditions] == [("PodScheduled", "True")]
    assert bound.metadata.resource_version == str(results[0].revision)


async def test_two_schedulers_bind_a_pod_once(registry: Registry) -> None:
    await create(registry, pod("p"))
    first, second = await registry.bind(admin(), [bind("p", node="n1"), bind("p", node="n2")])
    assert first.error is None
    assert isinstance(second.error, Conflict)
    assert (await get(registry, "p")).spec.node_name == "n1"


async def test_a_writer_that_lost_its_lease_binds_nothing(registry: Registry) -> None:
    await create(registry, pod("p"))
    lease = await create(
        registry, obj("coordination.k8s.io/v1", "Lease", "sched", spec={"holderIdentity": "a"}), "kube-system"
    )
    held = int(lease.metadata.resource_version)
    lease.spec.holder_identity = "b"
    await registry.update(admin(), LEASE, "kube-system", "sched", lease)
    (stale,) = await registry.bind(admin(), [bind("p", lease="kube-system/sched", lease_revision=held)])
    assert isinstance(stale.error, Conflict)
    assert (await get(registry, "p")).spec.node_name == ""
    now = (await registry.get(admin(), LEASE, "kube-system", "sched")).revision
    (current,) = await registry.bind(admin(), [bind("p", lease="kube-system/sched", lease_revision=now)])
    assert current.error is None


# statuses from nodes


def status(**fields: Any) -> core_v1_pb2.PodStatus:
    return core_v1_pb2.PodStatus(**fields)


async def test_statuses_are_written_each_on_its_own(registry: Registry) -> None:
    uids = {}
    for name, where in (("mine", "n1"), ("theirs", "n2"), ("same", "n1"), ("replaced", "n1")):
        uids[name] = (await create(registry, pod(name, nodeName=where))).metadata.uid
    before = await get(registry, "same")
    running = status(phase="Running", pod_ip="10.0.0.1")
    results = await registry.update_pod_statuses(node("n1"), [
        ("default", "mine", uids["mine"], running, False),
        ("default", "theirs", uids["theirs"], running, False),
        ("default", "same", uids["same"], before.status, False),
        ("default", "replaced", "an older one", running, False),
        ("default", "absent", "", running, False),
    ])  # fmt: skip
    assert results[0] is None
    assert isinstance(results[1], Forbidden)
    assert results[2] is None
    assert isinstance(results[3], NotFound)
    assert isinstance(results[4], NotFound)
    written = await get(registry, "mine")
    assert (written.status.phase, written.status.qos_class) == ("Running", "BestEffort")
    assert (await get(registry, "same")).metadata.resource_version == before.metadata.resource_version
    assert (await get(registry, "theirs")).status.phase == "Pending"


async def test_the_last_status_of_a_deleted_pod_removes_it(registry: Registry) -> None:
    uid = (await create(registry, pod("p", nodeName="n1"))).metadata.uid
    ended = status(phase="Succeeded")
    assert await registry.update_pod_statuses(node("n1"), [("default", "p", uid, ended, True)]) == [None]
    assert (await get(registry, "p")).status.phase == "Succeeded", "nobody deleted it: it stays"
    again = (await create(registry, pod("q", nodeName="n1"))).metadata.uid
    await registry.delete(admin(), POD, "default", "q", grace(30))
    assert await registry.update_pod_statuses(node("n1"), [("default", "q", again, ended, True)]) == [None]
    with pytest.raises(NotFound):
        await get(registry, "q")


async def test_a_finalizer_outlives_the_containers(registry: Registry) -> None:
    uid = (await create(registry, pod("p", nodeName="n1", meta={"finalizers": ["x.example/f"]}))).metadata.uid
    await registry.delete(admin(), POD, "default", "p", grace(30))
    await registry.update_pod_statuses(node("n1"), [("default", "p", uid, status(phase="Failed"), True)])
    held = await get(registry, "p")
    assert held.status.phase == "Failed"
    del held.metadata.finalizers[:]
    await registry.update(admin(), POD, "default", "p", held)
    with pytest.raises(NotFound):
        await get(registry, "p")


async def test_eviction_deletes_with_grace(registry: Registry) -> None:
    await create(registry, pod("p", nodeName="n1"))
    eviction = policy_v1_pb2.Eviction()
    eviction.metadata.name, eviction.metadata.namespace = "p", "default"
    eviction.delete_options.grace_period_seconds = 3
    assert (await registry.evict(admin(), eviction)).status == "Success"
    assert (await get(registry, "p")).metadata.deletion_grace_period_seconds == 3


# what a node may do


async def test_a_node_registers_itself_and_nobody_else(registry: Registry) -> None:
    await registry.create(
        node("n1"), NODE, "", obj("v1", "Node", "n1", meta={"labels": {"kubernetes.io/hostname": "n1"}})
    )
    with pytest.raises(Forbidden, match="is not allowed to modify node"):
        await registry.create(node("n1"), NODE, "", obj("v1", "Node", "n2"))
    lease = obj("coordination.k8s.io/v1", "Lease", "n1")
    await registry.create(node("n1"), LEASE, "kube-node-lease", lease)
    with pytest.raises(Forbidden):
        await registry.create(node("n1"), LEASE, "default", lease)


@pytest.mark.parametrize(
    ("label", "allowed"),
    [
        ("node-restriction.kubernetes.io/secure", False), ("x.node-restriction.kubernetes.io/a", False),
        ("node-role.kubernetes.io/control-plane", False), ("kubernetes.io/hostname", True),
        ("node.kubernetes.io/instance-type", True), ("example.com/a", True), ("plain", True),
    ],
)  # fmt: skip
async def test_labels_of_a_node(registry: Registry, label: str, allowed: bool) -> None:
    made = await create(registry, obj("v1", "Node", "n1"), "")
    made.metadata.labels[label] = "x"
    if allowed:
        await registry.update(node("n1"), NODE, "", "n1", made)
    else:
        with pytest.raises(Forbidden, match="is not allowed to modify labels"):
            await registry.update(node("n1"), NODE, "", "n1", made)


async def test_what_else_a_node_may_not(registry: Registry) -> None:
    mine = await create(registry, pod("mine", nodeName="n1"))
    theirs = await create(registry, pod("theirs", nodeName="n2"))
    made = await create(registry, obj("v1", "Node", "n1"), "")
    attempts: list[Any] = [
        registry.create(node("n1"), POD, "default", pod("new", nodeName="n1")),
        registry.update(node("n1"), POD, "default", "mine", mine),
        registry.delete(node("n1"), POD, "default", "theirs", grace(None)),
        registry.update(node("n1"), POD, "default", "theirs", theirs, subresource="status"),
        registry.delete(node("n1"), NODE, "", "n1", grace(None)),
        registry.create(node("n1"), kinds.by_name("v1", "Secret"), "default", obj("v1", "Secret", "s")),
    ]
    for attempt in attempts:
        with pytest.raises(Forbidden):
            await attempt
    del made.spec.taints[:]
    with pytest.raises(Forbidden, match="taints"):
        await registry.update(node("n1"), NODE, "", "n1", made)
    await registry.delete(node("n1"), POD, "default", "mine", grace(0))


# admission


async def test_a_new_pod_tolerates_a_lost_node_for_ten_seconds(registry: Registry) -> None:
    made = await create(registry, pod("p"))
    assert [(t.key, t.effect, t.toleration_seconds) for t in made.spec.tolerations] == [
        ("node.kubernetes.io/not-ready", "NoExecute", 10), ("node.kubernetes.io/unreachable", "NoExecute", 10),
    ]  # fmt: skip
    asked = await create(registry, pod("q", tolerations=[{"operator": "Exists"}]))
    assert len(asked.spec.tolerations) == 1


@pytest.mark.parametrize(
    ("name", "value"), [("", 0), ("system-node-critical", 2000001000), ("system-cluster-critical", 2000000000)]
)
async def test_priority(registry: Registry, name: str, value: int) -> None:
    assert (await create(registry, pod("p", priorityClassName=name))).spec.priority == value


async def test_a_service_account_brings_its_pull_secrets(registry: Registry) -> None:
    await create(registry, obj("v1", "ServiceAccount", "robot", imagePullSecrets=[{"name": "s"}]))
    made = await create(registry, pod("p", serviceAccountName="robot"))
    assert [secret.name for secret in made.spec.image_pull_secrets] == ["s"]
    assert (await create(registry, pod("q"))).spec.service_account_name == "default"


async def test_a_node_starts_not_ready(registry: Registry) -> None:
    made = await create(registry, obj("v1", "Node", "n1"), "")
    assert [(taint.key, taint.effect) for taint in made.spec.taints] == [("node.kubernetes.io/not-ready", "NoSchedule")]


# services


async def test_services_get_addresses_and_ports_of_their_own(registry: Registry) -> None:
    service = kinds.by_name("v1", "Service")
    made = [
        await create(registry, obj("v1", "Service", f"s{n}", spec={"type": "NodePort", "ports": [{"port": 80}]}))
        for n in range(30)
    ]
    assert len({item.spec.cluster_ip for item in made}) == 30
    assert len({item.spec.ports[0].node_port for item in made}) == 30
    taken = made[0].spec
    for wrong in (
        {"clusterIP": taken.cluster_ip, "ports": [{"port": 80}]},
        {"type": "NodePort", "ports": [{"port": 80, "nodePort": taken.ports[0].node_port}]},
    ):
        with pytest.raises(Invalid, match="is already allocated"):
            await create(registry, obj("v1", "Service", "late", spec=wrong))
    await registry.delete(admin(), service, "default", "s0", grace(None))
    freed = {
        "clusterIP": taken.cluster_ip,
        "type": "NodePort",
        "ports": [{"port": 80, "nodePort": taken.ports[0].node_port}],
    }
    late = await create(registry, obj("v1", "Service", "late", spec=freed))
    assert late.spec.cluster_ip == taken.cluster_ip
    late.spec.type, late.spec.external_name = "ExternalName", "x.example"
    await registry.update(admin(), service, "default", "late", late)
    again = await create(registry, obj("v1", "Service", "again", spec=freed))
    assert again.spec.cluster_ip == taken.cluster_ip, "a change of type gives them back too"


PORTS = [{"port": 80}]
SINGLE = "must be 'RequireDualStack' or 'PreferDualStack' when multiple"
REFUSED_SERVICES: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "two addresses of a family": (
        {"clusterIPs": ["10.96.3.3", "10.96.3.4"]},
        [("spec.clusterIPs", "may specify no more than one IP for each IP family")],
    ),
    "three addresses": (
        {"clusterIPs": ["10.96.3.3", "fd00::1", "10.96.3.4"]}, [("spec.clusterIPs", "may only hold up to 2 values")],
    ),
    "an address of each family": (
        {"clusterIPs": ["10.96.3.3", "fd00::1"], "ipFamilyPolicy": "PreferDualStack"},
        [("spec.clusterIPs[1]", "IPv6 is not configured on this cluster")],
    ),
    "two addresses without a policy": (
        {"clusterIPs": ["10.96.3.3", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"]},
        [
            ("spec.ipFamilyPolicy", f"{SINGLE} cluster IPs are specified"),
            ("spec.ipFamilyPolicy", f"{SINGLE} IP families are specified"),
        ],
    ),
    "an address of another family than it says": (
        {"clusterIP": "10.96.3.3", "ipFamilies": ["IPv6"]},
        [("spec.clusterIPs[0]", "expected an IPv6 value as indicated by `ipFamilies[0]`")],
    ),
    "an address of a family that is not there": (
        {"clusterIP": "fd00::1"}, [("spec.clusterIPs[0]", "IPv6 is not configured on this cluster")],
    ),
    "both families": (
        {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"},
        [
            ("spec.ipFamilyPolicy", "this cluster is not configured for dual-stack services"),
            ("spec.ipFamilies[1]", "not configured on this cluster"),
        ],
    ),
    "a family elsewhere": (
        {"type": "ExternalName", "externalName": "a.b", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"},
        [
            ("spec.ipFamilies", "may not be set for ExternalName services"),
            ("spec.ipFamilyPolicy", "may not be set for ExternalName services"),
        ],
    ),
    "a health check for nobody": (
        {"healthCheckNodePort": 30009},
        [("spec.healthCheckNodePort", "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'")],
    ),
    "a load balancer's ports": (
        {"allocateLoadBalancerNodePorts": False},
        [("spec.allocateLoadBalancerNodePorts", "may only be used when `type` is 'LoadBalancer'")],
    ),
    "a port out of range": (
        {"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]},
        [("spec.ports[0].nodePort", "provided port is not in the valid range. The range of valid ports is 30000-32767")],
    ),
    "a node port without being one": (
        {"ports": [{"port": 80, "nodePort": 30080}]},
        [("spec.ports[0].nodePort", "may not be used when `type` is 'ClusterIP'")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "causes"), REFUSED_SERVICES.values(), ids=list(REFUSED_SERVICES))
async def test_a_service_is_refused_in_kubernetes_words(
    registry: Registry, spec: dict[str, Any], causes: list[tuple[str, str]]
) -> None:
    with pytest.raises(Invalid) as refused:
        await create(registry, obj("v1", "Service", "s", spec={"ports": PORTS, **spec}))
    told = [(cause.field, cause.message) for cause in refused.value.causes]
    assert [field for field, _ in told] == [field for field, _ in causes]
    assert all(message.endswith(wanted) for (_, message), (_, wanted) in zip(told, causes, strict=True)), told


async def test_services_as_kubernetes_takes_them(registry: Registry) -> None:
    headless = {"clusterIP": "None", "selector": {"app": "a"}, "ports": [{"port": 80, "targetPort": 8080}]}
    made = await create(registry, obj("v1", "Service", "headless", spec=headless))
    assert made.spec.ports[0].target_port.int_val == 8080
    both = {"type": "NodePort", "ports": [{"name": p, "port": 53, "protocol": p.upper()} for p in ("tcp", "udp")]}
    made = await create(registry, obj("v1", "Service", "both", spec=both))
    assert made.spec.ports[0].node_port == made.spec.ports[1].node_port
    made = await create(registry, obj("v1", "Service", "open", spec={"clusterIP": "None", "ports": PORTS}))
    assert (made.spec.ip_family_policy, list(made.spec.ip_families)) == ("RequireDualStack", ["IPv4", "IPv6"])
    made = await create(
        registry, obj("v1", "Service", "prefer", spec={"ipFamilyPolicy": "PreferDualStack", "ports": PORTS})
    )
    assert (made.spec.ip_family_policy, list(made.spec.ip_families)) == ("PreferDualStack", ["IPv4"])


async def test_the_port_of_a_health_check_goes_with_its_policy(registry: Registry) -> None:
    service = kinds.by_name("v1", "Service")
    spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": PORTS}
    made = await create(registry, obj("v1", "Service", "s", spec=spec))
    port = made.spec.health_check_node_port
    assert port
    made.spec.health_check_node_port = 30000 if port != 30000 else 30001
    with pytest.raises(Invalid, match="field is immutable"):
        await registry.update(admin(), service, "default", "s", made)
    made.spec.health_check_node_port, made.spec.external_traffic_policy = port, "Cluster"
    changed: Any = (await registry.update(admin(), service, "default", "s", made)).message()
    assert not changed.spec.health_check_node_port


async def addresses(registry: Registry) -> dict[str, tuple[str, str]]:
    """The Service of each."""
    found = (await registry.list(admin(), kinds.by_name("networking.k8s.io/v1", "IPAddress"), ListOptions())).items
    made: list[Any] = [item.message() for item in found]
    return {item.metadata.name: (item.spec.parent_ref.namespace, item.spec.parent_ref.name) for item in made}


async def test_each_address_of_a_service_is_an_object(registry: Registry) -> None:
    service, address = kinds.by_name("v1", "Service"), kinds.by_name("networking.k8s.io/v1", "IPAddress")
    first = await create(registry, obj("v1", "Service", "first", spec={"ports": [{"port": 80}]}))
    assert await addresses(registry) == {first.spec.cluster_ip: ("default", "first")}
    made: Any = (await registry.get(admin(), address, "", first.spec.cluster_ip)).message()
    assert dict(made.metadata.labels) == {
        "ipaddress.kubernetes.io/ip-family": "IPv4",
        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
    }
    assert (made.spec.parent_ref.group, made.spec.parent_ref.resource) == ("", "services")
    assert made.metadata.uid
    assert made.metadata.creation_timestamp.seconds
    second = await create(registry, obj("v1", "Service", "second", spec={"ports": [{"port": 80}]}))
    await create(registry, obj("v1", "Service", "none", spec={"clusterIP": "None", "ports": [{"port": 80}]}))
    assert set(await addresses(registry)) == {first.spec.cluster_ip, second.spec.cluster_ip}
    second.spec.type, second.spec.external_name = "ExternalName", "x.example"
    await registry.update(admin(), service, "default", "second", second)
    assert set(await addresses(registry)) == {first.spec.cluster_ip}
    await registry.delete(admin(), address, "", first.spec.cluster_ip, grace(None))  # by somebody
    await registry.delete(admin(), service, "default", "first", grace(None))
    assert await addresses(registry) == {}


async def test_an_address_that_is_made_by_hand_is_taken(registry: Registry) -> None:
    service, address = kinds.by_name("v1", "Service"), kinds.by_name("networking.k8s.io/v1", "IPAddress")
    spec = {"parentRef": {"resource": "services", "namespace": "default", "name": "other"}}
    await create(registry, obj("networking.k8s.io/v1", "IPAddress", "10.96.0.5", spec=spec), "")
    asked = {"clusterIP": "10.96.0.5", "ports": [{"port": 80}]}
    with pytest.raises(Invalid, match="provided IP is already allocated"):
        await create(registry, obj("v1", "Service", "s", spec=asked))
    assert set(await addresses(registry)) == {"10.96.0.5"}
    await registry.delete(admin(), address, "", "10.96.0.5", grace(None))
    await create(registry, obj("v1", "Service", "s", spec=asked))
    with pytest.raises(AlreadyExists):
        await create(registry, obj("networking.k8s.io/v1", "IPAddress", "10.96.0.5", spec=spec), "")
    await registry.delete(admin(), service, "default", "s", grace(None))
    assert await addresses(registry) == {}


async def test_an_update_keeps_what_was_allocated(registry: Registry) -> None:
    made = await create(registry, obj("v1", "Service", "s", spec={"type": "NodePort", "ports": [{"port": 80}]}))
    applied = obj("v1", "Service", "s", spec={"type": "NodePort", "ports": [{"port": 80}], "selector": {"a": "b"}})
    changed: Any = (await registry.update(admin(), kinds.by_name("v1", "Service"), "default", "s", applied)).message()
    assert changed.spec.cluster_ip == made.spec.cluster_ip
    assert changed.spec.ports[0].node_port == made.spec.ports[0].node_port
    assert dict(changed.spec.selector) == {"a": "b"}


# certificates


async def test_who_asks_for_a_certificate_is_what_the_server_saw(registry: Registry) -> None:
    kind = kinds.by_name("certificates.k8s.io/v1", "CertificateSigningRequest")
    body = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0t"
    request = obj("certificates.k8s.io/v1", "CertificateSigningRequest", "c", spec={
        "request": body, "signerName": "example.com/s", "usages": ["client auth"], "username": "system:admin",
        "groups": ["system:masters"],
    })  # fmt: skip
    made: Any = (await registry.create(node("n1"), kind, "", request)).message()
    assert (made.spec.username, list(made.spec.groups)) == ("system:node:n1", ["system:nodes", "system:authenticated"])
    made.status.conditions.add(type="Approved", status="True")
    unapproved: Any = (await registry.update(admin(), kind, "", "c", made, subresource="status")).message()
    assert not unapproved.status.conditions
    approved: Any = (
        await registry.update(admin(), kind, "", "c", _approve(unapproved), subresource="approval")
    ).message()
    assert [condition.type for condition in approved.status.conditions] == ["Approved"]


def _approve(request: Any) -> Any:
    request.status.conditions.add(type="Approved", status="True")
    return request


async def test_unknown_subresources(registry: Registry) -> None:
    await create(registry, pod("p"))
    with pytest.raises(APIError) as caught:
        await registry.get(admin(), POD, "default", "p", subresource="nope")
    assert (caught.value.code, caught.value.message) == (404, "the server could not find the requested resource")


async def test_a_namespace_comes_with_its_account(registry: Registry) -> None:
    """In one transaction, so that a pod may be created the moment after."""
    accounts = kinds.by_name("v1", "ServiceAccount")
    made = await registry.create(admin(), kinds.by_name("v1", "Namespace"), "", obj("v1", "Namespace", "new"))
    account = await registry.get(admin(), accounts, "new", "default")
    assert account.revision == made.revision
    await registry.create(admin(), kinds.by_name("v1", "Pod"), "new", pod("p"))
    await registry.delete(admin(), accounts, "new", "default", meta_v1_pb2.DeleteOptions())
    with pytest.raises(Forbidden) as refused:
        await registry.create(admin(), kinds.by_name("v1", "Pod"), "new", pod("q"))
    assert refused.value.message == (
        'pods "q" is forbidden: error looking up service account new/default: serviceaccount "default" not found'
    )


async def test_an_account_that_is_left_of_an_old_namespace_stays(registry: Registry) -> None:
    store = registry._state.store
    kept = obj("v1", "ServiceAccount", "default", meta={"namespace": "again", "labels": {"old": "y"}})
    await store.txn([], [Put("/registry/core/serviceaccounts/again/default", kept.SerializeToString())])
    await registry.create(admin(), kinds.by_name("v1", "Namespace"), "", obj("v1", "Namespace", "again"))
    found = await registry.get(admin(), kinds.by_name("v1", "ServiceAccount"), "again", "default")
    assert found.message().metadata.labels["old"] == "y"


async def test_what_large_specs_are_worth_is_not_kept(registry: Registry) -> None:
    """A few of them would hold as much memory as everything else."""
    for cached in (pods._with_defaults, pods._qos_class_of, pods._is_fine, pods._spec_warnings):
        cached.cache_clear()
    size = pods.MAX_ALIKE_BYTES
    large = pod("large", containers=[{"name": "c", "image": "app:1", "env": [{"name": "A", "value": "x" * size}]}])
    assert (await create(registry, large)).status.qos_class == "BestEffort"
    for cached in (pods._with_defaults, pods._qos_class_of, pods._is_fine, pods._spec_warnings):
        assert cached.cache_info().currsize == 0, cached
    await create(registry, pod("small"))
    assert pods._qos_class_of.cache_info().currsize == 1
