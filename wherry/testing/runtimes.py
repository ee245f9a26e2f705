"""Sandboxes and containers of the demo image on any runtime, with few words: for tests/contract, which every runtime passes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kubelet.runtime.archives import Layer
from kubelet.runtime.base import (
    CONTAINER_NAME,
    POD_UID,
    ByteStream,
    ContainerConfig,
    ContainerState,
    ContainerStatus,
    Runtime,
    RuntimeFailure,
    SandboxConfig,
)
from wherry.cli.cluster.images import DEMO_IMAGE, find_busybox
from wherry.testing.eventually import eventually
from wherry.testing.imageregistry import ImageRegistry
from wherry.testing.realnode import CGROUP

REAL = [pytest.param(name, marks=[pytest.mark.root, pytest.mark.containerd]) for name in ("cri", "docker")]


@dataclass(frozen=True)
class Behaviour:
    """The same for a real shell and for a hollow container."""

    script: str
    hollow: str = ""


# Time for a real shell to set its trap: until then the kernel keeps the signal from a namespace's first process.
TRAP_S = 0.3
RUNS = Behaviour("trap 'exit 143' TERM; while :; do sleep 0.05; done")
FAILS = Behaviour("exit 3", "exit-after=0,exit-code=3")
SUCCEEDS = Behaviour("exit 0", "exit-after=0,exit-code=0")
IGNORES_TERM = Behaviour("trap '' TERM; while :; do sleep 0.05; done", "ignore-term")


class Maker:
    def __init__(self, runtime: Runtime, logs: Path) -> None:
        self.runtime, self.logs = runtime, logs
        self._count = 0

    def sandbox_config(self, **changes: Any) -> SandboxConfig:
        self._count += 1
        fields: dict[str, Any] = {
            "namespace": "default",
            "name": f"pod-{self._count}",
            "uid": f"uid-{id(self):x}-{self._count}",
            "attempt": 0,
            "hostname": f"pod-{self._count}",
            "log_directory": str(self.logs),
            "cgroup_parent": f"/wherry/{CGROUP}/contract",
            "labels": {POD_UID: f"uid-{self._count}"},
            "annotations": {"note": "kept"},
        }
        return SandboxConfig(**(fields | changes))

    async def sandbox(self, **changes: Any) -> tuple[str, SandboxConfig]:
        config = self.sandbox_config(**changes)
        return await self.runtime.run_sandbox(config), config

    async def container(
        self, sandbox: tuple[str, SandboxConfig], does: Behaviour, *, start: bool = True, **changes: Any
    ) -> str:
        self._count += 1
        fields: dict[str, Any] = {
            "name": f"c{self._count}",
            "attempt": 0,
            "image": DEMO_IMAGE,
            "user_image": DEMO_IMAGE,
            "command": ("/bin/sh", "-c", does.script),
            "args": (f"hollow:{does.hollow}",),  # $0 to a real shell
            "labels": {CONTAINER_NAME: f"c{self._count}"},
            "log_path": f"c{self._count}.log",
        }
        config = ContainerConfig(**(fields | changes))
        container = await self.runtime.create_container(sandbox[0], config, sandbox[1])
        if start:
            await self.runtime.start_container(container)
        return container

    async def exited(self, container: str) -> ContainerStatus:
        async def check() -> ContainerStatus | None:
            status = await self.runtime.container_status(container)
            return status if status.state is ContainerState.EXITED else None

        status = await eventually(check)
        assert status is not None
        return status

    async def log_of(self, container: str) -> str:
        """ "" while there is none."""
        path = Path((await self.runtime.container_status(container)).log_path)
        try:
            return await asyncio.to_thread(path.read_text)
        except FileNotFoundError:
            return ""

    async def says(self, container: str, word: str) -> None:
        """Returns when its log has the word."""

        async def check() -> bool:
            return word in await self.log_of(container)

        await eventually(check)

    async def port(self, sandbox: str, number: int) -> ByteStream:
        """As soon as something listens there."""

        async def connect() -> ByteStream | None:
            try:
                return await self.runtime.port_forward(sandbox, number)
            except RuntimeFailure:
                return None

        stream = await eventually(connect)
        assert stream is not None
        return stream

    async def run(self, container: str, script: str) -> list[str]:
        """The lines that a shell in the container says."""
        told = await self.runtime.exec_sync(container, ["sh", "-c", script], 10)
        assert told.exit_code == 0, (script, told)
        return told.stdout.decode().splitlines()


async def collect(stream: ByteStream) -> tuple[bytes, bytes]:
    """All of its output, and of its errors."""
    out = {1: b"", 2: b""}
    async for number, piece in stream.output():
        out[number] += piece
    return out[1], out[2]


def shell_layer() -> bytes:
    """Of an image: a shell, and what it can do by itself."""
    files = {f"bin/{name}": (find_busybox().read_bytes(), 0o755) for name in ("sh", "sleep", "cat")}
    return Layer(files=files, directories={"bin": 0o755}).tar()


class Registries:
    """An open one, and one that wants HTTPS and a password, of the same images. Started by the first who asks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open = ImageRegistry(folder / "open", data=folder / "data")
        self._private: ImageRegistry | None = None

    @property
    def private(self) -> ImageRegistry:
        assert self._private is not None, "not started"
        return self._private

    def start(self, address: str, hosts: Path, certificates: Path) -> None:
        """`address`: of the private one, not on loopback, where Docker would take any certificate. `hosts` is where containerd
        looks registries up, `certificates` where Docker does."""
        if self._private is not None:
            return
        private = ImageRegistry(
            self.folder / "private", data=self.folder / "data", private=True, tls=True, address=address
        )
        for registry in (self.open, private):
            registry.start()
        self._private = private
        (certificates / self.private.host).mkdir(parents=True)
        (certificates / self.private.host / "ca.crt").write_bytes(self.private.ca.read_bytes())
        ca = f'ca = "{self.private.ca}"\n'
        for name, server, more in (
            (self.private.host, f"https://{self.private.host}", ca),
            ("docker.io", f"http://{self.open.host}", ""),
        ):
            (hosts / name).mkdir(parents=True)
            lines = f'server = "{server}"\n[host."{server}"]\n  capabilities = ["pull", "resolve"]\n  {more}'
            (hosts / name / "hosts.toml").write_text(lines)

    def stop(self) -> None:
        for registry in (self.open, self._private):
            if registry is not None:
                registry.stop()
