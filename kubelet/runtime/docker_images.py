"""The images of a Docker daemon: looked up, pulled with progress, listed, removed. Used by `kubelet.runtime.docker`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kubelet.runtime import archives
from kubelet.runtime import docker_messages as messages
from kubelet.runtime.base import Image, RegistryAuth, RuntimeFailure, RuntimeNotFound
from kubelet.runtime.docker_engine import Engine

KNOWN_LIMIT = 1000


class Images:
    """`node`: whose containers' images may be removed once no pod needs them."""

    def __init__(self, engine: Engine, node: str) -> None:
        self._engine = engine
        self._node = node
        self._pause_known = False
        self._ids: dict[str, str] = {}
        # A pull -> its layers -> (fetched, expected) bytes. Written by the threads that pull, each its own entry.
        self._pulls: dict[object, dict[str, tuple[int, int]]] = {}

    async def status(self, reference: str) -> Image | None:
        try:
            return messages.image(await self._engine.call("inspect_image", reference, reason="ImageInspectError"))
        except RuntimeNotFound:
            return None

    def pulling_bytes(self) -> tuple[int, int]:
        layers = [layer for pull in list(self._pulls.values()) for layer in list(pull.values())]
        return sum(fetched for fetched, _ in layers), sum(expected for _, expected in layers)

    async def pull(self, reference: str, auth: RegistryAuth | None) -> str:
        """Its id. Raises RuntimeFailure: ErrImagePull, or InvalidImageName, which no other try would change."""
        login = {"username": auth.username, "password": auth.password} if auth is not None else None
        if auth is not None and auth.identity_token:
            login = {"identitytoken": auth.identity_token}
        layers: dict[str, tuple[int, int]] = {}
        this = object()
        self._pulls[this] = layers
        try:
            await self._engine.pull(lambda client: _pull(client, reference, login, layers))
        except RuntimeNotFound as error:
            raise RuntimeFailure(error.message, reason="ErrImagePull") from error
        except RuntimeFailure as error:
            if error.retryable:
                raise
            # What Docker refuses as a bad request is the reference itself.
            message = f'image "{reference}" is not a valid reference: {error.message}'
            raise RuntimeFailure(message, reason="InvalidImageName", retryable=False) from error
        finally:
            del self._pulls[this]
        image = await self.status(reference)
        if image is None:
            raise RuntimeFailure(f'image "{reference}" is gone right after it was pulled', reason="ErrImagePull")
        return image.id

    async def all(self) -> Sequence[Image]:
        """Those that somebody else's container has are pinned: the daemon is not ours alone."""
        listed, containers = await asyncio.gather(
            self._engine.call("images"), self._engine.call("containers", all=True)
        )
        held = {item["ImageID"] for item in containers if not self._is_pods(item)}
        found = await asyncio.gather(*(self.status(item["Id"]) for item in listed))
        return [replace(image, pinned=image.id in held) for image in found if image is not None]

    def _is_pods(self, listed: Mapping[str, Any]) -> bool:
        labels = listed.get("Labels") or {}
        return labels.get(messages.NODE) == self._node and labels.get(messages.TYPE) in ("container", "sandbox")

    async def remove(self, reference: str) -> None:
        with contextlib.suppress(RuntimeNotFound):
            await self._engine.call("remove_image", reference, force=True)

    async def disk(self) -> tuple[str, int]:
        # Layers that images share count for each: `df` tells better, but measures every container of the daemon, for minutes.
        info, images = await asyncio.gather(self._engine.call("info"), self._engine.call("images"))
        return str(info["DockerRootDir"]), sum(int(item.get("Size") or 0) for item in images)

    async def has(self, archive: Path) -> bool:
        """Whether the image of a docker-archive is here under each of its names."""
        try:
            names, contents = await asyncio.to_thread(archives.archive_contents, archive)
            return bool(names) and all([await self._contents(name) == contents for name in names])
        except (archives.ImageError, RuntimeNotFound):
            return False

    async def _contents(self, reference: str) -> archives.Contents:
        return messages.contents(await self._engine.call("inspect_image", reference))

    async def load(self, archive: bytes) -> None:
        """From a docker-archive."""
        await self._engine.pull(lambda client: list(client.load_image(archive)))

    async def ensure_pause(self) -> None:
        if self._pause_known:
            return
        if await self.status(archives.PAUSE_IMAGE) is None:
            await self.load(archives.pause_archive())
        self._pause_known = True

    async def id_of(self, container: Mapping[str, Any]) -> str:
        """The image of a container by the repository's digest, where there is one."""
        image_id = str(container.get("Image", ""))
        if image_id not in self._ids:
            image = await self.status(image_id)
            if len(self._ids) > KNOWN_LIMIT:
                self._ids.clear()
            self._ids[image_id] = image.digests[0] if image is not None and image.digests else image_id
        return self._ids[image_id]


def _pull(client: Any, reference: str, login: dict[str, str] | None, layers: dict[str, tuple[int, int]]) -> None:
    """Blocking; keeps `layers` up to date."""
    tagged = "@" in reference or ":" in reference.rpartition("/")[2]
    options = {} if tagged else {"tag": "latest"}
    for step in client.pull(reference, stream=True, decode=True, auth_config=login, **options):
        if "error" in step:
            raise RuntimeFailure(str(step["error"]), reason="ErrImagePull")
        detail = step.get("progressDetail") or {}
        if step.get("status") == "Downloading" and detail.get("total"):
            layers[step["id"]] = int(detail.get("current", 0)), int(detail["total"])
        elif step.get("status") == "Download complete" and step.get("id") in layers:
            layers[step["id"]] = layers[step["id"]][1], layers[step["id"]][1]
