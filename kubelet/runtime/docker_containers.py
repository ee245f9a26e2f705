"""The containers of one node on a Docker daemon, whatever they are for: found by their labels, made, signalled, removed. Used by
`kubelet.runtime.docker` and `docker_network`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from kubelet.runtime import docker_messages as messages
from kubelet.runtime.base import RuntimeFailure, RuntimeNotFound
from kubelet.runtime.docker_engine import Engine

POLL_S = 0.05


class Containers:
    """`node` keeps those of several agents on one daemon apart."""

    def __init__(self, engine: Engine, node: str) -> None:
        self._engine = engine
        self.node = node

    async def inspect(self, container_id: str) -> Any:
        """Docker's description. Raises RuntimeNotFound for one of somebody else, too."""
        document = await self._engine.call("inspect_container", container_id)
        if messages.labels_of(document).get(messages.NODE) != self.node:
            raise RuntimeNotFound(f"container {container_id} is none of this node's")
        return document

    async def documents(self, labels: Mapping[str, str]) -> list[Any]:
        """Descriptions of those with these labels."""
        wanted = {messages.NODE: self.node, **labels}
        filters = {"label": [f"{name}={value}" for name, value in sorted(wanted.items())]}
        listed = await self._engine.call("containers", all=True, filters=filters)

        async def one(item: Mapping[str, Any]) -> Any:
            with contextlib.suppress(RuntimeNotFound):
                return await self.inspect(item["Id"])

        found = await asyncio.gather(*(one(item) for item in listed))
        return [document for document in found if document is not None]

    async def create(self, body: dict[str, Any], name: str, reason: str) -> str:
        for _ in range(2):
            try:
                made = await self._engine.call("create_container_from_config", body, name, reason=reason)
                return str(made["Id"])
            except RuntimeFailure as error:
                if "is already in use by container" not in error.message:
                    raise
                # Of an earlier try whose answer we never got.
                await self.remove(name)
        raise RuntimeFailure(f"the container name {name} is taken", reason=reason)

    async def remove(self, container_id: str) -> None:
        with contextlib.suppress(RuntimeNotFound):
            await self._engine.call("remove_container", container_id, v=True, force=True)

    async def signal(self, container_id: str, name: str) -> None:
        try:
            await self._engine.call("kill", container_id, name)
        except RuntimeNotFound:
            pass
        except RuntimeFailure as error:
            if "is not running" not in error.message:
                raise

    async def ends(self, container_id: str, timeout_s: float) -> bool:
        """Waits for that; False when it does not."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            try:
                document = await self.inspect(container_id)
            except RuntimeNotFound:
                return True
            if not document["State"].get("Running"):
                return True
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(POLL_S)
