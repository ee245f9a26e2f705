"""The transport over sockets: `grpc.aio` with mutual TLS, several endpoints, keepalive, deadlines and size limits.

Used by the CLI, by agents and by any program outside of the control plane's own process. Calls go to one endpoint until its
connection breaks, then to the next. A call that had been sent when the connection broke is not sent again, since it may have
happened: it ends as ServiceUnavailable and its caller decides. One that could not be sent at all moves on by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from wherry.api.context import CAUSE_KEY, cause
from wherry.api.errors import ServiceUnavailable, Unauthorized
from wherry.client.base import BidiStream
from wherry.client.client import DEFAULT_TIMEOUT_S, Client
from wherry.client.config import ClientConfig
from wherry.client.grpc_errors import from_parts, from_rpc_error
from wherry.client.methods import Method, method

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
MAX_METADATA_BYTES = 64 * 1024
# How long one of several endpoints may take to connect before the next one is tried.
CONNECT_TIMEOUT_S = 2.0
TOKEN_REREAD_S = 60.0

# Keepalive finds a peer that vanished without a word within about 15 s, and the server's policy admits the pings. The
# back-off is short because an agent's first job is to be back; gRPC adds jitter of its own.
CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    ("grpc.enable_http_proxy", 0),
    # Two clients of one process never share a connection: each has an identity of its own.
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True)
class TLS:
    """PEM. `certificate` and `key` are empty for a caller without identity (joining)."""

    ca: bytes
    certificate: bytes = b""
    key: bytes = b""

    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.ca, self.key or None, self.certificate or None)


class GrpcTransport:
    """Create it on the loop that uses it. `endpoints` are HOST:PORT. `tls=None` talks plain text (a unix socket, tests)."""

    def __init__(
        self,
        endpoints: Sequence[str],
        tls: TLS | None,
        *,
        follow: str = "",
        token: Callable[[], str] | None = None,
    ) -> None:
        """`token` gives the bearer token that each call shows. `follow` is the method of a stream that all other calls are to
        stay with: while its endpoint is connected, only the end of that stream moves them to the next one (an agent's sessions
        must go where its control stream is)."""
        if not endpoints:
            raise ValueError("no endpoint given; wanted at least one HOST:PORT")
        self._endpoints = tuple(endpoints)
        self._credentials = tls.credentials() if tls is not None else None
        self._channels: list[grpc.aio.Channel | None] = [None] * len(self._endpoints)
        self._stubs: dict[tuple[int, str], Any] = {}
        self._current = 0
        self._follow = follow
        self._token = token
        self._closed = False

    @property
    def endpoint(self) -> str:
        """Where calls go at present."""
        return self._endpoints[self._current]

    async def unary(self, method_path: str, request: Message, *, timeout_s: float | None = None) -> Any:
        rpc = method(method_path)
        index = await self._settle()
        try:
            return await self._stub(index, rpc)(request, timeout=timeout_s, metadata=self._metadata(None))
        except grpc.aio.AioRpcError as error:
            raise self._failed(index, error, method_path) from error
        except asyncio.CancelledError as error:
            raise self._cancelled(error) from error

    async def server_stream(self, method_path: str, request: Message) -> AsyncIterator[Any]:
        rpc = method(method_path)
        index = await self._settle()
        call = self._stub(index, rpc)(request, metadata=self._metadata(None))
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise self._failed(index, error, method_path) from error
        except asyncio.CancelledError as error:
            raise self._cancelled(error) from error
        finally:
            call.cancel()

    def bidi(self, method_path: str, *, metadata: Mapping[str, str] | None = None) -> BidiStream:
        index = self._pick()
        call = self._stub(index, method(method_path))(metadata=self._metadata(metadata))
        return _GrpcStream(self, index, call, method_path)

    def _metadata(self, extra: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
        pairs = _metadata(extra)
        return pairs if self._token is None else (*pairs, ("authorization", f"Bearer {self._token()}"))

    async def close(self) -> None:
        self._closed = True
        self._stubs.clear()
        for index, channel in enumerate(self._channels):
            if channel is not None:
                self._channels[index] = None
                await channel.close(None)

    async def _settle(self) -> int:
        """As `_pick`, but waits to see whether a connection comes about, so that a call is not spent on one that does not: the
        first call of a program would fail whenever the first of its endpoints is down."""
        if len(self._endpoints) == 1:
            return self._pick()
        loop = asyncio.get_running_loop()
        for _ in self._endpoints:
            index = self._pick()
            channel = self._channel(index)
            deadline = loop.time() + CONNECT_TIMEOUT_S
            state = channel.get_state(try_to_connect=True)
            while state in (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING):
                try:
                    async with asyncio.timeout_at(deadline):
                        await channel.wait_for_state_change(state)
                except TimeoutError:
                    break
                state = channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.READY or self._closed:
                break
            # Silent or refused: the next one.
            self._current = (index + 1) % len(self._endpoints)
        return self._pick()

    def _pick(self) -> int:
        """The first endpoint, from the current one on, whose connection is not known to be broken."""
        if self._closed:
            raise ServiceUnavailable("the client is closed")
        if len(self._endpoints) > 1:
            for step in range(len(self._endpoints)):
                index = (self._current + step) % len(self._endpoints)
                state = self._channel(index).get_state(try_to_connect=True)
                if state is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                    self._current = index
                    break
        return self._current

    def _channel(self, index: int) -> grpc.aio.Channel:
        channel = self._channels[index]
        if channel is None:
            target = self._endpoints[index]
            if self._credentials is None:
                channel = grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
            else:
                channel = grpc.aio.secure_channel(target, self._credentials, options=CHANNEL_OPTIONS)
            self._channels[index] = channel
        return channel

    def _stub(self, index: int, rpc: Method) -> Any:
        stub = self._stubs.get((index, rpc.path))
        if stub is None:
            channel = self._channel(index)
            shape = (
                ("stream" if rpc.client_streaming else "unary") + "_" + ("stream" if rpc.server_streaming else "unary")
            )
            stub = getattr(channel, shape)(
                rpc.path,
                request_serializer=rpc.request.SerializeToString,
                response_deserializer=rpc.response.FromString,
            )
            self._stubs[index, rpc.path] = stub
        return stub

    def _failed(self, index: int, error: grpc.aio.AioRpcError, method_path: str) -> Exception:
        result = from_rpc_error(error)
        if self._closed or index != self._current or not isinstance(result, ServiceUnavailable):
            return result
        connected = self._channel(index).get_state() is grpc.ChannelConnectivity.READY
        if not connected or self._follow in ("", method_path):
            self._current = (index + 1) % len(self._endpoints)
        return result

    def _cancelled(self, error: asyncio.CancelledError) -> BaseException:
        """gRPC raises CancelledError also when the channel was closed under a call; then nobody cancelled the caller."""
        task = asyncio.current_task()
        if self._closed and (task is None or not task.cancelling()):
            return ServiceUnavailable("the client was closed during the call")
        return error


class _GrpcStream:
    """A bidirectional call. A read that its reader gave up is kept and handed to the next one, because cancelling a read
    of gRPC kills the whole call."""

    def __init__(self, transport: GrpcTransport, index: int, call: Any, method_path: str) -> None:
        self._transport = transport
        self._method = method_path
        self._index = index
        self._call = call
        self._read: asyncio.Task[Any] | None = None
        # gRPC takes two writes at once for a broken call.
        self._writing = asyncio.Lock()

    async def send(self, message: Message) -> None:
        try:
            async with self._writing:
                await self._call.write(message)
        except grpc.aio.AioRpcError as error:
            raise self._transport._failed(self._index, error, self._method) from error
        except asyncio.InvalidStateError as error:
            raise await self._why_over() from error
        except asyncio.CancelledError as error:
            raise self._transport._cancelled(error) from error

    async def done_sending(self) -> None:
        try:
            async with self._writing:
                await self._call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # it is over already, and the reader learns why

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._read is None:
            self._read = asyncio.ensure_future(self._call.read())
        try:
            await asyncio.wait((self._read,))
            message = self._read.result()
        except grpc.aio.AioRpcError as error:
            raise self._transport._failed(self._index, error, self._method) from error
        except asyncio.CancelledError as error:
            if self._read.done():
                raise self._transport._cancelled(error) from error
            raise
        self._read = None
        if message is grpc.aio.EOF:  # type: ignore[attr-defined]
            raise StopAsyncIteration
        return message

    async def cancel(self) -> None:
        self._call.cancel()
        if self._read is not None:
            await asyncio.wait((self._read,))

    async def _why_over(self) -> Exception:
        code = await self._call.code()
        if code is grpc.StatusCode.OK:
            return ServiceUnavailable("the server has ended the stream")
        metadata = await self._call.trailing_metadata() or ()
        return from_parts(code, await self._call.details() or "", metadata)


def _metadata(extra: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    pairs = [(key.lower(), value) for key, value in sorted((extra or {}).items())]
    current = cause.get()
    if current and current.isascii() and current.isprintable():
        pairs.append((CAUSE_KEY, current))
    return tuple(pairs)


def connect(config: ClientConfig, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Client:
    """A client of the cluster that the config names. It connects with its first call; close it."""
    tls = TLS(config.ca, config.certificate, config.key)
    token = TokenSource(config).get if config.token or config.token_file else None
    return Client(GrpcTransport(config.endpoints, tls, token=token), timeout_s=timeout_s)


class TokenSource:
    """The config's token; one in a file is read again and again, since who put it there replaces it before it ends."""

    def __init__(self, config: ClientConfig) -> None:
        self._file = config.token_file
        self._token = config.token
        self._read_again = 0.0  # on the loop's clock

    def get(self) -> str:
        """Raises Unauthorized when there is none."""
        now = asyncio.get_running_loop().time()
        if self._file and now >= self._read_again:
            try:
                self._token = Path(self._file).read_text().strip()
            except OSError as error:
                if not self._token:
                    raise Unauthorized(f"the token file {self._file} can't be read: {error.strerror}") from error
            self._read_again = now + TOKEN_REREAD_S
        return self._token
