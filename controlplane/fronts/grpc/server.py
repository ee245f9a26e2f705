"""The gRPC listener: TLS, identities, deadlines, limits, and an orderly end. Started by `wherry server`.

Two ports, since gRPC for Python can demand a client certificate or not ask for one at all, but not leave it to the client:
the main one demands a certificate of the cluster CA; the join port asks for none. There callers show a bearer token in the
metadata `authorization`, as over HTTPS; without one there are NodeLink.Join and health, nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from controlplane.fronts.call import Call
from controlplane.fronts.flow import FREE, Flow
from controlplane.fronts.grpc.peers import Peers, TokenReview, bearer_token
from controlplane.fronts.services import Services
from controlplane.registry.base import ANONYMOUS, Identity
from wherry.api.context import CAUSE_KEY, Env, cause
from wherry.api.errors import APIError, ServiceUnavailable, Timeout, Unauthorized
from wherry.client.grpc import MAX_MESSAGE_BYTES, MAX_METADATA_BYTES
from wherry.client.grpc_errors import code_of, trailing_metadata
from wherry.client.methods import Method, methods_of
from wherry.client.status import from_status

if TYPE_CHECKING:
    from controlplane.audit.recorder import Auditor

log = logging.getLogger(__name__)

# Streams count too: a thousand nodes and their watches fit.
MAX_CONCURRENT_RPCS = 10_000
MAX_JOIN_RPCS = 100  # of callers whom nobody knows yet
MAX_TOKEN_RPCS = 2000
# What clients call; nodes' own link is theirs alone, and bounded by their number.
_LIMITED = ("/wherry.v1.Resources/", "/wherry.v1.Pods/", "/wherry.v1.Scheduling/", "/wherry.v1.Keys/")
_READING = ("Get", "List", "Discover", "Explain", "Plan")
OPEN_METHODS = ("/wherry.v1.NodeLink/Join", "/grpc.health.v1.Health/Check")  # for anybody, on the join port
# The node link is for nodes, which have certificates.
JOIN_METHODS = (
    *OPEN_METHODS,
    *(rpc.path for name in ("Resources", "Pods", "Scheduling") for rpc in methods_of(f"wherry.v1.{name}")),
)
TOKEN_KEY = "authorization"
UNARY_LIMIT_S = 60.0  # for callers that set no deadline
STOP_GRACE_S = 5.0

SERVER_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    # Clients ping every 10 s, also without calls: both must be admitted, or their channels die of too_many_pings.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Two servers on one port would share its connections at random; better to fail at the start.
    ("grpc.so_reuseport", 0),
)


class GrpcServer:
    """`credentials` None: plain text, for tests of the transport alone. `only` limits the methods by their paths. With `tokens`
    a caller without a certificate must show a token for what is not open to all; without it such a caller is anonymous."""

    def __init__(
        self,
        services: Services,
        env: Env,
        *,
        credentials: grpc.ServerCredentials | None,
        only: Collection[str] | None = None,
        reflection: bool = True,
        max_rpcs: int = MAX_CONCURRENT_RPCS,
        flow: Flow | None = None,
        auditor: Auditor | None = None,
        tokens: TokenReview | None = None,
    ) -> None:
        self._tokens = tokens
        self._joining = 0
        self._services = services
        self._env = env
        self._credentials = credentials
        self._peers = Peers()
        self._streams: dict[asyncio.Task[Any], None] = {}
        self._draining = False
        self._flow = flow
        self._auditor = auditor
        self._server = grpc.aio.server(options=SERVER_OPTIONS, maximum_concurrent_rpcs=max_rpcs)
        for service in services.names:
            handlers = {rpc.name: self._bind(rpc) for rpc in methods_of(service) if only is None or rpc.path in only}
            if handlers:
                self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        if reflection:
            from grpc_reflection.v1alpha import reflection as grpc_reflection

            grpc_reflection.enable_server_reflection([*services.names, grpc_reflection.SERVICE_NAME], self._server)

    async def start(self, address: str) -> int:
        """Listens on HOST:PORT and returns the port (asked for as 0: a free one). Raises OSError when it is taken."""
        _probe(address)
        try:
            if self._credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise OSError(f"can't listen on {address}: {error}") from error
        await self._server.start()
        return port

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """No new calls; streams end as ServiceUnavailable at once, unary calls have `grace_s` to end."""
        self._draining = True
        for task in list(self._streams):
            task.cancel()
        await self._server.stop(grace_s)

    def _bind(self, rpc: Method) -> grpc.RpcMethodHandler[Any, Any]:
        handler = self._services.handler(rpc.path)
        kinds: dict[tuple[bool, bool], Callable[..., Any]] = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        limited = self._flow is not None and rpc.path.startswith(_LIMITED)
        if self._auditor is not None and rpc.path.startswith(_LIMITED):
            if rpc.server_streaming:
                handler = self._audited_stream(rpc, handler)
            elif rpc.name == "CreateBatch":
                handler = self._audited_batch(rpc.path.removesuffix("Batch"), handler)
            else:
                handler = self._audited(rpc.path, handler)
        function = self._stream(handler, limited) if rpc.server_streaming else self._unary(handler, limited, rpc)
        result: grpc.RpcMethodHandler[Any, Any] = kinds[rpc.client_streaming, rpc.server_streaming](
            function,
            request_deserializer=rpc.request.FromString,
            response_serializer=rpc.response.SerializeToString,
        )
        return result

    def _unary(self, handler: Callable[[Any, Any], Any], limited: bool, rpc: Method) -> Callable[[Any, Any], Any]:
        is_open = self._tokens is not None and rpc.path in OPEN_METHODS

        async def unary(request: Any, context: Any) -> Any:
            remaining = context.time_remaining()
            seat = FREE
            self._joining += is_open
            try:
                if is_open and self._joining > MAX_JOIN_RPCS:
                    raise ServiceUnavailable("too many callers without a token", retry_after_s=1)
                call = await self._call(context, required=not is_open)
                if limited and self._flow is not None:
                    seat = await self._flow.enter(call.identity, writes=rpc.name not in _READING)
                if remaining is not None:
                    return await handler(request, call)  # gRPC cancels it at its deadline
                async with asyncio.timeout(UNARY_LIMIT_S):
                    return await handler(request, call)
            except APIError as error:
                await _abort(context, error)
            except TimeoutError:
                await _abort(context, Timeout(f"no answer within {UNARY_LIMIT_S:g} s"))
            finally:
                self._joining -= is_open
                seat.leave()

        return unary

    def _stream(self, handler: Callable[[Any, Any], Any], limited: bool) -> Callable[[Any, Any], Any]:
        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            task = asyncio.current_task()
            assert task is not None
            if self._draining:
                await _abort(context, _stopping())
            try:
                call = await self._call(context, required=True)
                if limited and self._flow is not None:
                    # Like a watch over HTTPS: it counts until it stands.
                    (await self._flow.enter(call.identity, writes=False)).leave()
            except APIError as error:
                await _abort(context, error)
            self._streams[task] = None
            responses = handler(request, call)
            try:
                async for response in responses:
                    yield response
            except APIError as error:
                await _abort(context, error)
            except asyncio.CancelledError:
                if not self._draining:
                    raise
                task.uncancel()
                await _abort(context, _stopping())
            finally:
                self._streams.pop(task, None)
                await responses.aclose()

        return stream

    def _audited(self, path: str, handler: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        from controlplane.fronts.grpc import audit

        assert self._auditor is not None
        auditor = self._auditor

        async def unary(request: Any, call: Call) -> Any:
            record = await audit.receive(auditor, path, request, call, self._env.uuid())
            if record is None:
                return await handler(request, call)
            try:
                response = await handler(request, call)
            except APIError as error:
                await audit.complete(record, error, None)
                raise
            await audit.complete(record, None, response)
            return response

        return unary

    def _audited_batch(self, path: str, handler: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """As if each had come alone. `path`: of the request for one."""
        from controlplane.fronts.grpc import audit

        assert self._auditor is not None
        auditor = self._auditor

        async def unary(request: Any, call: Call) -> Any:
            records = [
                await audit.receive(auditor, path, single, call, self._env.uuid()) for single in audit.singles(request)
            ]

            async def complete(outcomes: Sequence[APIError | None]) -> None:
                for record, outcome in zip(records, outcomes, strict=True):
                    if record is not None:
                        await audit.complete(record, outcome, None)

            try:
                response = await handler(request, call)
            except APIError as error:
                await complete([error] * len(records))
                raise
            await complete([from_status(r.error) if r.HasField("error") else None for r in response.results])
            return response

        return unary

    def _audited_stream(self, rpc: Method, handler: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        from controlplane.fronts.grpc import audit

        assert self._auditor is not None
        auditor = self._auditor

        async def stream(request: Any, call: Call) -> AsyncIterator[Any]:
            first = None if rpc.client_streaming else request
            record = await audit.receive(auditor, rpc.path, first, call, self._env.uuid())
            refusal: APIError | None = None
            responses = handler(request, call)
            started = False
            try:
                async for response in responses:
                    if record is not None and not started:
                        started = True
                        record.started(200, {})
                    yield response
            except APIError as error:
                refusal = error
                raise
            finally:
                await responses.aclose()
                if record is not None:
                    await asyncio.shield(audit.complete(record, refusal, None))

        return stream

    async def _identity(self, context: Any, metadata: Mapping[str, str], *, required: bool) -> Identity:
        """By the certificate, or else by the token. Raises Unauthorized for a token that is nobody's, and for none where one is
        `required`."""
        identity = self._peers.identity(context)
        if self._tokens is None or identity != ANONYMOUS:
            return identity
        token = bearer_token(metadata.get(TOKEN_KEY, ""))
        if not token:
            if required:
                raise Unauthorized("Unauthorized")
            return identity
        found = await self._tokens(token)
        if found is None:
            raise Unauthorized("Unauthorized")
        return found

    async def _call(self, context: Any, *, required: bool) -> Call:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        current = metadata.get(CAUSE_KEY) or f"{self._env.rng.getrandbits(48):012x}"
        cause.set(current)
        remaining = context.time_remaining()
        identity = await self._identity(context, metadata, required=required)
        return Call(
            identity=identity,
            cause=current,
            deadline=None if remaining is None else asyncio.get_running_loop().time() + remaining,
            metadata={key: value for key, value in metadata.items() if key != TOKEN_KEY},
            peer=context.peer(),
        )


def _stopping() -> ServiceUnavailable:
    return ServiceUnavailable("the server is shutting down", retry_after_s=1)


async def _abort(context: Any, error: APIError) -> None:
    await context.abort(code_of(error), error.message[:4096], trailing_metadata(error))


def _probe(address: str) -> None:
    """gRPC does not say why it can't listen, and writes lines of its own about it. Raises OSError that says it."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or int(port) == 0:
        return
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        raise OSError(f"can't listen on {address}: {error.strerror or error}") from error
