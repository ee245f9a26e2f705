"""A real HTTPS server that answers AdmissionReviews, for tests of webhooks."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from controlplane.auth.serving import ServingCertificate
from controlplane.fronts.http.server import tls_context
from controlplane.fronts.http.start import open_socket
from controlplane.server import ControlPlane
from wherry.api.context import Env

# Gets the AdmissionRequest, gives the response without its uid.
Decide = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass
class HookServer:
    """`decide` by path; `requests` are those that came, in order. A path in `silent` never answers."""

    port: int = 0
    ca: bytes = b""
    decide: dict[str, Decide] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)

    def url(self, path: str) -> str:
        return f"https://localhost:{self.port}{path}"

    def config(self, path: str) -> dict[str, Any]:
        return {"url": self.url(path), "caBundle": base64.b64encode(self.ca).decode()}

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path in self.silent:
            await asyncio.Event().wait()
        review = json.loads(await request.read())
        asked = review["request"]
        self.requests.append({**asked, "path": request.path})
        decide = self.decide.get(request.path)
        if decide is None:
            return web.Response(status=404)
        review["response"] = {"uid": asked["uid"], **decide(asked)}
        review.pop("request")
        return web.json_response(review)


def patch(*operations: dict[str, Any]) -> dict[str, Any]:
    """The response of a hook that changes the object."""
    body = base64.b64encode(json.dumps(operations).encode()).decode()
    return {"allowed": True, "patchType": "JSONPatch", "patch": body}


@asynccontextmanager
async def hook_server(plane: ControlPlane, env: Env, names: tuple[str, ...] = ()) -> AsyncIterator[HookServer]:
    """With a certificate of the cluster's CA, for localhost and these names."""
    assert plane.ca is not None
    found = HookServer(ca=plane.ca.certificate_pem)
    certificate = ServingCertificate(plane.ca, env, ["localhost", "127.0.0.1", *names])
    server = web.Server(found, access_log=None, handler_cancellation=True)
    listening = open_socket("0.0.0.0", 0)
    found.port = listening.getsockname()[1]
    context = tls_context(certificate, plane.ca.certificate_pem)
    listener = await asyncio.get_running_loop().create_server(server, sock=listening, ssl=context)
    try:
        yield found
    finally:
        listener.close()
        await server.shutdown(0.1)
