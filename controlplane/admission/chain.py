"""The plugins in their order, Kubernetes' order. Built by the registry from its options.

Mutating plugins, policies and webhooks; then (after the registry's own validation) validating plugins, admission policies,
validating webhooks; and last the quotas, in the transaction itself. What few clusters use is imported when there is an object
that asks for it: see `Lookup.present`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controlplane.admission import (
    default_class,
    lifecycle,
    limit_ranger,
    node_restriction,
    node_taints,
    pod_security,
    priority,
    runtime_class,
    service_account,
    tolerations,
)
from controlplane.admission.base import Lookup, Plugin, Request
from controlplane.admission.charge import FREE, Charge

if TYPE_CHECKING:
    from controlplane.admission.policies.authorizer import Decide
    from controlplane.admission.policies.enforce import Enforcer
    from controlplane.admission.policies.mutate import Mutator
    from controlplane.admission.quota.ledger import Ledger
    from controlplane.admission.webhooks.base import Transport
    from controlplane.admission.webhooks.dispatch import Dispatcher
    from wherry.api.context import Env
    from wherry.api.kinds import Kind

_REGISTRATION = "admissionregistration.k8s.io"
_REGISTRATIONS = {
    "mutatingadmissionpolicies": "MutatingAdmissionPolicy",
    "mutatingwebhookconfigurations": "MutatingWebhookConfiguration",
    "validatingadmissionpolicies": "ValidatingAdmissionPolicy",
    "validatingwebhookconfigurations": "ValidatingWebhookConfiguration",
}
# Kinds of the core group whose use is more than their number.
_MEASURED = ("pods", "services", "persistentvolumeclaims")
# Never counted: they come and go by themselves.
_UNCOUNTED = (("", "events"), ("events.k8s.io", "events"))


@dataclass(frozen=True, slots=True)
class Options:
    """`toleration_s`: how long a pod stays on a node that is not ready or unreachable. Kubernetes says 300; here stateless
    pods are to be replaced within 15 s, so 10. `token_volume`: mount a service account token into pods."""

    toleration_s: int = 10
    token_volume: bool = False


def _may_grow(request: Request) -> bool:
    """Whether an update can cost a quota more, or less: most objects only count as one."""
    if request.subresource or request.kind.group:
        return request.subresource == "resize"
    return request.kind.plural in _MEASURED


@dataclass(frozen=True, slots=True)
class Outside:
    """What webhooks and policies need that the registry does not have: ways out, and who may do what."""

    env: Env
    transport: Callable[[], Transport]  # asked for with the first webhook
    decide: Decide


class Chain:
    """Runs every plugin; the first that refuses ends the request."""

    def __init__(self, lookup: Lookup, options: Options) -> None:
        self._lookup = lookup
        self._node = node_restriction.NodeRestriction()
        self._plugins: tuple[Plugin, ...] = (
            lifecycle.NamespaceLifecycle(),
            limit_ranger.LimitRanger(),
            service_account.ServiceAccount(token_volume=options.token_volume),
            self._node,
            node_taints.NodeTaints(),
            pod_security.PodSecurity(),
            priority.Priority(),
            tolerations.DefaultTolerations(options.toleration_s),
            runtime_class.RuntimeClass(),
            default_class.DefaultIngressClass(),
            default_class.DefaultStorageClass(),
        )
        self._ledger: Ledger | None = None
        self._hooks: Dispatcher | None = None
        self._policies: Enforcer | None = None
        self._mutator: Mutator | None = None
        self._outside: Outside | None = None

    def reach(self, outside: Outside) -> None:
        """Without it there are no webhooks and no policies."""
        self._outside = outside

    def add(self, plugin: Plugin) -> None:
        """Runs after the present ones."""
        self._plugins = (*self._plugins, plugin)

    async def mutate(self, request: Request) -> bool:
        """Whether somebody outside has changed the object, so that its defaults have to be filled in again."""
        for plugin in self._plugins:
            await plugin.mutate(request, self._lookup)
        policies = await self._mutating()
        hooks = await self._dispatcher("mutatingwebhookconfigurations")
        if hooks is None and policies is None:
            return False
        seen: dict[str, bytes] = {}
        left: dict[str, bytes] = {}
        changed = policies is not None and await policies.mutate(request, left)
        hooked = hooks is not None and await hooks.mutate(request, seen)
        if changed or hooked:
            # What somebody added has to be looked at by those before it, as in Kubernetes: once more, and not for ever.
            for plugin in self._plugins:
                await plugin.mutate(request, self._lookup)
            if policies is not None and left:
                await policies.mutate(request, left)
            if hooks is not None:
                await hooks.mutate(request, seen)
        return changed or hooked

    async def validate(self, request: Request) -> None:
        for plugin in self._plugins:
            await plugin.validate(request, self._lookup)
        await self._validate_outside(request)

    async def _validate_outside(self, request: Request) -> None:
        policies = await self._enforcer()
        if policies is not None:
            await policies.validate(request)
        hooks = await self._dispatcher("validatingwebhookconfigurations")
        if hooks is not None:
            await hooks.validate(request)

    async def connect(self, request: Request) -> None:
        """A session with a container. There is nothing to change, so what a mutating webhook answers only counts as yes or no."""
        hooks = await self._dispatcher("mutatingwebhookconfigurations")
        if hooks is not None:
            await hooks.mutate(request, {})
        await self.validate(request)

    async def concerns(self, kind: Kind, subresource: str, operation: str) -> bool:
        """Whether a rule of a webhook or a policy names this at all: for what comes in batches, and costs nothing otherwise."""
        if self._outside is None or not await self._lookup.present(_REGISTRATION):
            return False
        from controlplane.admission import matching

        for plural, name in _REGISTRATIONS.items():
            if not await self._lookup.present(_REGISTRATION, plural):
                continue
            for found in await self._lookup.all(f"{_REGISTRATION}/v1", name):
                if matching.names(found, kind, subresource, operation):
                    return True
        return False

    async def ask_outside(self, request: Request) -> bool:
        """Webhooks and policies alone, of a request in which the plugins have no say; whether they have changed its object."""
        policies = await self._mutating()
        changed = policies is not None and await policies.mutate(request, {})
        hooks = await self._dispatcher("mutatingwebhookconfigurations")
        hooked = hooks is not None and await hooks.mutate(request, {})
        await self._validate_outside(request)
        return changed or hooked

    async def _dispatcher(self, plural: str) -> Dispatcher | None:
        """None when nobody has such a configuration."""
        if self._outside is None or not await self._lookup.present(_REGISTRATION):
            return None
        if not await self._lookup.present(_REGISTRATION, plural):
            return None
        if self._hooks is None:
            from controlplane.admission.webhooks.dispatch import Dispatcher

            self._hooks = Dispatcher(self._lookup, self._outside.env, self._outside.transport())
        return self._hooks

    async def _mutating(self) -> Mutator | None:
        """None when there is no mutating policy that is bound."""
        if self._outside is None or not await self._lookup.present(_REGISTRATION):
            return None
        if not await self._lookup.present(_REGISTRATION, "mutatingadmissionpolicybindings"):
            return None
        if self._mutator is None:
            from controlplane.admission.policies.mutate import Mutator

            self._mutator = Mutator(self._lookup, self._outside.env, self._outside.decide)
        return self._mutator

    async def _enforcer(self) -> Enforcer | None:
        """None when there is no policy that is bound."""
        if self._outside is None or not await self._lookup.present(_REGISTRATION):
            return None
        if not await self._lookup.present(_REGISTRATION, "validatingadmissionpolicybindings"):
            return None
        if self._policies is None:
            from controlplane.admission.policies.enforce import Enforcer

            self._policies = Enforcer(self._lookup, self._outside.env, self._outside.decide)
        return self._policies

    def check_node(self, request: Request) -> None:
        """NodeRestriction alone, for batches of statuses: it needs to look nothing up."""
        self._node.check(request)

    @asynccontextmanager
    async def charging(self, request: Request, *, goes: bool = False) -> AsyncIterator[Charge]:
        """Around the transaction of a write: what it costs, with the namespace's quotas to itself in this process. `goes`: an
        update by which the object is gone."""
        kind = request.kind
        if (
            not kind.namespaced
            or (request.operation == "UPDATE" and not goes and not _may_grow(request))
            or (kind.group, kind.plural) in _UNCOUNTED
            or not await self._lookup.present("", "resourcequotas")
        ):
            yield FREE
            return
        if self._ledger is None:
            from controlplane.admission.quota.ledger import Ledger

            self._ledger = Ledger(self._lookup)
        async with self._ledger.charging(request) as charge:
            yield charge
