"""Answers the reviews: who am I, whose token is it, may I, may he, what may I. Nothing of it is stored.

`controlplane.server` gives `answer` to the registry, which calls it for the create-only kinds of authentication.k8s.io and
authorization.k8s.io. Whether somebody may ask about others has been decided before, like for any request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from controlplane.auth.authorizer import Attributes, Authorizer, Verdict
from controlplane.auth.rbac import RBAC
from controlplane.registry import violations
from controlplane.registry.base import Identity, RequestContext
from wherry.api.context import Env
from wherry.api.errors import Cause, NotFound
from wherry.api.times import to_time


class Reviews:
    """`review_token` fills in the status of a TokenReview; without it there are no tokens in this control plane."""

    def __init__(
        self, env: Env, authorizer: Authorizer, rbac: RBAC,
        review_token: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:  # fmt: skip
        self._env = env
        self._authorizer = authorizer
        self._rbac = rbac
        self._review_token = review_token

    async def answer(self, ctx: RequestContext, namespace: str, review: Any) -> Any:
        """A fresh message: the question with its status. Raises Invalid."""
        out = type(review)()
        out.CopyFrom(review)
        out.ClearField("status")
        kind = out.DESCRIPTOR.name
        if kind == "SelfSubjectReview":
            out.metadata.creation_timestamp.CopyFrom(to_time(self._env.now() // 1))
            describe(out.status.user_info, ctx.identity)
            return out
        if kind == "TokenReview":
            if self._review_token is None:
                raise NotFound("the server could not find the requested resource")
            await self._review_token(out)
            return out
        if kind == "SelfSubjectRulesReview":
            await self._rules(out, ctx.identity)
            return out
        causes = _problems(out, namespace)
        if causes:
            raise violations.invalid_object("authorization.k8s.io", kind, "", causes)
        await self._decide(out, ctx.identity if kind == "SelfSubjectAccessReview" else _subject(out.spec))
        return out

    async def _decide(self, review: Any, identity: Identity) -> None:
        decision = await self._authorizer.decide(identity, _attributes(review.spec))
        review.status.allowed = decision.verdict is Verdict.ALLOW
        review.status.reason = decision.reason

    async def _rules(self, review: Any, identity: Identity) -> None:
        for rule in await self._rbac.rules_of(identity, review.spec.namespace):
            if rule.urls:
                review.status.non_resource_rules.add(verbs=rule.verbs, non_resource_urls=rule.urls)
            else:
                review.status.resource_rules.add(
                    verbs=rule.verbs, api_groups=rule.groups, resources=rule.resources, resource_names=rule.names
                )
        review.status.incomplete = False


def describe(user: Any, identity: Identity) -> None:
    """As a UserInfo."""
    user.username, user.uid = identity.user, identity.uid
    user.groups.extend(identity.groups)
    for key in sorted(identity.extra):
        user.extra[key].items.extend(identity.extra[key])


def _subject(spec: Any) -> Identity:
    extra = {key: tuple(spec.extra[key].items) for key in sorted(spec.extra)}
    return Identity(spec.user, tuple(spec.groups), spec.uid, extra)


def _attributes(spec: Any) -> Attributes:
    if spec.HasField("non_resource_attributes"):
        return Attributes(spec.non_resource_attributes.verb, path=spec.non_resource_attributes.path)
    asked = spec.resource_attributes
    return Attributes(
        asked.verb, asked.group, asked.resource, asked.subresource, asked.namespace, asked.name,
    )  # fmt: skip


def _problems(review: Any, namespace: str) -> list[Cause]:
    spec = review.spec
    causes = []
    resource, other = spec.HasField("resource_attributes"), spec.HasField("non_resource_attributes")
    if resource and other:
        found = spec.non_resource_attributes
        detail = "cannot be specified in combination with resourceAttributes"
        shown = {"Path": found.path, "Verb": found.verb}
        causes.append(violations.invalid("spec.nonResourceAttributes", shown, detail))
    if not resource and not other:
        detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        causes.append(violations.invalid("spec.resourceAttributes", None, detail))
    if not review.DESCRIPTOR.name.startswith("Self") and not spec.user and not spec.groups:
        causes.append(violations.invalid("spec.user", "", "at least one of user or group must be specified"))
    if review.DESCRIPTOR.name == "LocalSubjectAccessReview":
        asked = spec.resource_attributes.namespace
        if other:
            causes.append(violations.invalid("spec.nonResourceAttributes", None, "disallowed on this kind of request"))
        elif asked != namespace:
            path = "spec.resourceAttributes.namespace"
            causes.append(violations.invalid(path, asked, "must match metadata.namespace"))
    return causes
