"""Slots, commands and files; haproxy itself checks what is written, and answers by it, in tests/node."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubelet.ingress import haproxy
from kubelet.ingress.haproxy import MIN_SLOTS, Options, Slots
from kubelet.ingress.routes import Backend, Routes, Target

A, B, C, D, E = ((f"10.0.0.{number}", 80) for number in range(1, 6))
OPTIONS = Options(("10.1.0.1",), 80, 443, Path("/run/x.sock"))


def backends(*targets: Target) -> dict[str, Backend]:
    return {"b": Backend("b", targets)}


@pytest.mark.parametrize(
    ("before", "after", "changed", "servers"),
    [
        pytest.param((A, B), (A, B), {}, [A, B, None, None], id="nothing"),
        pytest.param((A, B), (B,), {"b": [0]}, [None, B, None, None], id="one-goes"),
        pytest.param((A, B), (B, C), {"b": [0]}, [C, B, None, None], id="one-for-another"),
        pytest.param((A,), (A, B, C, D), {"b": [1, 2, 3]}, [A, B, C, D], id="as-many-as-there-are-slots"),
        pytest.param((A, B), (), {"b": [0, 1]}, [None] * 4, id="all-go"),
        pytest.param((A,), (A, B, C, D, E), None, [A, B, C, D, E, None, None, None], id="too-few-slots"),
    ],
)
def test_endpoints_keep_their_slots(
    before: tuple[Target, ...], after: tuple[Target, ...], changed: object, servers: list[Target | None]
) -> None:
    slots = Slots()
    assert slots.level(backends(*before)) is None  # a new backend
    assert len(slots.servers["b"]) == MIN_SLOTS
    assert slots.level(backends(*after)) == changed
    assert slots.servers["b"] == servers


def test_a_backend_that_is_gone_needs_a_reload() -> None:
    slots = Slots()
    slots.level(backends(A))
    assert slots.level({}) is None
    assert slots.servers == {}


def test_commands() -> None:
    slots = Slots({"b": [None, A]})
    assert haproxy.commands(slots, {"b": [0, 1]}) == [
        "set server b/s1 state maint",
        "set server b/s2 addr 10.0.0.1 port 80",
        "set server b/s2 state ready",
    ]


def test_what_needs_a_reload() -> None:
    def of(routes: Routes) -> object:
        return haproxy.structure(routes, {})

    same = of(Routes(backends=backends(A)))
    assert of(Routes(backends=backends(B, C))) == same
    assert of(Routes(backends={"b": Backend("b", (A,), "h2c")})) != same
    assert of(Routes(backends={"b": Backend("b", (("name.example", 80),))})) != same
    assert of(Routes(backends=backends(A), hosts={"h"})) != same
    assert of(Routes(backends=backends(A), redirects={"h"})) != same


def test_files() -> None:
    routes = Routes(
        hosts={"h", "-"}, exact={("h", "/x"): "b"}, prefixes={("h", ""): "b", ("-", "/y"): "b"}, backends=backends(A),
        secrets={"ns/s": {"h"}, "ns/all": set()}, redirects={"h"},
    )  # fmt: skip
    slots = Slots()
    slots.level(routes.backends)
    shown = {"ns/s": Path("/c/s.pem"), "ns/all": Path("/c/all.pem")}
    files = haproxy.files(routes, slots, OPTIONS, Path("/f"), shown, Path("/c/default.pem"))
    assert files["hosts.map"] == "h h\n"
    assert files["exact.map"] == "h/x b\n"
    assert files["prefix.map"] == "-/y/ b\nh/ b\n"
    assert files["redirect.map"] == "h 1\n"
    assert files["certificates.list"] == "/c/default.pem\n/c/all.pem\n/c/s.pem h\n"
    assert "  server s1 10.0.0.1:80\n  server s2 127.0.0.1:1 disabled\n" in files["haproxy.cfg"]
    assert "  default_backend no-route\n" in files["haproxy.cfg"]
