"""What an agent knows of Services without a control plane: the file, and a node's names and routes by it. Virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import pytest

from controlplane.registry.base import ADMIN
from controlplane.server import ControlPlane, Options
from controlplane.store.sqlite import SqliteStore
from kubelet.network import known
from kubelet.network.dns.server import NameServer
from kubelet.network.known import DELAY_MAX_S, DELAY_S, Damaged, delay_s, pack, unpack
from kubelet.network.traffic import PATIENCE_S, NodeTraffic, TrafficSettings, Where
from kubelet.pods.services import ConfigError
from wherry.api import codec
from wherry.api.context import Env
from wherry.client.base import Transport
from wherry.client.client import Client
from wherry.pb import core_v1_pb2, discovery_v1_pb2
from wherry.testing.builders import make_pod
from wherry.testing.network import Link

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {selector: {app: web}, clusterIP: 10.96.0.77, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: "", port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.244.7.7], conditions: {ready: true}}]
"""


def objects() -> tuple[list[core_v1_pb2.Service], list[discovery_v1_pb2.EndpointSlice]]:
    service, found = codec.decode_manifest(SERVICE)
    assert isinstance(service, core_v1_pb2.Service)
    assert isinstance(found, discovery_v1_pb2.EndpointSlice)
    return [service], [found]


def test_a_file_reads_as_it_was_written() -> None:
    assert unpack(b"".join(pack(*objects()))) == objects()
    assert unpack(b"".join(pack([], []))) == ([], [])


def test_a_file_that_is_cut_off_or_changed_is_found_out() -> None:
    data = b"".join(pack(*objects()))
    for length in range(len(data)):
        with pytest.raises(Damaged):
            unpack(data[:length])
    for place in range(len(data)):
        with pytest.raises(Damaged):
            unpack(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])
    with pytest.raises(Damaged):
        unpack(data + b"more")


@pytest.mark.parametrize(
    ("size", "wanted"), [(0, DELAY_S), (2 << 20, 15.0), (1 << 30, DELAY_MAX_S)], ids=["small", "two MiB", "huge"]
)
def test_large_files_are_written_less_often(size: int, wanted: float) -> None:
    assert delay_s(size) == wanted


class Kernel:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.applied: list[str] = []
        self.state = ""

    def prepare(self) -> bool:
        return True

    def has(self, state: str) -> bool:
        return False

    def sets(self) -> str:
        return ""

    def apply(self, transaction: str) -> None:
        self.applied.append(transaction)

    def remove(self) -> bool:
        return False

    def udp_flows(self) -> str:
        return ""

    def forget_udp(self, flows: Iterable[tuple[str, int, str]]) -> None: ...


class Ground:
    """A network of a node, without one."""

    def __init__(self) -> None:
        self.kernel = Kernel()
        self.policies = Kernel()
        self.server: NameServer | None = None

    def on_replaced(self, who: str, tell: Callable[[], None]) -> None: ...

    async def machine(self) -> str:
        return "10.78.0.1"

    async def serve_names(self, server: NameServer, address: str) -> None:
        self.server = server
        await asyncio.get_running_loop().create_future()

    def resolve(self, name: str) -> str:
        """An address, or the code of the refusal."""
        assert self.server is not None
        answer = self.server.answer(dns.message.make_query(name, "A").to_wire(), tcp=True)
        assert isinstance(answer, bytes)
        message = dns.message.from_wire(answer)
        if message.rcode() != dns.rcode.NOERROR:
            return dns.rcode.to_text(message.rcode())
        return str(next(iter(message.answer[0])))


@asynccontextmanager
async def agent(env: Env, transport: Transport, root: Path) -> AsyncIterator[tuple[NodeTraffic, Ground]]:
    ground = Ground()
    here = Where("node-1", "192.0.2.1")
    traffic = NodeTraffic(Client(transport), transport, env, here, root, None, ground)
    traffic.configure(TrafficSettings("10.244.1.0/24", "10.96.0.10"))
    running = asyncio.create_task(traffic.run())
    await asyncio.sleep(0.1)
    yield traffic, ground
    running.cancel()
    await asyncio.wait([running])


@asynccontextmanager
async def control_plane(env: Env) -> AsyncIterator[ControlPlane]:
    store = await SqliteStore.open(":memory:", inline=True)
    plane = ControlPlane(env, store, Options(pki=False, scheduler=False, controllers=False))
    await plane.start()
    yield plane
    await plane.stop()
    await store.close()


def away(env: Env) -> Transport:
    return Link(lambda: None, ADMIN, env)


async def create(plane: ControlPlane, *made: Any) -> None:
    for obj in made:
        await plane.local_client(ADMIN).create(obj)


async def fill(env: Env, root: Path) -> None:
    """An agent with a control plane that knows the Service, and has saved what it knows."""
    async with control_plane(env) as plane:
        await create(plane, *objects()[0], *objects()[1])
        async with agent(env, plane.local_transport(ADMIN), root) as (_, ground):
            assert ground.resolve("web.default.svc.cluster.local") == "10.96.0.77"
            await asyncio.sleep(DELAY_S + 1)


