"""What the controller does about the API, with haproxy left out: on virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from controlplane.registry.base import ADMIN
from kubelet.ingress.controller import RETRY_S, IngressController
from kubelet.ingress.haproxy import Options
from wherry.api.context import Env
from wherry.api.errors import ServiceUnavailable
from wherry.client.base import ClientAPI
from wherry.pb import networking_v1_pb2
from wherry.testing.serving import plane


class Refusing:
    """A client whose status writes fail as often as `left` says."""

    def __init__(self, client: ClientAPI, left: int) -> None:
        self._client, self.left = client, left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def update_status(self, obj: Any) -> Any:
        if self.left:
            self.left -= 1
            raise ServiceUnavailable("etcd has no leader")
        return await self._client.update_status(obj)


async def test_a_status_that_could_not_be_written_is_written_later(env: Env, tmp_path: Path) -> None:
    async with plane(env) as control_plane:
        client = control_plane.local_client(ADMIN)
        refusing = Refusing(client, 2)
        options = Options(("192.0.2.1",), 80, 443, tmp_path / "socket")
        controller = IngressController(
            cast(ClientAPI, refusing), control_plane.local_transport(ADMIN), env, "one", tmp_path, options
        )

        async def no_haproxy(*_: object) -> None:
            controller._structure = ()

        controller._write = no_haproxy  # type: ignore[method-assign]
        task = asyncio.create_task(controller.run())
        await asyncio.sleep(1)
        ingress = networking_v1_pb2.Ingress()
        ingress.metadata.name, ingress.metadata.namespace = "shop", "default"
        ingress.spec.ingress_class_name = "wherry"
        ingress.spec.default_backend.service.name = "shop"
        ingress.spec.default_backend.service.port.number = 80
        await client.create(ingress)
        await asyncio.sleep(1)
        assert refusing.left == 1
        await asyncio.sleep(3 * RETRY_S)
        found = await client.get(networking_v1_pb2.Ingress, "shop", "default")
        assert [entry.ip for entry in found.status.load_balancer.ingress] == ["192.0.2.1"]
        task.cancel()
        await asyncio.wait((task,))
