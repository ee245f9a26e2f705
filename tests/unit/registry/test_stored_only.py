"""What is stored but not acted on: the table in docs/stored-only.md says so, and whoever creates one is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controlplane.registry import groups
from controlplane.registry.registry import Registry
from controlplane.registry.strategies.declared import Declared
from wherry.api import kinds
from wherry.api.context import Env
from wherry.api.errors import Invalid
from wherry.testing.registries import admin, obj, open_registry, pod

PAGE = Path(__file__).parents[3] / "docs" / "stored-only.md"


@pytest.fixture
async def registry(env: Env) -> AsyncIterator[Registry]:
    async with open_registry(env) as found:
        yield found


def rows() -> list[str]:
    found = []
    for group in groups.MODULES:
        for served in groups.load(group):
            if isinstance(served.strategy, Declared) and served.strategy.stored_only:
                found.append(f"| {served.kind.kind} | {served.kind.api_version} | {served.strategy.stored_only} |")
    return sorted(found)


def test_the_page_lists_them() -> None:
    listed = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    assert listed == rows(), "the table in docs/stored-only.md should be:\n" + "\n".join(rows())


async def test_creating_one_warns(registry: Registry) -> None:
    ctx = admin()
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]},
    }}  # fmt: skip
    made = await registry.create(
        ctx, kinds.by_name("apps/v1", "StatefulSet"), "default", obj("apps/v1", "StatefulSet", "s", spec=spec)
    )
    assert ctx.warnings == ["StatefulSet is stored, but no controller acts on it yet"]
    again = admin()
    live = made.message()
    live.spec.replicas = 3
    await registry.update(again, kinds.by_name("apps/v1", "StatefulSet"), "default", "s", live)
    assert again.warnings == []


async def test_a_kind_that_is_acted_on_does_not_warn(registry: Registry) -> None:
    ctx = admin()
    await registry.create(
        ctx, kinds.by_name("scheduling.k8s.io/v1", "PriorityClass"), "",
        obj("scheduling.k8s.io/v1", "PriorityClass", "p", value=5),
    )  # fmt: skip
    assert ctx.warnings == []


async def test_every_kind_scales_that_says_so(registry: Registry) -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}}
    rc = obj("v1", "ReplicationController", "r", spec={"replicas": 2, "template": template})
    kind = kinds.by_name("v1", "ReplicationController")
    await registry.create(admin(), kind, "default", rc)
    scale = (await registry.get(admin(), kind, "default", "r", subresource="scale")).message()
    assert (scale.spec.replicas, scale.status.selector) == (2, "a=b")
    scale.spec.replicas = 4
    await registry.update(admin(), kind, "default", "r", scale, subresource="scale")
    live = (await registry.get(admin(), kind, "default", "r")).message()
    assert (live.spec.replicas, live.metadata.generation) == (4, 2)


async def test_a_binding_of_its_own_kind_binds(registry: Registry) -> None:
    await registry.create(admin(), kinds.by_name("v1", "Pod"), "default", pod("p"))
    binding = obj("v1", "Binding", "p", target={"kind": "Node", "name": "n1"})
    await registry.create(admin(), kinds.by_name("v1", "Binding"), "default", binding)
    bound = await registry.get(admin(), kinds.by_name("v1", "Pod"), "default", "p")
    assert bound.message().spec.node_name == "n1"


REFUSED = {
    "a bundle's name says its signer": (
        "certificates.k8s.io/v1", "ClusterTrustBundle", "x",
        {"signerName": "example.com/s", "trustBundle": "-----BEGIN CERTIFICATE-----"},
        "must be named with prefix example.com:s:",
    ),
    "a flow needs subjects": (
        "flowcontrol.apiserver.k8s.io/v1", "FlowSchema", "x",
        {"priorityLevelConfiguration": {"name": "p"}, "rules": [{"subjects": [], "resourceRules": []}]},
        "subjects must contain at least one value",
    ),
    "a level is of a type": (
        "flowcontrol.apiserver.k8s.io/v1", "PriorityLevelConfiguration", "x", {"type": "Odd"},
        'supported values: "Exempt", "Limited"',
    ),
    "a claim names a class": (
        "resource.k8s.io/v1", "ResourceClaim", "x", {"devices": {"requests": [{"name": "r", "exactly": {}}]}},
        r"spec.devices.requests\[0\].exactly.deviceClassName: Required value",
    ),
    "a migration names what": (
        "storagemigration.k8s.io/v1", "StorageVersionMigration", "x", {}, "spec.resource.resource: Required value",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_refused(registry: Registry, case: str) -> None:
    api_version, kind, name, spec, wanted = REFUSED[case]
    found = kinds.by_name(api_version, kind)
    with pytest.raises(Invalid, match=wanted):
        await registry.create(
            admin(), found, "default" if found.namespaced else "", obj(api_version, kind, name, spec=spec)
        )
