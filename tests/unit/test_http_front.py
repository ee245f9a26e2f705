"""The pure parts of the HTTP front: paths, media types, warnings, SPDY frames."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import pytest

from controlplane.fronts.http import media, spdy
from controlplane.fronts.http.exchange import warning
from controlplane.fronts.http.media import Form
from controlplane.fronts.http.paths import Target, resource_target
from wherry.api.errors import BadRequest

AS_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("GET", "/api/v1/pods", {}, Target("list", "", "v1", "pods")),
        ("GET", "/api/v1/pods", {"watch": "1"}, Target("watch", "", "v1", "pods")),
        ("GET", "/api/v1/pods", {"watch": "0"}, Target("list", "", "v1", "pods")),
        ("GET", "/api/v1/namespaces/a/pods/p", {}, Target("get", "", "v1", "pods", namespace="a", name="p")),
        ("GET", "/api/v1/watch/namespaces/a/pods/p", {}, Target("watch", "", "v1", "pods", namespace="a", name="p")),
        ("GET", "/api/v1/namespaces/a", {}, Target("get", "", "v1", "namespaces", name="a")),
        ("PUT", "/api/v1/namespaces/a/finalize", {}, Target("update", "", "v1", "namespaces", "finalize", name="a")),
        ("DELETE", "/apis/apps/v1/namespaces/a/rs", {}, Target("deletecollection", "apps", "v1", "rs", namespace="a")),
        ("DELETE", "/apis/apps/v1/namespaces/a/rs/d", {}, Target("delete", "apps", "v1", "rs", namespace="a", name="d")),
        ("PATCH", "/apis/apps/v1/namespaces/a/rs/d/scale", {}, Target("patch", "apps", "v1", "rs", "scale", "a", "d")),
        ("GET", "/api/v1/nodes/n/proxy/a/b", {}, Target("get", "", "v1", "nodes", "proxy", name="n", extra="a/b")),
        ("GET", "/api/v1", {}, None),
        ("GET", "/apis/apps/v1", {}, None),
        ("GET", "/healthz/ping/x", {}, None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_a_path_asks_for(method: str, path: str, query: dict[str, str], expected: Target | None) -> None:
    assert resource_target(method, path, query) == expected


def test_a_namespace_lies_within_itself() -> None:
    target = resource_target("GET", "/api/v1/namespaces/a", {})
    assert target is not None
    assert target.attributes().namespace == "a"


@pytest.mark.parametrize(
    ("accept", "forms", "expected"),
    [
        ("", (), Form()),
        ("*/*", (), Form()),
        ("application/yaml", (), Form(media.YAML)),
        ("application/json;q=0.1, application/yaml", (), Form(media.YAML)),
        (f"{AS_TABLE},application/json", (media.TABLE,), Form(media.JSON, media.TABLE)),
        (f"{AS_TABLE},application/json", (), Form()),
        (AS_TABLE.replace("v1", "v1beta1"), (media.TABLE,), Form(media.JSON, media.TABLE, "v1beta1")),
        (AS_TABLE.replace("json", "vnd.kubernetes.protobuf") + ",application/json", (media.TABLE,), Form()),
        ("text/html, application/json", (), Form()),
    ],
)
def test_the_first_form_that_can_be_served(accept: str, forms: Sequence[str], expected: Form) -> None:
    assert media.negotiate(accept, forms=forms) == expected


@pytest.mark.parametrize("accept", ["text/html", AS_TABLE, "application/json;q=0"])
def test_nothing_that_can_be_served(accept: str) -> None:
    with pytest.raises(media.NotAcceptable):
        media.negotiate(accept)


def test_warnings_hold_no_line_breaks() -> None:
    assert warning('a "b"\r\nX: y\\') == '299 - "a \\"b\\"  X: y\\\\"'


class Scripted:
    """A link that was sent these bytes, in these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.written = b""

    async def read(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    async def write(self, data: bytes) -> None:
        self.written += data


def control(kind: int, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack("!HHI", 0x8003, kind, flags << 24 | len(payload)) + payload


def opened(compressor: zlib._Compress, stream: int, **headers: str) -> bytes:
    block = struct.pack("!I", len(headers))
    for name, value in headers.items():
        block += struct.pack("!I", len(name)) + name.encode() + struct.pack("!I", len(value)) + value.encode()
    packed = compressor.compress(block) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return control(1, struct.pack("!IIBB", stream, 0, 0, 0) + packed)


async def events(link: Scripted) -> list[spdy.Opened | spdy.Received]:
    return [event async for event in spdy.Connection(link).events()]


def test_the_dictionary_is_the_published_one() -> None:
    assert (len(spdy.DICTIONARY), zlib.adler32(spdy.DICTIONARY)) == (1423, 0xE3C6A7C2)


@pytest.mark.parametrize("size", [1, 3, 1000], ids=lambda size: f"in-pieces-of-{size}")
async def test_frames_arrive_in_any_pieces(size: int) -> None:
    compressor = zlib.compressobj(zdict=spdy.DICTIONARY)
    data = opened(compressor, 1, streamtype="stdin") + opened(compressor, 3, streamtype="error")
    data += struct.pack("!II", 1, 2) + b"ab" + struct.pack("!II", 1, 1 << 24)
    link = Scripted(*(data[start : start + size] for start in range(0, len(data), size)))
    assert await events(link) == [
        spdy.Opened(1, {"streamtype": "stdin"}, False),
        spdy.Opened(3, {"streamtype": "error"}, False),
        spdy.Received(1, b"ab", False),
        spdy.Received(1, b"", True),
    ]


async def test_a_ping_is_answered() -> None:
    link = Scripted(control(6, b"\0\0\0\1"))
    assert await events(link) == []
    assert link.written == control(6, b"\0\0\0\1")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100,
        struct.pack("!II", 1, 0xFFFFFF),
        control(1, b"short"),
        control(1, struct.pack("!IIBB", 1, 0, 0, 0) + b"no zlib"),
    ],
    ids=["http", "giant", "short", "garbage"],
)
async def test_what_is_no_spdy_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        await events(Scripted(data))


async def test_long_data_goes_out_in_pieces() -> None:
    link = Scripted()
    connection = spdy.Connection(link)
    await connection.send(1, b"x" * (spdy.MAX_DATA_BYTES + 1), fin=True)
    reader = Scripted(link.written)
    found = await events(reader)
    assert [(len(event.data), event.fin) for event in found if isinstance(event, spdy.Received)] == [
        (spdy.MAX_DATA_BYTES, False),
        (1, True),
    ]
