"""What of a proxied request and its answer is passed on, and what is written anew on the way. Pure; called by `exchange`.

A page that was served at / of a pod is seen by the browser below .../proxy/, so links from the root have to get that prefix, in
Location headers and in HTML: what Kubernetes' proxy does. Relative links work as they are.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
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


def upgrade_of(headers: Headers) -> bytes:
    """The protocol that the client wants to go over to; b"" for none."""
    named = _named(headers)
    return next((value for name, value in headers if name.lower() == b"upgrade" and b"upgrade" in named), b"")


def request_headers(headers: Headers, *, peer: str, host: str, uri: str) -> list[tuple[bytes, bytes]]:
    """Without a Host there is no request: the client's own is kept, as in Kubernetes."""
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
    out.append((b"X-Forwarded-Host", host.encode()))
    out.append((b"X-Forwarded-Proto", b"https"))
    out.append((b"X-Forwarded-Uri", uri.encode()))
    return out


def response_headers(headers: Headers, prefix: str, host: str) -> list[tuple[str, str]]:
    """`prefix` is the path of the proxy, without a slash at the end."""
    dropped = _HOP | _named(headers)
    out: list[tuple[str, str]] = []
    for name, value in headers:
        lowered = name.lower()
        if lowered in dropped or lowered.startswith(_CORS):
            continue
        text = value.decode("utf-8", "surrogateescape")
        if lowered == b"location":
            text = location(text, prefix, host)
        out.append((name.decode("ascii"), text))
    return out


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
    """Pieces of an answer, one after the other; `end` gives what was held back. `taken` are headers that no longer hold."""

    taken: frozenset[str]

    def feed(self, piece: bytes) -> bytes: ...
    def end(self) -> bytes: ...


class Plain:
    taken: frozenset[str] = frozenset()

    def feed(self, piece: bytes) -> bytes:
        return piece

    def end(self) -> bytes:
        return b""


class Html:
    """Holds back at most one unfinished tag. Raises zlib.error when it is not compressed as it says."""

    taken = frozenset(("content-length", "content-encoding", "content-md5"))

    def __init__(self, prefix: str, encoding: str) -> None:
        self._prefix = prefix.encode()
        self._unpack = None if encoding == "identity" else zlib.decompressobj(47)  # gzip or zlib, by its first bytes
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        text = self._held + (piece if self._unpack is None else self._unpack.decompress(piece))
        cut = text.rfind(b"<")
        if cut < 0 or b">" in text[cut:] or len(text) - cut > MAX_TAG_BYTES:
            cut = len(text)
        self._held = text[cut:]
        return self._rewrite(text[:cut])

    def end(self) -> bytes:
        return self._rewrite(self._held + (b"" if self._unpack is None else self._unpack.flush()))

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
    if kind != "text/html" or encoding not in ("identity", "gzip", "deflate"):
        return Plain()
    return Html(prefix, encoding)
