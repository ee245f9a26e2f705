"""Three control plane processes on three etcd members, and an agent that knows them all: whichever dies, the rest goes on."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from wherry.api.errors import AlreadyExists, APIError
from wherry.cli.commands.kubeconfig import for_kubectl
from wherry.client.base import Selection
from wherry.client.client import Client
from wherry.client.config import load_config, write_config
from wherry.client.grpc import connect
from wherry.pb import core_v1_pb2
from wherry.testing.balancer import Balancer
from wherry.testing.etcd import EtcdCluster, free_ports
from wherry.testing.eventually import eventually
from wherry.testing.failover import at_work, client_context
from wherry.testing.kubectl import BINARIES, Kubectl, require_kubectl
from wherry.testing.local import until
from wherry.testing.require import require_binary
from wherry.testing.server import MAIN, Server, free_port

pytestmark = pytest.mark.timeout(300)

POD = """
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers: [{name: c, image: hollow}]
"""


@dataclass
class Replicas:
    etcd: EtcdCluster
    servers: list[Server]
    folder: Path
    join_ports: list[int]
    https: list[str]
    balancer: Balancer
    agent: subprocess.Popen[bytes] | None = None

    @property
    def addresses(self) -> str:
        return ",".join(server.address for server in self.servers)

    def config(self, *servers: Server) -> Path:
        """Of a client that knows these."""
        path = self.folder / f"{'-'.join(server.data_dir.name for server in servers)}.conf"
        known = load_config(self.servers[0].config)
        write_config(replace(known, server=",".join(server.address for server in servers)), path)
        return path

    def run(self, config: Path, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*MAIN, "--config", str(config), *words], capture_output=True, text=True, timeout=60, check=False, input=stdin
        )  # fmt: skip

    def kubeconfig(self) -> Path:
        """Of clients that know one server only."""
        path = self.folder / "kubeconfig"
        write_config(for_kubectl(load_config(self.servers[0].config), self.balancer.address), path)
        return path

    def leader(self) -> Server | None:
        told = self.run(
            self.config(*self.servers), "get", "lease", "wherry-control-plane", "-n", "kube-system", "-o", "json"
        )
        name = json.loads(told.stdout)["spec"].get("holderIdentity") if told.returncode == 0 else ""
        return next((server for server in self.servers if server.data_dir.name == name), None)

    def start_agent(self) -> None:
        token = self.servers[0].run("token", "create").stdout.strip()
        with (self.folder / "agent.log").open("wb") as log:
            self.agent = subprocess.Popen(
                [
                    *MAIN, "agent", "--runtime", "hollow", "--server", self.addresses, "--token", token,
                    "--join-server", ",".join(f"127.0.0.1:{port}" for port in self.join_ports),
                    "--node-name", "n1", "--data-dir", str(self.folder / "agent"), "--run-dir", str(self.folder / "run"),
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def holder(self) -> Server:
        """The server that holds the agent's stream, as the node's Lease says."""
        told = self.run(self.config(*self.servers), "get", "lease", "n1", "-n", "kube-node-lease", "-o", "json")
        if told.returncode:
            raise LookupError(told.stderr)
        name = json.loads(told.stdout)["metadata"]["annotations"]["wherry.dev/replica"]
        return next(server for server in self.servers if server.data_dir.name == name)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    folder = tmp_path_factory.mktemp("replicas")
    etcd = EtcdCluster.make(require_binary("etcd", "etcd-server"), folder / "etcd", size=3)
    tls = ("--store-ca", str(etcd.tls.ca), "--store-cert", str(etcd.tls.certificate), "--store-key", str(etcd.tls.key))
    store = f"etcd://{','.join(etcd.endpoints)}"
    join_ports = free_ports(3)
    https = [f"127.0.0.1:{free_port()}" for _ in join_ports]
    servers = [
        Server(folder / name, "--store", store, *tls, "--replica", name, "--http-listen", address,
               "--join-listen", f"127.0.0.1:{port}")
        for name, port, address in zip("abc", join_ports, https, strict=True)
    ]  # fmt: skip
    made = Replicas(etcd, servers, folder, join_ports, https, Balancer(folder, https))
    try:
        etcd.start()
        for server in servers:
            server.start()
        made.balancer.start()
        yield made
    finally:
        made.balancer.stop()
        if made.agent is not None:
            made.agent.kill()
            made.agent.wait()
        for server in servers:
            server.stop()
        etcd.stop()


class Writer:
    """Makes one object after the other, and knows which were acknowledged. A write whose fate is unknown is tried again."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self.acknowledged: list[str] = []
        self._task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while True:
            name = f"{self._prefix}-{len(self.acknowledged)}"
            obj = core_v1_pb2.ConfigMap()
            obj.metadata.name, obj.metadata.namespace = name, "default"
            try:
                await self._client.create(obj)
            except AlreadyExists:
                pass  # the answer to the last try was lost
            except APIError:
                await asyncio.sleep(0.05)
                continue
            self.acknowledged.append(name)
            await asyncio.sleep(0.01)

    async def more(self, count: int) -> None:
        """Waits until so many more were acknowledged."""
        wanted = len(self.acknowledged) + count

        async def there() -> bool:
            return len(self.acknowledged) >= wanted

        await eventually(there, timeout_s=90)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def check_kept(client: Client, writer: Writer) -> None:
    page = await client.list(core_v1_pb2.ConfigMap, Selection(namespace="default"))
    there = {obj.metadata.name for obj in page.items}
    assert set(writer.acknowledged) <= there


