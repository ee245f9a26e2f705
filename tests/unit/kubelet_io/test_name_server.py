"""The name server over real sockets, with another behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import dns.asyncquery
import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from kubelet.network.dns import wire
from kubelet.network.dns.records import Answer, NotSynced, Record
from kubelet.network.dns.server import NameServer
from kubelet.network.dns.upstream import Upstream
from wherry.api.context import Env

ALIASES = {
    "near.cluster.local": "One.cluster.local.",
    "far.cluster.local": "example.com.",
    "twice.cluster.local": "far.cluster.local.",
    "lost.cluster.local": "nope.cluster.local.",
    "circle.cluster.local": "circle.cluster.local.",
}


class Names:
    """In place of the cluster's."""

    domain = "cluster.local"

    def __init__(self) -> None:
        self.known = True
        self.version = 0
        self.looked_up = 0
        self.address = "10.0.0.1"

    def find(self, name: str, kind: str) -> Answer | None:
        self.looked_up += 1
        if not name.endswith("cluster.local"):
            return None
        if not self.known:
            raise NotSynced
        if name in ALIASES:
            return Answer(answers=(Record(name, "CNAME", ALIASES[name]),))
        if name == "one.cluster.local":
            return Answer(answers=(Record(name, kind, self.address),))
        if name == "few.cluster.local":
            return Answer(answers=tuple(Record(name, kind, f"10.0.0.{number}") for number in range(3)))
        if name != "many.cluster.local":
            return Answer(exists=False)
        return Answer(answers=tuple(Record(name, "A", f"10.0.0.{number}") for number in range(100)))


class Elsewhere(asyncio.DatagramProtocol):
    """The host's resolver: one address for every name, and a count of the questions."""

    def __init__(self) -> None:
        self.asked = 0
        self.silent = False
        self.more: list[str] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.asked += 1
        if self.silent:
            return
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        name = query.question[0].name
        if name.to_text() == "example.com.":
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", "real.example.com."))
            name = "real.example.com."
        answer.answer.append(dns.rrset.from_text(name, 60, "IN", "A", *["192.0.2.1", *self.more]))
        try:
            self.transport.sendto(answer.to_wire(), addr)
        except dns.exception.TooBig:
            answer.answer.clear()
            answer.flags |= dns.flags.TC
            self.transport.sendto(answer.to_wire(), addr)


class Setup:
    def __init__(self, server: NameServer, names: Names, elsewhere: Elsewhere) -> None:
        self.server, self.names, self.elsewhere = server, names, elsewhere

    async def udp(self, name: str) -> dns.message.Message:
        host, port = self.server.address
        return await dns.asyncquery.udp(dns.message.make_query(name, "A"), host, port=port, timeout=10)

    async def tcp(self, name: str) -> dns.message.Message:
        host, port = self.server.address
        return await dns.asyncquery.tcp(dns.message.make_query(name, "A"), host, port=port, timeout=10)


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    loop = asyncio.get_running_loop()
    transport, elsewhere = await loop.create_datagram_endpoint(Elsewhere, local_addr=("127.0.0.1", 0))
    names: Any = Names()
    env = Env()
    server = NameServer(env, names, Upstream(env, lambda: ["127.0.0.1"], port=transport.get_extra_info("sockname")[1]))
    task = loop.create_task(server.serve("127.0.0.1", 0))
    async with asyncio.timeout(10):
        await server.serving.wait()
    yield Setup(server, names, elsewhere)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    transport.close()


async def test_a_large_answer_is_cut_short_and_whole_over_tcp(setup: Setup) -> None:
    short = await setup.udp("many.cluster.local")
    assert short.flags & dns.flags.TC
    whole = await setup.tcp("many.cluster.local")
    assert len(whole.answer[0]) == 100
    assert not whole.flags & dns.flags.TC


async def test_what_was_asked_before_is_answered_as_before_until_something_changes(setup: Setup) -> None:
    for name in ("one.cluster.local", "nope.cluster.local", "ONE.cluster.local"):
        before = setup.names.looked_up
        first, second = [await setup.udp(name) for _ in range(2)]
        assert setup.names.looked_up == before + 1
        second.id = first.id
        assert first == second
        assert str(second.question[0].name) == f"{name}."
    setup.names.address = "10.0.0.2"
    setup.names.version += 1
    assert (await setup.udp("one.cluster.local")).answer[0][0].address == "10.0.0.2"


async def test_answers_with_options_are_not_kept(setup: Setup) -> None:
    host, port = setup.server.address
    for number in range(3):
        cookie = dns.edns.GenericOption(10, number.to_bytes(8, "big"))
        query = dns.message.make_query("one.cluster.local", "A", use_edns=0, options=[cookie])
        assert (await dns.asyncquery.udp(query, host, port=port, timeout=10)).answer
    assert setup.names.looked_up == 3


