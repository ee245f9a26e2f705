"""What of a proxied request and its answer is passed on, and what is written anew on the way. Pure; called by `exchange`.

A page that was served at / of a pod is seen by the browser below .../proxy/, so links from the root have to get that prefix, in
Location headers and in HTML: what Kubernetes' proxy does. Relative links work as they are.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

Headers = Sequence[tuple[bytes, bytes]]

# Of one connection, and so not passed on (RFC 9110, 7.6.1), besides those that a Connection header names.
_HOP = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade",
     b"proxy-authenticate", b"proxy-authorization")
)  # fmt: skip
# The pod must not learn by what the client has proved who it is; "expect" is between the client and us.
_OURS = frozenset((b"authorization", b"expect", b"x-forwarded-uri", b"x-forwarded-host", b"x-forwarded-proto"))
# Whom a page may be read by is for the API server to say, not for the pod.
_CORS = b"access-control-"
_ATTRIBUTES = (
    b"action", b"background", b"cite", b"classid", b"codebase", b"data", b"formaction", b"href", b"icon", b"longdesc",
    b"manifest", b"poster", b"profile", b"src", b"usemap",
)  # fmt: skip
_TAG = re.compile(rb"<[a-zA-Z][^<>]*>")
_LINK = re.compile(
    rb"(?P<before>\s(?:" + b"|".join(_ATTRIBUTES) + rb")\s*=\s*[\"']?)(?P<url>/(?!/)[^\s\"'>]*)", re.IGNORECASE
)
MAX_TAG_BYTES = 64 << 10
# What is unpacked and written anew at once, between two chances for the loop to do something else: some milliseconds.
SLICE_BYTES = 64 << 10
# A page becomes smaller by a factor of 5 to 20, a table of the same row by 100; deflate can do 1000. Without a limit a pod
# could make the API server write pages at a thousandth of what that costs the pod.
MAX_RATIO = 100
MIN_RATED_BYTES = 16 << 20  # unpacked; what is smaller may have any ratio
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]")


class BadBody(Exception):
    """The pod's answer cannot be passed on to its end. The message says why."""


def ascii_url(raw: bytes) -> str:
    """With bytes that a URL must not have written as %XX: what they mean, and what Kubernetes' proxy makes of them."""
    return _BEYOND_ASCII.sub(lambda found: b"%%%02X" % found[0][0], raw).decode("ascii")


def upgrade_of(headers: Headers) -> bytes:
    """The protocol that the client wants to go over to; b"" for none."""
    named = _named(headers)
    return next((value for name, value in headers if name.lower() == b"upgrade" and b"upgrade" in named), b"")


def request_headers(headers: Headers, *, peer: str, host: str, uri: str) -> list[tuple[bytes, bytes]]:
    """Without a Host there is no request: the client's own is kept, as in Kubernetes. `host` and `uri` as aiohttp has them, who
    decodes headers as UTF-8 with surrogates for what is none."""
    dropped = _HOP | _OURS | _named(headers)
    out: list[tuple[bytes, bytes]] = []
    forwarded = [peer.encode()] if peer else []
    for name, value in headers:
        lowered = name.lower()
        if lowered == b"x-forwarded-for":
            forwarded.insert(0, value)
        elif lowered not in dropped and not lowered.startswith(b"impersonate-"):
            out.append((name, value))
    out.append((b"X-Forwarded-For", b", ".join(forwarded)))
    out.append((b"X-Forwarded-Host", host.encode("utf-8", "surrogateescape")))
    out.append((b"X-Forwarded-Proto", b"https"))
    out.append((b"X-Forwarded-Uri", uri.encode("utf-8", "surrogateescape")))
    return out


