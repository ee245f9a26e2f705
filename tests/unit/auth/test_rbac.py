"""Role-based access control: what the default roles allow, what a refusal says, and that nobody grants more than he has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.auth import defaults
from controlplane.auth.authorizer import Attributes, Authorizer, Verdict
from controlplane.auth.deciders import Everyone, Masters
from controlplane.auth.rbac import RBAC, Escalation
from controlplane.auth.rules import Rule, uncovered
from controlplane.registry.base import Identity, ListOptions, RequestContext
from controlplane.registry.registry import Registry
from controlplane.store.base import Store
from controlplane.store.open import open_store
from wherry.api import codec, kinds
from wherry.api.context import Env
from wherry.api.errors import Forbidden, NotFound
from wherry.testing import recordings
from wherry.testing.registries import admin, obj

V1 = "rbac.authorization.k8s.io/v1"
ALICE = Identity("alice", ("system:authenticated",))
CAROL = Identity("carol", ("system:authenticated",))


class Cluster:
    def __init__(self, registry: Registry, store: Store) -> None:
        self.registry, self.store = registry, store
        self.rbac = RBAC(registry, self._ready)
        self.authorizer = Authorizer([Masters(), Everyone(), self.rbac])
        registry.admit_also(Escalation(self.rbac, self.authorizer))

    async def _ready(self) -> None:
        await defaults.ensure(self.registry, self.store)

    async def make(self, kind: str, name: str, namespace: str = "", who: Identity | None = None, **fields: Any) -> Any:
        ctx = RequestContext(who) if who else admin()
        found = kinds.by_name(V1, kind)
        return (await self.registry.create(ctx, found, namespace, obj(V1, kind, name, **fields))).message()

    async def allowed(self, who: Identity, verb: str, resource: str, namespace: str = "", **more: str) -> bool:
        decision = await self.authorizer.decide(
            who, Attributes(verb, more.pop("group", ""), resource, namespace=namespace, **more)
        )
        return decision.verdict is Verdict.ALLOW


@pytest.fixture
async def cluster(env: Env) -> AsyncIterator[Cluster]:
    store = await open_store("sqlite::memory:", env, inline=True)
    registry = Registry(store, env)
    await registry.start()
    found = Cluster(registry, store)
    await found.make("RoleBinding", "carol", "default", roleRef={"kind": "ClusterRole", "name": "admin"},
                     subjects=[{"kind": "User", "name": "carol"}])  # fmt: skip
    yield found
    await registry.close()
    await store.close()


def test_the_defaults_are_those_of_a_fresh_cluster() -> None:
    """Name for name, rule for rule, except what belongs to other products than Kubernetes."""
    text = (defaults.resources.files("controlplane.auth") / "default_roles.txt").read_text()
    ours = {}
    for message in defaults.roles(text):
        value = codec.to_dict(message)
        meta = value.pop("metadata")
        if not meta["name"].startswith("wherry:"):  # of our own programs
            ours[value.pop("kind"), meta.get("namespace", ""), meta["name"]] = (value, meta.get("labels"))
    assert len(ours) > 120
    if not recordings.GOLDEN.is_dir():
        return
    for record in list(recordings.records("builtins"))[:4]:
        kind = record.answer["kind"].removesuffix("List")
        for item in record.answer["items"]:
            meta = item.pop("metadata")
            key = (kind, meta.get("namespace", ""), meta["name"])
            if key in ours:
                value, labels = ours.pop(key)
                assert {k: v for k, v in value.items() if v and k != "apiVersion"} == {
                    k: v for k, v in item.items() if v
                }, key  # fmt: skip
                assert labels == meta.get("labels"), key
    # It comes with metrics-server there, which is a part of the server here.
    assert list(ours) == [("ClusterRole", "", "system:aggregated-metrics-reader")]


@pytest.mark.parametrize(
    ("who", "verb", "resource", "namespace", "more", "expected"),
    [
        pytest.param(ALICE, "list", "pods", "default", {}, False, id="nobody in particular"),
        pytest.param(ALICE, "create", "selfsubjectaccessreviews", "", {"group": "authorization.k8s.io"}, True, id="self review"),
        pytest.param(CAROL, "list", "pods", "default", {}, True, id="part of a part of admin"),
        pytest.param(CAROL, "get", "secrets", "default", {"name": "x"}, True, id="part of edit"),
        pytest.param(CAROL, "list", "pods", "kube-system", {}, False, id="another namespace"),
        pytest.param(CAROL, "list", "pods", "", {}, False, id="all namespaces"),
        pytest.param(CAROL, "list", "nodes", "", {}, False, id="cluster scope"),
        pytest.param(CAROL, "create", "roles", "default", {"group": "rbac.authorization.k8s.io"}, True, id="admin's own rule"),
        pytest.param(CAROL, "update", "deployments", "default", {"group": "apps", "subresource": "scale"}, True, id="scale"),
        pytest.param(CAROL, "update", "pods", "default", {"subresource": "status"}, False, id="status is the node's"),
    ],
)  # fmt: skip
async def test_decisions(
    cluster: Cluster, who: Identity, verb: str, resource: str, namespace: str, more: dict[str, str], expected: bool
) -> None:
    assert await cluster.allowed(who, verb, resource, namespace, **more) is expected


async def test_the_reason_is_as_recorded(cluster: Cluster) -> None:
    decision = await cluster.rbac.decide(CAROL, Attributes("get", "", "pods", namespace="default"))
    assert decision.reason == (
        'RBAC: allowed by RoleBinding "carol/default" of ClusterRole "admin" to User "carol"'
    )  # fmt: skip


async def test_service_accounts_and_groups(cluster: Cluster) -> None:
    await cluster.make("ClusterRole", "reader", rules=[{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"],
                                                       "resourceNames": ["n1"]}])  # fmt: skip
    await cluster.make("ClusterRoleBinding", "reader", roleRef={"kind": "ClusterRole", "name": "reader"}, subjects=[
        {"kind": "ServiceAccount", "name": "robot", "namespace": "default"}, {"kind": "Group", "name": "ops"},
    ])  # fmt: skip
    robot = Identity("system:serviceaccount:default:robot", ("system:serviceaccounts",))
    assert await cluster.allowed(robot, "get", "nodes", name="n1")
    assert not await cluster.allowed(robot, "get", "nodes", name="n2")
    assert await cluster.allowed(Identity("x", ("ops",)), "get", "nodes", name="n1")
    assert not await cluster.allowed(Identity("ops"), "get", "nodes", name="n1")


async def test_a_changed_role_counts_at_once(cluster: Cluster) -> None:
    rules = [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]
    role = await cluster.make("ClusterRole", "extra", rules=rules)
    assert not await cluster.allowed(CAROL, "list", "nodes", "default")
    role.metadata.labels["rbac.authorization.k8s.io/aggregate-to-view"] = "true"
    await cluster.registry.update(admin(), kinds.by_name(V1, "ClusterRole"), "", "extra", role)
    assert await cluster.allowed(CAROL, "list", "nodes", "default")


async def test_escalation_is_refused_as_recorded(cluster: Cluster) -> None:
    rule = {"apiGroups": ["x.example"], "resources": ["y"], "verbs": ["*"]}
    with pytest.raises(Forbidden) as role:
        await cluster.make("Role", "esc", "default", CAROL, rules=[rule])
    assert role.value.message == (
        'roles.rbac.authorization.k8s.io "esc" is forbidden: user "carol" (groups=["system:authenticated"]) is attempting '
        'to grant RBAC permissions not currently held:\n{APIGroups:["x.example"], Resources:["y"], Verbs:["*"]}'
    )
    with pytest.raises(Forbidden) as binding:
        await cluster.make(
            "RoleBinding", "esc", "default", CAROL, roleRef={"kind": "ClusterRole", "name": "cluster-admin"}
        )
    assert binding.value.message == (
        'rolebindings.rbac.authorization.k8s.io "esc" is forbidden: user "carol" (groups=["system:authenticated"]) is '
        'attempting to grant RBAC permissions not currently held:\n{APIGroups:["*"], Resources:["*"], Verbs:["*"]}\n'
        '{NonResourceURLs:["*"], Verbs:["*"]}'
    )


async def test_several_groups_are_written_as_go_writes_them(cluster: Cluster) -> None:
    dora = Identity("dora", ("a", "system:authenticated"))
    with pytest.raises(Forbidden, match=r'user "dora" \(groups=\["a" "system:authenticated"\]\) is attempting'):
        await cluster.make(
            "Role", "esc", "default", dora, rules=[{"apiGroups": [""], "resources": ["x"], "verbs": ["get"]}]
        )


async def test_what_one_holds_one_may_grant(cluster: Cluster) -> None:
    held = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}
    await cluster.make("Role", "r", "default", CAROL, rules=[held])
    subjects = [{"kind": "User", "name": "dave"}]
    await cluster.make("RoleBinding", "r", "default", CAROL, roleRef={"kind": "Role", "name": "r"}, subjects=subjects)
    assert await cluster.allowed(Identity("dave"), "list", "pods", "default")
    with pytest.raises(NotFound, match=r'roles\.rbac\.authorization\.k8s\.io "none" not found'):
        await cluster.make("RoleBinding", "n", "default", CAROL, roleRef={"kind": "Role", "name": "none"})


async def test_the_verbs_escalate_and_bind_lift_the_check(cluster: Cluster) -> None:
    lift = {
        "apiGroups": ["rbac.authorization.k8s.io"],
        "resources": ["roles", "clusterroles"],
        "verbs": ["escalate", "bind"],
    }
    await cluster.make("Role", "lift", "default", rules=[lift])
    await cluster.make("RoleBinding", "lift", "default", roleRef={"kind": "Role", "name": "lift"},
                       subjects=[{"kind": "User", "name": "carol"}])  # fmt: skip
    await cluster.make(
        "Role", "esc", "default", CAROL, rules=[{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
    )
    await cluster.make("RoleBinding", "esc", "default", CAROL, roleRef={"kind": "ClusterRole", "name": "cluster-admin"})


async def test_defaults_are_made_once_and_changes_stay(cluster: Cluster) -> None:
    await defaults.ensure(cluster.registry, cluster.store)
    kind = kinds.by_name(V1, "ClusterRole")
    view = (await cluster.registry.get(admin(), kind, "", "view")).message()
    view.metadata.labels["mine"] = "yes"
    await cluster.registry.update(admin(), kind, "", "view", view)
    before = await cluster.store.revision()
    await defaults.ensure(cluster.registry, cluster.store)
    assert await cluster.store.revision() == before
    mark = await cluster.store.get(defaults.MARK_KEY)
    assert mark is not None
    await cluster.registry.seed([view])  # as after a change of version
    assert (await cluster.registry.get(admin(), kind, "", "view")).message().metadata.labels["mine"] == "yes"
    priorities = await cluster.registry.list(
        admin(), kinds.by_name("scheduling.k8s.io/v1", "PriorityClass"), ListOptions()
    )
    assert [item.message().value for item in priorities.items] == [2000000000, 2000001000]


@pytest.mark.parametrize(
    ("held", "wanted", "missing"),
    [
        pytest.param([Rule(("*",), ("*",), ("*",))], [Rule(("get",), ("",), ("pods",))], [], id="all cover one"),
        pytest.param(
            [Rule(("get",), ("",), ("pods",))], [Rule(("get", "list", "watch"), ("",), ("pods",))],
            ['{APIGroups:[""], Resources:["pods"], Verbs:["list","watch"]}'], id="verbs are put together",
        ),
        pytest.param(
            [Rule(("get",), ("",), ("pods",), ("a",))], [Rule(("get",), ("",), ("pods",))],
            ['{APIGroups:[""], Resources:["pods"], Verbs:["get"]}'], id="a name does not cover all",
        ),
        pytest.param([Rule(("get",), ("",), ("pods",))], [Rule(("get",), ("",), ("pods",), ("a",))], [], id="all cover a name"),
        pytest.param([Rule(("get",), ("",), ("*/scale",))], [Rule(("get",), ("",), ("x/scale",))], [], id="any scale"),
        pytest.param([Rule(("get",), urls=("/api/*",))], [Rule(("get",), urls=("/api/v1",))], [], id="url prefix"),
        pytest.param(
            [Rule(("get",), urls=("/api",))], [Rule(("get",), urls=("/apis",))],
            ['{NonResourceURLs:["/apis"], Verbs:["get"]}'], id="another url",
        ),
    ],
)  # fmt: skip
def test_covering(held: list[Rule], wanted: list[Rule], missing: list[str]) -> None:
    assert [str(rule) for rule in uncovered(held, wanted)] == missing
