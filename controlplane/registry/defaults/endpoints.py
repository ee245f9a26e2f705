"""Defaults of EndpointSlice and Endpoints. Called by their strategies."""

from __future__ import annotations

from wherry.pb import core_v1_pb2, discovery_v1_pb2


def endpoint_slice(obj: discovery_v1_pb2.EndpointSlice) -> None:
    for port in obj.ports:
        if not port.HasField("name"):
            port.name = ""
        if not port.protocol:
            port.protocol = "TCP"


def endpoints(obj: core_v1_pb2.Endpoints) -> None:
    for subset in obj.subsets:
        for port in subset.ports:
            port.protocol = port.protocol or "TCP"
