"""The typed client: one method per verb, for every kind, over any `Transport`. Implements `wherry.client.base.ClientAPI`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

from wherry.api import kinds
from wherry.api.codec import to_json
from wherry.api.errors import APIError, NotFound, ServiceUnavailable
from wherry.client.base import (
    BidiStream,
    DeleteOptions,
    Page,
    Selection,
    TableBatch,
    Transport,
    Warnings,
    WatchBatch,
    WatchEvent,
)
from wherry.client.status import from_status, to_status
from wherry.pb import core_v1_pb2, meta_v1_pb2, pods_pb2, policy_v1_pb2, resources_pb2

if TYPE_CHECKING:
    from wherry.pb import authentication_v1_pb2, autoscaling_v1_pb2

M = TypeVar("M", bound=Message)

DEFAULT_TIMEOUT_S = 30.0
EVERYTHING = Selection()
DEFAULT_DELETE = DeleteOptions()
_RESOURCES = "/wherry.v1.Resources/"
_PODS = "/wherry.v1.Pods/"
_TYPE_PREFIX = "type.googleapis.com/"
_EVENT_NAMES = {
    resources_pb2.WatchEvent.ADDED: "ADDED",
    resources_pb2.WatchEvent.MODIFIED: "MODIFIED",
    resources_pb2.WatchEvent.DELETED: "DELETED",
    resources_pb2.WatchEvent.BOOKMARK: "BOOKMARK",
}


class Client:
    """See `ClientAPI` for what holds for every call. Closing the client closes its transport."""

    def __init__(self, transport: Transport, *, timeout_s: float = DEFAULT_TIMEOUT_S, field_manager: str = "") -> None:
        self._transport = transport
        self._timeout_s = timeout_s
        self._field_manager = field_manager
        self._custom: dict[tuple[str, str], resources_pb2.ResourceRef] = {}  # by apiVersion and kind
        self.warnings: Warnings | None = None  # where the server's warnings go, when anybody wants them

    @property
    def transport(self) -> Transport:
        return self._transport

    async def get(
        self,
        cls: type[M],
        name: str,
        namespace: str = "",
        *,
        resource_version: str = "",
        subresource: str = "",
    ) -> M:
        request = resources_pb2.GetRequest(
            resource=_ref(cls),
            namespace=namespace,
            name=name,
            resource_version=resource_version,
            subresource=subresource,
        )
        return self._object(cls, await self._call("Get", request))

    async def get_scale(
        self, resource: resources_pb2.APIResource, name: str, namespace: str = ""
    ) -> autoscaling_v1_pb2.Scale:
        from wherry.pb import autoscaling_v1_pb2

        ref = resources_pb2.ResourceRef(group=resource.group, version=resource.version, resource=resource.plural)
        request = resources_pb2.GetRequest(resource=ref, namespace=namespace, name=name, subresource="scale")
        return self._object(autoscaling_v1_pb2.Scale, await self._call("Get", request))

    async def list(
        self,
        cls: type[M],
        selection: Selection = EVERYTHING,
        *,
        limit: int = 0,
        continue_token: str = "",
        resource_version: str = "",
        resource_version_match: str = "",
    ) -> Page[M]:
        request = _list_request(_ref(cls), selection)
        request.limit = limit
        request.continue_token = continue_token
        request.resource_version = resource_version
        request.resource_version_match = resource_version_match
        response = await self._call("List", request)
        self._warn(response)
        remaining = response.remaining_item_count if response.HasField("remaining_item_count") else None
        return Page(
            [cls.FromString(item.value) for item in response.items],
            response.resource_version,
            response.continue_token,
            remaining,
        )

    async def watch(
        self,
        cls: type[M],
        selection: Selection = EVERYTHING,
        *,
        resource_version: str = "",
        bookmarks: bool = False,
        send_initial_events: bool = False,
        timeout_s: float = 0.0,
    ) -> AsyncIterator[WatchBatch[M]]:
        """Ends when the server ends it (its time limit, a shutdown); raises Expired when the revision is gone.
        A batch with an empty `resource_version` is a part of a longer one and no place to resume from."""
        request = resources_pb2.WatchRequest(
            resource=_ref(cls),
            namespace=selection.namespace,
            label_selector=selection.label_selector,
            field_selector=selection.field_selector,
            resource_version=resource_version,
            bookmarks=bookmarks,
            send_initial_events=send_initial_events,
            timeout_seconds=int(timeout_s),
        )
        stream = self._transport.server_stream(_RESOURCES + "Watch", request)
        try:
            async for response in stream:
                yield WatchBatch(
                    [
                        WatchEvent(_EVENT_NAMES.get(event.type, "ADDED"), cls.FromString(event.object.value))
                        for event in response.events
                    ],
                    response.resource_version,
                )
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    async def create(
        self, obj: M, *, dry_run: bool = False, field_manager: str = "", subresource: str = "", name: str = ""
    ) -> M:
        cls = type(obj)
        request = resources_pb2.CreateRequest(
            resource=await self._ref_of(obj),
            namespace=_namespace(obj),
            dry_run=dry_run,
            field_manager=field_manager or self._field_manager,
            subresource=subresource,
            name=name,
        )
        _pack(request.object, obj)
        return self._object(cls, await self._call("Create", request))

    async def create_batch(self, objs: Sequence[M]) -> Sequence[str | APIError]:
        if not objs:
            return []
        request = resources_pb2.CreateBatchRequest(
            resource=await self._ref_of(objs[0]), field_manager=self._field_manager
        )
        for obj in objs:
            _pack(request.objects.add(), obj)
        response = await self._call("CreateBatch", request)
        for result in response.results:
            self._warn(result)
        return [from_status(result.error) if result.HasField("error") else result.name for result in response.results]

    async def update(self, obj: M, *, subresource: str = "", dry_run: bool = False, field_manager: str = "") -> M:
        cls = type(obj)
        request = resources_pb2.UpdateRequest(
            resource=await self._ref_of(obj),
            namespace=_namespace(obj),
            name=obj.metadata.name,  # type: ignore[attr-defined]
            subresource=subresource,
            dry_run=dry_run,
            field_manager=field_manager or self._field_manager,
        )
        _pack(request.object, obj)
        return self._object(cls, await self._call("Update", request))

    async def update_status(self, obj: M) -> M:
        return await self.update(obj, subresource="status")

    async def patch(
        self,
        cls: type[M],
        name: str,
        namespace: str,
        patch: Any,
        *,
        patch_type: str = "application/merge-patch+json",
        subresource: str = "",
        dry_run: bool = False,
        field_manager: str = "",
        field_validation: str = "",
    ) -> M:
        request = resources_pb2.PatchRequest(
            resource=_ref(cls),
            namespace=namespace,
            name=name,
            subresource=subresource,
            type=patch_type,
            body=_json(patch),
            dry_run=dry_run,
            field_manager=field_manager or self._field_manager,
            field_validation=field_validation,
        )
        return self._object(cls, await self._call("Patch", request))

    async def apply(
        self,
        obj: M | bytes,
        cls: type[M],
        name: str,
        namespace: str = "",
        *,
        field_manager: str,
        force: bool = False,
        dry_run: bool = False,
        subresource: str = "",
        field_validation: str = "",
    ) -> M:
        """A message is sent as the JSON of what is set in it; bytes (JSON or YAML) as they are."""
        if isinstance(obj, bytes):
            body = obj
        else:
            body = to_json(obj)
        request = resources_pb2.ApplyRequest(
            resource=_ref(cls),
            namespace=namespace,
            name=name,
            subresource=subresource,
            body=body,
            dry_run=dry_run,
            field_manager=field_manager,
            force=force,
            field_validation=field_validation,
        )
        return self._object(cls, await self._call("Apply", request))

    async def delete(
        self, cls: type[M], name: str, namespace: str = "", options: DeleteOptions = DEFAULT_DELETE
    ) -> M | None:
        request = resources_pb2.DeleteRequest(
            resource=_ref(cls), namespace=namespace, name=name, options=_delete_options(options)
        )
        response = await self._call("Delete", request)
        self._warn(response)
        return cls.FromString(response.object.value) if response.HasField("object") else None

    async def delete_collection(
        self, cls: type[M], selection: Selection, options: DeleteOptions = DEFAULT_DELETE
    ) -> Sequence[M]:
        request = resources_pb2.DeleteCollectionRequest(
            selection=_list_request(_ref(cls), selection), options=_delete_options(options)
        )
        response = await self._call("DeleteCollection", request)
        self._warn(response)
        return [cls.FromString(item.value) for item in response.items]

    async def bind(self, request: pods_pb2.BindRequest) -> str:
        response = await self._transport.unary(_PODS + "Bind", request, timeout_s=self._timeout_s)
        version: str = response.resource_version
        return version

    async def bind_batch(self, requests: Sequence[pods_pb2.BindRequest]) -> Sequence[str | Exception]:
        request = pods_pb2.BindBatchRequest(bindings=requests)
        response = await self._transport.unary(_PODS + "BindBatch", request, timeout_s=self._timeout_s)
        return [
            from_status(result.error) if result.HasField("error") else result.resource_version
            for result in response.results
        ]

    async def evict(self, name: str, namespace: str, options: DeleteOptions = DEFAULT_DELETE) -> None:
        eviction = policy_v1_pb2.Eviction(
            metadata=meta_v1_pb2.ObjectMeta(name=name, namespace=namespace), delete_options=_delete_options(options)
        )
        request = pods_pb2.EvictRequest(eviction=eviction)
        status = await self._transport.unary(_PODS + "Evict", request, timeout_s=self._timeout_s)
        if status.status == "Failure":
            raise from_status(status)

    async def request_token(
        self, namespace: str, account: str, spec: authentication_v1_pb2.TokenRequestSpec
    ) -> authentication_v1_pb2.TokenRequest:
        from wherry.pb import authentication_v1_pb2

        request = resources_pb2.CreateRequest(
            resource=_ref(core_v1_pb2.ServiceAccount), namespace=namespace, name=account, subresource="token"
        )
        _pack(request.object, authentication_v1_pb2.TokenRequest(spec=spec))
        return self._object(authentication_v1_pb2.TokenRequest, await self._call("Create", request))

    async def logs(self, name: str, namespace: str, options: core_v1_pb2.PodLogOptions) -> AsyncIterator[bytes]:
        request = pods_pb2.LogsRequest(namespace=namespace, name=name, options=options)
        stream = self._transport.server_stream(_PODS + "Logs", request)
        try:
            async for chunk in stream:
                yield chunk.data
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    def exec(self, start: pods_pb2.StreamStart) -> BidiStream:
        return self._session("Exec", start, pods_pb2.StreamStart.EXEC)

    def attach(self, start: pods_pb2.StreamStart) -> BidiStream:
        return self._session("Attach", start, pods_pb2.StreamStart.ATTACH)

    def port_forward(self, start: pods_pb2.StreamStart) -> BidiStream:
        return self._session("PortForward", start, pods_pb2.StreamStart.PORT_FORWARD)

    async def discover(self) -> resources_pb2.DiscoverResponse:
        response: resources_pb2.DiscoverResponse = await self._call("Discover", resources_pb2.DiscoverRequest())
        return response

    async def table(
        self, group: str, version: str, resource: str, *, name: str = "", selection: Selection = EVERYTHING
    ) -> resources_pb2.Table:
        ref = resources_pb2.ResourceRef(group=group, version=version, resource=resource)
        if name:
            get = resources_pb2.GetRequest(resource=ref, namespace=selection.namespace, name=name, table=True)
            response = await self._call("Get", get)
        else:
            request = _list_request(ref, selection)
            request.table = True
            response = await self._call("List", request)
        self._warn(response)
        table = resources_pb2.Table()
        table.CopyFrom(response.table)
        return table

    async def watch_table(
        self, group: str, version: str, resource: str, *, selection: Selection = EVERYTHING, resource_version: str = ""
    ) -> AsyncIterator[TableBatch]:
        """Tables of what changes. With an empty `resource_version` it begins with what is there."""
        request = resources_pb2.WatchRequest(
            resource=resources_pb2.ResourceRef(group=group, version=version, resource=resource),
            namespace=selection.namespace, label_selector=selection.label_selector,
            field_selector=selection.field_selector, resource_version=resource_version, bookmarks=True, table=True,
        )  # fmt: skip
        names = resources_pb2.WatchEvent.Type.Name
        stream = self._transport.server_stream(_RESOURCES + "Watch", request)
        try:
            async for response in stream:
                types = [
                    names(event.type) for event in response.events if event.type != resources_pb2.WatchEvent.BOOKMARK
                ]
                yield TableBatch(response.table, types, response.resource_version)
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    async def call(self, path: str, request: Message) -> Any:
        return await self._transport.unary(path, request, timeout_s=self._timeout_s)

    async def server_status(self) -> meta_v1_pb2.Status:
        """Success when the server answers and says that it serves; else a Failure that says why."""
        from grpc_health.v1 import health_pb2

        try:
            response = await self._transport.unary(
                "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(), timeout_s=min(5.0, self._timeout_s)
            )
        except APIError as error:
            return to_status(error)
        if response.status != health_pb2.HealthCheckResponse.SERVING:
            return to_status(ServiceUnavailable("the server answers, but does not serve yet or any more"))
        return meta_v1_pb2.Status(status="Success")

    async def close(self) -> None:
        await self._transport.close()

    async def _ref_of(self, obj: Message) -> resources_pb2.ResourceRef:
        """Of a custom resource, discovery knows the plural; asked once per kind."""
        if not isinstance(obj, resources_pb2.Unstructured):
            return _ref(type(obj))
        found = self._custom.get((obj.api_version, obj.kind))
        if found is None:
            for resource in (await self.discover()).resources:
                ref = resources_pb2.ResourceRef(
                    group=resource.group, version=resource.version, resource=resource.plural
                )
                version = f"{resource.group}/{resource.version}" if resource.group else resource.version
                self._custom[version, resource.kind] = ref
            found = self._custom.get((obj.api_version, obj.kind))
        if found is None:
            raise NotFound(f'no matches for kind "{obj.kind}" in version "{obj.api_version}"')
        return found

    async def _call(self, method: str, request: Message) -> Any:
        return await self._transport.unary(_RESOURCES + method, request, timeout_s=self._timeout_s)

    def _object(self, cls: type[M], response: resources_pb2.ObjectResponse) -> M:
        self._warn(response)
        return cls.FromString(response.object.value)

    def _warn(self, response: Any) -> None:
        if self.warnings is not None:
            self.warnings.messages.extend(response.warnings)

    def _session(
        self, method: str, start: pods_pb2.StreamStart, kind: pods_pb2.StreamStart.Kind.ValueType
    ) -> BidiStream:
        first = pods_pb2.StreamFrame(start=start)
        first.start.kind = kind
        return _Started(self._transport.bidi(_PODS + method), first)


class _Started:
    """A stream whose first frame goes out before the caller's first frame or first read, whichever task comes first."""

    def __init__(self, stream: BidiStream, first: Message) -> None:
        self._stream = stream
        self._first: Message | None = first
        self._starting = asyncio.Lock()

    async def _start(self) -> None:
        async with self._starting:
            if self._first is not None:
                first, self._first = self._first, None
                await self._stream.send(first)

    async def send(self, message: Message) -> None:
        await self._start()
        await self._stream.send(message)

    async def done_sending(self) -> None:
        await self._start()
        await self._stream.done_sending()

    async def __aiter__(self) -> AsyncIterator[Any]:
        await self._start()
        async for message in self._stream:
            yield message

    async def cancel(self) -> None:
        await self._stream.cancel()


