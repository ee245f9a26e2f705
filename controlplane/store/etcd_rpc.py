"""Calls to etcd: channels to its members, failover between them, and its errors in the words of our contract.

The messages are our own (proto/etcd_rpc.proto), the paths are etcd's. A write is sent at most once: whether one that was cut
off has happened is for the caller to find out, never for a blind retry. Called by `etcd` and `etcd_watch`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from controlplane.store.base import Full, FutureRevision, StoreError, TooLarge, Unavailable
from controlplane.store.open import TLSFiles
from wherry.pb import etcd_rpc_pb2 as rpc

log = logging.getLogger(__name__)

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

MESSAGE_BYTES = 32 << 20
CALL_TIMEOUT_S = 8.0  # etcd itself gives up on a request after about 7 s without a leader
CONNECT_TIMEOUT_S = 2.0
RETRY_PAUSE_S = 0.1
# For a read, when there are other members: one that was stopped keeps its connections, and says nothing.
READ_ATTEMPT_S = 2.5
OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.enable_retries", 0),  # see the module's docstring
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A pool of one's own: two stores in one process must not share a connection that one of them closes.
    ("grpc.use_local_subchannel_pool", 1),
)


class CompactedAway(StoreError):
    """etcd says that the revision is compacted, but not which one is; `etcd` finds that out and raises Compacted."""


class ResponseTooLarge(StoreError):
    """The answer is over MESSAGE_BYTES: ask for less."""


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Response]):
    path: str
    response: type[Response]
    writes: bool = False


RANGE: Method[rpc.RangeRequest, rpc.RangeResponse] = Method("/etcdserverpb.KV/Range", rpc.RangeResponse)
TXN: Method[rpc.TxnRequest, rpc.TxnResponse] = Method("/etcdserverpb.KV/Txn", rpc.TxnResponse, writes=True)
COMPACT: Method[rpc.CompactionRequest, rpc.CompactionResponse] = Method(
    "/etcdserverpb.KV/Compact", rpc.CompactionResponse, writes=True
)
GRANT: Method[rpc.LeaseGrantRequest, rpc.LeaseGrantResponse] = Method(
    "/etcdserverpb.Lease/LeaseGrant",
    rpc.LeaseGrantResponse,  # not `writes`: of two leases the one that nobody knows runs out
)
WATCH = "/etcdserverpb.Watch/Watch"


class Members:
    """The channels, one per endpoint; calls go to one member until it fails, then to the next."""

    def __init__(self, endpoints: Sequence[str], tls: TLSFiles | None) -> None:
        self._endpoints = list(endpoints)
        credentials = None if tls is None else _credentials(tls)
        self._channels = [
            grpc.aio.insecure_channel(endpoint, options=OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(endpoint, credentials, options=OPTIONS)
            for endpoint in endpoints
        ]
        self._stubs: list[dict[str, Any]] = [{} for _ in endpoints]
        self._current = 0

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close(None)

    async def call(self, method: Method[Request, Response], request: Request) -> Response:
        """Raises Unavailable, Full, CompactedAway, FutureRevision, TooLarge, ResponseTooLarge."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CALL_TIMEOUT_S
        attempt_s = READ_ATTEMPT_S if len(self._endpoints) > 1 and not method.writes else CALL_TIMEOUT_S
        while True:
            index = await self.connected(deadline)
            stub = self._stubs[index].get(method.path)
            if stub is None:
                stub = self._stubs[index][method.path] = self._channels[index].unary_unary(
                    method.path,
                    request_serializer=type(request).SerializeToString,
                    response_deserializer=method.response.FromString,
                )
            try:
                response: Response = await stub(request, timeout=max(0.001, min(attempt_s, deadline - loop.time())))
                return response
            except grpc.aio.AioRpcError as error:
                refusal = translated(error)
                if isinstance(refusal, Full) or not isinstance(refusal, Unavailable):
                    raise refusal from error
                self.failed(index)
                attempt_s = CALL_TIMEOUT_S  # it may be the answer that takes so long
                if method.writes or loop.time() + RETRY_PAUSE_S >= deadline:
                    raise refusal from error
                log.debug("%s at %s failed, trying again: %s", method.path, self._endpoints[index], refusal)
                await asyncio.sleep(RETRY_PAUSE_S)

    async def connected(self, deadline: float) -> int:
        """The index of a member with a connection, the present one if it has. Nothing was sent to anybody when this
        raises Unavailable."""
        loop = asyncio.get_running_loop()
        while True:
            for _ in self._endpoints:
                index = self._current
                if await self._connect(index, min(deadline, loop.time() + CONNECT_TIMEOUT_S)):
                    return index
                self.failed(index)
            if loop.time() + RETRY_PAUSE_S >= deadline:
                raise Unavailable(f"no member of etcd can be reached: {', '.join(self._endpoints)}")
            await asyncio.sleep(RETRY_PAUSE_S)

    def failed(self, index: int) -> None:
        """The next call goes to another member."""
        if self._current == index:
            self._current = (index + 1) % len(self._endpoints)

    def watch(self, index: int) -> Any:
        """An open bidirectional stream at that member, which ends when the member loses sight of its leader."""
        stub: Any = self._channels[index].stream_stream(  # the stubs of grpc want a request iterator; grpc does not
            WATCH,
            request_serializer=rpc.WatchRequest.SerializeToString,
            response_deserializer=rpc.WatchResponse.FromString,
        )
        return stub(metadata=(("hasleader", "true"),))

    async def _connect(self, index: int, deadline: float) -> bool:
        channel = self._channels[index]
        loop = asyncio.get_running_loop()
        state = channel.get_state(try_to_connect=True)
        started = False
        while state is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.SHUTDOWN:
                raise Unavailable("the store is closed")
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE and (started or len(self._channels) > 1):
                return False
            started = started or state is grpc.ChannelConnectivity.CONNECTING
            try:
                async with asyncio.timeout_at(deadline):
                    await channel.wait_for_state_change(state)
            except TimeoutError:
                return False
            if loop.time() >= deadline:
                return False
            state = channel.get_state(try_to_connect=True)
        return True


def translated(error: grpc.aio.AioRpcError) -> StoreError:
    """etcd tells its errors of one code apart by their text only; the codes are those of its v3rpc/rpctypes."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.OUT_OF_RANGE:
        if "compacted" in details:
            return CompactedAway(details)
        if "future revision" in details:
            return FutureRevision(details)
    if code is grpc.StatusCode.INVALID_ARGUMENT and "too large" in details:
        return TooLarge(details)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return ResponseTooLarge(details)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "space exceeded" in details:
        return Full(
            f"{details}: etcd has raised its NOSPACE alarm and takes reads and deletions only; make room (etcdctl defrag, or a "
            "larger --quota-backend-bytes), then `etcdctl alarm disarm`"
        )
    if code is grpc.StatusCode.NOT_FOUND and "lease" in details:
        return LeaseGone(details)
    return Unavailable(f"etcd: {code.name}: {details}")


class LeaseGone(StoreError):
    """The put was refused because its lease has expired; nothing was written."""


def _credentials(tls: TLSFiles) -> grpc.ChannelCredentials:
    try:
        return grpc.ssl_channel_credentials(
            root_certificates=Path(tls.ca).read_bytes(),
            private_key=Path(tls.key).read_bytes() if tls.key else None,
            certificate_chain=Path(tls.certificate).read_bytes() if tls.certificate else None,
        )
    except OSError as error:
        raise StoreError(f"cannot read the certificates for etcd: {error}") from error
