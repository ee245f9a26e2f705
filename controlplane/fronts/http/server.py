"""The HTTPS listener: TLS with the cluster's serving certificate, client certificates where a client has one, and an orderly
end. Made and started by `wherry server`, beside the gRPC server.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from typing import TYPE_CHECKING, Any

from aiohttp import web

from controlplane.fronts.http.connection import Connection
from controlplane.fronts.http.handler import Handler
from controlplane.fronts.http.issuer import Issuer
from controlplane.fronts.http.sessions import Sessions

if TYPE_CHECKING:
    from controlplane.auth.serving import ServingCertificate
    from controlplane.server import ControlPlane

log = logging.getLogger(__name__)
# aiohttp writes a traceback for each request that is not HTTP: anybody could fill the disk. Defects of ours `handler` logs.
logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)

KEEPALIVE_S = 180.0
HANDSHAKE_TIMEOUT_S = 10.0
FIRST_REQUEST_S = 30.0  # for a connection to say what it wants; later ones have KEEPALIVE_S
MAX_HEADER_BYTES = 64 * 1024
STOP_GRACE_S = 2.0


def handler_of(plane: ControlPlane) -> Handler:
    """The front of a control plane that has started."""
    checks = {"ping": lambda: True, "log": lambda: True, "serving": lambda: plane.health.serving}
    if (store_health := plane.store_health) is not None:
        checks["etcd"] = lambda: store_health.well
    sessions = Sessions(plane.services.handler)
    accounts = plane.account_tokens
    return Handler(
        plane.registry,
        plane.authorizer,
        plane.commits,
        plane.env,
        checks,
        sessions,
        tokens=plane.token_review,
        issuer=Issuer(accounts.public_keys) if accounts is not None else None,
        figures=plane.figures,
        metrics=plane.metrics,
        flow=plane.flow,
        auditor=plane.auditor,
        ports=plane.ports,
    )


def tls_context(certificate: ServingCertificate, ca_pem: bytes) -> ssl.SSLContext:
    """A client that shows a certificate must show one of the cluster CA's; one that shows none is anonymous."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=ca_pem.decode())
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, certificate, ca_pem)
    return context


def load_certificate(context: ssl.SSLContext, certificate: ServingCertificate, ca_pem: bytes) -> None:
    """Takes the certificate as it is now; connections that stand keep the one that they began with. The key does not touch a
    disk: OpenSSL wants a file, and gets one in memory."""
    pair = certificate.current
    descriptor = os.memfd_create("serving")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(pair.certificate_pem + ca_pem + pair.key_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


class HttpServer:
    """`await start(...)`, then `await stop()`. One listener over one handler."""

    def __init__(self, handler: Handler, context: ssl.SSLContext | None) -> None:
        self._handler = handler
        self._context = context
        # Connections that have not asked for anything yet, each with what ends it.
        self._silent: dict[web.RequestHandler, asyncio.TimerHandle] = {}
        # A watch whose client is gone ends at once; writes are shielded.
        self._server = web.Server(self._answer, handler_cancellation=True)
        self._listener: asyncio.Server | None = None

    async def start(self, listening: socket.socket) -> None:
        """Accepts connections on a socket that listens, and owns it from then on."""
        options: dict[str, Any] = {}
        if self._context is not None:
            options = {"ssl": self._context, "ssl_handshake_timeout": HANDSHAKE_TIMEOUT_S}
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._accept, sock=listening, **options)

    def _accept(self) -> web.RequestHandler:
        loop = asyncio.get_running_loop()
        connection = Connection(
            self._server,
            loop=loop,
            keepalive_timeout=KEEPALIVE_S,
            access_log=None,  # type: ignore[arg-type]
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            tcp_keepalive=True,
            auto_decompress=False,  # as in Kubernetes; and what goes to a pod must be what its headers say
        )
        self._silent[connection] = loop.call_later(FIRST_REQUEST_S, self._give_up, connection)
        return connection

    def _give_up(self, connection: web.RequestHandler) -> None:
        del self._silent[connection]
        connection.force_close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        waiting = self._silent.pop(request.protocol, None)
        if waiting is not None:
            waiting.cancel()
        return await self._handler(request)

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """No new connections or requests; what is under way has `grace_s`, watches and sessions end."""
        self._handler.close()
        if self._listener is not None:
            self._listener.close()
        await self._server.shutdown(grace_s)
