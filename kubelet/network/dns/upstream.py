"""All names that are not the cluster's: asked of the host's resolvers, each answer remembered for a short while. Called by
`server`. An answer that has run out is given once more when no resolver answers."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kubelet.network.dns import wire
from wherry.api.context import Env

TIMEOUT_S = 2.0  # per server
TOTAL_S = 4.5  # a pod's resolver gives up after 5 s
STALE_AFTER_S = 1.8  # then an answer that has run out is better than none
MAX_CACHED = 1000
MAX_CACHED_BYTES = 4096
MAX_KEPT_S = 30
STALE_S = 3600.0
SHUNNED_S = 30.0  # a server that did not answer is asked after the others for so long
MAX_IN_FLIGHT = 256
_PORT = 53


@dataclass(slots=True)
class _Cached:
    data: bytes
    places: list[tuple[int, int]]
    stored: float
    until: float


class Upstream:
    """`servers` is asked at each question, since a laptop changes networks."""

    def __init__(self, env: Env, servers: Callable[[], Sequence[str]], *, port: int = _PORT) -> None:
        self._env = env
        self._servers = servers
        self._port = port
        self._cache: dict[tuple[str, int, int, bool], _Cached] = {}
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._shunned: dict[str, float] = {}  # until when

    def cached(self, query: wire.Query, *, tcp: bool) -> bytes | None:
        """An answer that is still good."""
        return self._kept(query, tcp=tcp, until=lambda found: found.until)

    async def ask(self, query: wire.Query, data: bytes, *, tcp: bool) -> bytes:
        """The answer, or a SERVFAIL."""
        if not self._slots.locked():
            limit_s = TOTAL_S if self._stale(query, tcp=tcp) is None else STALE_AFTER_S
            try:
                async with self._slots, asyncio.timeout(limit_s):
                    answer = await self._first(query, data, tcp=tcp)
            except TimeoutError:
                answer = None
            if answer is not None:
                return answer
        return self._stale(query, tcp=tcp) or wire.response(query, wire.SERVFAIL, authoritative=False)

    async def _first(self, query: wire.Query, data: bytes, *, tcp: bool) -> bytes | None:
        """What the first server says that answers."""
        for server in self.in_order():
            sent = wire.with_id(data, self._env.rng.getrandbits(16))
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    answer = await (_over_tcp if tcp else _over_udp)(server, self._port, sent, query)
            except (OSError, TimeoutError, wire.Malformed):
                self._shun(server)
                continue
            except asyncio.CancelledError:
                self._shun(server)  # it has taken all the time that there was
                raise
            self._shunned.pop(server, None)
            if wire.rcode_of(answer) in (wire.NOERROR, wire.NXDOMAIN):
                self._keep(query, answer)
                return wire.with_id(answer, query.id)
        return None

    def _stale(self, query: wire.Query, *, tcp: bool) -> bytes | None:
        return self._kept(query, tcp=tcp, until=lambda found: found.stored + STALE_S)

    def _kept(self, query: wire.Query, *, tcp: bool, until: Callable[[_Cached], float]) -> bytes | None:
        """What is remembered, if the client can take it."""
        found = self._cache.get(_key(query))
        now = asyncio.get_running_loop().time()
        if found is None or now >= until(found) or (len(found.data) > query.size and not tcp):
            return None
        return _aged(found, query, now)

    def _shun(self, server: str) -> None:
        self._shunned[server] = asyncio.get_running_loop().time() + SHUNNED_S

    def in_order(self) -> list[str]:
        """As the host has them, but those that did not answer of late behind the others."""
        now = asyncio.get_running_loop().time()
        servers = self._servers()
        self._shunned = {server: until for server, until in self._shunned.items() if now < until and server in servers}
        return sorted(servers, key=lambda server: server in self._shunned)

    def _keep(self, query: wire.Query, answer: bytes) -> None:
        if wire.is_truncated(answer) or len(answer) > MAX_CACHED_BYTES:
            return
        try:
            places = wire.lifetimes(answer)
        except wire.Malformed:
            return
        lifetime = min((seconds for _, seconds in places), default=0)
        if lifetime <= 0:
            return
        now = asyncio.get_running_loop().time()
        self._cache.pop(_key(query), None)
        while len(self._cache) >= MAX_CACHED:
            del self._cache[next(iter(self._cache))]
        self._cache[_key(query)] = _Cached(answer, places, now, now + min(lifetime, MAX_KEPT_S))


def _key(query: wire.Query) -> tuple[str, int, int, bool]:
    return query.name, query.kind, query.cls, query.edns


def _aged(found: _Cached, query: wire.Query, now: float) -> bytes:
    data = bytearray(wire.with_id(found.data, query.id))
    data[12 : 12 + len(query.question)] = query.question
    age = int(now - found.stored)
    for place, seconds in found.places:
        struct.pack_into("!I", data, place, max(seconds - age, 1))
    return bytes(data)


class _Once(asyncio.DatagramProtocol):
    def __init__(self, sent: bytes, query: wire.Query, answer: asyncio.Future[bytes]) -> None:
        self._sent, self._query, self._answer = sent, query, answer

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self._answer.done() and wire.answers_to(data, self._sent, self._query):
            self._answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc)


async def _over_udp(server: str, port: int, sent: bytes, query: wire.Query) -> bytes:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Once(sent, query, answer), remote_addr=(server, port))
    try:
        transport.sendto(sent)
        return await answer
    finally:
        transport.close()


async def _over_tcp(server: str, port: int, sent: bytes, query: wire.Query) -> bytes:
    reader, writer = await asyncio.open_connection(server, port)
    try:
        writer.write(struct.pack("!H", len(sent)) + sent)
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        data = await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise wire.Malformed("the connection ended early") from error
    finally:
        writer.close()
    if not wire.answers_to(data, sent, query):
        raise wire.Malformed("the answer to another question")
    return data
