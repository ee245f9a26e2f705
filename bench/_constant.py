"""The floor of `api`: the control plane's own HTTPS server, which answers every request with bytes that it has.

    python -m bench._constant DIRECTORY

It uses a cluster CA and a client certificate of its own, which it leaves in DIRECTORY as `admin.conf`, prints its port, and ends
when its input does. The path of a request says how long the answer shall be: `/N` is N bytes.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path

import uvloop
from aiohttp import web

from controlplane.auth.admin import ADMIN, ensure_config
from controlplane.auth.ca import load_authority
from controlplane.auth.serving import ServingCertificate
from controlplane.bootstrap import ensure_cluster_id
from controlplane.fronts.http.server import HttpServer, tls_context
from controlplane.fronts.http.start import open_socket
from controlplane.store.open import open_store
from wherry.api.context import Env


class Constant:
    """Stands where `Handler` does."""

    def __init__(self) -> None:
        self._bodies: dict[str, bytes] = {}

    def close(self) -> None: ...

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        body = self._bodies.get(request.path)
        if body is None:
            body = self._bodies[request.path] = b"x" * int(request.path[1:])
        return web.Response(body=body, content_type="application/json")


async def serve(directory: Path) -> None:
    env = Env()
    store = await open_store("sqlite::memory:", env, inline=True)
    ca = await load_authority(store, env, await ensure_cluster_id(store, env))
    certificate = ServingCertificate(ca, env, ["localhost"])
    server = HttpServer(Constant(), tls_context(certificate, ca.certificate_pem))  # type: ignore[arg-type]
    listening = open_socket("127.0.0.1", 0)
    port = listening.getsockname()[1]
    await server.start(listening)
    ensure_config(ca, env, directory, f"127.0.0.1:{port}", ADMIN)
    gc.collect()
    gc.freeze()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0.1)
    await store.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(sys.argv[1])))
