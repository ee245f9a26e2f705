"""The commands themselves, end to end and as a user types them: up, up again, status, image load, what survives kill -9, down."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubelet.runtime.processes import ProcessRef
from wherry.cli.cluster import images, layout
from wherry.testing.eventually import eventually
from wherry.testing.require import require_containerd

pytestmark = [pytest.mark.root, pytest.mark.containerd, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


class Commands:
    """`wherry` in processes of its own, on one cluster with a name of its own."""

    def __init__(self, name: str, tmp: Path) -> None:
        self.name, self.tmp = name, tmp

    def __call__(self, *arguments: str, ok: bool = True) -> str:
        env = {**os.environ, "WHERRY_CONFIG": str(self.tmp / "config"), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", "wherry.cli.main", *arguments],
            capture_output=True, text=True, timeout=200, check=False, env=env, cwd=self.tmp,
        )  # fmt: skip
        assert (done.returncode == 0) is ok, f"wherry {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def up(self, nodes: int = 2) -> str:
        return self("up", "--name", self.name, "--nodes", str(nodes), "--data-dir", str(self.tmp / "data"))

    def status(self, *, ok: bool = True) -> dict[str, Any]:
        (document,) = json.loads(self("status", "--name", self.name, "-o", "json", ok=ok))
        return dict(document)

    def kill(self, process: dict[str, Any]) -> None:
        ref = ProcessRef.of(process["pid"])
        assert ref is not None
        ref.signal(signal.SIGKILL)

    def pods(self) -> dict[str, tuple[str, str, int]]:
        """Name -> (pod IP, container id, restarts) of the first workload's pods."""
        listed = json.loads(self("get", "pods", "-n", "default", "-l", "app=hello", "-o", "json"))
        found = {}
        for pod in listed["items"]:
            (container,) = pod["status"]["containerStatuses"]
            found[pod["metadata"]["name"]] = (
                pod["status"]["podIP"], container["containerID"], container["restartCount"]
            )  # fmt: skip
        return found


@pytest.fixture(scope="module")
def wherry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    require_containerd()
    commands = Commands(f"c{os.getpid() % 1000000}", tmp_path_factory.mktemp("cluster"))
    try:
        commands.first = commands.up()  # type: ignore[attr-defined]
        yield commands
    finally:
        commands("down", "--name", commands.name)


def traces(commands: Commands) -> list[str]:
    """Whatever on this machine still mentions the cluster."""
    name, data = commands.name, str(commands.tmp / "data")
    needles = (f"wherry-{name}", f"wh-{name}", f"/wherry/{name}", data)
    found = []
    for argv in (
        ["ip", "-o", "link"],
        ["ip", "netns"],
        ["ip", "route"],
        ["nft", "list", "ruleset"],
        ["ps", "-eo", "args"],
    ):
        lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
        found += [line for line in lines if any(needle in line for needle in needles) and "pytest" not in line]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [line for line in mounts if any(needle in line for needle in needles)]
    places = [Path(data), layout.RUN_DIR / name, layout.state_file(name), commands.tmp / "config"]
    places += [*Path("/sys/fs/cgroup").glob(f"*/wherry/{name}"), *Path("/var/lib/cni").rglob(f"wherry-{name}*")]
    return found + [str(place) for place in places if place.exists()]


def test_up_ends_with_nodes_pods_and_a_page(wherry: Commands) -> None:
    first = wherry.first  # type: ignore[attr-defined]
    assert first.count("   Ready ") == 2
    assert first.count("1/1     Running") == 2
    assert "<h1>Hello from Wherry</h1>" in first
    assert "Served by pod hello-" in first


def test_second_up_changes_nothing_and_says_so(wherry: Commands) -> None:
    before = (wherry.status(), wherry.pods())
    said = wherry.up()
    assert "nothing was changed" in said
    assert "✓" not in said
    after = (wherry.status(), wherry.pods())
    for status, _ in (before, after):
        for process in (status["process"], status["ingress"], *(node["agent"] for node in status["nodes"])):
            process.pop("memory_bytes")
        for node in status["nodes"]:
            node["containerd"].pop("memory_bytes")
    assert after == before


