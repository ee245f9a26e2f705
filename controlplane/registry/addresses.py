"""The IPAddress object of each address that a Service holds, written and deleted in the Service's own transactions. Called by
`allocation`.

The reservation below `/ranges/` decides who has an address. An IPAddress that somebody made by hand takes it from Services as
well; one that somebody has deleted is not made again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from controlplane.registry import metadata
from controlplane.registry.keys import key as key_of
from controlplane.registry.state import Served
from controlplane.store.base import Compare, Delete, Put
from wherry.api import kinds
from wherry.api.context import Env

LABELS = {
    "ipaddress.kubernetes.io/ip-family": "IPv4",
    "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
}


class Addresses:
    """`find` gives the kind as it is served, None as long as nobody has asked for it: its group is loaded only then."""

    def __init__(self, find: Callable[[], Served | None], env: Env) -> None:
        self._find = find
        self._env = env

    def key(self, address: str) -> str:
        return key_of(kinds.by_name("networking.k8s.io/v1", "IPAddress"), "", address)

    def make(self, address: str, service: Any) -> tuple[Compare, Put]:
        made: Any = kinds.by_name("networking.k8s.io/v1", "IPAddress").message()
        made.metadata.name = address
        made.metadata.labels.update(LABELS)
        parent = made.spec.parent_ref
        parent.resource, parent.namespace, parent.name = "services", service.metadata.namespace, service.metadata.name
        metadata.fill_new(made.metadata, self._env)
        key = self.key(address)
        return Compare(key, 0), Put(key, made.SerializeToString(deterministic=True))

    def remove(self, address: str) -> Delete:
        return Delete(self.key(address))

    def committed(self, revision: int) -> None:
        served = self._find()
        if served is not None:
            served.acknowledge(revision)
