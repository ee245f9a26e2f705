"""The demo image (busybox) of manifests/hello.yaml and of the tests, built on the spot. Called by `wherry up`, and by tests that
run real containers. Writing and loading image files is `kubelet.runtime.archives`, whose names are to be had here too.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

from kubelet.runtime.archives import (
    PAUSE_IMAGE,
    ImageError,
    Layer,
    archive_id,
    docker_archive,
    load,
    pause_archive,
    present,
)
from kubelet.runtime.base import RuntimeFailure
from kubelet.runtime.cri import CriRuntime

__all__ = [
    "DEMO_IMAGE",
    "PAUSE_IMAGE",
    "ImageError",
    "Layer",
    "answers",
    "archive_id",
    "demo_archive",
    "demo_layer",
    "docker_archive",
    "load",
    "pause_archive",
    "present",
]

DEMO_IMAGE = "wherry.local/demo:1"
_BUSYBOX_PLACES = ("/bin/busybox", "/usr/bin/busybox", "/usr/local/bin/busybox")


def demo_archive(busybox: Path | None = None) -> bytes:
    return docker_archive(DEMO_IMAGE, demo_layer(busybox), cmd=["sh"], env=["PATH=/bin"])


def demo_layer(busybox: Path | None = None) -> Layer:
    """busybox with its applets as links: a shell, httpd, nc, wget and so on in 2 MB."""
    binary = busybox or find_busybox()
    content = binary.read_bytes()
    if b"/ld-linux" in content or b"/ld-musl" in content[:4096]:
        raise ImageError(f"{binary} is linked dynamically; want a static one (apt-get install busybox-static)")
    listed = subprocess.run([str(binary), "--list"], capture_output=True, text=True, check=True, timeout=30)
    applets = [name for name in listed.stdout.split() if name != "busybox"]
    return Layer(
        files={
            "bin/busybox": (content, 0o755),
            "etc/passwd": (b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644),
            "etc/group": (b"root:x:0:\nnogroup:x:65534:\n", 0o644),
        },
        links={f"bin/{name}": "busybox" for name in applets} | {"sbin": "bin", "usr/bin": "../bin"},
        directories={
            "bin": 0o755, "etc": 0o755, "root": 0o700, "tmp": 0o1777, "usr": 0o755, "var": 0o755, "www": 0o755,
        },
    )  # fmt: skip


async def answers(socket: Path) -> bool:
    """Whether a containerd serves CRI at this socket."""
    runtime = CriRuntime(str(socket))
    try:
        async with asyncio.timeout(5.0):
            await runtime.version()
        return True
    except (RuntimeFailure, TimeoutError):
        return False
    finally:
        await runtime.close()


def find_busybox() -> Path:
    for place in _BUSYBOX_PLACES:
        if os.path.exists(place):
            return Path(place)
    raise ImageError("busybox is not installed (on Debian and Ubuntu: apt-get install busybox-static)")
