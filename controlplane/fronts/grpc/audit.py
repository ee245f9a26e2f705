"""What the audit log sees of a gRPC call: the verb and the object that the same request over HTTPS would have. Called by
`server` when there is an audit log. Bodies are protobuf here: they are written as JSON."""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from controlplane.audit.events import Request
from controlplane.audit.policy import Subject
from controlplane.audit.recorder import Auditor, Record
from controlplane.fronts.call import Call
from wherry.api import codec
from wherry.api.errors import APIError
from wherry.client.status import to_status
from wherry.pb import meta_v1_pb2, resources_pb2

_VERBS = {
    "Get": "get", "List": "list", "Watch": "watch", "Create": "create", "Update": "update", "Patch": "patch",
    "Apply": "patch", "Delete": "delete", "DeleteCollection": "deletecollection",
}  # fmt: skip
_PODS = {
    "Logs": ("get", "log"), "Exec": ("create", "exec"), "Attach": ("create", "attach"),
    "PortForward": ("create", "portforward"), "Bind": ("create", "binding"), "BindBatch": ("create", "binding"),
    "Evict": ("create", "eviction"),
}  # fmt: skip


async def receive(auditor: Auditor, path: str, request: Any, call: Call, audit_id: str) -> Record | None:
    """`request` None: a stream of them, of which nothing is known yet."""
    user_agent = call.metadata.get("user-agent", "")
    subject = _subject(path, request, call)
    given = Request(audit_id, subject, path, auditor.now(), _address(call.peer), user_agent)
    return await auditor.receive(given, lambda: _plain(request))


def singles(batch: resources_pb2.CreateBatchRequest) -> list[resources_pb2.CreateRequest]:
    """The requests that a batch stands for: each is written down, with its own outcome."""
    made = []
    for body in batch.objects:
        obj = _unpacked(body)
        metadata = obj.metadata if obj is not None else meta_v1_pb2.ObjectMeta()
        made.append(
            resources_pb2.CreateRequest(
                resource=batch.resource, namespace=metadata.namespace, name=metadata.name, object=body
            )
        )
    return made


async def complete(record: Record, error: APIError | None, response: Any) -> None:
    if error is not None:
        await record.complete(error.code, {}, status=codec.to_dict(to_status(error)))
    else:
        await record.complete(200, {}, response=_plain(response) if record.wants_response else None)


def _subject(path: str, request: Any, call: Call) -> Subject:
    service, _, name = path.removeprefix("/").partition("/")
    if service.endswith(".Resources") and name in _VERBS and request is not None:
        ref = request.resource
        return Subject(
            call.identity, _VERBS[name], "", ref.group, ref.version, ref.resource, getattr(request, "subresource", ""),
            request.namespace, getattr(request, "name", ""),
        )  # fmt: skip
    if service.endswith(".Pods") and name in _PODS:
        verb, subresource = _PODS[name]
        meta = request.eviction.metadata if name == "Evict" else request
        return Subject(
            call.identity,
            verb,
            "",
            "",
            "v1",
            "pods",
            subresource,
            getattr(meta, "namespace", ""),
            getattr(meta, "name", ""),
        )
    return Subject(call.identity, name.lower(), path=path)


def _address(peer: str) -> str:
    """Of `ipv4:127.0.0.1:1234`."""
    kind, _, rest = peer.partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""


def _plain(message: Any) -> Any:
    """The object that a request or a response carries, as JSON."""
    carried = getattr(message, "object", None)
    if not isinstance(carried, any_pb2.Any):
        return None
    obj = _unpacked(carried)
    return codec.to_dict(obj) if obj is not None else None


def _unpacked(body: any_pb2.Any) -> Any:
    """None when it is no message that we know."""
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(body.type_url.rpartition("/")[2])
        return message_factory.GetMessageClass(descriptor).FromString(body.value)
    except (KeyError, DecodeError):
        return None
