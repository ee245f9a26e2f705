"""Keeps haproxy and the Ingresses' status level with the API. Run by `wherry ingress`.

Nothing is written before all informers have synced, so a restarted controller leaves the last one's haproxy at work until it
knows better; without the control plane it goes on as it is.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kubelet.ingress import certificates, haproxy, routes
from kubelet.ingress.acknowledge import RouteStream
from kubelet.ingress.haproxy import Options, Slots
from kubelet.ingress.presence import Presence
from kubelet.ingress.process import Haproxy, HaproxyError
from kubelet.ingress.routes import Problem, Routes, Services
from kubelet.network.level import Level
from kubelet.network.services.controller import SERVICE_INDEX, by_service
from kubelet.runtime.base import RuntimeFailure
from wherry.api import meta
from wherry.api.context import Env
from wherry.api.errors import AlreadyExists, APIError, Conflict, NotFound, ServiceUnavailable
from wherry.api.tasks import TaskGroup
from wherry.client.base import ClientAPI, Selection, Transport
from wherry.client.events import WARNING, EventRecorder
from wherry.client.informer import SharedInformers
from wherry.pb import core_v1_pb2, discovery_v1_pb2, networking_v1_pb2

log = logging.getLogger(__name__)

CLASS_NAME = "wherry"
# Changes that come within this are one.
GATHER_S = 0.02
RETRY_S = 2.0
CHECK_S = 10.0
KNOWN_LIMIT_S = 10.0  # for the other ingresses' addresses, before ours alone would be published


class IngressController:
    """`name` is this one's among all of them. Invariants: `_slots` and `_structure` are what the running haproxy has, or None
    when that is not known; `_dirty` names the Services whose endpoints changed since `_routes` were compiled, None when more did.
    """

    def __init__(
        self,
        client: ClientAPI,
        transport: Transport,
        env: Env,
        name: str,
        folder: Path,
        options: Options,
        *,
        publish: Sequence[str] = (),
    ) -> None:
        self._client = client
        self._env = env
        self._folder = folder
        self._options = options
        self.presence = Presence(client, env, name, publish or options.addresses, self._on_presence)
        self._stream = RouteStream(transport, env, name, self.routes_by)
        self._level = Level()
        self._haproxy = Haproxy(folder, options.socket)
        self._informers = SharedInformers(client, env)
        self._events = EventRecorder(client, env, "wherry-ingress")
        self._ingresses = self._informers.informer(networking_v1_pb2.Ingress)
        self._classes = self._informers.informer(networking_v1_pb2.IngressClass)
        self._services = self._informers.informer(core_v1_pb2.Service)
        self._slices = self._informers.informer(discovery_v1_pb2.EndpointSlice, indexers={SERVICE_INDEX: by_service})
        self._secrets = self._informers.informer(
            core_v1_pb2.Secret, selection=Selection(field_selector=f"type={routes.TLS_SECRET}")
        )
        self._wake = asyncio.Event()
        self._slots = Slots()
        self._structure: object = None
        self._shown: dict[str, Path] = {}  # Secret -> file
        self._told: set[Problem] = set()
        self._routes: Routes | None = None
        self._dirty: dict[str, None] | None = None
        self._pems: dict[str, tuple[str, bytes]] = {}  # Secret -> its version, and what that came to
        self._slices.add_handler(self._on_slice)
        for informer in (self._ingresses, self._classes, self._services, self._secrets):
            informer.add_handler(self._on_change)

    async def run(self) -> None:
        """Until cancelled; haproxy stays."""
        async with TaskGroup() as group:
            group.keep(self._informers.run, name="informers")
            group.keep(self._events.run, name="events")
            await self._ensure_class()
            group.keep(self.presence.run, name="presence")
            group.keep(self._follow, name="ingress")
            group.keep(self._stream.run, name="route-stream")
            await asyncio.get_running_loop().create_future()

    async def routes_by(self, revision: int) -> None:
        """Returns when haproxy leads by the slices of this revision, or later ones."""
        await self._level.reached(revision)

    def _on_change(self, old: Any, new: Any) -> None:
        self._dirty = None
        self._wake.set()

    def _on_presence(self) -> None:
        self._on_change(None, None)

    def _on_slice(self, old: Any, new: Any) -> None:
        for found in (old, new):
            if found is not None:
                self._level.seen(found)
                if self._dirty is not None:
                    self._dirty.update(dict.fromkeys(by_service(found)))
        self._wake.set()

    async def _follow(self) -> None:
        await self._informers.wait_synced()
        await self.presence.wait_known(KNOWN_LIMIT_S)
        self._structure = None
        self._wake.set()
        while True:
            try:
                async with asyncio.timeout(CHECK_S):
                    await self._wake.wait()
            except TimeoutError:
                if self._structure is not None and self._haproxy.running() is None:
                    log.warning("haproxy has ended; it is started again")
                    self._structure = None
                elif self._structure is not None:
                    continue
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            mark = self._level.mark()
            try:
                await self._once()
                self._level.done(mark)
            except (HaproxyError, RuntimeFailure, OSError) as error:
                log.error("%s; again in %g s", error, RETRY_S)
                self._structure = self._dirty = None
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def _once(self) -> None:
        found, dirty = self._routes, self._dirty
        self._dirty = {}  # what changes from here on is the next time's
        services = Services(self._services.by_key, lambda key: self._slices.by_index(SERVICE_INDEX, key))
        if found is not None and dirty is not None and self._structure is not None:
            routes.refresh(found, dirty, services)
            await self._write(found, self._shown)
            return
        self._routes = None
        classes = {item.metadata.name: item for item in self._classes.list()}
        mine = [item for item in self._ingresses.list() if routes.ours(item, classes) and not meta.is_deleting(item)]
        found = routes.compile(mine, services)
        if not mine and self._structure is None and self._haproxy.running() is None:
            return  # nobody asks for anything: the program is not started
        self._shown = certificates.write(self._folder / "certificates", self._certificates(found, mine))
        await self._write(found, self._shown)
        self._routes = found
        self._tell(found.problems, {meta.key(item): item for item in mine})
        await self._write_status(mine)

    async def _write(self, found: Routes, shown: dict[str, Path]) -> None:
        structure = haproxy.structure(found, shown)
        changed = self._slots.level(found.backends)
        if structure == self._structure and changed is not None:
            if changed:
                self._structure = None  # until it is known to be done
                await self._haproxy.command(haproxy.commands(self._slots, changed))
                self._structure = structure
            return
        self._structure = None
        spare = certificates.fallback(
            self._folder / "default.pem", datetime.datetime.fromtimestamp(self._env.now(), datetime.UTC)
        )
        folder = self._haproxy.next_folder()
        await self._haproxy.configure(haproxy.files(found, self._slots, self._options, folder, shown, spare))
        self._structure = structure
        certificates.forget(self._folder / "certificates", shown.values())
        log.info("haproxy serves %d hosts, %d backends", len(found.hosts), len(found.backends))

    def _certificates(self, found: Routes, mine: list[networking_v1_pb2.Ingress]) -> dict[str, bytes]:
        """Of the Secrets that exist and are sound; the others are told of."""
        contents = {}
        self._pems = {key: self._pems[key] for key in found.secrets if key in self._pems}
        for key in sorted(found.secrets):
            secret = self._secrets.by_key(key)
            name = meta.split_key(key)[1]
            try:
                if secret is None:
                    raise ValueError(f"does not exist, or is not of type {routes.TLS_SECRET}")
                version = secret.metadata.resource_version
                if self._pems.get(key, ("", b""))[0] != version:  # most changes are of endpoints
                    self._pems[key] = version, certificates.pem(secret)
                contents[key] = self._pems[key][1]
            except ValueError as error:
                for ingress in mine:
                    same = ingress.metadata.namespace == meta.split_key(key)[0]
                    if same and any(entry.secret_name == name for entry in ingress.spec.tls):
                        problem = Problem(meta.key(ingress), "TLSSecret", f'Secret "{name}" {error}')
                        found.problems.append(problem)
        return contents

    def _tell(self, problems: list[Problem], mine: dict[str, networking_v1_pb2.Ingress]) -> None:
        """Each once, and again when it has come back."""
        for problem in problems:
            if problem not in self._told and problem.ingress in mine:
                log.warning("ingress %s: %s", problem.ingress, problem.message)
                self._events.event(mine[problem.ingress], WARNING, problem.reason, problem.message)
        self._told = set(problems)

    async def _write_status(self, mine: list[networking_v1_pb2.Ingress]) -> None:
        wanted = routes.status(self.presence.addresses())
        failed: APIError | None = None
        for ingress in mine:
            if meta.equal(wanted, ingress.status.load_balancer):
                continue
            copy = networking_v1_pb2.Ingress()
            copy.CopyFrom(ingress)
            copy.status.load_balancer.CopyFrom(wanted)
            try:
                await self._client.update_status(copy)
            except (Conflict, NotFound) as error:
                # Its next version wakes us.
                log.debug("status of ingress %s: %s", meta.key(ingress), error)
            except APIError as error:
                failed = error
                if isinstance(error, ServiceUnavailable):
                    break  # the others' would not be taken either
        if failed is not None:
            log.warning("an ingress' status could not be written: %s; again in %g s", failed, RETRY_S)
            self._dirty = None
            asyncio.get_running_loop().call_later(RETRY_S, self._wake.set)

    async def _ensure_class(self) -> None:
        """The class that people find without making one. It is the default, unless there is another."""
        while True:
            try:
                page = await self._client.list(networking_v1_pb2.IngressClass)
                if any(item.spec.controller == routes.CONTROLLER for item in page.items):
                    return
                made = networking_v1_pb2.IngressClass()
                made.metadata.name = CLASS_NAME
                made.spec.controller = routes.CONTROLLER
                if not any(item.metadata.annotations.get(routes.DEFAULT_CLASS) == "true" for item in page.items):
                    made.metadata.annotations[routes.DEFAULT_CLASS] = "true"
                await self._client.create(made)
                return
            except AlreadyExists:
                return
            except APIError as error:
                log.warning("IngressClass %s: %s; again in %g s", CLASS_NAME, error, RETRY_S)
            await asyncio.sleep(RETRY_S)
