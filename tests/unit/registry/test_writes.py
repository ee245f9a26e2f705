"""Create, update, patch, apply and delete: concurrency, generations, dry runs, namespaces, cancellation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.registry.allocation import Ranges
from controlplane.registry.base import ListOptions
from controlplane.registry.registry import Options, Registry
from controlplane.store.open import open_store
from wherry.api import kinds
from wherry.api.context import Env
from wherry.api.errors import (
    AlreadyExists,
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    RequestEntityTooLarge,
    ServiceUnavailable,
)  # fmt: skip
from wherry.pb import meta_v1_pb2
from wherry.testing.registries import admin, obj, open_registry, pod

CONFIG_MAP = kinds.by_name("v1", "ConfigMap")
DEPLOYMENT = kinds.by_name("apps/v1", "Deployment")
LEASE = kinds.by_name("coordination.k8s.io/v1", "Lease")
NAMESPACE = kinds.by_name("v1", "Namespace")
POD = kinds.by_name("v1", "Pod")
MERGE = "application/merge-patch+json"


@pytest.fixture
async def registry(env: Env) -> AsyncIterator[Registry]:
    async with open_registry(env) as found:
        yield found


def deployment(name: str = "web", **spec: Any) -> Any:
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "a:1"}]}}
    return obj(
        "apps/v1", "Deployment", name, spec={"selector": {"matchLabels": {"app": name}}, "template": template, **spec}
    )


async def create(registry: Registry, what: Any, namespace: str = "default", **facts: Any) -> Any:
    return (await registry.create(admin(**facts), kinds.of(type(what)), namespace, what)).message()


async def test_the_namespaces_of_every_cluster_are_there(registry: Registry) -> None:
    listed = await registry.list(admin(), NAMESPACE, ListOptions())
    found = [item.message() for item in listed.items]
    assert [item.metadata.name for item in found] == ["default", "kube-node-lease", "kube-public", "kube-system"]
    assert all(item.spec.finalizers == ["kubernetes"] and item.status.phase == "Active" for item in found)
    await registry.start()  # as another replica does, or the same one after a restart
    assert (await registry.list(admin(), NAMESPACE, ListOptions())).items == listed.items


async def test_what_the_server_fills_in(registry: Registry, env: Env) -> None:
    made = await create(registry, obj("v1", "ConfigMap", "a", meta={"uid": "mine", "selfLink": "/x"}))
    assert made.metadata.uid not in ("", "mine")
    assert made.metadata.creation_timestamp.seconds == int(env.now())
    assert made.metadata.creation_timestamp.nanos == 0
    assert made.metadata.self_link == ""
    assert made.metadata.namespace == "default"
    assert int(made.metadata.resource_version) > 0


async def test_generated_names_differ(registry: Registry) -> None:
    what = obj("v1", "ConfigMap", "", meta={"generateName": "x-"})
    found = {(await create(registry, what)).metadata.name for _ in range(20)}
    assert len(found) == 20
    assert all(name.startswith("x-") and len(name) == 7 for name in found)


async def test_two_creates_of_one_name(registry: Registry) -> None:
    answers = await asyncio.gather(
        *(create(registry, obj("v1", "ConfigMap", "a")) for _ in range(2)), return_exceptions=True
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["AlreadyExists", "ConfigMap"]


async def test_the_last_of_two_updates_from_one_read_is_refused(registry: Registry) -> None:
    first = await create(registry, obj("v1", "ConfigMap", "a"))
    second = type(first)()
    second.CopyFrom(first)
    first.data["k"] = "1"
    second.data["k"] = "2"
    await registry.update(admin(), CONFIG_MAP, "default", "a", first)
    with pytest.raises(Conflict, match="the object has been modified"):
        await registry.update(admin(), CONFIG_MAP, "default", "a", second)
    second.metadata.resource_version = ""  # without one, the last writer wins
    stored = await registry.update(admin(), CONFIG_MAP, "default", "a", second)
    assert dict(stored.message().data) == {"k": "2"}


async def test_a_lease_is_never_updated_without_a_revision(registry: Registry) -> None:
    lease = await create(registry, obj("coordination.k8s.io/v1", "Lease", "l"))
    lease.metadata.resource_version = ""
    with pytest.raises(Invalid, match="must be specified for an update"):
        await registry.update(admin(), LEASE, "default", "l", lease)


async def test_concurrent_patches_all_take_effect(registry: Registry) -> None:
    await create(registry, obj("v1", "ConfigMap", "a"))
    await asyncio.gather(*(
        registry.patch(admin(), CONFIG_MAP, "default", "a", MERGE, json.dumps({"data": {f"k{n}": "v"}}).encode())
        for n in range(5)
    ))  # fmt: skip
    stored = await registry.get(admin(), CONFIG_MAP, "default", "a")
    assert sorted(stored.message().data) == [f"k{n}" for n in range(5)]


async def test_an_unchanged_update_writes_nothing(registry: Registry) -> None:
    made = await create(registry, obj("v1", "ConfigMap", "a", data={"k": "v"}))
    same = await registry.update(admin(), CONFIG_MAP, "default", "a", made)
    patched = await registry.patch(admin(), CONFIG_MAP, "default", "a", MERGE, b'{"data": {"k": "v"}}')
    assert str(same.revision) == str(patched.revision) == made.metadata.resource_version


async def test_a_dry_run_leaves_no_trace(registry: Registry) -> None:
    before = await registry.list(admin(), CONFIG_MAP, ListOptions())
    made = await create(registry, obj("v1", "ConfigMap", "a"), dry_run=True)
    assert made.metadata.uid
    assert made.metadata.resource_version == ""
    with pytest.raises(NotFound):
        await registry.get(admin(), CONFIG_MAP, "default", "a")
    kept = await create(registry, obj("v1", "ConfigMap", "b"))
    await registry.delete(admin(dry_run=True), CONFIG_MAP, "default", "b", meta_v1_pb2.DeleteOptions())
    kept.data["k"] = "v"
    changed = await registry.update(admin(dry_run=True), CONFIG_MAP, "default", "b", kept)
    assert dict(changed.message().data) == {"k": "v"}
    assert dict((await registry.get(admin(), CONFIG_MAP, "default", "b")).message().data) == {}
    assert len((await registry.list(admin(), CONFIG_MAP, ListOptions())).items) == len(before.items) + 1


async def test_spec_and_status_have_different_writers(registry: Registry) -> None:
    made = await create(registry, deployment(replicas=1))
    made.status.replicas = 7
    made.spec.replicas = 2
    updated = (await registry.update(admin(), DEPLOYMENT, "default", "web", made)).message()
    assert (updated.spec.replicas, updated.status.replicas, updated.metadata.generation) == (2, 0, 2)
    updated.status.replicas = 7
    updated.spec.replicas = 3
    reported = (await registry.update(admin(), DEPLOYMENT, "default", "web", updated, subresource="status")).message()
    assert (reported.spec.replicas, reported.status.replicas, reported.metadata.generation) == (2, 7, 2)


async def test_status_writers_take_no_finalizers_and_own_nothing(registry: Registry) -> None:
    made = await create(registry, obj("v1", "Node", "n", meta={"finalizers": ["x.example/f"]}), "")
    del made.metadata.finalizers[:]
    made.metadata.owner_references.add(api_version="v1", kind="Pod", name="p", uid="u")
    made.metadata.labels["seen"] = "yes"
    kind = kinds.by_name("v1", "Node")
    reported = (await registry.update(admin(), kind, "", "n", made, subresource="status")).message()
    assert list(reported.metadata.finalizers) == ["x.example/f"]
    assert not reported.metadata.owner_references
    assert reported.metadata.labels["seen"] == "yes"


async def test_scale(registry: Registry) -> None:
    await create(registry, deployment(replicas=1))
    scale: Any = (await registry.get(admin(), DEPLOYMENT, "default", "web", subresource="scale")).message()
    assert (scale.spec.replicas, scale.status.selector) == (1, "app=web")
    scale.spec.replicas = 4
    await registry.update(admin(), DEPLOYMENT, "default", "web", scale, subresource="scale")
    found = (await registry.get(admin(), DEPLOYMENT, "default", "web")).message()
    assert (found.spec.replicas, found.metadata.generation) == (4, 2)
    with pytest.raises(Conflict):
        await registry.update(admin(), DEPLOYMENT, "default", "web", scale, subresource="scale")


async def test_apply_creates_then_changes_and_knows_its_fields(registry: Registry) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "1", "l": "1"}}
    ctx = admin(field_manager="one")
    _, created = await registry.apply(ctx, CONFIG_MAP, "default", "a", json.dumps(body).encode())
    assert created
    body["data"] = {"k": "2"}
    stored, created = await registry.apply(ctx, CONFIG_MAP, "default", "a", json.dumps(body).encode())
    assert not created
    assert dict(stored.message().data) == {"k": "2"}, "what is no longer applied goes"
    body["data"] = {"k": "3"}
    with pytest.raises(Conflict, match='conflict with "one"'):
        await registry.apply(admin(field_manager="two"), CONFIG_MAP, "default", "a", json.dumps(body).encode())
    forced, _ = await registry.apply(
        admin(field_manager="two"), CONFIG_MAP, "default", "a", json.dumps(body).encode(), force=True
    )
    assert dict(forced.message().data) == {"k": "3"}
    again, _ = await registry.apply(
        admin(field_manager="two"), CONFIG_MAP, "default", "a", json.dumps(body).encode(), force=True
    )
    assert again.revision == forced.revision, "applied again, nothing is written"


async def test_what_gets_defaults_is_applied_again_without_a_write(registry: Registry) -> None:
    """`fieldRef` is replaced as a whole, without the apiVersion that is its default."""
    source = {"fieldRef": {"fieldPath": "metadata.name"}}
    container = {"name": "c", "image": "a:1", "env": [{"name": "NAME", "valueFrom": source}]}
    body = json.dumps({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [container]},
    }).encode()  # fmt: skip
    ctx = admin(field_manager="one")
    first, _ = await registry.apply(ctx, POD, "default", "a", body)
    await asyncio.sleep(10)
    again, _ = await registry.apply(ctx, POD, "default", "a", body)
    assert again.revision == first.revision
    assert again.message() == first.message()
    await asyncio.sleep(10)
    changed, _ = await registry.apply(ctx, POD, "default", "a", body.replace(b"a:1", b"a:2"))
    entry, before = changed.message().metadata.managed_fields[0], first.message().metadata.managed_fields[0]
    assert entry.time.seconds - before.time.seconds == 20


async def test_writers_without_a_name_own_nothing(registry: Registry) -> None:
    assert not (await create(registry, obj("v1", "ConfigMap", "a"))).metadata.managed_fields
    named = await create(registry, obj("v1", "ConfigMap", "b", data={"k": "v"}), field_manager="kubectl-create")
    assert [entry.manager for entry in named.metadata.managed_fields] == ["kubectl-create"]


# namespaces


async def test_nothing_is_made_in_a_missing_namespace(registry: Registry) -> None:
    with pytest.raises(NotFound) as caught:
        await create(registry, obj("v1", "ConfigMap", "a"), "nosuch")
    assert caught.value.message == 'namespaces "nosuch" not found'


async def test_a_namespace_goes_when_it_is_empty(registry: Registry) -> None:
    await create(registry, obj("v1", "Namespace", "n"), "")
    await create(registry, obj("v1", "ConfigMap", "a"), "n")
    result = await registry.delete(admin(), NAMESPACE, "", "n", meta_v1_pb2.DeleteOptions())
    assert result.stored is not None
    assert result.stored.message().status.phase == "Terminating"
    with pytest.raises(Forbidden, match="because it is being terminated"):
        await create(registry, obj("v1", "ConfigMap", "b"), "n")
    again = await registry.delete(admin(), NAMESPACE, "", "n", meta_v1_pb2.DeleteOptions())
    assert again.stored is not None, "its contents are still there"
    emptied = again.stored.message()
    del emptied.spec.finalizers[:]
    await registry.update(admin(), NAMESPACE, "", "n", emptied, subresource="finalize")
    with pytest.raises(NotFound):
        await registry.get(admin(), NAMESPACE, "", "n")


async def test_spec_finalizers_change_through_finalize_only(registry: Registry) -> None:
    made = await create(registry, obj("v1", "Namespace", "n"), "")
    del made.spec.finalizers[:]
    kept = await registry.update(admin(), NAMESPACE, "", "n", made)
    assert kept.message().spec.finalizers == ["kubernetes"]


@pytest.mark.parametrize("name", ["default", "kube-system", "kube-public"])
async def test_some_namespaces_stay(registry: Registry, name: str) -> None:
    with pytest.raises(Forbidden, match="this namespace may not be deleted"):
        await registry.delete(admin(), NAMESPACE, "", name, meta_v1_pb2.DeleteOptions())


# deletion


async def test_finalizers_hold_an_object(registry: Registry) -> None:
    made = await create(registry, obj("v1", "ConfigMap", "a", meta={"finalizers": ["x.example/f"]}))
    result = await registry.delete(admin(), CONFIG_MAP, "default", "a", meta_v1_pb2.DeleteOptions())
    assert result.stored is not None
    held = result.stored.message()
    assert held.metadata.HasField("deletion_timestamp")
    with pytest.raises(AlreadyExists, match="object is being deleted"):
        await create(registry, obj("v1", "ConfigMap", "a"))
    del held.metadata.finalizers[:]
    await registry.update(admin(), CONFIG_MAP, "default", "a", held)
    with pytest.raises(NotFound):
        await registry.get(admin(), CONFIG_MAP, "default", "a")
    remade = await create(registry, obj("v1", "ConfigMap", "a"))
    assert remade.metadata.uid != made.metadata.uid


@pytest.mark.parametrize(
    ("policy", "finalizers"),
    [("Foreground", ["foregroundDeletion"]), ("Orphan", ["orphan"]), ("Background", None), ("", None)],
)
async def test_propagation_policy(registry: Registry, policy: str, finalizers: list[str] | None) -> None:
    await create(registry, deployment())
    options = meta_v1_pb2.DeleteOptions()
    if policy:
        options.propagation_policy = policy
    result = await registry.delete(admin(), DEPLOYMENT, "default", "web", options)
    if finalizers is None:
        assert result.stored is None
        assert result.status is not None
        assert (result.status.details.kind, result.status.details.group) == ("deployments", "apps")
    else:
        assert result.stored is not None
        assert list(result.stored.message().metadata.finalizers) == finalizers


async def test_delete_preconditions(registry: Registry) -> None:
    made = await create(registry, obj("v1", "ConfigMap", "a"))
    for wrong in ({"uid": "other"}, {"resource_version": "1"}):
        with pytest.raises(Conflict, match="precondition"):
            await registry.delete(
                admin(), CONFIG_MAP, "default", "a",
                meta_v1_pb2.DeleteOptions(preconditions=meta_v1_pb2.Preconditions(**wrong)),
            )  # fmt: skip
    right = meta_v1_pb2.Preconditions(uid=made.metadata.uid, resource_version=made.metadata.resource_version)
    await registry.delete(admin(), CONFIG_MAP, "default", "a", meta_v1_pb2.DeleteOptions(preconditions=right))


async def test_a_collection_is_deleted_by_selection(registry: Registry) -> None:
    for name, labels in (("a", {"x": "1"}), ("b", {}), ("c", {"x": "1"})):
        await create(registry, obj("v1", "ConfigMap", name, meta={"labels": labels}))
    selection = ListOptions("default", label_selector="x=1")
    gone = await registry.delete_collection(admin(), CONFIG_MAP, selection, meta_v1_pb2.DeleteOptions())
    assert [item.message().metadata.name for item in gone.items] == ["a", "c"]
    left = await registry.list(admin(), CONFIG_MAP, ListOptions("default"))
    assert [item.message().metadata.name for item in left.items] == ["b"]


# trouble


async def test_an_object_too_large_for_the_store(registry: Registry) -> None:
    annotations = {f"k{n}": "x" * 200_000 for n in range(1)}
    finalizers = [f"x.example/{n:030d}" for n in range(50_000)]
    with pytest.raises(RequestEntityTooLarge):
        await create(registry, obj("v1", "ConfigMap", "a", meta={"annotations": annotations, "finalizers": finalizers}))


async def test_a_write_that_has_begun_is_done_although_its_caller_is_cancelled(registry: Registry) -> None:
    await registry.list(admin(), CONFIG_MAP, ListOptions())
    outcomes = set()
    for steps in range(1, 12):
        name = f"c{steps}"
        task = asyncio.ensure_future(create(registry, obj("v1", "ConfigMap", name)))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(1.0)
        listed = await registry.list(admin(), CONFIG_MAP, ListOptions(field_selector=f"metadata.name={name}"))
        outcomes.add((task.cancelled(), len(listed.items)))
    assert (True, 1) in outcomes, "cancelled while the store was at it, and yet written"
    assert (False, 0) not in outcomes, "acknowledged and not there"


async def test_a_closed_registry_is_unavailable(registry: Registry, env: Env) -> None:
    async with open_registry(env) as other:
        await other.close()
        with pytest.raises(ServiceUnavailable):
            await other.list(admin(), POD, ListOptions())


@pytest.mark.parametrize(
    ("kind", "namespace", "what", "words"),
    [
        pytest.param(CONFIG_MAP, "", obj("v1", "ConfigMap", "a"), "are namespaced", id="no namespace"),
        pytest.param(NAMESPACE, "x", obj("v1", "Namespace", "a"), "are not namespaced", id="a namespace too many"),
        pytest.param(
            CONFIG_MAP, "default", obj("v1", "ConfigMap", "a", meta={"namespace": "other"}), "does not match", id="two"
        ),
        pytest.param(CONFIG_MAP, "default", pod("p"), "expected a ConfigMap, got a Pod", id="another kind"),
        pytest.param(
            CONFIG_MAP, "default", obj("v1", "ConfigMap", "a", meta={"resourceVersion": "5"}), "should not be set",
            id="resourceVersion",
        ),
    ],
)  # fmt: skip
async def test_requests_that_make_no_sense(
    registry: Registry, kind: Any, namespace: str, what: Any, words: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        await registry.create(admin(), kind, namespace, what)
    assert words in caught.value.message


async def test_events_go_after_their_time(registry: Registry) -> None:
    event = obj("v1", "Event", "e", involvedObject={"kind": "Pod", "namespace": "default", "name": "p"})
    await create(registry, event)
    kind = kinds.by_name("v1", "Event")
    await asyncio.sleep(3500)
    assert len((await registry.list(admin(), kind, ListOptions())).items) == 1
    await asyncio.sleep(300)
    assert (await registry.list(admin(), kind, ListOptions())).items == []


async def test_a_store_that_is_gone_is_unavailable(env: Env) -> None:
    store = await open_store("sqlite::memory:", env, inline=True)
    registry = Registry(store, env)
    await registry.start()
    await store.close()
    with pytest.raises(ServiceUnavailable, match="store is unavailable"):
        await create(registry, obj("v1", "Namespace", "n"), "")
    await registry.close()


async def test_replicas_read_each_others_writes(env: Env) -> None:
    store = await open_store("sqlite::memory:", env, inline=True)
    one, two = (Registry(store, env, Options(consistent_reads=True)) for _ in range(2))
    await one.start()
    await two.start()
    for number in range(5):
        writer, reader = (one, two) if number % 2 else (two, one)
        made = await create(writer, obj("v1", "ConfigMap", f"c{number}"))
        found = await reader.get(admin(), CONFIG_MAP, "default", f"c{number}")
        assert str(found.revision) == made.metadata.resource_version
    spec = {"type": "NodePort", "ports": [{"port": 80}]}
    made_by = [await create((one, two)[n % 2], obj("v1", "Service", f"s{n}", spec=spec)) for n in range(8)]
    assert len({service.spec.cluster_ip for service in made_by}) == 8
    await one.close()
    await two.close()
    await store.close()


async def test_two_replicas_never_give_one_address_twice(env: Env) -> None:
    """Both choose from a range of three at the same moment; who loses the compare chooses again."""
    store = await open_store("sqlite::memory:", env, inline=True)
    options = Options(ranges=Ranges(cidr="10.96.0.0/29"))
    one, two = Registry(store, env, options), Registry(store, env, options)
    await one.start()
    spec = {"ports": [{"port": 80}]}
    made = await asyncio.gather(*(
        create(registry, obj("v1", "Service", f"s{n}-{index}", spec=spec))
        for n in range(3)
        for index, registry in enumerate((one, two))
    ))  # fmt: skip
    assert len({service.spec.cluster_ip for service in made}) == 6
    with pytest.raises(Invalid, match="range is full"):
        await create(two, obj("v1", "Service", "late", spec=spec))
    await one.close()
    await two.close()
    await store.close()


async def test_warnings_are_given_once_however_often_a_patch_is_tried(registry: Registry) -> None:
    await create(registry, obj("v1", "ConfigMap", "a"))
    contexts = [admin(field_validation="Warn") for _ in range(4)]
    await asyncio.gather(*(
        registry.patch(ctx, CONFIG_MAP, "default", "a", MERGE, json.dumps({"nope": 1, "data": {f"k{n}": ""}}).encode())
        for n, ctx in enumerate(contexts)
    ))  # fmt: skip
    assert [ctx.warnings for ctx in contexts] == [['unknown field "nope"']] * 4


@pytest.mark.parametrize(("mounted", "fine"), [("data", True), ("other", False)])
async def test_a_stateful_set_mounts_its_claims(registry: Registry, mounted: str, fine: bool) -> None:
    container = {"name": "c", "image": "i", "volumeMounts": [{"name": mounted, "mountPath": "/data"}]}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    made = obj("apps/v1", "StatefulSet", "s", spec={
        "selector": {"matchLabels": {"a": "b"}}, "serviceName": "s", "template": template,
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
    })  # fmt: skip
    if fine:
        await create(registry, made)
        return
    with pytest.raises(Invalid, match=r'volumeMounts\[0\]\.name: Not found: "other"'):
        await create(registry, made)
