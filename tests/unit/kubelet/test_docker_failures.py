"""The Docker runtime and its node's container when calls fail half-way: a daemon of canned answers, on virtual time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from kubelet.runtime import docker_files, docker_ground
from kubelet.runtime import docker_messages as messages
from kubelet.runtime.base import DNSConfig, PortMapping, RuntimeFailure, RuntimeNotFound, SandboxConfig
from kubelet.runtime.docker import DockerRuntime
from kubelet.runtime.docker_engine import Engine
from kubelet.runtime.docker_node import RUN_TIMEOUT_S, NodeContainer
from wherry.api.context import Env

NETWORK = {
    "Name": "wherry-a",
    "Labels": {
        "wherry.dev/node-address": "10.78.1.1", "wherry.dev/services": "10.78.8.0/21", "wherry.dev/node-name": "node-1",
    },
    "IPAM": {"Config": [{"Subnet": "10.78.0.0/20", "Gateway": "10.78.0.1"}]},
}  # fmt: skip
NODE = "wherry-a-node"


class Daemon:
    """As an Engine. `containers`: the documents by id. A call that is in `hanging` does not return; what is run in the node's
    container fails when it `refuses`, else its input is in `written`."""

    def __init__(self) -> None:
        self.containers: dict[str, dict[str, Any]] = {}
        self.hanging: set[str] = set()
        self.refuses = False
        self.written: list[str] = []
        self.routed: list[str] = []
        self.exit_code = 0
        self.bodies: list[dict[str, Any]] = []

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        if name in self.hanging:
            await asyncio.get_running_loop().create_future()
        return getattr(self, f"_{name}")(*args, **options)

    def _inspect_network(self, name: str) -> Any:
        return NETWORK

    def _inspect_image(self, name: str, reason: str = "") -> Any:
        return {"Id": "sha256:1", "RepoTags": [name], "Config": {}}

    def _create_container_from_config(self, body: dict[str, Any], name: str = "", reason: str = "") -> Any:
        self.bodies.append(body)
        made = f"id-{len(self.bodies)}"
        self.containers[made] = {
            "Id": made, "Name": f"/{name}", "State": {"Running": False, "Pid": 0},
            "Config": {"Labels": body.get("Labels", {})}, "HostConfig": body["HostConfig"],
            "NetworkSettings": {"Networks": {"wherry-a": {"IPAddress": "10.78.0.7"}}},
        }  # fmt: skip
        return {"Id": made}

    def _start(self, name: str, reason: str = "") -> None:
        self._inspect_container(name)["State"]["Running"] = True

    def _kill(self, name: str, signal: str) -> None:
        self._inspect_container(name)["State"]["Running"] = False

    def _wait(self, name: str) -> Any:
        return {"StatusCode": self.exit_code}

    def _inspect_container(self, name: str) -> Any:
        for item in self.containers.values():
            if name in (item["Id"], item["Name"].removeprefix("/")):
                return item
        raise RuntimeNotFound(f"No such container: {name}")

    def _containers(self, *, filters: dict[str, list[str]], **_: Any) -> Any:
        wanted = {tuple(label.split("=", 1)) for label in filters["label"]}
        return [item for item in self.containers.values() if wanted <= set(item["Config"]["Labels"].items())]

    def _remove_container(self, name: str, **_: Any) -> None:
        del self.containers[self._inspect_container(name)["Id"]]

    def names(self) -> list[str]:
        return [item["Name"].removeprefix("/") for item in self.containers.values()]


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    made = Daemon()

    async def run(node: NodeContainer, argv: Any, stdin: str, container: str = "") -> tuple[int, str]:
        if made.refuses:
            raise RuntimeFailure("exec failed: cannot allocate memory")
        if container:
            made.routed.append(container)
            return 0, ""
        made.written.append(stdin)
        return 0, ""

    monkeypatch.setattr(NodeContainer, "_run", run)
    return made


async def test_another_node_container_is_told_of_also_when_its_rules_fail(daemon: Daemon) -> None:
    node, told = NodeContainer(cast(Engine, daemon), "wherry-a"), []
    node.replaced["test"] = lambda: told.append(node.id)
    daemon.refuses = True
    with pytest.raises(RuntimeFailure):
        await node.ensure()
    daemon.refuses = False
    for _ in range(2):
        await node.ensure()
    assert told == ["id-1"]
    assert len(daemon.written) == 1, "the rules are written later, once"


async def test_a_program_in_the_node_is_bounded_with_the_nodes_start(daemon: Daemon) -> None:
    node = NodeContainer(cast(Engine, daemon), "wherry-a")
    daemon.hanging.add("start")
    async with asyncio.timeout(2 * RUN_TIMEOUT_S):
        with pytest.raises(RuntimeFailure, match="wherry-a-node did not come up within 30 s"):
            await node.run(["true"])
    daemon.hanging.clear()
    assert await node.run(["true"]) == (0, ""), "nothing holds the lock"


@pytest.mark.parametrize("code", [0, 1])
async def test_a_sweeper_is_the_clusters_and_tells_of_failure(daemon: Daemon, code: int) -> None:
    daemon.exit_code = code
    node = NodeContainer(cast(Engine, daemon), "wherry-a")
    with pytest.raises(RuntimeFailure, match="emptying /there: rm ended with exit code 1") if code else nullcontext():
        await node.sweep(Path("/there"))
    assert daemon.bodies[0]["Labels"] == {messages.NODE: "wherry-a", messages.TYPE: "sweeper"}
    assert not daemon.containers


@pytest.fixture
async def runtime(env: Env, daemon: Daemon) -> AsyncIterator[DockerRuntime]:
    made = DockerRuntime(env, "/nowhere", "wherry-a", bridge="wherry-a", engine=cast(Engine, daemon))
    yield made
    await made._logs.close()


SANDBOX = SandboxConfig("default", "p", "uid", 0, "p", "/logs", port_mappings=(PortMapping(80, 8080),))


async def test_a_pod_with_ports_of_the_node_ends_beside_a_broken_node(runtime: DockerRuntime, daemon: Daemon) -> None:
    sandbox = await runtime.run_sandbox(SANDBOX)
    assert daemon.containers[sandbox]["HostConfig"]["PortBindings"]
    daemon._remove_container(NODE)
    daemon.refuses = True
    await runtime.stop_sandbox(sandbox)
    assert not daemon.containers[sandbox]["State"]["Running"]
    await runtime.remove_sandbox(sandbox)
    assert sandbox not in daemon.containers


async def test_a_sandbox_without_its_ports_is_taken_away_again(
    runtime: DockerRuntime, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = daemon._start

    def breaks(name: str, reason: str = "") -> None:
        start(name)
        if not daemon.refuses and NODE in daemon.names() and name != daemon._inspect_container(NODE)["Id"]:
            daemon._remove_container(NODE)
            daemon.refuses = True

    monkeypatch.setattr(daemon, "_start", breaks)
    with pytest.raises(RuntimeFailure, match="cannot allocate memory"):
        await runtime.run_sandbox(SANDBOX)
    assert daemon.names() == [NODE]


def test_a_resolver_that_says_the_same_is_left_alone(tmp_path: Path) -> None:
    """It is mounted in containers that run, which would find it empty for a moment."""
    resolvers = docker_files.Resolvers(tmp_path)
    dns = DNSConfig(servers=("10.96.0.10",), searches=("default.svc",), options=())
    path = Path(resolvers.mount("uid", dns).host_path)
    os.utime(path, ns=(1, 1))
    resolvers.mount("uid", dns)
    assert path.stat().st_mtime_ns == 1
    resolvers.mount("uid", DNSConfig(servers=("10.96.0.11",), searches=(), options=()))
    assert path.read_text() == "nameserver 10.96.0.11\n"


def test_what_a_thread_no_longer_waits_for_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real loop: the kernel is called in threads."""
    monkeypatch.setattr(docker_ground, "CALL_TIMEOUT_S", 0.05)

    class Hanging:
        name = NODE

        def __init__(self) -> None:
            self.cancelled = asyncio.Event()

        async def run(self, argv: Any, stdin: str = "") -> tuple[int, str]:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.cancelled.set()
            raise AssertionError

    async def main() -> None:
        node = Hanging()
        kernel = docker_ground.BridgeKernel(cast(NodeContainer, node))
        with pytest.raises(docker_ground.NetworkError, match="nft in wherry-a-node: no answer within"):
            await asyncio.to_thread(kernel.apply, "table")
        async with asyncio.timeout(30):
            await node.cancelled.wait()

    asyncio.run(main())


async def test_ports_of_a_pod_that_starts_beside_a_listing_are_held(
    runtime: DockerRuntime, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a list has not seen yet, it must not take away."""
    listed, go_on = asyncio.Event(), asyncio.Event()
    call = daemon.call

    async def slow(name: str, *args: Any, **options: Any) -> Any:
        found = await call(name, *args, **options)
        if name == "containers" and not listed.is_set():
            listed.set()
            await go_on.wait()
        return found

    monkeypatch.setattr(daemon, "call", slow)
    listing = asyncio.ensure_future(runtime.list_sandboxes())
    await listed.wait()
    starting = asyncio.ensure_future(runtime.run_sandbox(SANDBOX))
    await asyncio.sleep(1)
    go_on.set()
    await asyncio.gather(listing, starting)
    assert "tcp dport 8080 dnat to 10.78.0.7:80" in daemon.written[-1]
