"""DNS messages, held against dnspython."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet.network.dns import wire
from kubelet.network.dns.records import Record

NAME = "web.a.svc.cluster.local"
RECORDS = {
    "A": "10.0.0.1",
    "AAAA": "fd00::1",
    "CNAME": "example.com.",
    "PTR": "web.a.svc.cluster.local.",
    "SRV": "0 100 80 web.a.svc.cluster.local.",
    "TXT": '"1.1.0"',
    "SOA": "ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5",
}


def query(name: str = NAME, kind: str = "A", *, edns: int | bool = False) -> wire.Query:
    return wire.parse_query(dns.message.make_query(name, kind, use_edns=edns and 0, payload=edns or 0).to_wire())


@pytest.mark.parametrize(("kind", "data"), RECORDS.items(), ids=list(RECORDS))
def test_records(kind: str, data: str) -> None:
    made = wire.response(query(kind=kind), wire.NOERROR, [Record(NAME, kind, data)], ttl_s=7)
    found = dns.message.from_wire(made)
    assert found.answer == [dns.rrset.from_text(f"{NAME}.", 7, "IN", kind, data)]
    assert found.flags & dns.flags.AA
    assert wire.lifetimes(made) == [(len(made) - len(made.split(b"\0\0\0\x07", 1)[1]) - 4, 5 if kind == "SOA" else 7)]


def test_the_question_comes_back_as_it_was_spelt() -> None:
    asked = wire.parse_query(dns.message.make_query("WeB.a.Svc.cluster.local", "A").to_wire())
    assert asked.name == NAME
    found = dns.message.from_wire(wire.response(asked, wire.NOERROR, [Record(NAME, "A", "10.0.0.1")]))
    assert found.question[0].name.to_text() == "WeB.a.Svc.cluster.local."


@pytest.mark.parametrize(("edns", "fit"), [(False, 29), (1232, 73), (4096, 73)], ids=["plain", "EDNS", "boastful"])
def test_what_does_not_fit_is_left_out_and_said(edns: int | bool, fit: int) -> None:
    asked = query(edns=edns)
    records = [Record(NAME, "A", f"10.0.0.{number}") for number in range(100)]
    made = wire.response(asked, wire.NOERROR, records, max_size=asked.size)
    assert len(made) <= asked.size
    found = dns.message.from_wire(made)
    assert found.flags & dns.flags.TC
    assert sum(len(rrset) for rrset in found.answer) == fit
    assert not dns.message.from_wire(wire.response(asked, wire.NOERROR, records)).flags & dns.flags.TC


@given(st.binary(max_size=80))
def test_any_bytes_are_a_query_or_malformed(data: bytes) -> None:
    try:
        wire.parse_query(data)
    except wire.Malformed:
        said = wire.failure(data, wire.FORMERR)
        assert not said or dns.message.from_wire(said).rcode() == dns.rcode.FORMERR


@given(st.binary(min_size=12, max_size=120))
def test_any_answer_from_elsewhere_has_lifetimes_or_is_malformed(data: bytes) -> None:
    try:
        wire.lifetimes(data)
    except wire.Malformed:
        pass
