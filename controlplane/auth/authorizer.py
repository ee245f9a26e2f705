"""Who may do what: an ordered list of deciders, asked in turn; the first that has an opinion settles it.

Called by every servicer before it touches the registry, and by the HTTP front with the same attributes. RBAC becomes one more
decider. The words of a refusal are Kubernetes'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from controlplane.registry.base import Identity
from wherry.api.errors import Forbidden


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is asked for. `verb` is one of get, list, watch, create, update, patch, delete, deletecollection; `path` is set,
    and `resource` empty, for what is no resource (discovery, health)."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    field_selector: str = ""
    path: str = ""


class Verdict(Enum):
    ALLOW = "allow"
    DENY = "deny"  # final: later deciders are not asked
    NO_OPINION = "no opinion"  # the next one is asked; nobody's opinion is a refusal


@dataclass(frozen=True, slots=True)
class Decision:
    """`reason` goes into the refusal that the caller sees."""

    verdict: Verdict
    reason: str = ""


ALLOW = Decision(Verdict.ALLOW)
NO_OPINION = Decision(Verdict.NO_OPINION)


class Decider(Protocol):
    async def decide(self, identity: Identity, attributes: Attributes) -> Decision: ...


class Authorizer:
    def __init__(self, deciders: Sequence[Decider]) -> None:
        self._deciders = tuple(deciders)

    async def decide(self, identity: Identity, attributes: Attributes) -> Decision:
        reasons = []
        for decider in self._deciders:
            decision = await decider.decide(identity, attributes)
            if decision.verdict is Verdict.ALLOW:
                return decision
            if decision.reason:
                reasons.append(decision.reason)
            if decision.verdict is Verdict.DENY:
                break
        return Decision(Verdict.DENY, ", ".join(reasons))

    async def check(self, identity: Identity, attributes: Attributes) -> None:
        """Raises Forbidden unless it is allowed."""
        decision = await self.decide(identity, attributes)
        if decision.verdict is not Verdict.ALLOW:
            raise refusal(identity, attributes, decision.reason)


def refusal(identity: Identity, attributes: Attributes, reason: str = "") -> Forbidden:
    """As kube-apiserver words it."""
    suffix = f": {reason}" if reason else ""
    if attributes.path:
        return Forbidden(f'forbidden: User "{identity.user}" cannot {attributes.verb} path "{attributes.path}"{suffix}')
    subject = f"{attributes.resource}.{attributes.group}" if attributes.group else attributes.resource
    named = f'{subject} "{attributes.name}"' if attributes.name else subject
    resource = f"{attributes.resource}/{attributes.subresource}" if attributes.subresource else attributes.resource
    where = f'in the namespace "{attributes.namespace}"' if attributes.namespace else "at the cluster scope"
    return Forbidden(
        f'{named} is forbidden: User "{identity.user}" cannot {attributes.verb} resource "{resource}" '
        f'in API group "{attributes.group}" {where}{suffix}',
        group=attributes.group,
        kind=attributes.resource,
        name=attributes.name,
    )