def test_a_node_is_reached_through_any_replica(cluster: Replicas) -> None:
    cluster.start_agent()
    everyone = cluster.config(*cluster.servers)
    until(lambda: cluster.run(everyone, "get", "serviceaccount", "default").returncode == 0)
    assert cluster.run(everyone, "apply", "-f", "-", stdin=POD).returncode == 0
    until(lambda: "Running" in cluster.run(everyone, "get", "pod", "p").stdout)
    for server in cluster.servers:
        through = cluster.config(server)
        assert cluster.run(through, "exec", "p", "--", "echo", "hello").stdout == "hello\n"
        assert cluster.run(through, "logs", "p").returncode == 0


def test_a_new_signing_key_is_known_everywhere(cluster: Replicas) -> None:
    first, *others = cluster.servers

    def ids(output: str) -> list[str]:
        return [line.split()[0] for line in output.splitlines()[1:]]

    rotated = cluster.run(cluster.config(first), "keys", "rotate")
    assert len(ids(rotated.stdout)) == 2, rotated.stderr
    for config in [cluster.config(server) for server in others]:
        until(lambda config=config: ids(cluster.run(config, "keys", "list").stdout) == ids(rotated.stdout))  # type: ignore[misc]


async def test_writes_go_on_when_any_member_of_etcd_dies(cluster: Replicas) -> None:
    client = connect(load_config(cluster.config(*cluster.servers)))
    writer = Writer(client, "etcd")
    try:
        for member in cluster.etcd.members:
            await writer.more(20)
            await asyncio.to_thread(cluster.etcd.stop_member, member)
            await writer.more(20)
            await asyncio.to_thread(cluster.etcd.start_member, member)
        await writer.more(20)
        await check_kept(client, writer)
    finally:
        await writer.stop()
        await client.close()


async def test_writes_and_the_node_go_on_when_a_replica_dies(cluster: Replicas) -> None:
    client = connect(load_config(cluster.config(*cluster.servers)))
    writer = Writer(client, "replica")
    try:
        await writer.more(20)
        victim = await asyncio.to_thread(cluster.holder)
        victim.kill()
        try:
            await writer.more(20)
            await check_kept(client, writer)
            others = cluster.config(*(server for server in cluster.servers if server is not victim))

            def moved() -> bool:
                return cluster.run(others, "exec", "p", "--", "echo", "hello").stdout == "hello\n"

            await asyncio.to_thread(until, moved, 90)
            # A program that starts now, with the dead one first in its list, does not notice.
            dead_first = cluster.config(victim, *(server for server in cluster.servers if server is not victim))
            told = await asyncio.to_thread(cluster.run, dead_first, "get", "namespace", "default", "-o", "name")
            assert told.stdout.strip() == "namespace/default", told.stderr
        finally:
            await asyncio.to_thread(victim.start)
    finally:
        await writer.stop()
        await client.close()


