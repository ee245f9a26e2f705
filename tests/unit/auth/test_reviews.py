"""Reviews are answered as a real API server answered them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.auth import defaults
from controlplane.auth.authorizer import Authorizer
from controlplane.auth.deciders import Masters
from controlplane.auth.rbac import RBAC
from controlplane.auth.reviews import Reviews
from controlplane.registry.base import Identity, ListOptions, RequestContext
from controlplane.registry.registry import Registry
from controlplane.store.open import open_store
from wherry.api import codec, errors, kinds
from wherry.api.context import Env
from wherry.testing import recordings
from wherry.testing.registries import admin, obj

ALICE = Identity("alice", ("devs", "system:authenticated"))
ADMIN = Identity("admin", ("system:masters", "system:authenticated"), "admin")
CALLERS = {2: ALICE, 4: Identity("alice", ("system:authenticated",)), 12: Identity("alice", ("system:authenticated",))}


@pytest.fixture
async def registry(env: Env) -> AsyncIterator[Registry]:
    store = await open_store("sqlite::memory:", env, inline=True)
    found = Registry(store, env)
    await found.start()

    async def ready() -> None:
        await defaults.ensure(found, store)

    rbac = RBAC(found, ready)
    found.answer_with(Reviews(env, Authorizer([Masters(), rbac]), rbac).answer)
    golden = obj("v1", "Namespace", "golden")
    await found.create(admin(), kinds.by_name("v1", "Namespace"), "", golden)
    v1 = "rbac.authorization.k8s.io/v1"
    binding = obj(v1, "RoleBinding", "carol", roleRef={"kind": "ClusterRole", "name": "admin"},
                  subjects=[{"kind": "User", "name": "carol"}])  # fmt: skip
    await found.create(admin(), kinds.by_name(v1, "RoleBinding"), "golden", binding)
    yield found
    await found.close()
    await store.close()


async def ask(registry: Registry, who: Identity, api_version: str, kind: str, namespace: str = "", **spec: Any) -> Any:
    found = kinds.by_name(api_version, kind)
    message = codec.from_dict({"spec": spec}, found.message)
    return (await registry.create(RequestContext(who), found, namespace, message)).message()


@pytest.mark.skipif(
    not recordings.GOLDEN.is_dir() and not os.environ.get("CI"),
    reason="no recordings of an API server beside the checkout",
)
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 71])
async def test_recorded(registry: Registry, number: int) -> None:
    record = next(item for item in recordings.records("auth") if item.number == number)
    where = recordings.target(registry, record.path)
    assert where is not None
    body = {key: value for key, value in record.body.items() if value is not None}
    message = codec.from_dict(body, where.kind.message)
    ctx = RequestContext(CALLERS.get(number, ADMIN))
    if record.status == 422:
        with pytest.raises(errors.Invalid) as refused:
            await registry.create(ctx, where.kind, where.namespace, message)
        causes = [{"reason": c.reason, "message": c.message, "field": c.field} for c in refused.value.causes]
        assert causes == record.answer["details"]["causes"]
        return
    stored = await registry.create(ctx, where.kind, where.namespace, message)
    status = codec.to_dict(stored.message())["status"]
    wanted = record.answer["status"]
    if number == 12:
        for place in ("resourceRules", "nonResourceRules"):
            known = [
                rule for rule in wanted[place] if rule.get("nonResourceURLs") != ["/.well-known", "/.well-known/*"]
            ]
            ours = status[place]
            assert all(rule in ours for rule in known), place
        return
    assert (record.status, status) == (201, wanted)


async def test_a_question_cannot_be_read(registry: Registry) -> None:
    kind = kinds.by_name("authorization.k8s.io/v1", "SubjectAccessReview")
    with pytest.raises(errors.MethodNotAllowed):
        await registry.list(admin(), kind, ListOptions())
    assert list(registry.verbs(kind)) == ["create"]


async def test_a_service_account_may_ask_about_itself(registry: Registry) -> None:
    robot = Identity("system:serviceaccount:golden:robot", ("system:serviceaccounts", "system:authenticated"))
    asked = {"verb": "get", "resource": "pods", "namespace": "golden"}
    answer = await ask(registry, robot, "authorization.k8s.io/v1", "SelfSubjectAccessReview", resourceAttributes=asked)
    assert answer.status.allowed is False
