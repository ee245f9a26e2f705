"""HTTPS to webhooks: one session with kept connections, each with the CA of its hook. Called through `webhooks.base.Transport`.

A certificate must be for the host of the URL, wherever the connection goes. Of several addresses the next one is tried when one
can't be reached. Errors are put as Go puts them, which is what people look for.
"""

from __future__ import annotations

import errno
import hashlib
import json
import ssl
from collections import OrderedDict
from typing import Any

import aiohttp
from yarl import URL

from controlplane.admission.webhooks.base import CallFailed, Target
from wherry.api import jsontext
from wherry.api.context import Env

MAX_ANSWER_BYTES = 3 * 1024 * 1024
_MAX_CONTEXTS = 64
_MAX_CONNECTIONS = 100
_IDLE_S = 60.0


class HttpsTransport:
    """`await close()` after use."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._session: aiohttp.ClientSession | None = None
        self._contexts: OrderedDict[str, ssl.SSLContext] = OrderedDict()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, target: Target, body: bytes, timeout_s: float) -> bytes:
        context = self._context(target.ca_bundle, target.url)
        addresses: list[tuple[str, int] | None] = list(target.addresses) or [None]
        start = self._env.rng.randrange(len(addresses))
        for address in (*addresses[start:], *addresses[:start]):
            try:
                return await self._post(target, address, context, body)
            except (aiohttp.ClientConnectorError, ConnectionError, OSError) as error:
                failure: Exception = error
                if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
                    break
            except aiohttp.ClientError as error:
                failure = error
                break
        raise CallFailed(f'Post "{target.url}": {_in_words(failure, address)}') from failure

    async def _post(
        self, target: Target, address: tuple[str, int] | None, context: ssl.SSLContext, body: bytes
    ) -> bytes:
        url = URL(target.url)
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": "kube-apiserver-admission",
        }
        options: dict[str, Any] = {}
        if address is not None:
            headers["Host"] = f"{url.host}:{url.port}"
            options["server_hostname"] = url.host
            url = url.with_host(address[0]).with_port(address[1])
        session = self._opened()
        async with session.post(
            url, data=body, headers=headers, ssl=context, allow_redirects=False, **options
        ) as response:
            content = await response.content.read(MAX_ANSWER_BYTES + 1)
            while len(content) <= MAX_ANSWER_BYTES and not response.content.at_eof():
                content += await response.content.read(MAX_ANSWER_BYTES + 1 - len(content))
            if len(content) > MAX_ANSWER_BYTES:
                raise CallFailed(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
            if response.status != 200:
                raise CallFailed(_refusal(response.status, content))
            return content

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            connector = aiohttp.TCPConnector(limit=_MAX_CONNECTIONS, keepalive_timeout=_IDLE_S)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(total=None), auto_decompress=True
            )
        return self._session

    def _context(self, ca_bundle: bytes, url: str) -> ssl.SSLContext:
        key = hashlib.sha256(ca_bundle).hexdigest()
        context = self._contexts.get(key)
        if context is None:
            try:
                context = ssl.create_default_context(cadata=ca_bundle.decode() if ca_bundle else None)
            except (ssl.SSLError, ValueError) as error:
                raise CallFailed(f'Post "{url}": unable to load root certificates: {error}') from error
            self._contexts[key] = context
            if len(self._contexts) > _MAX_CONTEXTS:
                self._contexts.popitem(last=False)
        self._contexts.move_to_end(key)
        return context


def _refusal(code: int, content: bytes) -> str:
    """As Go's REST client speaks of an answer that is no success."""
    try:
        status = jsontext.read(content)
        if isinstance(status, dict) and status.get("kind") == "Status" and status.get("message"):
            return str(status["message"])
    except ValueError:
        pass
    text = json.dumps(content.decode(errors="replace").strip()[:512], ensure_ascii=False)
    if code == 404:
        return "the server could not find the requested resource"
    if code >= 500:
        return f"an error on the server ({text}) has prevented the request from succeeding"
    return f"the server rejected our request for an unknown reason: {code} {text}"


def _in_words(error: Exception, address: tuple[str, int] | None) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        found = error.certificate_error
        return f"tls: failed to verify certificate: x509: {getattr(found, 'verify_message', None) or found}"
    if "WRONG_VERSION_NUMBER" in str(error):
        return "http: server gave HTTP response to HTTPS client"
    if isinstance(error, aiohttp.ClientSSLError):
        return f"tls: {error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {error.host}: no such host"
    if isinstance(error, aiohttp.ClientConnectorError):
        host, port = address or (error.host, error.port)
        cause = error.os_error
        words = "connection refused" if cause.errno == errno.ECONNREFUSED else str(cause.strerror or cause).lower()
        return f"dial tcp {host}:{port}: connect: {words}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "EOF"
    return str(error) or type(error).__name__
