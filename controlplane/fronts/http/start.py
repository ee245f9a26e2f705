"""Brings the HTTP front up beside the gRPC server. Called by `wherry server`; imports nothing of the front's own libraries until
the port is open, so that the server is ready before they are.

Clients that connect meanwhile wait in the socket's backlog; they are not refused.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from controlplane.auth.serving import ServingCertificate
    from controlplane.server import ControlPlane

log = logging.getLogger(__name__)

BACKLOG = 1024
RENEWAL_CHECK_S = 60.0


def open_socket(host: str, port: int) -> socket.socket:
    """Listens. Raises OSError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        found = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OSError(f"can't listen on {host}:{port}: {error.strerror or error}") from error
    found.setblocking(False)
    return found


async def serve(plane: ControlPlane, certificate: ServingCertificate, listening: socket.socket) -> None:
    """Serves the Kubernetes API on the socket, which it closes, until cancelled."""
    # Half a second of imports would hold up every node's heartbeat; in a thread they only share the time.
    front: Any = await asyncio.to_thread(importlib.import_module, "controlplane.fronts.http.server")
    assert plane.ca is not None
    context = front.tls_context(certificate, plane.ca.certificate_pem)
    server = front.HttpServer(front.handler_of(plane), context)
    await server.start(listening)
    gc.collect()
    gc.freeze()
    log.info("the Kubernetes API is served on %s:%d", *listening.getsockname()[:2])
    shown = certificate.current
    try:
        while True:
            await asyncio.sleep(certificate.check_s(RENEWAL_CHECK_S))
            if certificate.current is not shown:
                shown = certificate.current
                front.load_certificate(context, certificate, plane.ca.certificate_pem)
    finally:
        await server.stop()
