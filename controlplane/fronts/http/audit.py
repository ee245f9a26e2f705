"""What the audit log sees of an HTTP request: its subject, and bodies as JSON. Called by `handler` when there is an audit log."""

from __future__ import annotations

import gzip
from typing import Any

from aiohttp import web
from google.protobuf.message import DecodeError as WireError

from controlplane.audit.events import Request
from controlplane.audit.policy import Subject
from controlplane.audit.recorder import Auditor, Record
from controlplane.fronts.http.bodies import MAGIC
from controlplane.fronts.http.exchange import Exchange
from controlplane.fronts.http.paths import resource_target
from controlplane.registry.base import Identity
from wherry.api import codec, jsontext, yamltext
from wherry.api.errors import APIError
from wherry.pb import meta_runtime_pb2

_MAX_PARSED_BYTES = 1 << 20  # a longer body would be left out of the event anyway


async def receive(auditor: Auditor, exchange: Exchange, asking: Identity | None) -> Record | None:
    """`asking`: who asks in the name of the exchange's identity."""
    request = exchange.request
    target = resource_target(request.method, request.path, exchange.query)
    if target is None:
        subject = Subject(exchange.identity, request.method.lower(), path=request.path)
    else:
        subject = Subject(
            exchange.identity, target.verb, "", target.group, target.version, target.resource, target.subresource,
            target.attributes().namespace, target.name,
        )  # fmt: skip
    given = Request(
        exchange.audit_id, subject, request.path_qs, auditor.now(), str(request.remote or ""),
        request.headers.get("User-Agent", ""), asking,
    )  # fmt: skip
    return await auditor.receive(given, lambda: plain(exchange.seen, exchange.content_type))


async def complete(record: Record, exchange: Exchange, response: web.StreamResponse | None, code: int) -> None:
    """`response`: None when there was none, or one that went on for a while."""
    body: Any = None
    if isinstance(response, web.Response) and isinstance(response.body, bytes):
        packed = response.headers.get("Content-Encoding") == "gzip"
        if code >= 400 or record.wants_response:
            body = plain(gzip.decompress(response.body) if packed else response.body, response.content_type)
    status = body if code >= 400 and isinstance(body, dict) else None
    await record.complete(code, exchange.annotations, status=status, response=body)


def plain(body: bytes, content_type: str) -> Any:
    """A body as JSON; None for what is none, or too long to be looked at."""
    if not body.strip() or len(body) > _MAX_PARSED_BYTES:
        return None
    try:
        if body.startswith(MAGIC):
            unknown = meta_runtime_pb2.Unknown.FromString(body[len(MAGIC) :])
            cls = codec.message_class(unknown.type_meta.api_version, unknown.type_meta.kind)
            return None if cls is None else codec.to_dict(cls.FromString(unknown.raw))
        if "yaml" in content_type:
            return yamltext.parse(jsontext.text_of(body)).value
        return jsontext.read(body)
    except (APIError, ValueError, WireError):
        return None  # a body that nobody can read is refused elsewhere
