"""Which of several endpoints calls go to after one has failed. No connection is made: the channel's state is given."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from wherry.client.grpc import GrpcTransport

CONNECT, PEERS = "/wherry.v1.NodeLink/Connect", "/wherry.v1.NodeLink/Peers"
READY, BROKEN = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE
EMPTY = grpc.aio.Metadata()


@pytest.mark.parametrize(
    ("follow", "state", "method", "code", "moves"),
    [
        ("", READY, PEERS, grpc.StatusCode.UNAVAILABLE, True),
        ("", READY, PEERS, grpc.StatusCode.NOT_FOUND, False),
        (CONNECT, READY, PEERS, grpc.StatusCode.UNAVAILABLE, False),
        (CONNECT, READY, CONNECT, grpc.StatusCode.UNAVAILABLE, True),
        (CONNECT, BROKEN, PEERS, grpc.StatusCode.UNAVAILABLE, True),
    ],
    ids=["unavailable", "refused", "beside-the-stream", "the-stream-itself", "broken-connection"],
)
async def test_a_failure_moves_calls_to_the_next_endpoint(
    follow: str, state: Any, method: str, code: grpc.StatusCode, moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = GrpcTransport(["a:1", "b:1"], None, follow=follow)
    monkeypatch.setattr(transport, "_channel", lambda index: SimpleNamespace(get_state=lambda: state))
    transport._failed(0, grpc.aio.AioRpcError(code, EMPTY, EMPTY), method)
    assert transport.endpoint == ("b:1" if moves else "a:1")
