"""One request as policies see it: whom it concerns, what expressions can speak of, and how it is refused. Used by `enforce` and
`mutate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controlplane.admission import attributes, expressions, matching
from controlplane.admission.base import Request
from controlplane.admission.policies import authorizer
from controlplane.admission.policies.authorizer import Answers
from wherry.api.errors import APIError, Cause

MAX_ROUNDS = 16  # of questions to the authorizer that one policy may ask one after the other
_CODES = {"Unauthorized": 401, "Forbidden": 403, "RequestEntityTooLarge": 413, "Invalid": 422}


class Asked:
    """One request, with what is worked out of it once for all policies."""

    def __init__(self, request: Request, namespace: Any | None, uid: str, served: Sequence[str]) -> None:
        self.request = request
        self.namespace = namespace
        self._served = served
        self.answers = Answers()
        self._uid = uid
        self._plain_namespace = matching.plain(namespace)
        self.look()

    def look(self) -> None:
        """At the object as it is now."""
        view = attributes.view(self.request, self._uid)
        self._values = expressions.values(view, self._plain_namespace)
        self._values["authorizer"] = authorizer.value(self.answers, self.request.identity, view.request)

    def values(self, params: dict[str, Any] | None) -> dict[str, Any]:
        return {**self._values, "params": params}

    def deny(self, message: str, reason: str = "") -> APIError:
        error = self.request.forbid(message, causes=(Cause("", message),))
        error.reason = reason or "Invalid"
        error.code = _CODES.get(error.reason, 422)
        return error

    def concerns(self, match: Any, *, rules: bool = True) -> bool:
        """A binding may narrow its policy down, so it may also leave the rules out."""
        request = self.request
        if not matching.namespace_matches(match.namespace_selector, request, self.namespace):
            return False
        if not matching.object_matches(match.object_selector, request):
            return False
        among = matching.versions(match.match_policy, request, self._served)
        if matching.matched_named(match.exclude_resource_rules, request, among) is not None:
            return False
        if not match.resource_rules:
            return not rules
        return matching.matched_named(match.resource_rules, request, among) is not None