async def test_kubectl_goes_on_when_the_leader_dies(cluster: Replicas) -> None:
    """Through the compose cluster's balancer, since kubectl and client libraries know one server only."""
    require_kubectl()
    kubeconfig = cluster.kubeconfig()
    kubectl = Kubectl(list(BINARIES.values())[-1], kubeconfig, cluster.folder, "default")
    own = secrets.token_hex(3)  # also when it is run a second time
    by_kubectl = f"by-kubectl-{own}"
    watched = cluster.folder / f"watched-{own}"
    everyone = str(cluster.config(*cluster.servers))
    with watched.open("wb") as output:
        watching = await asyncio.create_subprocess_exec(
            *MAIN, "--config", everyone, "get", "configmaps", "-w", "-o", "name",
            stdout=output, stderr=output, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        async with at_work(kubeconfig, f"https-{own}") as client:

            async def more(count: int) -> None:
                wanted = len(client.acknowledged) + count

                async def there() -> bool:
                    return len(client.acknowledged) >= wanted

                await eventually(there, timeout_s=90)

            await more(20)
            victim = await asyncio.to_thread(until, cluster.leader, 60)
            assert victim is not None
            victim.kill()
            try:
                await more(20)
                applied = await asyncio.to_thread(kubectl, "create", "configmap", by_kubectl)
                assert applied == f"configmap/{by_kubectl} created\n"
                assert await asyncio.to_thread(kubectl, "get", "configmap", by_kubectl, "-o", "name")
            finally:
                await asyncio.to_thread(victim.start)
            await more(20)

        def told() -> bool:
            lines = watched.read_text().splitlines()
            wanted = {f"configmap/{name}" for name in (*client.acknowledged, by_kubectl)}
            return wanted <= set(lines) and all(lines.count(line) == 1 for line in wanted)

        await asyncio.to_thread(until, told, 60)
    finally:
        watching.kill()
        await watching.wait()


def definition(group: str) -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"boats.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList"},
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
            ],
        },
    }


class Http:
    """One replica, over HTTPS."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._base = f"https://{address}"

    async def get(self, path: str) -> tuple[int, Any]:
        async with self._session.get(self._base + path) as response:
            return response.status, await response.json() if response.ok else None

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        async with self._session.post(self._base + path, json=body) as response:
            return response.status, await response.json()


@asynccontextmanager
async def http_of(cluster: Replicas) -> AsyncIterator[list[Http]]:
    connector = aiohttp.TCPConnector(ssl=client_context(load_config(cluster.servers[0].config)))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield [Http(session, address) for address in cluster.https]


async def test_what_one_replica_defines_all_serve(cluster: Replicas) -> None:
    group = f"wherry-{secrets.token_hex(3)}.test"
    async with http_of(cluster) as replicas:
        first, *others = replicas
        made = await first.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition(group))
        assert made[0] == 201

        async def served() -> bool:
            return all([(await replica.get(f"/apis/{group}/v1"))[0] == 200 for replica in replicas])

        await eventually(served)
        for number, replica in enumerate(others):
            boat = {"apiVersion": f"{group}/v1", "kind": "Boat", "metadata": {"name": f"b{number}"}}
            assert (await replica.post(f"/apis/{group}/v1/namespaces/default/boats", boat))[0] == 201
            assert (await first.get(f"/apis/{group}/v1/namespaces/default/boats/b{number}"))[0] == 200
        for path in ("/apis", "/api/v1", "/apis/apps/v1", f"/apis/{group}/v1"):
            told = [await replica.get(path) for replica in replicas]
            assert told[0] == told[1] == told[2]


async def test_replicas_that_write_at_once_exceed_nothing(cluster: Replicas) -> None:
    """On a real etcd, over HTTPS: the registry's own tests try this with caches as late as can be."""
    quota = {"metadata": {"name": "q"}, "spec": {"hard": {"services.nodeports": "20"}}}
    namespace = f"together-{secrets.token_hex(3)}"
    space = f"/api/v1/namespaces/{namespace}"
    async with http_of(cluster) as replicas:
        assert (await replicas[0].post("/api/v1/namespaces", {"metadata": {"name": namespace}}))[0] == 201
        assert (await replicas[1].post(f"{space}/resourcequotas", quota))[0] == 201

        async def known(replica: Http) -> bool:
            return len((await replica.get(f"{space}/resourcequotas"))[1]["items"]) == 1

        for replica in replicas:
            await eventually(lambda replica=replica: known(replica))  # type: ignore[misc]
        answers = await asyncio.gather(
            *(
                replicas[number % 3].post(
                    f"{space}/services",
                    {"metadata": {"name": f"s{number}"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}},
                )
                for number in range(45)
            )
        )
        made = [body["spec"] for status, body in answers if status == 201]
        refused = {(status, body["message"].partition(", ")[0]) for status, body in answers if status != 201}
        assert all(status == 403 and "exceeded quota: q" in message for status, message in refused), refused
        assert len(made) == len({spec["clusterIP"] for spec in made}) == 20
        assert len({spec["ports"][0]["nodePort"] for spec in made}) == 20
