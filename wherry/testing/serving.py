"""A control plane in this process, for tests: over an in-memory store, with or without a real gRPC server in front.

`plane()` has no sockets and runs on virtual time as well; `serving()` adds TLS on a free port of loopback.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from controlplane.registry.base import Identity
from controlplane.server import ControlPlane, Options
from controlplane.store.open import open_store
from wherry.api.context import Env
from wherry.client.client import Client

BARE = Options(scheduler=False, controllers=False, pki=False)


def node_identity(name: str) -> Identity:
    return Identity(f"system:node:{name}", ("system:nodes", "system:authenticated"))


@asynccontextmanager
async def plane(env: Env, options: Options = BARE, *, url: str = "sqlite::memory:") -> AsyncIterator[ControlPlane]:
    """Started, and stopped at the end; without scheduler, controllers and CA unless `options` say so."""
    store = await open_store(url, env, inline=True)
    try:
        control_plane = ControlPlane(env, store, options)
        await control_plane.start()
        try:
            yield control_plane
            control_plane.check_invariants()
        finally:
            await control_plane.stop()
    finally:
        await store.close()


@dataclass
class Serving:
    """A control plane with its listeners. `ports` are those of the API and of joining."""

    plane: ControlPlane
    certificate: Any
    server: Any
    joining: Any
    address: str
    join_address: str
    env: Env

    def client(self, user: str = "tester", groups: Sequence[str] = ("system:masters",), **options: Any) -> Client:
        """Over gRPC, with a certificate for this user. The caller closes it."""
        from wherry.client.grpc import GrpcTransport

        return Client(GrpcTransport([self.address], self.tls(user, groups)), **options)

    def tls(self, user: str, groups: Sequence[str]) -> Any:
        from controlplane.auth.certificates import issue_client
        from wherry.client.grpc import TLS

        assert self.plane.ca is not None
        pair = issue_client(self.plane.ca, self.env, user, groups)
        return TLS(self.plane.ca.certificate_pem, pair.certificate_pem, pair.key_pem)

    async def stop_listening(self) -> None:
        await self.server.stop(2.0)
        await self.joining.stop(2.0)

    async def listen_again(self) -> None:
        """On the same ports, as a server that was restarted."""
        self.server, self.joining = _servers(self.plane, self.env, self.certificate)
        await self.server.start(self.address)
        await self.joining.start(self.join_address)


@asynccontextmanager
async def serving(env: Env, options: Options | None = None, *, url: str = "sqlite::memory:") -> AsyncIterator[Serving]:
    from controlplane.auth.serving import ServingCertificate

    chosen = options or Options(scheduler=False, controllers=False)
    async with plane(env, chosen, url=url) as control_plane:
        assert control_plane.ca is not None
        certificate = ServingCertificate(control_plane.ca, env, ["localhost", "127.0.0.1"])
        server, joining = _servers(control_plane, env, certificate)
        port = await server.start("127.0.0.1:0")
        join_port = await joining.start("127.0.0.1:0")
        running = Serving(
            control_plane, certificate, server, joining, f"127.0.0.1:{port}", f"127.0.0.1:{join_port}", env
        )
        try:
            yield running
        finally:
            await running.stop_listening()


def _servers(control_plane: ControlPlane, env: Env, certificate: Any) -> tuple[Any, Any]:
    from controlplane.fronts.grpc.server import JOIN_METHODS, GrpcServer

    server = GrpcServer(
        control_plane.services,
        env,
        credentials=certificate.credentials(require_client_certificate=True),
        flow=control_plane.flow,
        auditor=control_plane.auditor,
    )
    joining = GrpcServer(
        control_plane.services,
        env,
        credentials=certificate.credentials(require_client_certificate=False),
        only=JOIN_METHODS,
        reflection=False,
        flow=control_plane.flow,
        auditor=control_plane.auditor,
        tokens=control_plane.token_review,
    )
    return server, joining
