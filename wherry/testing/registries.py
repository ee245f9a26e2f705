"""A registry on an inline in-memory store, for tests on virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from controlplane.registry.base import ADMIN, Identity, RequestContext
from controlplane.registry.registry import Options, Registry
from controlplane.store.open import open_store
from wherry.api import codec, kinds
from wherry.api.context import Env


@asynccontextmanager
async def open_registry(env: Env, options: Options | None = None) -> AsyncIterator[Registry]:
    """Started; its invariants are checked at the end."""
    store = await open_store("sqlite::memory:", env, inline=True)
    registry = Registry(store, env, options)
    await registry.start()
    try:
        yield registry
        registry.check_invariants()
    finally:
        await registry.close()
        await store.close()


def admin(**facts: Any) -> RequestContext:
    return RequestContext(ADMIN, **facts)


def node(name: str) -> RequestContext:
    return RequestContext(Identity(f"system:node:{name}", ("system:nodes", "system:authenticated")))


def obj(api_version: str, kind: str, name: str, **fields: Any) -> Any:
    """A message from its JSON form: `obj("v1", "Pod", "p", spec={...})`; `meta` holds further metadata."""
    meta = {"name": name, **fields.pop("meta", {})}
    return codec.from_dict({"metadata": meta, **fields}, kinds.by_name(api_version, kind).message)


def pod(name: str, **spec: Any) -> Any:
    meta = spec.pop("meta", {})
    return obj("v1", "Pod", name, meta=meta, spec={"containers": [{"name": "c", "image": "app:1"}], **spec})
