"""Images from a real registry: tags and digests, passwords from Secrets, a mirror before it, one that is away for a while, a thin
line, images that are not there.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubelet.runtime.archives import Layer
from wherry.cli.cluster.images import DEMO_IMAGE
from wherry.testing.imageregistry import PASSWORD, USER, ImageRegistry, SlowLine
from wherry.testing.local import LocalCluster, is_ready, trace, until
from wherry.testing.require import require_binary, require_containerd, require_root

pytestmark = pytest.mark.timeout(300)

CONFIG = {"config": {"Cmd": ["/bin/busybox", "sleep", "1000000"], "Env": ["FROM=registry"]}}


def busybox() -> bytes:
    places = [Path(place) for place in ("/bin/busybox", "/usr/bin/busybox") if Path(place).exists()]
    return Layer(files={"bin/busybox": (places[0].read_bytes(), 0o755)}, directories={"bin": 0o755}).tar()


class World:
    """A cluster whose nodes look registries up in `hosts`."""

    def __init__(self, cluster: LocalCluster, hosts: Path) -> None:
        self.cluster = cluster
        self._hosts = hosts
        self.gateway = cluster.description.gateway

    def route(self, host: str, *servers: str) -> None:
        """Names are asked of these, in this order, by plain HTTP."""
        lines = [f'server = "http://{servers[-1]}"']
        lines += [f'[host."http://{server}"]\n  capabilities = ["pull", "resolve"]' for server in servers]
        (self._hosts / host).mkdir(exist_ok=True)
        (self._hosts / host / "hosts.toml").write_text("\n".join(lines) + "\n")

    def run(self, name: str, image: str, **spec: object) -> None:
        pod = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "image": image}], "terminationGracePeriodSeconds": 0, **spec},
        }  # fmt: skip
        self.cluster.apply(json.dumps(pod))

    def ready(self, name: str) -> dict[str, object] | None:
        pod = self.cluster.json("pod", name)
        return pod if is_ready(pod) else None

    def events(self, name: str) -> list[tuple[str, str]]:
        items = self.cluster.json("events")["items"]
        return [(item["reason"], item["message"]) for item in items if item["involvedObject"]["name"] == name]

    def waits(self, name: str) -> str:
        statuses = self.cluster.json("pod", name)["status"].get("containerStatuses", [{}])
        reason: str = statuses[0].get("state", {}).get("waiting", {}).get("reason", "")
        return reason


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    require_root()
    require_containerd()
    require_binary("docker-registry", "docker-registry")
    hosts = tmp_path_factory.mktemp("hosts")
    made = LocalCluster(nodes=1, prefix="r", flags=["--registry-config-dir", str(hosts)])
    try:
        made.up()
        yield World(made, hosts)
    finally:
        made.down()
    left = {what: [line for line in lines if made.name in line] for what, lines in trace().items()}
    assert not any(left.values()), f"left behind: {left}"


@pytest.fixture
def registry(world: World, tmp_path: Path) -> Iterator[ImageRegistry]:
    made = ImageRegistry(tmp_path, address=world.gateway)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def test_tags_digests_and_a_mirror_that_is_away(world: World, registry: ImageRegistry) -> None:
    digest = registry.push("team/app", "1", [busybox()], CONFIG)
    world.route("registry.test", f"{world.gateway}:1", registry.host)  # nobody listens at the first
    world.run("tag", "registry.test/team/app:1")
    pod = until(lambda: world.ready("tag"))
    (status,) = pod["status"]["containerStatuses"]  # type: ignore[index]
    assert status["image"] == "registry.test/team/app:1"
    assert status["imageID"] == f"registry.test/team/app@{digest}"
    pulled = [message for reason, message in world.events("tag") if reason == "Pulled"]
    assert pulled[0].startswith('Successfully pulled image "registry.test/team/app:1" in ')
    assert "Image size: " in pulled[0]
    world.run("digest", f"registry.test/team/app@{digest}")
    until(lambda: world.ready("digest"))
    assert "FROM=registry" in world.cluster.ok("exec", "digest", "--", "/bin/busybox", "env")
    # IfNotPresent: the image is there, so nobody is asked.
    registry.stop()
    world.run("again", "registry.test/team/app:1")
    until(lambda: world.ready("again"))


def test_a_password_from_a_secret(world: World, tmp_path: Path) -> None:
    registry = ImageRegistry(tmp_path / "private", private=True, address=world.gateway)
    registry.start()
    try:
        registry.push("team/app", "1", [busybox(), Layer(files={"x": (b"x", 0o644)}).tar()], CONFIG)
        world.route("private.test", registry.host)
        image = "private.test/team/app:1"
        world.run("refused", image)
        until(lambda: world.waits("refused") == "ImagePullBackOff")
        assert any(
            "401" in text or "authorization" in text for reason, text in world.events("refused") if reason == "Failed"
        )
        auths = {
            "private.test/other": {"username": "nobody", "password": "x"},
            "*.test": {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()},
        }
        document = json.dumps({"auths": auths})
        secret = {
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pull"}, "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": document},
        }  # fmt: skip
        world.cluster.apply(json.dumps(secret))
        world.run("allowed", image, imagePullSecrets=[{"name": "missing"}, {"name": "pull"}])
        until(lambda: world.ready("allowed"))
        assert any(reason == "FailedToRetrieveImagePullSecret" for reason, _ in world.events("allowed"))
    finally:
        registry.stop()


def test_what_is_away_is_asked_again(world: World, registry: ImageRegistry) -> None:
    registry.push("team/late", "1", [busybox()], CONFIG)
    registry.stop()
    world.route("late.test", registry.host)
    world.run("late", "late.test/team/late:1")
    world.run("never", "late.test/team/never:1")
    until(lambda: world.waits("late") in ("ErrImagePull", "ImagePullBackOff"))
    registry.start()
    until(lambda: world.ready("late"), timeout_s=120)
    until(
        lambda: any("not found" in text for reason, text in world.events("never") if reason == "Failed"), timeout_s=120
    )
    until(lambda: world.waits("never") == "ImagePullBackOff")


@pytest.mark.full
def test_a_thin_line_tells_how_far_it_is(world: World, registry: ImageRegistry) -> None:
    filler = Layer(files={"filler": (os.urandom(18 << 20), 0o644)}).tar()
    registry.push("team/large", "1", [busybox(), filler], CONFIG)
    line = SlowLine(registry.host, world.gateway, 1_400_000)
    try:
        world.route("slow.test", line.address)
        world.run("large", "slow.test/team/large:1")
        until(lambda: world.ready("large"), timeout_s=120)
        told = [message for reason, message in world.events("large") if reason == "Pulling"]
        assert any(" MiB that it fetches now" in message for message in told), told
    finally:
        line.stop()


def test_the_local_images_need_no_registry(world: World) -> None:
    world.run("local", DEMO_IMAGE, restartPolicy="Never")
    until(lambda: any(reason == "Pulled" and "already present" in text for reason, text in world.events("local")))
