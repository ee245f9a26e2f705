"""The variable `authorizer` of expressions: may this user do that? Called by `compiled` and `enforce`.

Expressions run without waiting, and a decision has to be waited for. So an expression that asks what is not known yet fails,
`Answers` remembers what was asked, `enforce` finds it out, and the expression runs again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from controlplane.registry.base import Identity
from wherry.api.cel import types as cel
from wherry.api.cel.overloads import Functions
from wherry.api.cel.program import kubernetes_functions
from wherry.api.cel.values import EvaluationError


@dataclass(frozen=True, slots=True)
class Question:
    """Of `path`, or of a resource."""

    identity: Identity
    verb: str = ""
    path: str = ""
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""

    def __hash__(self) -> int:
        """An identity's extra is a map."""
        return hash((self.identity.user, self.verb, self.path, self.group, self.resource, self.namespace, self.name))


@dataclass(frozen=True, slots=True)
class Decision:
    allowed: bool
    reason: str = ""


# Who knows. Raises APIError.
Decide = Callable[[Question], Awaitable[Decision]]


@dataclass(slots=True)
class Answers:
    """Those of one request. Invariant: `pending` holds nothing that is known."""

    known: dict[Question, Decision] = field(default_factory=dict)
    pending: dict[Question, None] = field(default_factory=dict)

    def ask(self, question: Question) -> Decision:
        found = self.known.get(question)
        if found is None:
            self.pending[question] = None
            raise EvaluationError("the decision is not known yet")
        return found


@dataclass(frozen=True, slots=True)
class Check:
    """What is being put together: `authorizer.group('').resource('pods')`."""

    answers: Answers
    question: Question

    def of(self, **parts: Any) -> Check:
        return replace(self, question=replace(self.question, **parts))

    def decide(self, verb: str) -> Decision:
        return self.answers.ask(replace(self.question, verb=verb))


_PATH = cel.opaque("kubernetes.authorization.PathCheck")
_GROUP = cel.opaque("kubernetes.authorization.GroupCheck")
_RESOURCE = cel.opaque("kubernetes.authorization.ResourceCheck")
_DECISION = cel.opaque("kubernetes.authorization.Decision")
AUTHORIZER = cel.object_of("kubernetes.authorization.Authorizer", {"requestResource": _RESOURCE})
_CHECK = "check"  # under which the variable's value, an object to CEL, holds what it is


def value(answers: Answers, identity: Identity, request: dict[str, Any]) -> dict[str, Any]:
    """Of the variable."""
    base = Check(answers, Question(identity))
    found = request["resource"]
    resource = base.of(
        group=found["group"], resource=found["resource"], subresource=request.get("subResource", ""),
        namespace=request.get("namespace", ""), name=request.get("name", ""),
    )  # fmt: skip
    return {_CHECK: base, "requestResource": resource}


def _account(authorizer: dict[str, Any], namespace: str, name: str) -> dict[str, Any]:
    user = f"system:serviceaccount:{namespace}:{name}"
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    check = Check(authorizer[_CHECK].answers, Question(Identity(user, groups)))
    return {_CHECK: check, "requestResource": authorizer["requestResource"].of(identity=check.question.identity)}


@lru_cache(maxsize=1)
def functions() -> Functions:
    """Those of Kubernetes, and the authorizer's."""
    own = Functions()
    text = cel.STRING
    own.add("path", (AUTHORIZER, text), _PATH, lambda a, path: a[_CHECK].of(path=path), member=True)
    own.add("group", (AUTHORIZER, text), _GROUP, lambda a, group: a[_CHECK].of(group=group), member=True)
    own.add("serviceAccount", (AUTHORIZER, text, text), AUTHORIZER, _account, member=True)
    own.add("resource", (_GROUP, text), _RESOURCE, lambda check, name: check.of(resource=name), member=True)
    for part in ("subresource", "namespace", "name"):
        own.add(part, (_RESOURCE, text), _RESOURCE, _setter(part), member=True)
    own.add("check", (_PATH, text), _DECISION, Check.decide, member=True, cost=lambda sizes: 350_000)
    own.add("check", (_RESOURCE, text), _DECISION, Check.decide, member=True, cost=lambda sizes: 350_000)
    own.add("allowed", (_DECISION,), cel.BOOL, lambda decision: decision.allowed, member=True)
    own.add("reason", (_DECISION,), text, lambda decision: decision.reason, member=True)
    own.add("errored", (_DECISION,), cel.BOOL, lambda decision: False, member=True)
    own.add("error", (_DECISION,), text, lambda decision: "", member=True)
    return Functions(kubernetes_functions(), own)


def _setter(part: str) -> Callable[[Check, str], Check]:
    return lambda check, value: check.of(**{part: value})
