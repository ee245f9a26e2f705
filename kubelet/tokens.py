"""Service account tokens for the pods of this node: asked of the API, bound to their pod, and renewed long before they end.

`kubelet.pods.services.Tokens`, used by the volume manager whenever it prepares a projected volume: that is when a pod starts and
about once a minute afterwards. Nothing is kept on disk beyond the volumes themselves, so a restarted agent asks anew.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from wherry.api.context import Env
from wherry.api.errors import APIError, NotFound, Timeout
from wherry.api.times import from_time
from wherry.client.base import ClientAPI
from wherry.pb import authentication_v1_pb2, core_v1_pb2

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
# Of a token's life, after which another is asked for; and at the latest after so long.
RENEW_AT = 0.8
RENEW_AFTER_S = 24 * 3600.0

Key = tuple[str, str, int]  # pod uid, audience, seconds


@dataclass(frozen=True, slots=True)
class _Held:
    token: str
    renew_at: float
    expires_at: float


class AccountTokens:
    """Invariant: it holds tokens of pods only that `forget` was not called for since they were asked for."""

    def __init__(self, client: ClientAPI, env: Env) -> None:
        self._client = client
        self._env = env
        self._held: dict[Key, _Held] = {}

    async def get(self, pod: core_v1_pb2.Pod, audience: str, seconds: int) -> str:
        """Raises APIError when there is none that still holds."""
        key = (pod.metadata.uid, audience, seconds)
        held, now = self._held.get(key), self._env.now()
        if held is not None and now < held.renew_at:
            return held.token
        try:
            issued = await self._ask(pod, audience, seconds)
        except NotFound:
            self._held.pop(key, None)  # the pod or its account is gone: no token of theirs holds any more
            raise
        except APIError as error:
            if held is None or now >= held.expires_at:
                raise
            log.warning("%s/%s: its token is not renewed yet: %s", pod.metadata.namespace, pod.metadata.name, error)
            return held.token
        expires_at = from_time(issued.status.expiration_timestamp)
        renew_at = now + min((expires_at - now) * RENEW_AT, RENEW_AFTER_S)
        self._held[key] = _Held(issued.status.token, renew_at, expires_at)
        return issued.status.token

    def forget(self, pod_uid: str) -> None:
        for key in [key for key in self._held if key[0] == pod_uid]:
            del self._held[key]

    async def _ask(self, pod: core_v1_pb2.Pod, audience: str, seconds: int) -> authentication_v1_pb2.TokenRequest:
        spec = authentication_v1_pb2.TokenRequestSpec(
            audiences=[audience] if audience else [], expiration_seconds=seconds
        )
        ref = spec.bound_object_ref
        ref.api_version, ref.kind, ref.name, ref.uid = "v1", "Pod", pod.metadata.name, pod.metadata.uid
        account = pod.spec.service_account_name or "default"
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._client.request_token(pod.metadata.namespace, account, spec)
        except TimeoutError as error:
            raise Timeout(f"a token for {pod.metadata.namespace}/{account} took over {TIMEOUT_S:g} s") from error
