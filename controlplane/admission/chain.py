"""The plugins in their order. Built by the registry from its options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from controlplane.admission import (
    lifecycle,
    node_restriction,
    node_taints,
    priority,
    runtime_class,
    service_account,
    tolerations,
)
from controlplane.admission.base import Lookup, Plugin, Request


@dataclass(frozen=True, slots=True)
class Options:
    """`toleration_s`: how long a pod stays on a node that is not ready or unreachable. Kubernetes says 300; here stateless
    pods are to be replaced within 15 s, so 10. `token_volume`: mount a service account token into pods."""

    toleration_s: int = 10
    token_volume: bool = False


class Chain:
    """Runs every plugin; the first that refuses ends the request."""

    def __init__(self, lookup: Lookup, options: Options, suffix: Callable[[str], str]) -> None:
        """`suffix` makes a name of a beginning, as generateName does."""
        self._lookup = lookup
        self._node = node_restriction.NodeRestriction()
        self._plugins: tuple[Plugin, ...] = (
            lifecycle.NamespaceLifecycle(),
            self._node,
            service_account.ServiceAccount(suffix, token_volume=options.token_volume),
            priority.Priority(),
            tolerations.DefaultTolerations(options.toleration_s),
            runtime_class.RuntimeClass(),
            node_taints.NodeTaints(),
        )

    def add(self, plugin: Plugin) -> None:
        """Runs after the present ones."""
        self._plugins = (*self._plugins, plugin)

    async def mutate(self, request: Request) -> None:
        for plugin in self._plugins:
            await plugin.mutate(request, self._lookup)

    async def validate(self, request: Request) -> None:
        for plugin in self._plugins:
            await plugin.validate(request, self._lookup)

    def check_node(self, request: Request) -> None:
        """NodeRestriction alone, for batches of statuses: it needs to look nothing up."""
        self._node.check(request)
