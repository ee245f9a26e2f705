"""One client that asks without end and over many connections: it is told to come back later, while another one is served and the
nodes' agents notice nothing. Real processes: a server with few seats, an agent, and the flood over HTTPS.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from wherry.client.config import load_config
from wherry.testing.eventually import eventually
from wherry.testing.kubectl import HollowCluster

CONNECTIONS = 20
SEATS, SHARE = 4, 3  # for writes: all of them, and what one client may have
NOISY = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: noisy}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: noisy}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects: [{kind: ServiceAccount, name: noisy, namespace: default}]
"""
READY = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')]}"


@pytest.mark.full  # a request waits its turn for a quarter of a minute before it is refused
@pytest.mark.timeout(300)
async def test_a_flood_leaves_the_nodes_alone(tmp_path: Path) -> None:
    cluster = HollowCluster(tmp_path)
    cluster.server.flags += ("--max-requests-inflight", "8", "--max-mutating-requests-inflight", str(SEATS))

    async def run(*words: str, stdin: str | None = None) -> str:
        """As the administrator, who is another client than the flood."""
        done = await asyncio.to_thread(cluster.server.run, *words, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    try:
        await asyncio.to_thread(cluster.start)
        await run("apply", "-f", "-", stdin=NOISY)

        async def ready() -> str:
            found = (await run("get", "nodes", "-o", READY)).replace(" ", "")
            return found if '"status":"True"' in found else ""

        async def running() -> bool:
            return await run("get", "pod", "p", "-o", "jsonpath={.status.phase}") == "Running"

        before = await eventually(ready, 60)
        codes: Counter[int] = Counter()
        waits: set[str] = set()
        flood = await _flood(cluster, codes, waits)
        try:
            while not waits:  # far longer than the few seconds after which a silent node is lost
                ended = [task.exception() for task in flood if task.done()]
                assert not ended, ended
                await asyncio.sleep(0.1)
            pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i}]}"
            await run("apply", "-f", "-", stdin=pod)
            await eventually(running, 120)
        finally:
            for task in flood:
                task.cancel()
            await asyncio.gather(*flood, return_exceptions=True)
        assert set(codes) <= {201, 415, 429}
        assert waits == {"1"}
        transition = "lastTransitionTime"
        after = await ready()
        assert after.partition(transition)[2][:30] == before.partition(transition)[2][:30], (
            "the node was lost meanwhile"
        )
    finally:
        await asyncio.to_thread(cluster.stop)


async def _flood(cluster: HollowCluster, codes: Counter[int], waits: set[str]) -> list[asyncio.Future[None]]:
    """The seats of one account are held by bodies that do not come; and it asks on, over many connections."""
    config = load_config(cluster.server.config)
    context = ssl.create_default_context(cadata=config.ca.decode())
    namespace = "/api/v1/namespaces/default"
    pair = cluster.directory / "pair.pem"
    pair.write_bytes(config.certificate + config.key)
    admin = ssl.create_default_context(cadata=config.ca.decode())
    admin.load_cert_chain(pair)
    base = f"https://{cluster.http}"
    async with (
        aiohttp.ClientSession(base, connector=aiohttp.TCPConnector(ssl=admin)) as session,
        session.post(f"{namespace}/serviceaccounts/noisy/token", json={}) as answer,
    ):
        token = (await answer.json())["status"]["token"]

    headers = {"Authorization": f"Bearer {token}"}
    path = f"{namespace}/configmaps?dryRun=All"

    def session_of() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(base, connector=aiohttp.TCPConnector(ssl=context), headers=headers)

    async def hold() -> None:
        """A write whose body does not come: it has a seat for as long as the server waits for it."""

        async def body() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.Event().wait()

        while True:
            async with session_of() as session, session.post(path, data=body()) as answer:
                codes[answer.status] += 1

    async def ask() -> None:
        async with session_of() as session:
            while True:
                async with session.post(path, json={"metadata": {"generateName": "f-"}}) as answer:
                    codes[answer.status] += 1
                    if answer.status == 429:
                        waits.add(answer.headers["Retry-After"])
                        assert (await answer.json())["reason"] == "TooManyRequests"

    return [asyncio.ensure_future(hold()) for _ in range(SHARE)] + [
        asyncio.ensure_future(ask()) for _ in range(CONNECTIONS)
    ]
