"""ConfigMaps and Secrets for pods, read from the API and remembered for when it is away. `kubelet.pods.services.Objects`."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, TypeVar

from google.protobuf.message import Message

from wherry.api.errors import APIError, NotFound, ServiceUnavailable, Timeout
from wherry.client.base import ClientAPI

M = TypeVar("M", bound=Message)

FRESH_S = 2.0  # thirty pods of one Deployment that start together read their ConfigMap once
LIMIT = 256
TIMEOUT_S = 5.0


class ObjectCache:
    """Invariant: at most LIMIT objects, the longest unused go first."""

    def __init__(self, client: ClientAPI) -> None:
        self._client = client
        self._known: OrderedDict[tuple[str, str, str], tuple[float, Any]] = OrderedDict()

    async def get(self, cls: type[M], namespace: str, name: str) -> M:
        key = (cls.DESCRIPTOR.name, namespace, name)
        loop = asyncio.get_running_loop()
        known = self._known.get(key)
        if known is not None and loop.time() - known[0] < FRESH_S:
            return known[1]  # type: ignore[no-any-return]  # stored under its class's name
        try:
            async with asyncio.timeout(TIMEOUT_S):
                found = await self._client.get(cls, name, namespace)
        except NotFound:
            self._known.pop(key, None)
            raise
        except (ServiceUnavailable, Timeout, TimeoutError) as error:
            if known is not None:
                return known[1]  # type: ignore[no-any-return]  # as above
            if isinstance(error, APIError):
                raise
            raise Timeout(f"reading {cls.DESCRIPTOR.name} {namespace}/{name} took over {TIMEOUT_S:g} s") from error
        self._known[key] = (loop.time(), found)
        self._known.move_to_end(key)
        while len(self._known) > LIMIT:
            self._known.popitem(last=False)
        return found
