"""Role-based access control: a decider, and the check that nobody grants more than he has.

Reads roles and bindings through the registry; what they say is kept beside each revision in the watch cache, so that a decision
parses nothing. An aggregated ClusterRole is made of its parts at each decision: the controller that writes them into it (for
whoever reads it) may lag behind.
Asked by `authorizer` after the other deciders; `Escalation` is an admission plugin, added by `controlplane.server`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from controlplane.admission.base import Lookup, Request
from controlplane.auth import rules as ruling
from controlplane.auth.authorizer import NO_OPINION, Attributes, Authorizer, Decision, Verdict
from controlplane.auth.names import MASTERS_GROUP
from controlplane.auth.rules import Rule
from controlplane.registry.base import ADMIN, Identity, ListOptions, RegistryAPI, RequestContext, Stored
from wherry.api import kinds, labels
from wherry.api.errors import NotFound

GROUP = "rbac.authorization.k8s.io"
_V1 = f"{GROUP}/v1"
_ACCOUNT = "system:serviceaccount:"


@dataclass(frozen=True, slots=True)
class Binding:
    """`namespace` is empty for a ClusterRoleBinding. A subject: kind, the name that an
    identity has, the name as shown."""

    name: str
    namespace: str
    role_kind: str
    role_name: str
    subjects: tuple[tuple[str, str, str], ...]

    def subject_of(self, identity: Identity) -> tuple[str, str] | None:
        """Which subject the identity is: kind and name as shown."""
        for kind, name, shown in self.subjects:
            if (name in identity.groups) if kind == "Group" else (name == identity.user):
                return kind, shown
        return None

    def reason(self, subject: tuple[str, str]) -> str:
        kind = "RoleBinding" if self.namespace else "ClusterRoleBinding"
        name = f"{self.name}/{self.namespace}" if self.namespace else self.name
        return f'RBAC: allowed by {kind} "{name}" of {self.role_kind} "{self.role_name}" to {subject[0]} "{subject[1]}"'


class RBAC:
    """`ready` is awaited before the first look: the default roles must have been made."""

    def __init__(self, registry: RegistryAPI, ready: Callable[[], Awaitable[None]]) -> None:
        self._registry = registry
        self._ready = ready
        self._ctx = RequestContext(ADMIN, cause="authorize")

    async def decide(self, identity: Identity, attributes: Attributes) -> Decision:
        async with aclosing(self._granted(identity, attributes.namespace)) as granted:
            async for binding, subject, found in granted:
                if any(rule.allows(attributes) for rule in found):
                    return Decision(Verdict.ALLOW, binding.reason(subject))
        return NO_OPINION

    async def rules_of(self, identity: Identity, namespace: str) -> list[Rule]:
        """All that the identity holds there."""
        return [rule async for _, _, found in self._granted(identity, namespace) for rule in found]

    async def rules_in(self, kind: str, name: str, namespace: str) -> Sequence[Rule] | None:
        """Of a role; None when there is none."""
        message_kind = kinds.by_name(_V1, kind)
        try:
            stored = await self._registry.get(self._ctx, message_kind, namespace if kind == "Role" else "", name)
        except NotFound:
            return None
        return await self._rules(stored)

    async def _granted(
        self, identity: Identity, namespace: str
    ) -> AsyncGenerator[tuple[Binding, tuple[str, str], Sequence[Rule]], None]:
        await self._ready()
        places = [("ClusterRoleBinding", "")]
        if namespace:
            places.append(("RoleBinding", namespace))
        for kind, where in places:
            listed = await self._registry.list(self._ctx, kinds.by_name(_V1, kind), ListOptions(where))
            for stored in listed.items:
                binding = _binding(stored)
                subject = binding.subject_of(identity)
                if subject is None:
                    continue
                found = await self.rules_in(binding.role_kind, binding.role_name, binding.namespace)
                if found:
                    yield binding, subject, found

    async def _rules(self, stored: Stored) -> Sequence[Rule]:
        own, selectors = _role(stored)
        if not selectors:
            return own
        together: list[Rule] = []
        listed = await self._registry.list(self._ctx, kinds.by_name(_V1, "ClusterRole"), ListOptions())
        chosen = [part for part in listed.items if any(selector.matches(_labels(part)) for selector in selectors)]
        seen = {stored.revision}
        while chosen:
            part = chosen.pop(0)
            if part.revision in seen:
                continue
            seen.add(part.revision)
            rules, deeper = _role(part)
            together += (rule for rule in rules if rule not in together)
            if deeper:  # `edit` is a part of `admin`, and itself made of parts
                chosen += (item for item in listed.items if any(one.matches(_labels(item)) for one in deeper))
        return together


def _role(stored: Stored) -> tuple[Sequence[Rule], Sequence[labels.Selector]]:
    kept: tuple[Sequence[Rule], Sequence[labels.Selector]] | None = stored.memo.get("rbac")
    if kept is None:
        message: Any = stored.kind.message.FromString(stored.value)
        selectors = []
        if stored.kind.kind == "ClusterRole":
            selectors = [labels.from_message(item) for item in message.aggregation_rule.cluster_role_selectors]
        kept = stored.memo["rbac"] = (ruling.of(message.rules), selectors)
    return kept


def _labels(stored: Stored) -> dict[str, str]:
    kept: dict[str, str] | None = stored.memo.get("rbac-labels")
    if kept is None:
        message: Any = stored.kind.message.FromString(stored.value)
        kept = stored.memo["rbac-labels"] = dict(message.metadata.labels)
    return kept


def _binding(stored: Stored) -> Binding:
    kept: Binding | None = stored.memo.get("rbac")
    if kept is None:
        message: Any = stored.kind.message.FromString(stored.value)
        meta = message.metadata
        subjects = []
        for subject in message.subjects:
            name = shown = subject.name
            if subject.kind == "ServiceAccount":
                namespace = subject.namespace or meta.namespace
                name, shown = f"{_ACCOUNT}{namespace}:{subject.name}", f"{subject.name}/{namespace}"
            subjects.append((subject.kind, name, shown))
        kept = stored.memo["rbac"] = Binding(
            meta.name, meta.namespace, message.role_ref.kind, message.role_ref.name, tuple(subjects)
        )
    return kept


class Escalation:
    """Nobody writes a role, or binds one, with permissions that he does not hold himself, unless he has the verb `escalate`
    or `bind` on that role."""

    def __init__(self, rbac: RBAC, authorizer: Authorizer) -> None:
        self._rbac = rbac
        self._authorizer = authorizer

    async def mutate(self, request: Request, lookup: Lookup) -> None:
        return

    async def validate(self, request: Request, lookup: Lookup) -> None:
        if request.kind.group != GROUP or request.operation == "DELETE" or MASTERS_GROUP in request.identity.groups:
            return
        if request.kind.kind in ("Role", "ClusterRole"):
            await self._role(request)
        else:
            await self._bind(request)

    async def _role(self, request: Request) -> None:
        new, old = request.obj, request.old
        if old is not None and list(new.rules) == list(old.rules) and not _aggregates_otherwise(new, old):
            return
        if await self._may(request, "escalate", request.kind.plural, request.name):
            return
        if _aggregates_otherwise(new, old):
            # It would come to hold whatever roles get the label later.
            raise request.forbid("must have cluster-admin privileges to use an aggregationRule")
        await self._check(request, ruling.of(new.rules))

    async def _bind(self, request: Request) -> None:
        new, old = request.obj, request.old
        if old is not None and new.role_ref == old.role_ref and list(new.subjects) == list(old.subjects):
            return
        ref = new.role_ref
        plural = "roles" if ref.kind == "Role" else "clusterroles"
        if await self._may(request, "bind", plural, ref.name):
            return
        granted = await self._rbac.rules_in(ref.kind, ref.name, request.namespace)
        if granted is None:
            raise NotFound(f'{plural}.{GROUP} "{ref.name}" not found', group=GROUP, kind=plural, name=ref.name)
        await self._check(request, granted)

    async def _may(self, request: Request, verb: str, plural: str, name: str) -> bool:
        asked = Attributes(verb, GROUP, plural, namespace=request.namespace, name=name)
        return (await self._authorizer.decide(request.identity, asked)).verdict is Verdict.ALLOW

    async def _check(self, request: Request, wanted: Sequence[Rule]) -> None:
        identity = request.identity
        held = await self._rbac.rules_of(identity, request.namespace)
        missing = ruling.uncovered(held, wanted)
        if not missing:
            return
        groups = "[" + " ".join(map(json.dumps, identity.groups)) + "]"  # as Go writes a list of quoted strings
        shown = "\n".join(sorted(str(rule) for rule in missing))
        raise request.forbid(
            f"user {json.dumps(identity.user)} (groups={groups}) is attempting to grant RBAC permissions not currently "
            f"held:\n{shown}"
        )


def _aggregates_otherwise(new: Any, old: Any) -> bool:
    if new.DESCRIPTOR.name != "ClusterRole" or not new.HasField("aggregation_rule"):
        return False
    return old is None or bool(new.aggregation_rule != old.aggregation_rule)