def oci_layout(reference: str) -> bytes:
    """An image file of the other kind: an OCI layout with one tiny layer."""
    import hashlib

    layer = images.Layer(files={"hello": (b"from a file\n", 0o644)}).tar()
    blobs: dict[str, bytes] = {}

    def blob(content: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}

    prefix = "application/vnd.oci.image"
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{prefix}.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), f"{prefix}.config.v1+json"),
        "layers": [blob(layer, f"{prefix}.layer.v1.tar")],
    }
    entry = blob(json.dumps(manifest).encode(), f"{prefix}.manifest.v1+json")
    entry["annotations"] = {"io.containerd.image.name": reference}
    files = {name: (content, 0o644) for name, content in blobs.items()}
    files["oci-layout"] = (b'{"imageLayoutVersion": "1.0.0"}', 0o644)
    files["index.json"] = (json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(), 0o644)
    return images.Layer(files=files).tar()


async def test_image_load_puts_both_kinds_of_file_on_every_node(wherry: Commands) -> None:
    docker = images.docker_archive("example.test/docker:1", images.Layer(files={"x": (b"x", 0o644)}), cmd=["/x"])
    (wherry.tmp / "docker.tar").write_bytes(docker)
    (wherry.tmp / "oci.tar").write_bytes(oci_layout("example.test/oci:1"))
    said = await asyncio.to_thread(wherry, "image", "load", "--name", wherry.name, "docker.tar", "oci.tar")
    assert said.count("example.test/docker:1") == said.count("example.test/oci:1") == 2
    status = await asyncio.to_thread(wherry.status)
    for node in status["nodes"]:

        async def both(socket: str = node["socket"]) -> bool:
            return {"example.test/docker:1", "example.test/oci:1"} <= (await images.present(Path(socket))).keys()

        assert await eventually(both)


def test_image_load_of_a_broken_file_says_so(wherry: Commands) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w"):
        pass
    (wherry.tmp / "empty.tar").write_bytes(buffer.getvalue())
    for file in ("empty.tar", "missing.tar"):
        said = wherry("image", "load", "--name", wherry.name, file, ok=False)
        assert f"error: node-1: {file}: " in said


async def test_containers_survive_kill_9_of_agent_containerd_and_server(wherry: Commands) -> None:
    before = await asyncio.to_thread(wherry.pods)
    status = await asyncio.to_thread(wherry.status)
    for node in status["nodes"]:
        wherry.kill(node["agent"])
    wherry.kill(status["nodes"][0]["containerd"])
    wherry.kill(status["process"])

    async def dead() -> bool:
        return not any(ProcessRef.of(process["pid"]) for process in (status["process"], status["nodes"][0]["agent"]))

    await eventually(dead)
    broken = await asyncio.to_thread(wherry.status, ok=False)
    assert not broken["healthy"]
    assert [node["state"] for node in broken["nodes"]] == ["Unknown", "Unknown"]
    said = await asyncio.to_thread(wherry.up)
    assert "nothing was changed" not in said
    assert await asyncio.to_thread(wherry.pods) == before  # the same containers, no restart
    mended = await asyncio.to_thread(wherry.status)
    assert [node["state"] for node in mended["nodes"]] == ["Ready", "Ready"]
    # The other containerd was alive all the time, and was adopted.
    assert mended["nodes"][1]["containerd"]["pid"] == status["nodes"][1]["containerd"]["pid"]


def test_up_with_more_nodes_adds_them(wherry: Commands) -> None:
    said = wherry.up(nodes=3)
    assert said.count("   Ready ") == 3
    assert len(wherry.status()["nodes"]) == 3


def test_down_leaves_no_trace_even_after_everything_was_killed(wherry: Commands) -> None:
    assert traces(wherry) != []
    status = wherry.status()
    for node in status["nodes"]:
        wherry.kill(node["agent"])
        wherry.kill(node["containerd"])
    wherry.kill(status["process"])
    wherry("down", "--name", wherry.name)
    assert traces(wherry) == []
    assert "Nothing was there." in wherry("down", "--name", wherry.name)
