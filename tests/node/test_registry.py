"""Pulling from a real registry with a real containerd: by tag and digest, with and without a password, through a mirror."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kubelet.runtime.base import RegistryAuth, RuntimeFailure
from kubelet.runtime.cri import CriRuntime
from wherry.cli.cluster.images import DEMO_IMAGE
from wherry.testing.imageregistry import PASSWORD, USER, ImageRegistry
from wherry.testing.realnode import RealNode, running_node
from wherry.testing.require import require_containerd

pytestmark = [pytest.mark.root, pytest.mark.containerd, pytest.mark.full]  # most of it is asked in tests/contract, too

GOOD = RegistryAuth(username=USER, password=PASSWORD)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNode]:
    require_containerd()
    tmp = tmp_path_factory.mktemp("node")
    with running_node(tmp, registries=tmp / "certs.d") as node:
        yield node


@pytest.fixture(scope="module")
def registries(node: RealNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ImageRegistry]]:
    """An open one and a private one, each with `demo:1`."""
    made = {
        name: ImageRegistry(tmp_path_factory.mktemp(name), private=name == "private") for name in ("open", "private")
    }
    try:
        for registry in made.values():
            registry.start()
            push(node, f"{registry.host}/demo:1")
        yield made
    finally:
        for registry in made.values():
            registry.stop()


@pytest.fixture
async def runtime(node: RealNode) -> AsyncIterator[CriRuntime]:
    made = CriRuntime(f"unix://{node.layout.socket}")
    yield made
    await made.close()


def push(node: RealNode, reference: str) -> None:
    ctr = ["ctr", "--address", str(node.layout.socket), "--namespace", "k8s.io", "images"]
    environment = {**os.environ, "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    for words in (
        ["tag", "--force", DEMO_IMAGE, reference],
        ["push", "--plain-http", "--user", f"{USER}:{PASSWORD}", reference],
        ["rm", reference],
    ):
        done = subprocess.run([*ctr, *words], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, f"ctr images {' '.join(words)}: {done.stderr}"


async def test_by_tag_and_by_digest(runtime: CriRuntime, registries: dict[str, ImageRegistry]) -> None:
    reference = f"{registries['open'].host}/demo:1"
    image_id = await runtime.pull_image(reference, None)
    image = await runtime.image_status(reference)
    assert image is not None
    assert image.id == image_id
    (digest,) = (item for item in image.digests if item.startswith(registries["open"].host))
    await runtime.remove_image(reference)
    assert await runtime.pull_image(digest, None) == image_id
    assert await runtime.image_status(digest) is not None
    await runtime.remove_image(digest)


async def test_what_is_not_there_is_said(runtime: CriRuntime, registries: dict[str, ImageRegistry]) -> None:
    with pytest.raises(RuntimeFailure, match="not found") as failed:
        await runtime.pull_image(f"{registries['open'].host}/demo:2", None)
    assert failed.value.reason == "ErrImagePull"
    with pytest.raises(RuntimeFailure) as failed:
        await runtime.pull_image("Not A Reference", None)
    assert (failed.value.reason, failed.value.retryable) == ("InvalidImageName", False)


async def test_a_password_is_needed_and_used(runtime: CriRuntime, registries: dict[str, ImageRegistry]) -> None:
    reference = f"{registries['private'].host}/demo:1"
    for wrong in (None, RegistryAuth(username=USER, password="other")):
        with pytest.raises(RuntimeFailure) as failed:
            await runtime.pull_image(reference, wrong)
        assert failed.value.reason == "ErrImagePull"
        assert await runtime.image_status(reference) is None
    await runtime.pull_image(reference, GOOD)
    assert await runtime.image_status(reference) is not None
    await runtime.remove_image(reference)


async def test_a_mirror_answers_for_a_registry(
    node: RealNode, runtime: CriRuntime, registries: dict[str, ImageRegistry], tmp_path: Path
) -> None:
    assert node.registries is not None
    folder = node.registries / "registry.example"
    folder.mkdir(parents=True)
    down = ImageRegistry(tmp_path, private=False)  # a mirror that does not answer: the next one is asked
    (folder / "hosts.toml").write_text(
        f'server = "https://registry.example"\n[host."http://{down.host}"]\n  capabilities = ["pull", "resolve"]\n'
        f'[host."http://{registries["open"].host}"]\n  capabilities = ["pull", "resolve"]\n'
    )
    await runtime.pull_image("registry.example/demo:1", None)
    assert await runtime.image_status("registry.example/demo:1") is not None
    await runtime.remove_image("registry.example/demo:1")
