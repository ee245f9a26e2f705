"""What every runtime promises of images: those that are there, and those of a real registry."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from kubelet.runtime.archives import Layer, docker_archive
from kubelet.runtime.base import RegistryAuth, Runtime, RuntimeFailure
from kubelet.runtime.docker import DockerRuntime
from wherry.cli.cluster.images import DEMO_IMAGE
from wherry.testing.dockerd import Dockerd
from wherry.testing.eventually import eventually
from wherry.testing.imageregistry import ARCHITECTURE, PASSWORD, USER, SlowLine
from wherry.testing.runtimes import REAL, Behaviour, Maker, Registries, shell_layer

GOOD, WRONG = RegistryAuth(username=USER, password=PASSWORD), RegistryAuth(username=USER, password="other")


def layers(text: str) -> list[bytes]:
    return [shell_layer(), Layer(files={"which": (text.encode(), 0o644)}).tar()]


CONFIG: dict[str, object] = {"config": {"Cmd": ["/bin/sh", "-c", "cat /which"], "User": "1000:5"}}


async def test_images_are_found_by_name(runtime: Runtime) -> None:
    image = await runtime.image_status(DEMO_IMAGE)
    assert image is not None
    assert DEMO_IMAGE in image.tags
    assert image.id in {item.id for item in await runtime.list_images()}
    assert await runtime.image_status(image.id) == image
    assert await runtime.image_status("wherry.local/none:1") is None
    await runtime.remove_image("wherry.local/none:1")


@pytest.mark.parametrize("endpoint", REAL, indirect=True)
async def test_by_tag_by_digest_and_for_this_architecture(runtime: Runtime, make: Maker, registry: Registries) -> None:
    other = "arm64" if ARCHITECTURE != "arm64" else "amd64"
    host = registry.open.host
    digest = registry.open.push_index("team/app", "1", {name: (layers(name), CONFIG) for name in (ARCHITECTURE, other)})
    image_id = await runtime.pull_image(f"{host}/team/app:1", None)
    image = await runtime.image_status(f"{host}/team/app:1")
    assert image is not None
    assert (image.id, image.tags, image.user) == (image_id, (f"{host}/team/app:1",), "1000")
    assert image.digests == (f"{host}/team/app@{digest}",)
    sandbox = await make.sandbox()
    container = await make.container(sandbox, Behaviour(""), image=image.id, command=(), args=(), user_image="x")
    status = await make.exited(container)
    assert status.image_id == f"{host}/team/app@{digest}"
    await make.says(container, ARCHITECTURE)
    await runtime.remove_container(container)
    await runtime.remove_image(image.id)
    assert await runtime.image_status(f"{host}/team/app:1") is None
    # No tag is `latest`; and what a digest names, whatever the tag.
    registry.open.push("team/app", "latest", layers("latest"), CONFIG)
    for reference in (f"{host}/team/app", f"{host}/team/app:1@{digest}", f"{host}/team/app@{digest}"):
        await runtime.pull_image(reference, None)
        found = await runtime.image_status(reference)
        assert found is not None
        await runtime.remove_image(found.id)
    registry.open.push("team/strange", "1", layers(other), CONFIG, other)
    registry.open.push_index("team/strange", "list", {other: (layers(other), CONFIG)})
    with pytest.raises(RuntimeFailure, match=r"no match(ing manifest)? for") as failed:
        await runtime.pull_image(f"{host}/team/strange:list", None)
    assert failed.value.reason == "ErrImagePull"


@pytest.mark.parametrize("endpoint", REAL[1:], indirect=True)
async def test_what_is_somebody_elses_on_the_daemon_is_pinned(
    runtime: DockerRuntime, make: Maker, dockerd: Dockerd, tmp_path: Path
) -> None:
    names = {}
    for name in ("theirs", "ours"):
        archive = tmp_path / f"{name}.tar"
        archive.write_bytes(
            docker_archive(f"test.local/{name}:1", Layer(files={"x": (name.encode(), 0o644)}), cmd=["/x"])
        )
        assert not await runtime.has_image_of(archive)
        await runtime.load_image(archive.read_bytes())
        assert await runtime.has_image_of(archive)
        names[name] = f"test.local/{name}:1"
    dockerd.docker("create", "--name", "theirs", names["theirs"])
    await make.container(await make.sandbox(), Behaviour(""), start=False, image=names["ours"])
    pinned = {tag: image.pinned for image in await runtime.list_images() for tag in image.tags}
    assert (pinned[names["theirs"]], pinned[names["ours"]], pinned[DEMO_IMAGE]) == (True, False, False)
    dockerd.docker("rm", "theirs")
    # Under the same name something else: no id would tell in both of Docker's image stores.
    other = tmp_path / "ours.tar"
    other.write_bytes(docker_archive(names["ours"], Layer(files={"x": (b"y", 0o644)}), cmd=["/x"]))
    assert not await runtime.has_image_of(other)


@pytest.mark.parametrize("endpoint", REAL, indirect=True)
async def test_what_cannot_be_pulled_is_told_apart(runtime: Runtime, registry: Registries) -> None:
    with pytest.raises(RuntimeFailure) as malformed:
        await runtime.pull_image("UPPER/case::", None)
    assert (malformed.value.reason, malformed.value.retryable) == ("InvalidImageName", False)
    for reference, words in (
        ("127.0.0.1:9/none:1", "connection refused"),
        (f"{registry.open.host}/team/absent:1", "not found|manifest unknown"),
        (f"{registry.open.host}/team/absent@sha256:{'0' * 64}", "not found|manifest unknown"),
    ):
        with pytest.raises(RuntimeFailure, match=words) as failed:
            await runtime.pull_image(reference, None)
        assert (failed.value.reason, failed.value.retryable) == ("ErrImagePull", True)
        assert await runtime.image_status(reference) is None


@pytest.mark.parametrize("endpoint", REAL, indirect=True)
async def test_a_password_over_tls_and_a_mirror(runtime: Runtime, registry: Registries) -> None:
    registry.open.push("library/secret", "1", layers("secret"), CONFIG)
    reference = f"{registry.private.host}/library/secret:1"
    for auth in (None, WRONG):
        with pytest.raises(RuntimeFailure, match=r"401|unauthorized|no basic auth|authorization failed") as failed:
            await runtime.pull_image(reference, auth)
        assert failed.value.reason == "ErrImagePull"
        assert await runtime.image_status(reference) is None
    await runtime.pull_image(reference, GOOD)
    assert await runtime.image_status(reference) is not None
    await runtime.remove_image(reference)
    # Of Docker's registry, which nobody reaches here, there is a mirror.
    for name in ("docker.io/library/secret:1", "secret:1"):
        await runtime.pull_image(name, None)
        assert await runtime.image_status(name) is not None
        await runtime.remove_image(name)


@pytest.mark.full
@pytest.mark.parametrize("endpoint", REAL, indirect=True)
async def test_a_line_that_breaks_is_no_end(runtime: Runtime, registry: Registries) -> None:
    """A failure that the runtime cannot mend by itself is told, and the next pull goes through."""
    filler = Layer(files={"filler": (os.urandom(2 << 20), 0o644)}).tar()
    registry.open.push("team/large", "1", [*layers("large"), filler], CONFIG)
    line = SlowLine(registry.open.host, "127.0.0.1", refusals=1_000)
    try:
        reference = f"{line.address}/team/large:1"
        with pytest.raises(RuntimeFailure, match=r"503|Service Unavailable") as failed:
            await runtime.pull_image(reference, None)
        assert (failed.value.reason, failed.value.retryable) == ("ErrImagePull", True)
        line.refusals, line.cuts, line.cut_after = 0, 2, 1 << 20

        async def pulled() -> bool:
            with contextlib.suppress(RuntimeFailure):
                return bool(await runtime.pull_image(reference, None))
            return False

        await eventually(pulled, 60)
        assert line.cuts < 2, "it was cut"
        await runtime.remove_image(reference)
    finally:
        line.stop()


@pytest.mark.parametrize("endpoint", ["hollow"], indirect=True)
async def test_how_far_a_pull_is(runtime: Runtime) -> None:
    await tells_how_far(runtime, "registry.test/slow:1")


@pytest.mark.parametrize("endpoint", REAL, indirect=True)
async def test_how_far_a_real_pull_is(runtime: Runtime, registry: Registries) -> None:
    filler = Layer(files={"filler": (os.urandom(2 << 20), 0o644)}).tar()
    registry.open.push("team/slow", "1", [filler], CONFIG)
    line = SlowLine(registry.open.host, "127.0.0.1", 2 << 20)
    try:
        await tells_how_far(runtime, f"{line.address}/team/slow:1")
    finally:
        line.stop()


async def tells_how_far(runtime: Runtime, slow: str) -> None:
    assert await runtime.pulling_bytes() == (0, 0)
    pulling = asyncio.create_task(runtime.pull_image(slow, None))

    async def underway() -> bool:
        fetched, expected = await runtime.pulling_bytes()
        assert fetched <= expected
        return 0 < fetched < expected

    await eventually(underway)
    image_id = await pulling
    assert await runtime.pulling_bytes() == (0, 0)
    image = await runtime.image_status(slow)
    assert image is not None
    assert image.id == image_id
    mount, used = await runtime.image_fs_bytes()
    assert mount
    assert used > 0
    await runtime.remove_image(slow)
    assert await runtime.image_status(slow) is None
