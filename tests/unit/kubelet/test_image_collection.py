"""Images go when the disk fills up, on virtual time; the disk is pretended, as full as the images on it make it."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from kubelet import housekeeping, imagegc
from kubelet.housekeeping import Housekeeping
from kubelet.node import Machine, NodeReport
from kubelet.pressure import Limits
from kubelet.runtime.archives import PAUSE_IMAGE
from kubelet.runtime.base import RuntimeFailure
from kubelet.runtime.hollow import HollowRuntime
from wherry.api.context import Env

DISK = 100


@pytest.mark.parametrize(
    ("thresholds", "left", "told"),
    [
        pytest.param(imagegc.Thresholds(high=0.5, low=0.1), ["in-use", "young"], True, id="not-enough-can-go"),
        pytest.param(imagegc.Thresholds(high=0.9, low=0.75), ["b", "in-use", "young"], False, id="until-the-low-threshold"),
        pytest.param(imagegc.Thresholds(high=1.0, low=0.1), ["a", "b", "in-use", "young"], False, id="never"),
    ],
)  # fmt: skip
async def test_unused_images_go(
    env: Env,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    thresholds: imagegc.Thresholds,
    left: list[str],
    told: bool,
) -> None:
    runtime = HollowRuntime(env)
    sizes = {"a": 20, "b": 10, "in-use": 50, "young": 12}
    for name in ("a", "b", "in-use"):
        runtime.load_image(name, size_bytes=sizes[name])

    def statvfs(path: object) -> SimpleNamespace:
        used = sum(sizes[name] for name in sizes if runtime._find_image(name) is not None)
        return SimpleNamespace(f_blocks=DISK, f_frsize=1, f_bavail=DISK - used, f_files=100, f_favail=100)

    monkeypatch.setattr(os, "statvfs", statvfs)
    monkeypatch.setattr(Housekeeping, "_used_images", lambda self, images: {runtime._present["in-use"].id})
    events: list[str] = []
    report = NodeReport("n1", Machine(), ips=["192.0.2.1"])
    keeping = Housekeeping(
        env, runtime, report, tmp_path, list, None, None, Limits(), thresholds,
        lambda kind, reason, message: events.append(reason), lambda: None,
    )  # fmt: skip
    running = asyncio.ensure_future(keeping.run())
    await asyncio.sleep(2 * housekeeping.IMAGE_ROUND_S - 60)
    runtime.load_image("young", size_bytes=sizes["young"])
    await asyncio.sleep(200)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert [name for name in sorted(sizes) if runtime._find_image(name) is not None] == left
    assert set(events) == ({"FreeDiskSpaceFailed"} if told else set())


async def test_an_image_that_stays_keeps_no_other(env: Env, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker refuses to remove what somebody else's container has; and what is pinned nobody tries."""
    runtime = HollowRuntime(env)
    for name in ("held", "pinned", "unused"):
        runtime.load_image(name, size_bytes=1)
    runtime._present["pinned"] = replace(runtime._present["pinned"], pinned=True)
    remove = runtime.remove_image

    async def refusing(reference: str) -> None:
        if reference == runtime._present["held"].id:
            raise RuntimeFailure("conflict: unable to remove: image is being used by running container")
        await remove(reference)

    monkeypatch.setattr(runtime, "remove_image", refusing)
    report = NodeReport("n1", Machine(), ips=["192.0.2.1"])
    keeping = Housekeeping(
        env, runtime, report, tmp_path, list, None, None, Limits(), imagegc.DEFAULT, lambda *_: None, lambda: None
    )
    assert await keeping._free_disk()
    assert sorted(image.tags[0] for image in await runtime.list_images()) == ["held", "pinned"]
    assert not await keeping._free_disk()


async def test_the_image_of_sandboxes_stays_when_every_other_goes(env: Env, tmp_path: Path) -> None:
    """Under disk pressure, when all pods are gone: it is on no registry."""
    runtime = HollowRuntime(env)
    for name in (PAUSE_IMAGE, "unused"):
        runtime.load_image(name, size_bytes=1)
    report = NodeReport("n1", Machine(), ips=["192.0.2.1"])
    keeping = Housekeeping(
        env, runtime, report, tmp_path, list, None, None, Limits(), imagegc.DEFAULT, lambda *_: None, lambda: None
    )
    assert await keeping._free_disk()
    assert [image.tags for image in await runtime.list_images()] == [(PAUSE_IMAGE,)]
