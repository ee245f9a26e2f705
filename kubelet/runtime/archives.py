"""Image files, written and read without a registry or a build tool: the pause image that every sandbox needs, and what lies in
a node's folder of images. Written as docker-archive files; the same input gives the same bytes, and so the same image id.

Called by `wherry agent` when its containerd has started, by `wherry up`, and by tests that run real containers.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
import os
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubelet.runtime.cri import CriRuntime
from kubelet.runtime.pause import machines, pause_program

log = logging.getLogger(__name__)

PAUSE_IMAGE = "wherry.local/pause:1"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# Images have one birthday: it must not change the id.
_CREATED = "2024-01-01T00:00:00Z"
_ENDINGS = (".tar", ".tar.gz", ".tgz")


class ImageError(Exception):
    """An image can't be built or loaded here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One file system: files by path (without the leading slash) with content and mode, links, directories with mode."""

    files: Mapping[str, tuple[bytes, int]] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    directories: Mapping[str, int] = field(default_factory=dict)

    def tar(self) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path, mode in sorted(self.directories.items()):
                archive.addfile(_entry(path, tarfile.DIRTYPE, mode))
            for path, (content, mode) in sorted(self.files.items()):
                info = _entry(path, tarfile.REGTYPE, mode)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            for path, target in sorted(self.links.items()):
                info = _entry(path, tarfile.SYMTYPE, 0o777)
                info.linkname = target
                archive.addfile(info)
        return buffer.getvalue()


def _entry(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.mode = kind, mode
    return info


def docker_archive(
    reference: str,
    layer: Layer,
    *,
    entrypoint: Sequence[str] = (),
    cmd: Sequence[str] = (),
    env: Sequence[str] = (),
    user: str = "",
    working_dir: str = "/",
    labels: Mapping[str, str] | None = None,
    also: Sequence[str] = (),
) -> bytes:
    """A docker-archive (what `docker save` writes) with one image of one layer. `also`: more names of it."""
    content = layer.tar()
    digest = hashlib.sha256(content).hexdigest()
    config = {
        "created": _CREATED,
        "architecture": _architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": list(entrypoint) or None,
            "Cmd": list(cmd) or None,
            "Env": list(env),
            "User": user,
            "WorkingDir": working_dir,
            "Labels": dict(labels or {}),
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created": _CREATED, "created_by": "wherry"}],
    }
    config_bytes = json.dumps(config, sort_keys=True).encode()
    config_name = f"{hashlib.sha256(config_bytes).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [reference, *also], "Layers": [f"{digest}/layer.tar"]}]
    return Layer(
        files={
            config_name: (config_bytes, 0o644),
            f"{digest}/layer.tar": (content, 0o644),
            "manifest.json": (json.dumps(manifest).encode(), 0o644),
        },
        directories={digest: 0o755},
    ).tar()


def pause_archive() -> bytes:
    machine = platform.machine()
    if machine not in machines():
        raise ImageError(f"no pause program for this machine ({machine}); there is one for {', '.join(machines())}")
    layer = Layer(files={"pause": (pause_program(machine), 0o755)})
    return docker_archive(PAUSE_IMAGE, layer, entrypoint=["/pause"], user="65535:65535")


async def present(socket: Path) -> dict[str, str]:
    """The images of a containerd by name, with their ids."""
    runtime = CriRuntime(str(socket))
    try:
        return {tag: image.id for image in await runtime.list_images() for tag in image.tags}
    finally:
        await runtime.close()


def archive_id(archive: Path) -> str:
    """The id that the one image of a docker-archive has, once imported."""
    with tarfile.open(archive) as opened:
        member = opened.extractfile("manifest.json")
        if member is None:
            raise ImageError(f"{archive}: no manifest.json in it")
        manifest = json.load(member)
    return "sha256:" + str(manifest[0]["Config"]).removesuffix(".json")


@dataclass(frozen=True, slots=True)
class Contents:
    """What makes an image this one. Its id does not: that is made differently by Docker's two image stores."""

    layers: tuple[str, ...]
    command: tuple[str, ...]
    env: tuple[str, ...]
    user: str


def contents(config: Mapping[str, Any], layers: Sequence[str]) -> Contents:
    """`config`: the part that says how it is run, in an image's configuration and in Docker's description alike."""
    command = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]
    return Contents(tuple(layers), tuple(command), tuple(config.get("Env") or ()), str(config.get("User") or ""))


