"""What the owner of pods says of how many there should be, by its scale subresource. Called by `controller` for owners that no
cache holds: custom resources above all.

What is served is learned by discovery, again when it is old, and sooner when a kind is not among it.
"""

from __future__ import annotations

import asyncio

from controlplane.controllers.disruption.plan import UnknownScale
from wherry.api.errors import APIError, NotFound, ServiceUnavailable, Timeout, TooManyRequests
from wherry.client.base import ClientAPI
from wherry.pb import meta_v1_pb2, resources_pb2

FRESH_S = 30.0  # so long a kind that is served is believed to be served so
MISSED_S = 1.0  # so long a kind that is not served is believed not to be

_AGAIN = (ServiceUnavailable, Timeout, TooManyRequests)


class OwnerScales:
    def __init__(self, client: ClientAPI) -> None:
        self._client = client
        self._served: dict[tuple[str, str], resources_pb2.APIResource] = {}  # by apiVersion and kind
        self._learned_at: float | None = None

    async def read(self, namespace: str, owner: meta_v1_pb2.OwnerReference) -> int | None:
        """None when the owner is gone. Raises UnknownScale in Kubernetes' words, and what is worth a retry as it is."""
        resource = await self._resource(owner)
        shown = f"{resource.plural}.{resource.group}" if resource.group else resource.plural
        if "scale" not in resource.subresources:
            raise UnknownScale(f"{shown} does not implement the scale subresource")
        try:
            scale = await self._client.get_scale(resource, owner.name, namespace if resource.namespaced else "")
        except NotFound:
            return None
        except _AGAIN:
            raise
        except APIError as error:
            raise UnknownScale(error.message) from error
        return int(scale.spec.replicas) if scale.metadata.uid == owner.uid else None

    async def _resource(self, owner: meta_v1_pb2.OwnerReference) -> resources_pb2.APIResource:
        wanted = owner.api_version, owner.kind
        now = asyncio.get_running_loop().time()
        age_s = now - self._learned_at if self._learned_at is not None else FRESH_S
        if age_s >= FRESH_S or (wanted not in self._served and age_s >= MISSED_S):
            found = (await self._client.discover()).resources
            self._served = {
                (f"{each.group}/{each.version}" if each.group else each.version, each.kind): each for each in found
            }
            self._learned_at = now
        if wanted not in self._served:
            raise UnknownScale(f'no matches for kind "{owner.kind}" in version "{owner.api_version}"')
        return self._served[wanted]
