"""The Resources servicer: every verb on every kind, one call of the registry each.

Called through `fronts.services`. Reads `registry.base.RegistryAPI`; holds no state but writes under way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from google.protobuf.message import DecodeError, Message

from controlplane.auth.authorizer import Attributes, Authorizer
from controlplane.fronts.call import Call
from controlplane.fronts.commit import Commits
from controlplane.registry.base import (
    ListOptions,
    RegistryAPI,
    RequestContext,
    Stored,
    WatchBatch,
    WatchOptions,
)
from wherry import __version__
from wherry.api import schema
from wherry.api.errors import APIError, BadRequest, InternalError
from wherry.api.kinds import Kind
from wherry.client.status import to_status
from wherry.pb import resources_pb2

log = logging.getLogger(__name__)

KUBERNETES_VERSION = "v1.36.0"
TYPE_PREFIX = "type.googleapis.com/"
LIST_SLICE = 500  # objects encoded between two chances for the loop to do something else
MAX_CREATES = 100  # in one batch
CREATES_AT_ONCE = 8  # of a batch: they share a commit of the store, and the loop has its turn after them
WATCH_PART_EVENTS = 500
WATCH_PART_BYTES = 2 * 1024 * 1024

# Subresources whose body is of another kind than the object.
_BODIES = {
    "binding": ("v1", "Binding"),
    "eviction": ("policy/v1", "Eviction"),
    "scale": ("autoscaling/v1", "Scale"),
    "token": ("authentication.k8s.io/v1", "TokenRequest"),
}
_EVENT_TYPES = {
    "ADDED": resources_pb2.WatchEvent.ADDED,
    "MODIFIED": resources_pb2.WatchEvent.MODIFIED,
    "DELETED": resources_pb2.WatchEvent.DELETED,
    "BOOKMARK": resources_pb2.WatchEvent.BOOKMARK,
}


class ResourcesServicer:
    def __init__(self, registry: RegistryAPI, authorizer: Authorizer, commits: Commits) -> None:
        self._registry = registry
        self._authorizer = authorizer
        self._commits = commits

    async def Get(self, request: resources_pb2.GetRequest, call: Call) -> resources_pb2.ObjectResponse:
        ref = request.resource
        await self._authorize(
            call, "get", ref, namespace=request.namespace, name=request.name, subresource=request.subresource
        )
        kind = self._kind(ref)
        ctx = call.context()
        stored = await self._registry.get(
            ctx,
            kind,
            request.namespace,
            request.name,
            resource_version=request.resource_version,
            subresource=request.subresource,
        )
        if request.table:
            return resources_pb2.ObjectResponse(table=self._registry.table(kind, [stored]), warnings=ctx.warnings)
        return _object_response(ctx, stored)

    async def List(self, request: resources_pb2.ListRequest, call: Call) -> resources_pb2.ListResponse:
        ref = request.resource
        await self._authorize(call, "list", ref, namespace=request.namespace, field_selector=request.field_selector)
        kind = self._kind(ref)
        ctx = call.context()
        result = await self._registry.list(ctx, kind, _list_options(request))
        response = resources_pb2.ListResponse(
            resource_version=str(result.revision),
            continue_token=result.continue_token,
            remaining_item_count=result.remaining,
            warnings=ctx.warnings,
        )
        if request.table:
            response.table.CopyFrom(self._registry.table(kind, result.items))
        else:
            await _add_items(response, result.items)
        return response

    async def Watch(
        self, request: resources_pb2.WatchRequest, call: Call
    ) -> AsyncIterator[resources_pb2.WatchResponse]:
        ref = request.resource
        await self._authorize(call, "watch", ref, namespace=request.namespace, field_selector=request.field_selector)
        kind = self._kind(ref)
        options = WatchOptions(
            namespace=request.namespace,
            label_selector=request.label_selector,
            field_selector=request.field_selector,
            resource_version=request.resource_version,
            bookmarks=request.bookmarks,
            send_initial_events=request.send_initial_events,
            timeout_s=float(request.timeout_seconds),
        )
        batches: Any = self._registry.watch(call.context(), kind, options)
        try:
            async for batch in batches:
                for response in self._watch_parts(kind, batch, table=request.table):
                    yield response
        finally:
            await batches.aclose()

    async def Create(self, request: resources_pb2.CreateRequest, call: Call) -> resources_pb2.ObjectResponse:
        ref = request.resource
        kind, obj = await self._writable(
            call, "create", ref, request.object, request.namespace, request.name, request.subresource
        )
        ctx = call.context(field_manager=request.field_manager, dry_run=request.dry_run)
        stored = await self._commits.run(
            self._registry.create(ctx, kind, request.namespace, obj, name=request.name, subresource=request.subresource)
        )
        response = _object_response(ctx, stored)
        response.created = True
        return response

    async def CreateBatch(
        self, request: resources_pb2.CreateBatchRequest, call: Call
    ) -> resources_pb2.CreateBatchResponse:
        if len(request.objects) > MAX_CREATES:
            raise BadRequest(f"objects: {len(request.objects)} in one batch; wanted at most {MAX_CREATES}")
        response = resources_pb2.CreateBatchResponse()
        for start in range(0, len(request.objects), CREATES_AT_ONCE):
            part = request.objects[start : start + CREATES_AT_ONCE]
            response.results.extend(
                await asyncio.gather(*(self._create_of_batch(request, body, call) for body in part))
            )
        return response

    async def _create_of_batch(
        self, request: resources_pb2.CreateBatchRequest, body: Any, call: Call
    ) -> resources_pb2.CreateBatchResponse.Result:
        result = resources_pb2.CreateBatchResponse.Result()
        try:
            kind = self._kind(request.resource)
            obj: Any = _unpack(kind, body, "")
            meta = obj.metadata
            await self._authorize(call, "create", request.resource, namespace=meta.namespace, name=meta.name)
            ctx = call.context(field_manager=request.field_manager)
            stored = await self._commits.run(self._registry.create(ctx, kind, meta.namespace, obj))
        except APIError as error:
            result.error.CopyFrom(to_status(error))
        except Exception as error:
            # The others have been written, or will be: their results must not be lost with this one's.
            log.exception("one of a batch of creates by %s failed", call.identity.user)
            result.error.CopyFrom(to_status(InternalError(f"Internal error occurred: {type(error).__name__}: {error}")))
        else:
            result.warnings.extend(ctx.warnings)
            result.name = meta.name or stored.message().metadata.name
            result.resource_version = str(stored.revision)
        return result

    async def Update(self, request: resources_pb2.UpdateRequest, call: Call) -> resources_pb2.ObjectResponse:
        ref = request.resource
        kind, obj = await self._writable(
            call, "update", ref, request.object, request.namespace, request.name, request.subresource
        )
        ctx = call.context(field_manager=request.field_manager, dry_run=request.dry_run)
        stored = await self._commits.run(
            self._registry.update(ctx, kind, request.namespace, request.name, obj, subresource=request.subresource)
        )
        response = _object_response(ctx, stored)
        response.created = ctx.created
        return response

    async def Patch(self, request: resources_pb2.PatchRequest, call: Call) -> resources_pb2.ObjectResponse:
        ctx, kind = await self._patchable(request, call)
        stored = await self._commits.run(
            self._registry.patch(
                ctx,
                kind,
                request.namespace,
                request.name,
                request.type,
                request.body,
                subresource=request.subresource,
            )
        )
        return _object_response(ctx, stored)

    async def Apply(self, request: resources_pb2.ApplyRequest, call: Call) -> resources_pb2.ObjectResponse:
        ctx, kind = await self._patchable(request, call)
        stored, created = await self._commits.run(
            self._registry.apply(
                ctx,
                kind,
                request.namespace,
                request.name,
                request.body,
                force=request.force,
                subresource=request.subresource,
            )
        )
        response = _object_response(ctx, stored)
        response.created = created
        return response

    async def Delete(self, request: resources_pb2.DeleteRequest, call: Call) -> resources_pb2.DeleteResponse:
        ref = request.resource
        await self._authorize(call, "delete", ref, namespace=request.namespace, name=request.name)
        kind = self._kind(ref)
        ctx = call.context(dry_run="All" in request.options.dry_run)
        result = await self._commits.run(
            self._registry.delete(ctx, kind, request.namespace, request.name, request.options)
        )
        response = resources_pb2.DeleteResponse(status=result.status, warnings=ctx.warnings)
        if result.stored is not None:
            _fill(response.object, result.stored)
        return response

    async def DeleteCollection(
        self, request: resources_pb2.DeleteCollectionRequest, call: Call
    ) -> resources_pb2.ListResponse:
        selection = request.selection
        await self._authorize(
            call,
            "deletecollection",
            selection.resource,
            namespace=selection.namespace,
            field_selector=selection.field_selector,
        )
        kind = self._kind(selection.resource)
        ctx = call.context(dry_run="All" in request.options.dry_run)
        result = await self._commits.run(
            self._registry.delete_collection(ctx, kind, _list_options(selection), request.options)
        )
        response = resources_pb2.ListResponse(resource_version=str(result.revision), warnings=ctx.warnings)
        await _add_items(response, result.items)
        return response

    async def Discover(self, request: resources_pb2.DiscoverRequest, call: Call) -> resources_pb2.DiscoverResponse:
        await self._authorizer.check(call.identity, Attributes("get", path="/apis"))
        response = resources_pb2.DiscoverResponse(server_version=__version__, kubernetes_version=KUBERNETES_VERSION)
        for kind in self._registry.served():
            response.resources.add(
                group=kind.group,
                version=kind.version,
                plural=kind.plural,
                singular=kind.singular,
                kind=kind.kind,
                namespaced=kind.namespaced,
                short_names=kind.short_names,
                categories=kind.categories,
                verbs=self._registry.verbs(kind),
                subresources=kind.subresources,
            )
        return response

    async def _authorize(
        self,
        call: Call,
        verb: str,
        ref: resources_pb2.ResourceRef,
        *,
        namespace: str = "",
        name: str = "",
        subresource: str = "",
        field_selector: str = "",
    ) -> None:
        await self._authorizer.check(
            call.identity,
            Attributes(
                verb=verb,
                group=ref.group,
                resource=ref.resource,
                subresource=subresource,
                namespace=namespace,
                name=name,
                field_selector=field_selector,
            ),
        )

    async def _writable(
        self,
        call: Call,
        verb: str,
        ref: resources_pb2.ResourceRef,
        body: Any,
        namespace: str,
        name: str,
        subresource: str,
    ) -> tuple[Kind, Any]:
        """The kind and the decoded body. A create names its object in the body, and that name is authorised too."""
        kind = self._kind(ref) if ref.resource else None
        obj: Any = _unpack(kind, body, subresource) if kind is not None else None
        if verb == "create" and not subresource and obj is not None:
            name = obj.metadata.name
        await self._authorize(call, verb, ref, namespace=namespace, name=name, subresource=subresource)
        if kind is None or obj is None:
            raise BadRequest("resource: the request names no resource")
        return kind, obj

    async def _patchable(
        self, request: resources_pb2.PatchRequest | resources_pb2.ApplyRequest, call: Call
    ) -> tuple[RequestContext, Kind]:
        ref = request.resource
        await self._authorize(
            call, "patch", ref, namespace=request.namespace, name=request.name, subresource=request.subresource
        )
        ctx = call.context(
            field_manager=request.field_manager, dry_run=request.dry_run, field_validation=request.field_validation
        )
        return ctx, self._kind(ref)

    def _kind(self, ref: resources_pb2.ResourceRef) -> Kind:
        return self._registry.kind(ref.group, ref.version, ref.resource)

    def _watch_parts(self, kind: Kind, batch: WatchBatch, *, table: bool) -> Iterator[resources_pb2.WatchResponse]:
        """One response per batch; a long one in parts of which only the last says where to resume."""
        response = resources_pb2.WatchResponse()
        part: list[Stored] = []
        size = 0
        for event in batch.events:
            encoded = response.events.add(type=_EVENT_TYPES[event.type])
            _fill(encoded.object, event.stored)
            if event.type != "BOOKMARK":
                part.append(event.stored)  # the rows of a table are those of the events, bookmarks apart
            size += len(encoded.object.value)
            if len(response.events) >= WATCH_PART_EVENTS or size >= WATCH_PART_BYTES:
                if table:
                    response.table.CopyFrom(self._registry.table(kind, part))
                yield response
                response, part, size = resources_pb2.WatchResponse(), [], 0
        if table and part:
            response.table.CopyFrom(self._registry.table(kind, part))
        response.resource_version = str(batch.revision)
        yield response


def _fill(target: Any, stored: Stored) -> None:
    target.type_url = TYPE_PREFIX + stored.kind.message.DESCRIPTOR.full_name
    target.value = stored.wire()


def _object_response(ctx: RequestContext, stored: Stored) -> resources_pb2.ObjectResponse:
    response = resources_pb2.ObjectResponse(warnings=ctx.warnings)
    _fill(response.object, stored)
    return response


async def _add_items(response: resources_pb2.ListResponse, items: Sequence[Stored]) -> None:
    for index, stored in enumerate(items, 1):
        _fill(response.items.add(), stored)
        if index % LIST_SLICE == 0:
            await asyncio.sleep(0)


def _list_options(request: resources_pb2.ListRequest) -> ListOptions:
    return ListOptions(
        namespace=request.namespace,
        label_selector=request.label_selector,
        field_selector=request.field_selector,
        limit=request.limit,
        continue_token=request.continue_token,
        resource_version=request.resource_version,
        resource_version_match=request.resource_version_match,
    )


def _unpack(kind: Kind, body: Any, subresource: str) -> Message:
    """The typed message in the Any, without unknown fields."""
    wanted = kind.message
    if subresource in _BODIES:
        found = schema.find_class(*_BODIES[subresource])
        assert found is not None, subresource
        wanted = found
    name = body.type_url.rpartition("/")[2]
    if name != wanted.DESCRIPTOR.full_name:
        raise BadRequest(f'object: it is "{name}"; wanted "{wanted.DESCRIPTOR.full_name}"', kind=kind.plural)
    try:
        obj: Message = wanted.FromString(body.value)
    except DecodeError as error:
        raise BadRequest(f"object: not a serialised {name}: {error}", kind=kind.plural) from error
    obj.DiscardUnknownFields()
    return obj