async def test_a_restarted_agent_answers_names_at_once_and_routes_after_a_while(env: Env, tmp_path: Path) -> None:
    await fill(env, tmp_path)
    pod = make_pod("p").build()
    async with agent(env, away(env), tmp_path) as (traffic, ground):
        assert ground.resolve("web.default.svc.cluster.local") == "10.96.0.77"
        assert ground.resolve("nope.default.svc.cluster.local") == "NXDOMAIN"
        await asyncio.sleep(PATIENCE_S / 2)
        assert ground.kernel.applied == []  # the last agent's table is at work
        with pytest.raises(ConfigError):
            traffic.environment(pod, wait=True)
        await asyncio.sleep(PATIENCE_S)
        assert any("10.244.7.7" in transaction for transaction in ground.kernel.applied)
        assert traffic.environment(pod, wait=True)["WEB_SERVICE_HOST"] == "10.96.0.77"
        assert traffic.settings.cluster_dns == "10.96.0.10"


async def test_an_agent_without_a_past_knows_nothing(env: Env, tmp_path: Path) -> None:
    async with agent(env, away(env), tmp_path) as (_, ground):
        await asyncio.sleep(2 * PATIENCE_S)
        assert ground.resolve("web.default.svc.cluster.local") == "SERVFAIL"
        assert ground.kernel.applied == []
    assert not (tmp_path / "known.pb").exists()


async def test_what_the_control_plane_says_takes_its_place(env: Env, tmp_path: Path) -> None:
    await fill(env, tmp_path)
    async with control_plane(env) as plane:
        (service,), _ = objects()
        service.metadata.name, service.spec.cluster_ip = "other", "10.96.0.78"
        await create(plane, service)
        async with agent(env, plane.local_transport(ADMIN), tmp_path) as (_, ground):
            assert ground.resolve("web.default.svc.cluster.local") == "NXDOMAIN"
            assert ground.resolve("other.default.svc.cluster.local") == "10.96.0.78"
            assert not any("10.244.7.7" in transaction for transaction in ground.kernel.applied)
            await asyncio.sleep(DELAY_S + 1)
    async with agent(env, away(env), tmp_path) as (_, ground):
        assert ground.resolve("other.default.svc.cluster.local") == "10.96.0.78"


async def test_a_damaged_file_is_dropped(env: Env, tmp_path: Path) -> None:
    await fill(env, tmp_path)
    file = tmp_path / "known.pb"
    file.write_bytes(file.read_bytes()[:-1])
    async with agent(env, away(env), tmp_path) as (_, ground):
        assert ground.resolve("web.default.svc.cluster.local") == "SERVFAIL"
    assert not file.exists()


async def test_it_is_written_when_something_changed_and_not_more_often(
    env: Env, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[float] = []
    plain = known.Known._write

    def write(self: known.Known, data: bytes) -> bool:
        written.append(asyncio.get_running_loop().time())
        return plain(self, data)

    monkeypatch.setattr(known.Known, "_write", write)
    async with control_plane(env) as plane, agent(env, plane.local_transport(ADMIN), tmp_path):
        for number in range(40):
            (service,), _ = objects()
            service.metadata.name, service.spec.cluster_ip = f"s{number}", f"10.96.1.{number + 1}"
            await create(plane, service)
            await asyncio.sleep(0.5)
        assert 3 <= len(written) <= 5
        assert all(later - earlier >= DELAY_S for earlier, later in pairwise(written))
        await asyncio.sleep(2 * DELAY_S)
        count = len(written)
        await asyncio.sleep(20 * DELAY_S)
        assert len(written) == count
        services, _ = unpack((tmp_path / "known.pb").read_bytes())
        assert {f"s{number}" for number in range(40)} <= {service.metadata.name for service in services}


async def test_hints_are_followed_by_the_zone_that_the_node_has_now(env: Env, tmp_path: Path) -> None:
    """Whoever labels it, and whenever: the agent has not been told of any at its start."""
    services, slices = objects()
    for number, zone in enumerate(("z1", "z2")):
        endpoint = slices[0].endpoints[0] if number == 0 else slices[0].endpoints.add(conditions={"ready": True})
        del endpoint.addresses[:]
        endpoint.addresses.append(f"10.244.7.{number}")
        endpoint.hints.for_zones.add(name=zone)

    async with control_plane(env) as plane:
        node = core_v1_pb2.Node()
        node.metadata.name = "node-1"
        await create(plane, *services, *slices, node)
        client = plane.local_client(ADMIN)
        async with agent(env, plane.local_transport(ADMIN), tmp_path) as (_, ground):
            assert "tcp . 80 : 0:2" in ground.kernel.applied[-1]
            for zone, wanted in (
                ("z2", ["tcp . 80 : 0:1", ". 80 . 0 : 10.244.7.1 "]), ("z1", [". 80 . 0 : 10.244.7.0 "]),
                ("z3", ["tcp . 80 : 0:2", ". 80 . 1 : 10.244.7.1 "]),
            ):  # fmt: skip
                found = await client.get(core_v1_pb2.Node, "node-1")
                found.metadata.labels["topology.kubernetes.io/zone"] = zone
                await client.update(found)
                await asyncio.sleep(1)
                assert all(part in ground.kernel.applied[-1] for part in wanted), ground.kernel.applied[-1]
        async with agent(env, plane.local_transport(ADMIN), tmp_path) as (_, ground):
            await asyncio.sleep(1)
            # A restarted agent knows it before it writes anything.
            assert len(ground.kernel.applied) == 1