def archive_contents(archive: Path) -> tuple[tuple[str, ...], Contents]:
    """The names and the contents of the one image of a docker-archive. Raises ImageError for anything else."""
    try:
        with tarfile.open(archive) as opened:
            (image,) = json.load(opened.extractfile("manifest.json") or io.BytesIO())
            config = json.load(opened.extractfile(image["Config"]) or io.BytesIO())
            return tuple(image["RepoTags"] or ()), contents(config["config"], config["rootfs"]["diff_ids"])
    except (OSError, KeyError, ValueError, TypeError, tarfile.TarError) as error:
        raise ImageError(f"{archive} is no docker-archive of one image: {error}") from error


def load(
    socket: Path, archive: Path, *, snapshotter: str = "overlayfs", timeout_s: float = 600.0, again: bool = True
) -> list[str]:
    """Imports an image file (docker-archive or OCI layout, in a tar) into a containerd; returns the names it now has.
    Raises ImageError with containerd's words."""
    argv = [
        "ctr", "--address", str(socket), "--namespace", "k8s.io",
        "images", "import", "--snapshotter", snapshotter, str(archive),
    ]  # fmt: skip
    path = os.pathsep.join(("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"))
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout_s, check=False, env={**os.environ, "PATH": path}
        )
    except FileNotFoundError as error:
        raise ImageError("the program ctr is not installed; it comes with containerd") from error
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"{archive}: containerd did not take it within {timeout_s:g} s") from error
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()
        if again and words and words[-1].endswith("already exists"):
            # Two that import the same image at once (`wherry up` and the agent): the second finds it there, next time.
            return load(socket, archive, snapshotter=snapshotter, timeout_s=timeout_s, again=False)
        raise ImageError(f"{archive}: {words[-1].removeprefix('ctr: ') if words else 'import failed'}")
    # A line per image: "unpacking NAME (sha256:...)...done".
    return [line.split()[1] for line in done.stdout.splitlines() if line.startswith("unpacking ")]


def _architecture() -> str:
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def find(folder: Path) -> list[Path]:
    """The image files of a folder, by name; a folder that is not there has none."""
    return sorted(path for path in folder.glob("*") if path.name.endswith(_ENDINGS) and path.is_file())


async def preload(socket: Path, folder: Path, *, snapshotter: str) -> None:
    """Sees to it that a containerd has the pause image and what lies in `folder`. Raises ImageError for the pause image; a file
    that cannot be loaded is logged, since pods that don't use it can run."""
    known = await present(socket)
    files = find(folder)
    if PAUSE_IMAGE not in known:
        content = pause_archive()
        temporary = socket.with_name("pause.tar")
        temporary.write_bytes(content)
        try:
            await asyncio.to_thread(load, socket, temporary, snapshotter=snapshotter)
        finally:
            temporary.unlink(missing_ok=True)
    for path in files:
        try:
            if path.name.endswith(".tar") and await asyncio.to_thread(archive_id, path) in known.values():
                continue
        except (ImageError, OSError, KeyError, ValueError, tarfile.TarError) as error:
            log.debug("%s is no docker-archive (%s): containerd will see what it is", path, error)
        try:
            names = await asyncio.to_thread(load, socket, path, snapshotter=snapshotter)
            log.info("loaded %s: %s", path, ", ".join(names))
        except ImageError as error:
            log.warning("not loaded: %s", error)
