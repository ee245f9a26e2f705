"""The ServiceAccount `default` of a namespace, written in the namespace's own transaction: a pod may be created the moment after
its namespace, and admission refuses one that has no account. Called by `writes` (as `Companions` of namespaces).

Whoever deletes it gets a new one from the service account controller, which also sees to namespaces of before.
"""

from __future__ import annotations

from typing import Any

from controlplane.registry import metadata
from controlplane.registry.keys import key as key_of
from controlplane.registry.state import Served
from controlplane.store.base import Compare, Operation, Put
from wherry.api.context import Env

NAME = "default"


class DefaultAccounts:
    def __init__(self, accounts: Served, env: Env) -> None:
        self._accounts = accounts
        self._env = env

    async def plan(
        self, obj: Any, old: Any | None, refused: set[str], at_least: int
    ) -> tuple[tuple[Compare, ...], tuple[Operation, ...]]:
        """Only with a new namespace, and only where no account is left of an old one (then its key is in `refused`)."""
        key = key_of(self._accounts.kind, obj.metadata.name, NAME)
        if old is not None or key in refused:
            return (), ()
        account: Any = self._accounts.kind.message()
        account.metadata.name, account.metadata.namespace = NAME, obj.metadata.name
        metadata.fill_new(account.metadata, self._env)
        return (Compare(key, 0),), (Put(key, self._accounts.strategy.to_store(account)),)

    def committed(self, revision: int) -> None:
        self._accounts.acknowledge(revision)

    def release(self, old: Any) -> tuple[Operation, ...]:
        """The namespace controller deletes what is in a namespace."""
        return ()

    async def stop(self) -> None:
        return