async def test_several_addresses_come_in_a_few_orders(setup: Setup) -> None:
    orders = {tuple(item.address for item in (await setup.udp("few.cluster.local")).answer[0]) for _ in range(60)}
    assert {frozenset(order) for order in orders} == {frozenset({"10.0.0.0", "10.0.0.1", "10.0.0.2"})}
    assert setup.names.looked_up == 3


async def test_an_unknown_name_comes_with_the_zone(setup: Setup) -> None:
    found = await setup.udp("nope.cluster.local")
    assert found.rcode() == dns.rcode.NXDOMAIN
    assert found.authority[0].name.to_text() == "cluster.local."


async def test_other_names_are_asked_elsewhere_once(setup: Setup) -> None:
    for _ in range(3):
        found = await setup.udp("example.com")
        assert found.answer[1][0].address == "192.0.2.1"
    assert setup.elsewhere.asked == 1


async def test_what_is_remembered_is_used_when_nobody_answers(setup: Setup) -> None:
    await setup.udp("example.com")
    setup.elsewhere.silent = True
    assert (await setup.udp("example.com")).answer
    assert (await setup.udp("example.org")).rcode() == dns.rcode.SERVFAIL


async def test_before_the_cluster_is_known_its_names_fail_and_others_do_not(setup: Setup) -> None:
    setup.names.known = False
    assert (await setup.udp("many.cluster.local")).rcode() == dns.rcode.SERVFAIL
    assert (await setup.udp("example.com")).answer


@pytest.mark.parametrize(
    ("name", "rcode", "names", "address"),
    [
        ("near.cluster.local", dns.rcode.NOERROR, ["near.cluster.local.", "One.cluster.local."], "10.0.0.1"),
        ("far.cluster.local", dns.rcode.NOERROR, ["far.cluster.local.", "example.com.", "real.example.com."], "192.0.2.1"),
        (
            "twice.cluster.local", dns.rcode.NOERROR,
            ["twice.cluster.local.", "far.cluster.local.", "example.com.", "real.example.com."], "192.0.2.1",
        ),
        ("lost.cluster.local", dns.rcode.NXDOMAIN, ["lost.cluster.local."], ""),
        ("circle.cluster.local", dns.rcode.NOERROR, ["circle.cluster.local."], ""),
    ],
    ids=["inside", "outside", "twice", "to nothing", "in a circle"],
)  # fmt: skip
async def test_an_alias_comes_with_what_it_stands_for(
    setup: Setup, name: str, rcode: int, names: list[str], address: str
) -> None:
    """Resolvers of programs (glibc's, musl's) do not ask on for themselves."""
    for found in (await setup.udp(name), await setup.tcp(name)) if "far" in name else (await setup.udp(name),):
        assert found.rcode() == rcode
        assert [item.name.to_text().lower() for item in found.answer] == [item.lower() for item in names]
        assert [item.address for item in found.answer[-1] if item.rdtype == dns.rdatatype.A] == [address] * bool(
            address
        )


async def test_an_alias_of_a_name_that_nobody_tells_fails(setup: Setup) -> None:
    setup.elsewhere.silent = True
    assert (await setup.udp("far.cluster.local")).rcode() == dns.rcode.SERVFAIL


async def test_a_client_that_takes_little_gets_nothing_large_that_was_kept(setup: Setup) -> None:
    """What a client with more room has asked for is kept, and is not for everybody."""
    setup.elsewhere.more = [f"192.0.2.{number}" for number in range(2, 62)]
    host, port = setup.server.address
    query = dns.message.make_query("large.test", "A", use_edns=0, payload=1232)
    assert len((await dns.asyncquery.udp(query, host, port=port, timeout=10)).answer[0]) == 61
    assert setup.elsewhere.asked == 1
    small = dns.message.make_query("large.test", "A", use_edns=0, payload=512)
    assert (await dns.asyncquery.udp(small, host, port=port, timeout=10)).flags & dns.flags.TC
    assert setup.elsewhere.asked == 2


async def test_a_resolver_that_does_not_answer_is_asked_last_for_a_while(setup: Setup) -> None:
    upstream = Upstream(Env(), lambda: ["127.0.0.2", "127.0.0.1"], port=setup.elsewhere.port)
    sent = wire.question("example.org", wire.TYPES["A"], edns=False)
    assert await upstream.ask(wire.parse_query(sent), sent, tcp=False)
    assert upstream.in_order() == ["127.0.0.1", "127.0.0.2"]


async def test_what_has_run_out_comes_before_a_client_gives_up(setup: Setup) -> None:
    """However many resolvers there are that do not answer."""
    servers = ["127.0.0.1"]
    upstream = Upstream(Env(), lambda: servers, port=setup.elsewhere.port)
    sent = wire.question("large.test", wire.TYPES["A"], edns=False)
    query = wire.parse_query(sent)
    assert wire.addresses(await upstream.ask(query, sent, tcp=False))
    setup.elsewhere.silent = True
    servers *= 10
    async with asyncio.timeout(10):  # of 20 s
        assert wire.addresses(await upstream.ask(query, sent, tcp=False))
