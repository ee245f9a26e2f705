"""From one HTTP request to one answer: who asks, what for, and what becomes of errors. Called by `server` for each request.

Resources go to `resources`, sessions with containers to `sessions`; discovery, health and version are answered here.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import platform
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

import wherry
from controlplane.auth.authorizer import Attributes, Authorizer
from controlplane.fronts.call import Call
from controlplane.fronts.commit import Commits
from controlplane.fronts.flow import Flow
from controlplane.fronts.grpc.peers import TokenReview
from controlplane.fronts.http import discovery, encoding, media
from controlplane.fronts.http.exchange import TEXT, Exchange
from controlplane.fronts.http.issuer import Issuer
from controlplane.fronts.http.media import Form
from controlplane.fronts.http.nodeproxy import EXPOSITION, Figures
from controlplane.fronts.http.openapi.documents import Documents
from controlplane.fronts.http.paths import resource_target
from controlplane.fronts.http.peers import Peers
from controlplane.fronts.http.resources import Resources
from controlplane.fronts.http.sessions import Sessions
from controlplane.fronts.pace import Turns
from controlplane.fronts.resources import KUBERNETES_VERSION
from controlplane.registry.base import ANONYMOUS, RegistryAPI
from wherry.api.context import CAUSE_KEY, Env, cause
from wherry.api.errors import APIError, InternalError, NotFound, ServiceUnavailable

if TYPE_CHECKING:
    from controlplane.audit.recorder import Auditor
    from controlplane.nodelink.podports import PodPorts

log = logging.getLogger(__name__)

_HEALTH = ("healthz", "livez", "readyz")
_UNLIMITED = tuple(f"/{name}" for name in _HEALTH)  # who looks after us must get an answer
_READING = ("GET", "HEAD", "OPTIONS")
_PUBLIC_METHODS = ("GET", "HEAD")

# One thing that has to be well for the server to be: its name, and whether it is.
Checks = Mapping[str, Callable[[], bool]]


class Handler:
    """`checks` are asked by the health paths, `figures` by the node proxy, `metrics` by /metrics. `close` refuses what comes from
    then on."""

    def __init__(
        self,
        registry: RegistryAPI,
        authorizer: Authorizer,
        commits: Commits,
        env: Env,
        checks: Checks,
        sessions: Sessions,
        tokens: TokenReview | None = None,
        issuer: Issuer | None = None,
        figures: Figures | None = None,
        metrics: Callable[[], bytes] | None = None,
        flow: Flow | None = None,
        auditor: Auditor | None = None,
        ports: PodPorts | None = None,
    ) -> None:
        self._registry = registry
        self._authorizer = authorizer
        self._env = env
        self._checks = checks
        self._peers = Peers(authorizer, tokens)
        self._turns = Turns()
        self._resources = Resources(registry, authorizer, commits, env, sessions, self._turns, figures, ports)
        self._metrics = metrics
        self._openapi = Documents(registry.verbs)
        self._issuer = issuer
        self._flow = flow or Flow()
        self._auditor = auditor
        self._closed = False

    def close(self) -> None:
        self._closed = True

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        audit_id = request.headers.get("Audit-Id", "")[:64] or self._env.uuid()
        current = request.headers.get(CAUSE_KEY, "")[:64] or f"{self._env.rng.getrandbits(48):012x}"
        cause.set(current)
        exchange = Exchange(request, Call(identity=ANONYMOUS, cause=current, peer=str(request.remote)), audit_id)
        if self._auditor is None:
            return await self._answer(exchange)
        return await self._audited(exchange, self._auditor)

    async def _audited(self, exchange: Exchange, auditor: Auditor) -> web.StreamResponse:
        """Every request that is answered is in the log, those of nobody we know too."""
        from controlplane.fronts.http import audit

        response: web.StreamResponse | None = None
        try:
            response = await self._answer(exchange)
            return response
        finally:
            if exchange.record is None and not exchange.received:
                exchange.record = await audit.receive(auditor, exchange, None)
            if exchange.record is not None:
                code = response.status if response is not None else 499  # the client has gone
                await asyncio.shield(audit.complete(exchange.record, exchange, response, code))

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        request = exchange.request
        try:
            if self._closed:
                raise ServiceUnavailable("the server is shutting down", retry_after_s=1)
            identity = await self._peers.identity(request)
            exchange.call = Call(identity=identity, cause=exchange.call.cause, peer=exchange.call.peer)
            if self._auditor is not None:
                from controlplane.fronts.http import audit

                exchange.received = True
                asking = await self._peers.asking(request)
                exchange.record = await audit.receive(self._auditor, exchange, asking)
            if not request.path.startswith(_UNLIMITED):
                exchange.seat = await self._flow.enter(identity, writes=request.method not in _READING)
            await self._turns.mine()
            return await self._route(exchange)
        except APIError as error:
            return _refused(exchange, error)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            log.error("%s %s by %s failed", request.method, request.path, exchange.identity.user, exc_info=error)
            return _refused(exchange, InternalError(f"Internal error occurred: {type(error).__name__}: {error}"))
        finally:
            exchange.seat.leave()

    async def _route(self, exchange: Exchange) -> web.StreamResponse:
        request = exchange.request
        path = request.path
        target = resource_target(request.method, path, exchange.query)
        if target is not None:
            return await self._resources.handle(exchange, target)
        verb = request.method.lower()
        await self._authorizer.check(exchange.identity, Attributes(verb, path=path))
        if request.method not in _PUBLIC_METHODS:
            return exchange.page_not_found()
        answer = self._documents(path)
        return exchange.page_not_found() if answer is None else await answer(exchange)

    # what is no resource

    def _documents(self, path: str) -> Callable[[Exchange], Awaitable[web.StreamResponse]] | None:
        parts = [part for part in path.split("/") if part]
        if not parts:
            return self._root
        head, *rest = parts
        if head in _HEALTH:
            return lambda exchange: self._health(exchange, head, rest)
        if parts == ["version"]:
            return self._version
        if head == "api" and len(rest) <= 1:
            return lambda exchange: self._core(exchange, rest)
        if head == "apis" and len(rest) <= 2:
            return lambda exchange: self._groups(exchange, rest)
        if parts == ["openapi", "v2"]:
            return self._openapi_v2
        if self._issuer is not None and (found := self._issuer.document(parts)) is not None:
            return found
        if parts == ["metrics"] and self._metrics is not None:
            return self._expose
        if parts[:2] == ["openapi", "v3"]:
            return lambda exchange: self._openapi_v3(exchange, "/".join(parts[2:]))
        return None

    def _catalogue(self) -> discovery.Catalogue:
        return discovery.Catalogue(self._registry.served(), self._registry.verbs)

    async def _openapi_v2(self, exchange: Exchange) -> web.StreamResponse:
        kinds = self._registry.served()
        wanted = exchange.accept
        if "proto-openapi.spec.v2" in wanted:
            # Asked for with an @, which is no letter of a media type: Go's clients want it back without.
            kind = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
            return exchange.reply_packed(await self._openapi.v2_wire(kinds), kind, headers={"Vary": "Accept"})
        media.negotiate(wanted, offered=(media.JSON,))
        return exchange.reply_packed(await self._openapi.v2_json(kinds), media.JSON, headers={"Vary": "Accept"})

    async def _openapi_v3(self, exchange: Exchange, path: str) -> web.StreamResponse:
        kinds = self._registry.served()
        if not path:
            return exchange.json(self._openapi.index(kinds))
        media.negotiate(exchange.accept, offered=(media.JSON,))
        found = await self._openapi.v3(kinds, path)
        if found is None:
            return exchange.page_not_found()
        document, digest = found
        headers = {"ETag": f'"{digest}"', "Vary": "Accept"}
        if exchange.query.get("hash") == digest:
            headers["Cache-Control"] = "public, immutable"
        if exchange.request.headers.get("If-None-Match") == f'"{digest}"':
            return exchange.reply(b"", status=304, headers=headers)
        return exchange.reply_packed(document, media.JSON, headers=headers)

    async def _root(self, exchange: Exchange) -> web.StreamResponse:
        catalogue = self._catalogue()
        paths = ["/api", *(f"/api/{version}" for version in catalogue.versions("")), "/apis", "/apis/"]
        for group in sorted(catalogue.groups):
            paths += [f"/apis/{group}", *(f"/apis/{group}/{version}" for version in catalogue.versions(group))]
        for name in _HEALTH:
            paths += [f"/{name}", *(f"/{name}/{check}" for check in sorted(self._checks))]
        issuer = ["/.well-known/openid-configuration", "/openid/v1/jwks"] if self._issuer is not None else []
        metrics = ["/metrics"] if self._metrics is not None else []
        paths += [*metrics, "/openapi/v2", "/openapi/v3", *issuer[1:], "/version"]
        return exchange.json({"paths": [*issuer[:1], *paths]})

    async def _expose(self, exchange: Exchange) -> web.StreamResponse:
        assert self._metrics is not None
        return await exchange.reply_pieces((self._metrics(),), Form(EXPOSITION))

    async def _version(self, exchange: Exchange) -> web.StreamResponse:
        media.negotiate(exchange.accept, offered=(media.JSON,))
        return exchange.json(version_info())

    async def _health(self, exchange: Exchange, name: str, rest: list[str]) -> web.StreamResponse:
        checks = self._checks
        if rest:
            if len(rest) > 1 or rest[0] not in checks:
                return exchange.page_not_found()
            checks = {rest[0]: checks[rest[0]]}
        excluded = exchange.request.query.getall("exclude", [])
        results = {check: check in excluded or ask() for check, ask in checks.items()}
        well = all(results.values())
        lines = [
            f"[+]{check} excluded: ok" if check in excluded else f"[+]{check} ok" if fine else f"[-]{check} failed"
            for check, fine in results.items()
        ]
        verdict = f"{name} check {'passed' if well else 'failed'}\n"
        if well and "verbose" not in exchange.query:
            return exchange.reply(b"ok", TEXT, headers={"X-Content-Type-Options": "nosniff"})
        text = "\n".join([*lines, verdict])
        return exchange.reply(text.encode(), TEXT, status=200 if well else 500)

    async def _core(self, exchange: Exchange, rest: list[str]) -> web.StreamResponse:
        catalogue = self._catalogue()
        if not rest:
            plain = catalogue.core_versions(_local_address(exchange.request))
            return self._discovery(exchange, plain, lambda version: catalogue.aggregated([""], version))
        if rest[0] not in catalogue.versions(""):
            raise _unknown()
        return _plain(exchange, catalogue.resource_list("", rest[0]))

    async def _groups(self, exchange: Exchange, rest: list[str]) -> web.StreamResponse:
        catalogue = self._catalogue()
        if not rest:
            groups = catalogue.groups
            return self._discovery(
                exchange, catalogue.group_list(), lambda version: catalogue.aggregated(groups, version)
            )
        group = rest[0]
        if group not in catalogue.groups:
            return exchange.page_not_found()
        if len(rest) == 1:
            return _plain(exchange, catalogue.group(group))
        if rest[1] not in catalogue.versions(group):
            raise _unknown()
        return _plain(exchange, catalogue.resource_list(group, rest[1]))

    def _discovery(
        self, exchange: Exchange, plain: dict[str, Any], aggregated: Callable[[str], dict[str, Any]]
    ) -> web.StreamResponse:
        version = media.discovery_version(exchange.accept)
        if not version:
            return _plain(exchange, plain)
        document = aggregated(version)
        text = exchange.json(document)
        body = text.body
        assert isinstance(body, bytes)
        etag = f'"{hashlib.sha512(body).hexdigest().upper()}"'
        headers = {"ETag": etag, "Vary": "Accept", "Cache-Control": "public"}
        content_type = f"{media.JSON};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
        if exchange.request.headers.get("If-None-Match") == etag:
            # With the type: caches take these headers for those of what they hold.
            return exchange.reply(b"", content_type, status=304, headers=headers)
        return exchange.reply(body, content_type, headers=headers)


def version_info() -> dict[str, str]:
    """What `kubectl version` shows: the Kubernetes whose API this is, and whose server."""
    major, minor = KUBERNETES_VERSION.removeprefix("v").split(".")[:2]
    return {
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": str(int(minor) - 1),
        "gitVersion": f"{KUBERNETES_VERSION}+wherry-{wherry.__version__}",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": f"CPython {platform.python_version()}",
        "platform": f"{platform.system().lower()}/{_machine(platform.machine())}",
    }


def _machine(name: str) -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(name, name)


def _plain(exchange: Exchange, document: dict[str, Any]) -> web.StreamResponse:
    form = media.negotiate(exchange.accept, offered=(media.JSON, media.YAML))
    body = encoding.finish(encoding.dump(document), form, pretty=exchange.pretty)
    return exchange.reply(body, form.content_type)


def _local_address(request: web.BaseRequest) -> str:
    transport = request.transport
    name = transport.get_extra_info("sockname") if transport is not None else None
    if not name:
        return request.host
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def _refused(exchange: Exchange, error: APIError) -> web.StreamResponse:
    if exchange.prepared:  # the answer has begun: all that is left is to break it off
        raise error
    return exchange.refuse(error)


def _unknown() -> NotFound:
    return NotFound("the server could not find the requested resource")
