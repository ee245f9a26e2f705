"""A client of the Kubernetes API over HTTPS that lives through the death of replicas: it writes one object after the other, knows
which were acknowledged, reads each back through whatever replica answers, and watches them all. For tests of several replicas.

    python -m wherry.testing.failover KUBECONFIG SECONDS PREFIX

prints as JSON what was `written`, the longest time between two acknowledgements (`gap_s`), and what should not be: what was
`lost`, `unread` (a read that did not see an acknowledged write), and what the watch has `missed` or told `twice`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from wherry.api.tasks import stop
from wherry.client.config import ClientConfig, load_config
from wherry.testing import tls
from wherry.testing.eventually import eventually

PATH = "/api/v1/namespaces/default/configmaps"
ATTEMPT_S = 3.0
PAUSE_S = 0.02
RETRY_S = 0.05
SETTLE_S = 60.0


def client_context(config: ClientConfig) -> ssl.SSLContext:
    """Of a client with the configuration's certificate."""
    return tls.client_context(config.ca, config.certificate + config.key)


class HttpsClient:
    """Tries what was not answered again, as client libraries do."""

    def __init__(self, session: aiohttp.ClientSession, base: str, prefix: str) -> None:
        self._session = session
        self._base = base
        self._prefix = prefix
        self.acknowledged: list[str] = []
        self.unread: list[str] = []
        self.retried: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.gap_s = 0.0
        self.watches = asyncio.Event()  # it is known from where on
        self._last = 0.0

    async def write(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        self._last = loop.time()
        while True:
            name = f"{self._prefix}-{len(self.acknowledged)}"
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
            while True:
                status, _ = await self._ask("POST", PATH, body)
                if status in (201, 409):  # there already: the last answer was lost
                    break
                await asyncio.sleep(RETRY_S)
            self.acknowledged.append(name)
            self.gap_s, self._last = max(self.gap_s, loop.time() - self._last), loop.time()
            status, _ = await self._ask("GET", f"{PATH}/{name}")
            if status == 404:
                self.unread.append(name)
            await asyncio.sleep(PAUSE_S)

    async def watch(self) -> None:
        """Until cancelled; goes on where it was when the connection breaks."""
        revision = ""
        while True:
            if not revision:
                status, listed = await self._ask("GET", f"{PATH}?limit=1")
                if status != 200:
                    await asyncio.sleep(RETRY_S)
                    continue
                revision = listed["metadata"]["resourceVersion"]
                self.watches.set()
            query = f"{PATH}?watch=true&resourceVersion={revision}&allowWatchBookmarks=true"
            try:
                timeout = aiohttp.ClientTimeout(total=None, sock_connect=ATTEMPT_S)
                async with self._session.get(self._base + query, timeout=timeout) as response:
                    async for line in response.content:
                        if response.status != 200:
                            break
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            raise AssertionError(f"the watch cannot go on: {event['object']}")
                        meta = event["object"]["metadata"]
                        revision = meta["resourceVersion"]
                        if event["type"] == "ADDED" and meta["name"].startswith(self._prefix):
                            self.seen[meta["name"]] += 1
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            await asyncio.sleep(RETRY_S)

    async def names(self) -> set[str]:
        while True:
            status, listed = await self._ask("GET", PATH)
            if status == 200:
                return {item["metadata"]["name"] for item in listed["items"]}
            await asyncio.sleep(RETRY_S)

    async def report(self) -> dict[str, Any]:
        """After the writer has stopped; waits until the watch has told all, if it ever does."""
        self.gap_s = max(self.gap_s, asyncio.get_running_loop().time() - self._last)
        there = await self.names()
        with contextlib.suppress(TimeoutError):
            await eventually(self._all_seen, timeout_s=SETTLE_S)
        return {
            "written": len(self.acknowledged),
            "gap_s": self.gap_s,
            "lost": sorted(set(self.acknowledged) - there),
            "unread": self.unread,
            "missed": self._missed(),
            "twice": sorted(name for name, count in self.seen.items() if count > 1),
            "retried": dict(self.retried),
        }

    async def _all_seen(self) -> bool:
        return not self._missed()

    def _missed(self) -> list[str]:
        return sorted(set(self.acknowledged) - set(self.seen))

    async def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """0 when there was no answer."""
        try:
            timeout = aiohttp.ClientTimeout(total=ATTEMPT_S)
            async with self._session.request(method, self._base + path, json=body, timeout=timeout) as response:
                content = await response.read()
                if response.status >= 500 or response.status == 429:
                    self.retried[str(response.status)] += 1
                return response.status, json.loads(content) if content.startswith(b"{") else None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.retried[type(error).__name__] += 1
            return 0, None


@asynccontextmanager
async def https_client(kubeconfig: Path, prefix: str) -> AsyncIterator[HttpsClient]:
    config = load_config(kubeconfig)
    connector = aiohttp.TCPConnector(ssl=client_context(config))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield HttpsClient(session, f"https://{config.endpoints[0]}", prefix)


@asynccontextmanager
async def at_work(kubeconfig: Path, prefix: str) -> AsyncIterator[HttpsClient]:
    """A client that writes and watches; afterwards nothing that was acknowledged may be missing anywhere."""
    async with https_client(kubeconfig, prefix) as client:
        watching = asyncio.create_task(client.watch())
        await client.watches.wait()
        writing = asyncio.create_task(client.write())
        try:
            yield client
            await stop(writing)
            report = await client.report()
            assert not [what for what in ("lost", "unread", "missed", "twice") if report[what]], report
        finally:
            await stop(writing, watching)


async def _main(kubeconfig: Path, seconds: float, prefix: str) -> None:
    async with https_client(kubeconfig, prefix) as client:
        watching = asyncio.create_task(client.watch())
        await client.watches.wait()
        writing = asyncio.create_task(client.write())
        await asyncio.sleep(seconds)
        await stop(writing)
        print(json.dumps(await client.report()))
        await stop(watching)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]))
