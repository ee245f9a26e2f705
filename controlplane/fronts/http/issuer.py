"""What others need in order to verify our service account tokens by themselves: the issuer's description (OpenID Connect
Discovery) and its keys. Asked by `handler`; RBAC decides who may read them, service accounts by default."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from controlplane.auth.accountclaims import ISSUER
from controlplane.fronts.http import encoding
from controlplane.fronts.http.exchange import Exchange

CONFIGURATION_PATH = (".well-known", "openid-configuration")
KEYS_PATH = ("openid", "v1", "jwks")
_KEYS_TYPE = "application/jwk-set+json"
_CACHED = {"Cache-Control": "public, max-age=3600"}


class Issuer:
    """`keys` gives the key set as it is now."""

    def __init__(self, keys: Callable[[], dict[str, Any]]) -> None:
        self._keys = keys

    def document(self, path: Sequence[str]) -> Callable[[Exchange], Awaitable[web.StreamResponse]] | None:
        """What answers for this path; None when it is not one of these."""
        if tuple(path) == CONFIGURATION_PATH:
            return self._configuration
        return self._key_set if tuple(path) == KEYS_PATH else None

    async def _configuration(self, exchange: Exchange) -> web.StreamResponse:
        return exchange.json(
            {
                "issuer": ISSUER,
                "jwks_uri": f"https://{exchange.request.host}/{'/'.join(KEYS_PATH)}",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": sorted({key["alg"] for key in self._keys()["keys"]}),
            },
            headers=_CACHED,
        )

    async def _key_set(self, exchange: Exchange) -> web.StreamResponse:
        return exchange.reply(encoding.dump(self._keys()), _KEYS_TYPE, headers=_CACHED)
