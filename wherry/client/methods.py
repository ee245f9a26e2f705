"""The RPCs of Wherry by their full names, from the service descriptors; both transports look their types up here.

A service's module is imported when its first method is asked for.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf import message_factory
from google.protobuf.message import Message

SERVICES: dict[str, str] = {
    "wherry.v1.Resources": "wherry.pb.resources_pb2",
    "wherry.v1.Pods": "wherry.pb.pods_pb2",
    "wherry.v1.NodeLink": "wherry.pb.nodelink_pb2",
    "wherry.v1.Keys": "wherry.pb.keys_pb2",
    "wherry.v1.Scheduling": "wherry.pb.scheduling_pb2",
    "grpc.health.v1.Health": "grpc_health.v1.health_pb2",
}


@dataclass(frozen=True, slots=True)
class Method:
    """`path` is "/wherry.v1.Resources/Get"."""

    path: str
    name: str
    request: type[Message]
    response: type[Message]
    client_streaming: bool
    server_streaming: bool


@cache
def methods_of(service: str) -> tuple[Method, ...]:
    """The methods of a service by its full name. Raises KeyError for one that we do not serve."""
    module = importlib.import_module(SERVICES[service])
    descriptor: Any = module.DESCRIPTOR.services_by_name[service.rpartition(".")[2]]
    return tuple(
        Method(
            path=f"/{service}/{method.name}",
            name=method.name,
            request=message_factory.GetMessageClass(method.input_type),
            response=message_factory.GetMessageClass(method.output_type),
            client_streaming=method.client_streaming,
            server_streaming=method.server_streaming,
        )
        for method in descriptor.methods
    )


@cache
def method(path: str) -> Method:
    """Raises KeyError when there is no such method."""
    service, _, name = path.removeprefix("/").partition("/")
    for found in methods_of(service):
        if found.name == name:
            return found
    raise KeyError(path)
