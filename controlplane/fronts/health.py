"""grpc.health.v1 for the whole process and per service. `controlplane.server` says when it serves; load balancers, `wherry
status` and the client's `server_status` ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from grpc_health.v1 import health_pb2

from controlplane.fronts.call import Call
from wherry.api.errors import NotFound

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthServicer:
    """`""` is the process; a service is healthy when the process is."""

    def __init__(self) -> None:
        self._serving = False
        self._able = True
        self._services: set[str] = {""}
        self._changed = asyncio.Event()

    def know(self, service: str) -> None:
        self._services.add(service)

    @property
    def serving(self) -> bool:
        return self._serving

    def set_serving(self, serving: bool) -> None:
        if serving != self._serving:
            self._serving = serving
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def set_able(self, able: bool) -> None:
        """Whether what is needed to serve (the store) is within reach."""
        if able != self._able:
            self._able = able
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, call: Call) -> health_pb2.HealthCheckResponse:
        if request.service not in self._services:
            raise NotFound(f'service "{request.service}" is not known here')
        return self._response()

    async def List(self, request: health_pb2.HealthListRequest, call: Call) -> health_pb2.HealthListResponse:
        return health_pb2.HealthListResponse(statuses={name: self._response() for name in sorted(self._services)})

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        if request.service not in self._services:
            yield health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            return
        while True:
            changed = self._changed
            yield self._response()
            await changed.wait()

    def _response(self) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=_SERVING if self._serving and self._able else _NOT_SERVING)