def _ref(cls: type[Message]) -> resources_pb2.ResourceRef:
    kind = kinds.of(cls)
    return resources_pb2.ResourceRef(group=kind.group, version=kind.version, resource=kind.plural)


def _namespace(obj: Message) -> str:
    namespace: str = obj.metadata.namespace  # type: ignore[attr-defined]
    return namespace


def _pack(target: Any, obj: Message) -> None:
    target.type_url = _TYPE_PREFIX + obj.DESCRIPTOR.full_name
    target.value = obj.SerializeToString(deterministic=True)


def _json(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _list_request(ref: resources_pb2.ResourceRef, selection: Selection) -> resources_pb2.ListRequest:
    return resources_pb2.ListRequest(
        resource=ref,
        namespace=selection.namespace,
        label_selector=selection.label_selector,
        field_selector=selection.field_selector,
    )


def _delete_options(options: DeleteOptions) -> meta_v1_pb2.DeleteOptions:
    result = meta_v1_pb2.DeleteOptions()
    if options.grace_period_s is not None:
        result.grace_period_seconds = options.grace_period_s
    if options.propagation_policy:
        result.propagation_policy = options.propagation_policy
    if options.uid:
        result.preconditions.uid = options.uid
    if options.resource_version:
        result.preconditions.resource_version = options.resource_version
    if options.dry_run:
        result.dry_run.append("All")
    return result