def response_headers(headers: Headers, prefix: str, host: str) -> list[tuple[str, str]]:
    """`prefix` is the path of the proxy, without a slash at the end. Values that are not UTF-8 are taken as Latin-1, what HTTP
    once said that they are: aiohttp writes all as UTF-8, and leaves surrogates out without a word."""
    dropped = _HOP | _named(headers)
    out: list[tuple[str, str]] = []
    for name, value in headers:
        lowered = name.lower()
        if lowered in dropped or lowered.startswith(_CORS):
            continue
        text = location(ascii_url(value), prefix, host) if lowered == b"location" else _text(value)
        out.append((name.decode("ascii"), text))
    return out


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def location(url: str, prefix: str, host: str) -> str:
    """`host` is the API server's, as the client named it: what leads elsewhere, or is relative, is left as it is."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    if (parts.netloc and parts.netloc != host) or not parts.path.startswith("/") or parts.path.startswith(prefix + "/"):
        return url
    return urlunsplit(parts._replace(path=prefix + parts.path))


def _named(headers: Headers) -> frozenset[bytes]:
    words: list[bytes] = []
    for name, value in headers:
        if name.lower() == b"connection":
            words += [word.strip().lower() for word in value.split(b",")]
    return frozenset(words)


class Body(Protocol):
    """Pieces of an answer, one after the other; `end` gives what was held back. Both give slices, some of them empty, and
    whoever takes them lets others run in between. `taken` are headers that no longer hold. Raises BadBody."""

    taken: frozenset[str]

    def feed(self, piece: bytes) -> Iterator[bytes]: ...
    def end(self) -> Iterator[bytes]: ...


class Plain:
    taken: frozenset[str] = frozenset()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        yield piece

    def end(self) -> Iterator[bytes]:
        yield from ()


class Html:
    """Holds back at most one unfinished tag. Invariant: `_unpack` is there from the first byte of a member of a gzip stream to
    its last one; `_received` and `_unpacked` count all that went into it and came out."""

    taken = frozenset(("content-length", "content-encoding", "content-md5"))

    def __init__(self, prefix: str, *, packed: bool) -> None:
        self._prefix = prefix.encode()
        self._packed = packed
        self._unpack: zlib._Decompress | None = None
        self._received = self._unpacked = 0
        self._held = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        for slice_ in self._unpacking(piece) if self._packed else (piece,):
            text = self._held + slice_
            cut = text.rfind(b"<")
            if cut < 0 or b">" in text[cut:] or len(text) - cut > MAX_TAG_BYTES:
                cut = len(text)
            self._held = text[cut:]
            yield self._rewrite(text[:cut])

    def end(self) -> Iterator[bytes]:
        if self._unpack is not None:
            raise BadBody("the gzip stream ends in its middle")
        yield self._rewrite(self._held)

    def _unpacking(self, piece: bytes) -> Iterator[bytes]:
        self._received += len(piece)
        full = False  # there may be more in the decompressor
        while piece or full:
            if self._unpack is None:
                self._unpack = zlib.decompressobj(31)  # gzip
            try:
                text = self._unpack.decompress(piece, SLICE_BYTES)
            except zlib.error as error:
                raise BadBody(f"the gzip stream is malformed: {error}") from error
            self._unpacked += len(text)
            if self._unpacked > max(MIN_RATED_BYTES, MAX_RATIO * self._received):
                raise BadBody(
                    f"{self._received} bytes of gzip unpack to more than {self._unpacked}: pages are passed on up to "
                    f"{MIN_RATED_BYTES} bytes, or {MAX_RATIO} times what they are packed"
                )
            full = len(text) == SLICE_BYTES and not self._unpack.eof
            piece = self._unpack.unconsumed_tail
            if self._unpack.eof:
                piece, self._unpack = self._unpack.unused_data, None  # the next member, if there is one
            yield text

    def _rewrite(self, text: bytes) -> bytes:
        return _TAG.sub(lambda tag: _LINK.sub(self._link, tag[0]), text)

    def _link(self, found: re.Match[bytes]) -> bytes:
        url = found["url"]
        return found[0] if url.startswith(self._prefix + b"/") else found["before"] + self._prefix + url


def body_of(headers: Iterable[tuple[str, str]], prefix: str) -> Body:
    """How the body of an answer with these headers is passed on."""
    found = {name.lower(): value for name, value in headers}
    kind = found.get("content-type", "").partition(";")[0].strip().lower()
    encoding = found.get("content-encoding", "identity").strip().lower()
    if kind != "text/html" or encoding not in ("identity", "gzip"):
        return Plain()  # of what is called deflate there are two forms, and hardly anybody sends either
    return Html(prefix, packed=encoding == "gzip")
