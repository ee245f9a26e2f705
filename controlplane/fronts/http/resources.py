"""Requests for resources: each verb is one call of the registry, authorised first. Called by `handler`.

Holds no semantics: it reads parameters and bodies, and encodes what comes back in the form that the client asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

from controlplane.auth.authorizer import Attributes, Authorizer, Verdict, refusal
from controlplane.fronts.commit import Commits
from controlplane.fronts.http import bodies, encoding, media, params, subresources
from controlplane.fronts.http.exchange import Exchange
from controlplane.fronts.http.media import Form
from controlplane.fronts.http.nodeproxy import Figures, NodeProxy
from controlplane.fronts.http.paths import Target, flag
from controlplane.fronts.http.sessions import Sessions
from controlplane.fronts.http.watch import EventEncoder
from controlplane.fronts.pace import Turns
from controlplane.registry.base import ListResult, RegistryAPI, Stored, WatchBatch
from wherry.api.context import Env
from wherry.api.errors import APIError, MethodNotAllowed, NotFound, UnsupportedMediaType
from wherry.api.kinds import CustomKind, Kind
from wherry.pb import meta_v1_pb2

if TYPE_CHECKING:
    from controlplane.nodelink.podports import PodPorts

T = TypeVar("T")

PATCH_TYPES = ("application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json")
APPLY_TYPE = "application/apply-patch+yaml"
WATCH_TIMEOUT_S = 1800.0  # and up to twice that, so that watches do not all end at once
_ONE = (media.TABLE, media.METADATA)
_MANY = (media.TABLE, media.METADATA_LIST)


class Resources:
    """`handle` answers one request; it raises APIError, which `handler` turns into a Status."""

    def __init__(
        self,
        registry: RegistryAPI,
        authorizer: Authorizer,
        commits: Commits,
        env: Env,
        sessions: Sessions,
        turns: Turns,
        figures: Figures | None = None,
        ports: PodPorts | None = None,
    ) -> None:
        self._ports = ports
        self._turns = turns
        self._sessions = sessions
        self._nodes = NodeProxy(registry, figures, sessions.handle)
        self._registry = registry
        self._authorizer = authorizer
        self._commits = commits
        self._env = env
        self._verbs = {
            "get": self._get,
            "list": self._list,
            "watch": self._watch,
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }

    async def handle(self, exchange: Exchange, target: Target) -> web.StreamResponse:
        by_name = target.verb == "create" and not target.name and "system:nodes" in exchange.identity.groups
        if not by_name:
            await self.authorize(exchange, target)
        try:
            kind = self._registry.kind(target.group, target.version, target.resource)
        except NotFound:
            served = {(kind.group, kind.version) for kind in self._registry.served()}
            if target.group and (target.group, target.version) not in served:
                return exchange.page_not_found()
            raise
        if exchange.request.method == "HEAD" and not _proxied(target):
            raise _not_allowed()
        self._check_verb(target, kind)
        if by_name:  # what a node may create hangs on the name in the body
            obj = self._decode(exchange, target, kind, await exchange.body())
            await self.authorize(exchange, target, name=obj.metadata.name)
        if target.subresource and subresources.served(kind)[target.subresource].session:
            if target.subresource == "proxy":
                return await self._proxy(exchange, target)
            return await self._sessions.handle(exchange, target)
        return await self._verbs[target.verb](exchange, target, kind)

    async def _proxy(self, exchange: Exchange, target: Target) -> web.StreamResponse:
        if not _proxied(target):
            return await self._nodes.handle(exchange, target)
        if self._ports is None:
            raise _unknown()
        from controlplane.fronts.http.proxy.pods import PodProxy

        return await PodProxy(self._registry, self._env, self._ports).handle(exchange, target)

    async def authorize(self, exchange: Exchange, target: Target, *, name: str | None = None) -> None:
        """Raises Forbidden."""
        selector = exchange.query.get("fieldSelector", "")
        attributes = target.attributes(field_selector=selector, name=name)
        decision = await self._authorizer.decide(exchange.identity, attributes)
        allowed = decision.verdict is Verdict.ALLOW
        exchange.annotations["authorization.k8s.io/decision"] = "allow" if allowed else "forbid"
        exchange.annotations["authorization.k8s.io/reason"] = decision.reason
        if not allowed:
            raise refusal(exchange.identity, _shown(attributes, target), decision.reason)

    def _check_verb(self, target: Target, kind: Kind) -> None:
        """Raises NotFound for what is no path of this kind, MethodNotAllowed for a method that the path does not know."""
        found = subresources.served(kind).get(target.subresource)
        if (target.extra and not (found and found.deep)) or (target.namespace and not kind.namespaced):
            raise _unknown()
        if target.subresource:
            if found is None or (kind.namespaced and not target.namespace):
                raise _unknown()
            if target.verb not in found.verbs and not (_proxied(target) and not target.verb):
                raise _not_allowed()
            return
        if kind.namespaced and target.name and not target.namespace:
            raise _unknown()
        named = target.verb in ("get", "update", "patch", "delete")
        if target.verb == "create":
            allowed = not target.name and (bool(target.namespace) or not kind.namespaced)
        else:
            allowed = target.verb == "watch" or named == bool(target.name)
        if target.verb not in self._registry.verbs(kind) or not allowed:
            raise _not_allowed()

    # reads

    async def _get(self, exchange: Exchange, target: Target, kind: Kind) -> web.StreamResponse:
        form = self._form(exchange, kind, _ONE)
        stored = await self._registry.get(
            exchange.context(),
            kind,
            target.namespace,
            target.name,
            resource_version=exchange.query.get("resourceVersion", ""),
            subresource=target.subresource,
        )
        return await self._one(exchange, stored, form)

    async def _list(self, exchange: Exchange, target: Target, kind: Kind) -> web.StreamResponse:
        form = self._form(exchange, kind, _MANY)
        options = params.list_options(target, exchange.query)
        result = await self._registry.list(exchange.context(), kind, options)
        return await self._many(exchange, kind, result, form)

    async def _watch(self, exchange: Exchange, target: Target, kind: Kind) -> web.StreamResponse:
        form = self._form(exchange, kind, (media.TABLE, media.METADATA, media.METADATA_LIST))
        if form.form == media.METADATA_LIST:
            form = Form(form.encoding, media.METADATA, form.version)
        default_s = WATCH_TIMEOUT_S * (1 + self._env.rng.random())
        options = params.watch_options(target, exchange.query, default_s)
        include = exchange.query.get("includeObject", "")
        encoder = EventEncoder(self._registry, kind, form, self._env.now, include)
        batches: Any = self._registry.watch(exchange.context(), kind, options)
        async with aclosing(batches):
            first = asyncio.ensure_future(anext(batches, None))
            try:
                # The registry looks at the request before it waits for anything: what is wrong with that shows in one turn
                # of the loop, and is answered as an error and not as an event.
                await asyncio.sleep(0)
                error = first.exception() if first.done() and not first.cancelled() else None
                if isinstance(error, APIError) and error.code != 410:
                    raise error
                return await self._stream(exchange, encoder, form, first, batches)
            finally:
                if not first.done():
                    first.cancel()
                    await asyncio.wait((first,))

    async def _stream(
        self, exchange: Exchange, encoder: EventEncoder, form: Form, first: asyncio.Future[Any], batches: Any
    ) -> web.StreamResponse:
        content_type = form.encoding
        if form.encoding == media.PROTOBUF:
            content_type = f"{media.PROTOBUF};stream=watch"
        elif form.encoding == media.YAML:
            content_type = media.JSON
        response = await exchange.open_stream(content_type)
        try:
            batch: WatchBatch | None = await first
            while batch is not None:
                for part in encoder.parts(batch.events):
                    await response.write(part)
                    await asyncio.sleep(0)
                batch = await anext(batches, None)
        except APIError as error:
            await response.write(encoder.error(error))
        except ConnectionError:
            return response
        await response.write_eof()
        return response

    # writes

    async def _commit(self, write: Coroutine[Any, Any, T]) -> T:
        return await self._commits.run(self._turns.run(write))

    async def _create(self, exchange: Exchange, target: Target, kind: Kind) -> web.StreamResponse:
        form = self._form(exchange, kind, _ONE)
        body = await exchange.body()
        ctx = exchange.context(dry_run=params.dry_run(exchange.values("dryRun"), "CreateOptions"))
        obj = self._decode(exchange, target, kind, body)
        ctx.normal = not body.startswith(bodies.MAGIC)
        stored = await self._commit(
            self._registry.create(ctx, kind, target.namespace, obj, name=target.name, subresource=target.subresource)
        )
        if target.subresource in ("binding", "eviction") or kind.kind == "Binding":
            done = meta_v1_pb2.Status(status="Success", code=201)
            return exchange.reply(
                encoding.message_bytes(done, Form(form.encoding), pretty=exchange.pretty), form.content_type, status=201
            )
        return await self._one(exchange, stored, form, status=201)

    async def _update(self, exchange: Exchange, target: Target, kind: Kind) -> web.StreamResponse:
        form = self._form(exchange, kind, _ONE)
        body = await exchange.body()
        ctx = exchange.context(dry_run=params.dry_run(exchange.values("dryRun"), "UpdateOptions"))
        obj = self._decode(exchange, target, kind, body)
        ctx.normal = not body.startswith(bodies.MAGIC)
        stored = await self._commit(
            self._registry.update(ctx, kind, target.namespace, target.name, obj, subresource=target.subresource)
        )
        return await self._one(exchange, stored, form, status=201 if ctx.created else 200)

    async def _patch(self, exchange: Exchange, target: Target, kind: Kind) -> web.StreamResponse:
        form = self._form(exchange, kind, _ONE)
        patch_type = exchange.content_type.partition(";")[0].strip().lower()
        if patch_type != APPLY_TYPE and patch_type not in PATCH_TYPES:
            raise UnsupportedMediaType("415: Unsupported Media Type")
        body = await exchange.body()
        applying = patch_type == APPLY_TYPE
        ctx = exchange.context(dry_run=params.dry_run(exchange.values("dryRun"), "PatchOptions"), apply=applying)
        forced = "force" in exchange.query
        if applying:
            stored, created = await self._commit(
                self._registry.apply(
                    ctx,
                    kind,
                    target.namespace,
                    target.name,
                    body,
                    force=forced and flag(exchange.query["force"]),
                    subresource=target.subresource,
                )
            )
            return await self._one(exchange, stored, form, status=201 if created else 200)
        if forced:
            from controlplane.registry import violations

            cause = violations.forbidden("force", "may not be specified for non-apply patch")
            raise violations.invalid_object("meta.k8s.io", "PatchOptions", "", [cause])
        stored = await self._commit(
            self._registry.patch(
                ctx, kind, target.namespace, target.name, patch_type, body, subresource=target.subresource
            )
        )
        return await self._one(exchange, stored, form)

    async def _delete(self, exchange: Exchange, target: Target, kind: Kind) -> web.StreamResponse:
        form = self._form(exchange, kind, _ONE)
        options = await self._delete_options(exchange)
        ctx = exchange.context(dry_run="All" in options.dry_run)
        result = await self._commit(self._registry.delete(ctx, kind, target.namespace, target.name, options))
        found = result.stored or result.last
        if found is not None:
            return await self._one(exchange, found, form)
        assert result.status is not None
        body = encoding.message_bytes(result.status, Form(form.encoding), pretty=exchange.pretty)
        return exchange.reply(body, form.content_type)

    async def _delete_collection(self, exchange: Exchange, target: Target, kind: Kind) -> web.StreamResponse:
        form = self._form(exchange, kind, _MANY)
        selection = params.list_options(target, exchange.query)
        options = await self._delete_options(exchange)
        ctx = exchange.context(dry_run="All" in options.dry_run)
        result = await self._commit(self._registry.delete_collection(ctx, kind, selection, options))
        return await self._many(exchange, kind, result, form)

    async def _delete_options(self, exchange: Exchange) -> meta_v1_pb2.DeleteOptions:
        """Of the body when there is one, else of the query."""
        body = await exchange.body()
        if not body.strip():
            return params.delete_options(exchange.query)
        options: meta_v1_pb2.DeleteOptions = bodies.decode(
            body, exchange.content_type, meta_v1_pb2.DeleteOptions, "Ignore", exchange.warnings
        )
        return options

    def _decode(self, exchange: Exchange, target: Target, kind: Kind, body: bytes) -> Any:
        params.check_validation(exchange.query, "CreateOptions" if target.verb == "create" else "UpdateOptions")
        cls = subresources.body_class(kind, target.subresource)
        validation = exchange.query.get("fieldValidation", "")
        custom = kind if isinstance(kind, CustomKind) and cls is kind.message else None
        return bodies.decode(body, exchange.content_type, cls, validation, exchange.warnings, custom)

    # answers

    def _form(self, exchange: Exchange, kind: Kind, forms: Sequence[str]) -> Form:
        offered = media.TEXTS if isinstance(kind, CustomKind) else media.ENCODINGS
        form = media.negotiate(exchange.accept, forms=forms, offered=offered)
        if form.form == media.TABLE:
            encoding.check_include(exchange.query.get("includeObject", ""))
        return form

    async def _one(self, exchange: Exchange, stored: Stored, form: Form, *, status: int = 200) -> web.StreamResponse:
        if form.form == media.TABLE:
            columns = encoding.columns_json(self._registry.table(stored.kind, ()))
            rows = self._rows(stored.kind, form, exchange.query.get("includeObject", ""))
            head = encoding.list_metadata(stored.revision)
            body = encoding.table_json(head, columns, rows.row(stored), form.version)
            body = encoding.finish(body, form, pretty=exchange.pretty)
        else:
            body = encoding.object_bytes(stored, form, pretty=exchange.pretty)
        return exchange.reply(body, form.content_type, status=status)

    async def _many(self, exchange: Exchange, kind: Kind, result: ListResult, form: Form) -> web.StreamResponse:
        if form.form == media.TABLE:
            return await self._table(exchange, kind, result, form)
        return await exchange.reply_pieces(encoding.list_pieces(kind, result, form), form)

    async def _table(self, exchange: Exchange, kind: Kind, result: ListResult, form: Form) -> web.StreamResponse:
        columns = encoding.columns_json(self._registry.table(kind, ()))
        making = self._rows(kind, form, exchange.query.get("includeObject", ""))
        rows = (making.row(stored) for stored in result.items)
        head = encoding.list_metadata(result.revision, result.continue_token, result.remaining)
        return await exchange.reply_pieces(encoding.table_pieces(head, columns, rows, form.version), form)

    def _rows(self, kind: Kind, form: Form, include: str) -> encoding.Rows:
        return encoding.Rows(partial(self._registry.cells, kind), form, include, self._env.now())


def _shown(attributes: Attributes, target: Target) -> Attributes:
    """A refusal speaks of what the request names, not of what its body does."""
    return replace(attributes, name=target.name)


def _proxied(target: Target) -> bool:
    """Whether it is for a pod to say what methods there are."""
    return target.subresource == "proxy" and target.resource in ("pods", "services") and not target.group


def _unknown() -> NotFound:
    return NotFound("the server could not find the requested resource")


def _not_allowed() -> MethodNotAllowed:
    return MethodNotAllowed("the server does not allow this method on the requested resource")
