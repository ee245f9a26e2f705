"""Whose a bearer token is: a service account's, or a bootstrap token's. Answers TokenReviews with the same knowledge.

The HTTP front asks `identity` for every request with a token; the registry (through `reviews`) asks `review`. Client certificates
are the fronts' own business.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from controlplane.auth import accountclaims
from controlplane.auth.accounttokens import AccountTokens
from controlplane.auth.reviews import describe
from controlplane.auth.signing import InvalidToken
from controlplane.auth.tokens import verify_token
from controlplane.registry.base import Identity, RegistryAPI, RequestContext
from wherry.api.context import Env
from wherry.api.errors import BadRequest, Unauthorized

log = logging.getLogger(__name__)

_READER = Identity("system:apiserver", ("system:masters", "system:authenticated"))
_UNKNOWN = "invalid bearer token"
_BOOTSTRAP_CHARS = 23  # 6, a dot and 16


class Authentication:
    def __init__(self, registry: RegistryAPI, env: Env, accounts: AccountTokens) -> None:
        self._registry = registry
        self._env = env
        self._accounts = accounts

    async def identity(self, token: str) -> Identity | None:
        """None when it is nobody's."""
        try:
            return (await self._verify(token, ()))[0]
        except InvalidToken as error:
            log.info("a bearer token is refused: %s", error)
            return None

    async def review(self, review: Any) -> None:
        """Fills in the status of a TokenReview. Raises BadRequest."""
        if not review.spec.token:
            raise BadRequest("token is required for TokenReview in authentication")
        asked = tuple(review.spec.audiences)
        status = review.status
        status.SetInParent()
        try:
            identity, audiences = await self._verify(review.spec.token, asked)
        except InvalidToken as error:
            reason = str(error)
            status.error = reason if reason == _UNKNOWN else f"[{_UNKNOWN}, {reason}]"
            return
        status.authenticated = True
        status.audiences.extend(audiences)
        describe(status.user, identity)

    async def _verify(self, token: str, audiences: Sequence[str]) -> tuple[Identity, tuple[str, ...]]:
        if len(token) == _BOOTSTRAP_CHARS:
            return await self._bootstrap(token), tuple(audiences) or accountclaims.AUDIENCES
        return await self._accounts.verify(token, audiences)

    async def _bootstrap(self, text: str) -> Identity:
        try:
            token = await verify_token(self._registry, RequestContext(_READER), self._env, text)
        except Unauthorized as error:
            raise InvalidToken(_UNKNOWN) from error
        return Identity(f"system:bootstrap:{token.id}", (*token.groups, "system:authenticated"))
