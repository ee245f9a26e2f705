"""The sockets of the name server, and what is said to whom. Run by `kubelet.network.traffic`."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from kubelet.network.dns import wire
from kubelet.network.dns.answers import Answers
from kubelet.network.dns.records import NO_DATA, Answer, NotSynced, Record, Zone
from kubelet.network.dns.upstream import Upstream
from wherry.api.context import Env

PORT = 53
TTL_S = 5  # an endpoint that is gone is asked for no longer than this
MAX_CONNECTIONS = 100
IDLE_S = 10.0
MAX_TASKS = 1000
BURST = 64  # datagrams between two looks at the loop
MAX_DATAGRAM = 4096
MAX_ALIASES = 8

_ADDRESSES = (wire.TYPES["A"], wire.TYPES["AAAA"])


@dataclass(frozen=True, slots=True)
class Onward:
    """A question that others must be asked: the client's own, or, where a Service is an alias (`aliases`, the way there), for the
    name that it stands for."""

    query: wire.Query
    aliases: tuple[Record, ...] = ()


class NameServer:
    """`serve` until cancelled."""

    def __init__(self, env: Env, zone: Zone, upstream: Upstream) -> None:
        self._env = env
        self._zone = zone
        self._upstream = upstream
        self._answers = Answers()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._connections = 0
        self.serving = asyncio.Event()
        self.address = ("", 0)  # once it serves

    async def serve(self, address: str, port: int = PORT) -> None:
        """Raises OSError when the address can't be had."""
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._on_connection, address, port)
        port = server.sockets[0].getsockname()[1]
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.setblocking(False)
        try:
            datagrams.bind((address, port))
            # A transport's buffers and callbacks cost more than most answers do.
            loop.add_reader(datagrams, self._on_readable, datagrams)
            self.address = (address, port)
            self.serving.set()
            await loop.create_future()
        finally:
            loop.remove_reader(datagrams)
            datagrams.close()
            server.close()
            for task in list(self._tasks):
                task.cancel()

    # -- answers

    def answer(self, data: bytes, *, tcp: bool) -> bytes | Onward:
        """What can be said at once (nothing, for what is no question); or what others must be asked."""
        try:
            query = wire.parse_query(data)
        except wire.Malformed:
            return wire.failure(data, wire.FORMERR)
        if query.opcode:
            return wire.response(query, wire.NOTIMP, authoritative=False)
        try:
            found = self._zone.find(query.name, wire.NAMES.get(query.kind, ""))
        except NotSynced:
            return wire.response(query, wire.SERVFAIL)
        if found is None:
            return self._upstream.cached(query, tcp=tcp) or Onward(query)
        aliases: list[Record] = []
        # Resolvers of programs do not ask for the name behind an alias themselves.
        while query.kind in _ADDRESSES and found.answers and found.answers[0].type == "CNAME":
            aliases += found.answers
            target = self._zone.find(_target(aliases[-1]), wire.NAMES[query.kind])
            if target is None:
                return Onward(query, tuple(aliases))
            found = target if len(aliases) < MAX_ALIASES else NO_DATA  # they may lead in a circle
        said = self._response(query, found, aliases, tcp=tcp)
        if not tcp and query.plain:
            self._answers.add(data, said, len(found.answers))
        return said

    def _response(self, query: wire.Query, found: Answer, aliases: Sequence[Record], *, tcp: bool) -> bytes:
        rcode = wire.NOERROR if found.exists else wire.NXDOMAIN
        return wire.response(
            query, rcode, [*aliases, *self._shuffled(found.answers)], authority=[] if found.answers else [self._soa()],
            additional=found.additional, ttl_s=TTL_S, max_size=0 if tcp else query.size,
        )  # fmt: skip

    async def _ask(self, onward: Onward, data: bytes, *, tcp: bool) -> bytes:
        if not onward.aliases:
            return await self._upstream.ask(onward.query, data, tcp=tcp)
        sent = wire.question(_target(onward.aliases[-1]), onward.query.kind, edns=True)
        query = wire.parse_query(sent)
        told = self._upstream.cached(query, tcp=True) or await self._upstream.ask(query, sent, tcp=tcp)
        if wire.is_truncated(told):
            told = await self._upstream.ask(query, sent, tcp=True)
        try:
            found = wire.addresses(told)
        except wire.Malformed:
            return wire.response(onward.query, wire.SERVFAIL)
        return wire.response(
            onward.query, wire.rcode_of(told), [*onward.aliases, *found], ttl_s=TTL_S,
            max_size=0 if tcp else onward.query.size,
        )  # fmt: skip

    def _shuffled(self, answers: Sequence[Record]) -> list[Record]:
        """Many clients take the first."""
        mixed = list(answers)
        self._env.rng.shuffle(mixed)
        return mixed

    def _soa(self) -> Record:
        domain = self._zone.domain
        numbers = f"{int(self._env.now())} 7200 1800 86400 {TTL_S}"
        return Record(domain, "SOA", f"ns.dns.{domain}. hostmaster.{domain}. {numbers}")

    # -- datagrams

    def _on_readable(self, datagrams: socket.socket) -> None:
        for _ in range(BURST):
            try:
                data, sender = datagrams.recvfrom(MAX_DATAGRAM)
            except OSError:
                return  # that was all
            said = self._answers.get(data, self._zone.version) or self.answer(data, tcp=False)
            if isinstance(said, bytes):
                if said:
                    _send(datagrams, said, sender)
            elif len(self._tasks) < MAX_TASKS:
                task = asyncio.get_running_loop().create_task(self._ask_for(said, data, sender, datagrams))
                self._tasks[task] = None
                task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)

    async def _ask_for(self, onward: Onward, data: bytes, sender: tuple[str, int], datagrams: socket.socket) -> None:
        _send(datagrams, await self._ask(onward, data, tcp=False), sender)

    # -- connections

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            while self._connections <= MAX_CONNECTIONS:
                async with asyncio.timeout(IDLE_S):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    data = await reader.readexactly(length)
                    said = self.answer(data, tcp=True)
                    if not isinstance(said, bytes):
                        said = await self._ask(said, data, tcp=True)
                    if not said:
                        return
                    writer.write(struct.pack("!H", len(said)) + said)
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections -= 1
            writer.close()


def _target(alias: Record) -> str:
    """As `Zone.find` takes it."""
    return alias.data.lower().rstrip(".")


def _send(datagrams: socket.socket, said: bytes, sender: tuple[str, int]) -> None:
    try:
        datagrams.sendto(said, sender)
    except OSError:
        pass  # it asks again, if it is still there
