"""The HTTP front over a control plane in this process, on a free port of loopback, for tests of the Kubernetes REST API."""

from __future__ import annotations

import io
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from yarl import URL

from controlplane.auth.certificates import issue_client
from controlplane.auth.serving import ServingCertificate
from controlplane.fronts.http.server import HttpServer, handler_of, tls_context
from controlplane.fronts.http.start import open_socket
from controlplane.server import ControlPlane, Options
from wherry.api.context import Env
from wherry.testing.serving import plane
from wherry.testing.tls import client_context


@dataclass(slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes
    warnings: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.content.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.content)


class Caller:
    """One user's connection; `administrator` or anybody, by certificate or without one."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self.session = session
        self.base = base

    async def ask(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json", **headers: str
    ) -> Answer:
        """`body` is bytes, text, or what becomes JSON. Header names are given with underscores."""
        data = None
        chosen = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            data = (
                body
                if isinstance(body, bytes)
                else body.encode()
                if isinstance(body, str)
                else json.dumps(body).encode()
            )
            chosen["Content-Type"] = content_type
        url = URL(self.base + path, encoded=True)
        async with self.session.request(
            method, url, data=None if data is None else io.BytesIO(data), headers=chosen
        ) as response:
            content = await response.read()
            return Answer(response.status, response.headers, content, response.headers.getall("Warning", []))


@dataclass(slots=True)
class Https:
    plane: ControlPlane
    env: Env
    address: str
    certificate: ServingCertificate

    def context(self, user: str = "", groups: tuple[str, ...] = ("system:masters",)) -> ssl.SSLContext:
        """Of a client with a certificate for this user; without one when there is none."""
        assert self.plane.ca is not None
        made = issue_client(self.plane.ca, self.env, user, groups) if user else None
        pair = made.certificate_pem + made.key_pem if made is not None else b""
        return client_context(self.plane.ca.certificate_pem, pair)

    @asynccontextmanager
    async def caller(self, user: str = "admin", groups: tuple[str, ...] = ("system:masters",)) -> AsyncIterator[Caller]:
        connector = aiohttp.TCPConnector(ssl=self.context(user, groups))
        headers = {"Accept": "application/json", "User-Agent": ""}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            yield Caller(session, f"https://{self.address}")


@asynccontextmanager
async def https(env: Env, options: Options | None = None) -> AsyncIterator[Https]:
    chosen = options or Options(scheduler=False, controllers=False)
    async with plane(env, chosen) as control_plane:
        assert control_plane.ca is not None
        certificate = ServingCertificate(control_plane.ca, env, ["localhost", "127.0.0.1"])
        server = HttpServer(handler_of(control_plane), tls_context(certificate, control_plane.ca.certificate_pem))
        listening = open_socket("127.0.0.1", 0)
        port = listening.getsockname()[1]
        await server.start(listening)
        try:
            yield Https(control_plane, env, f"127.0.0.1:{port}", certificate)
        finally:
            await server.stop(0.2)
