"""Who asks: the client certificate of the connection, a bearer token, and whom the request stands in for. Called by `handler`.

A connection without a certificate, or a request without a token, is anonymous; the authoriser decides what that may do.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from typing import Any
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from controlplane.auth.authorizer import Attributes, Authorizer
from controlplane.fronts.grpc.peers import TokenReview, bearer_token, identity_of
from controlplane.registry.base import ANONYMOUS, Identity
from wherry.api.errors import BadRequest, Unauthorized

MAX_CACHED = 4096
_EXTRA = "impersonate-extra-"


class Peers:
    """Invariant: at most MAX_CACHED parsed certificates, the least recently used goes first."""

    def __init__(self, authorizer: Authorizer, tokens: TokenReview | None = None) -> None:
        self._authorizer = authorizer
        self._tokens = tokens
        self._cache: OrderedDict[bytes, Identity] = OrderedDict()
        # A connection shows its certificate once, when it begins.
        self._connections: WeakKeyDictionary[Any, Identity] = WeakKeyDictionary()

    async def identity(self, request: Any) -> Identity:
        """Of an aiohttp request. Raises Unauthorized for a token that is nobody's, Forbidden for a refused impersonation."""
        identity = await self._authenticate(request)
        if "Impersonate-User" in request.headers or any(
            name.lower().startswith("impersonate-") for name in request.headers
        ):
            return await self._impersonate(identity, request)
        return identity

    async def asking(self, request: Any) -> Identity | None:
        """Who asks in somebody else's name; None when nobody does."""
        return await self._authenticate(request) if "Impersonate-User" in request.headers else None

    async def _authenticate(self, request: Any) -> Identity:
        transport = request.transport
        tls = transport.get_extra_info("ssl_object") if transport is not None else None
        if tls is not None:
            known = self._connections.get(tls)
            if known is None:
                certificate = tls.getpeercert(binary_form=True)
                if certificate:
                    known = self._connections[tls] = self._of_certificate(certificate)
            if known is not None:
                return known
        if token := bearer_token(request.headers.get("Authorization", "")):
            found = await self._tokens(token) if self._tokens is not None else None
            if found is None:
                raise Unauthorized("Unauthorized")
            return found
        return ANONYMOUS

    def _of_certificate(self, der: bytes) -> Identity:
        known = self._cache.get(der)
        if known is None:
            known = self._cache[der] = identity_of(ssl.DER_cert_to_PEM_cert(der).encode())
            if len(self._cache) > MAX_CACHED:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(der)
        return known

    async def _impersonate(self, identity: Identity, request: Any) -> Identity:
        headers = request.headers
        user = headers.get("Impersonate-User", "")
        groups = headers.getall("Impersonate-Group", [])
        extra: dict[str, list[str]] = {}
        for name, value in headers.items():
            if name.lower().startswith(_EXTRA):
                extra.setdefault(unquote(name.lower()[len(_EXTRA) :]), []).append(value)
        uid = headers.get("Impersonate-Uid", "")
        if not user:
            raise BadRequest("requested impersonation without impersonating a user")
        wanted = [Attributes("impersonate", resource="users", name=user)]
        parts = user.split(":")
        if user.startswith("system:serviceaccount:") and len(parts) == 4:
            wanted = [Attributes("impersonate", resource="serviceaccounts", namespace=parts[2], name=parts[3])]
            groups = groups or ["system:serviceaccounts", f"system:serviceaccounts:{parts[2]}"]
        wanted += [Attributes("impersonate", resource="groups", name=group) for group in groups]
        where = "authentication.k8s.io"
        wanted += [
            Attributes("impersonate", where, "userextras", key, name=value)
            for key, values in sorted(extra.items())
            for value in values
        ]
        if uid:
            wanted.append(Attributes("impersonate", where, "uids", name=uid))
        for attributes in wanted:
            await self._authorizer.check(identity, attributes)
        if user != ANONYMOUS.user and "system:unauthenticated" not in groups and "system:authenticated" not in groups:
            groups = [*groups, "system:authenticated"]
        return Identity(user, tuple(groups), uid, {key: tuple(values) for key, values in extra.items()})
