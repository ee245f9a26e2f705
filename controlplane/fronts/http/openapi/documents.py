"""The documents themselves, and the index of those of v3. Called by `handler`.

Each is made when it is first asked for, and kept compressed for as long as the same kinds are served. The hash in the index
changes with the kinds and their schema, so that a client may keep a document under it for ever.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import wherry
from controlplane.fronts.http import encoding
from controlplane.fronts.http.openapi.operations import Verbs, Writer
from controlplane.fronts.http.openapi.schemas import Definitions
from controlplane.fronts.resources import KUBERNETES_VERSION
from wherry.api import schema
from wherry.api.kinds import CustomKind, Kind

_TITLE = "Wherry: the Kubernetes API"
Encode = Callable[[dict[str, Any]], bytes]
_V2_REFS, _V3_REFS = "#/definitions/", "#/components/schemas/"


class Documents:
    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs
        self._of: tuple[Kind, ...] = ()
        self._cache: dict[str, bytes] = {}
        self._hashes: dict[str, str] = {}
        self._making = asyncio.Lock()

    def index(self, kinds: Sequence[Kind]) -> dict[str, Any]:
        paths = {}
        for path, group in self._groups(kinds).items():
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={self._hash(kinds, path, group)}"}
        return {"paths": paths}

    def hash_of(self, kinds: Sequence[Kind]) -> str:
        digest = hashlib.sha256(f"{wherry.__version__} {KUBERNETES_VERSION}".encode())
        for kind in kinds:
            digest.update(f"{kind.api_version} {kind.kind} {','.join(self._verbs(kind))}\n".encode())
            if isinstance(kind, CustomKind):
                digest.update(f"{kind.definition}\n".encode())
        for file in sorted({schema.descriptor_of(kind.message).file.name for kind in kinds}):
            found = next(kind for kind in kinds if schema.descriptor_of(kind.message).file.name == file)
            digest.update(schema.descriptor_of(found.message).file.serialized_pb)
        return digest.hexdigest().upper()

    async def v3(self, kinds: Sequence[Kind], path: str) -> tuple[bytes, str] | None:
        """The document of one group version (`apis/apps/v1`), compressed, and its hash; None when there is no such."""
        group = self._groups(kinds).get(path)
        if group is None:
            return None
        document = await self._cached(kinds, path, lambda: self._json(group, v3=True))
        return document, self._hash(kinds, path, group)

    async def v2_json(self, kinds: Sequence[Kind]) -> bytes:
        """Compressed, as the others are."""
        return await self._cached(kinds, "v2.json", lambda: self._json(kinds, v3=False))

    async def v2_wire(self, kinds: Sequence[Kind]) -> bytes:
        from controlplane.fronts.http.openapi import wire

        def make() -> bytes:
            paths, definitions = self._parts(kinds, wire.path_item, wire.definition, v3=False)
            return wire.document(_head("swagger", "2.0"), paths, definitions)

        return await self._cached(kinds, "v2.pb", make)

    def _groups(self, kinds: Sequence[Kind]) -> dict[str, list[Kind]]:
        found: dict[str, list[Kind]] = {}
        for kind in sorted(kinds, key=lambda kind: (kind.api_version, kind.plural)):
            found.setdefault(f"apis/{kind.api_version}" if kind.group else f"api/{kind.version}", []).append(kind)
        return found

    def _forget_others(self, kinds: Sequence[Kind]) -> None:
        if self._of != tuple(kinds):
            self._of, self._cache, self._hashes = tuple(kinds), {}, {}

    def _hash(self, kinds: Sequence[Kind], path: str, group: Sequence[Kind]) -> str:
        self._forget_others(kinds)
        if path not in self._hashes:
            self._hashes[path] = self.hash_of(group)
        return self._hashes[path]

    async def _cached(self, kinds: Sequence[Kind], name: str, make: Callable[[], bytes]) -> bytes:
        """One at a time, and in a thread: a document takes a quarter of a second, which the loop does not have."""
        async with self._making:
            self._forget_others(kinds)
            cache = self._cache
            found = cache.get(name)
            if found is None:
                found = cache[name] = await asyncio.to_thread(lambda: gzip.compress(make(), mtime=0))
            return found

    def _json(self, kinds: Sequence[Kind], *, v3: bool) -> bytes:
        paths, definitions = self._parts(kinds, encoding.dump, encoding.dump, v3=v3)
        head = encoding.dump(_head("openapi", "3.0.0") if v3 else _head("swagger", "2.0"))
        found = _object(definitions)
        tail = b',"components":{"schemas":' + found + b"}}" if v3 else b',"definitions":' + found + b"}"
        return head[:-1] + b',"paths":' + _object(paths) + tail

    def _parts(
        self, kinds: Sequence[Kind], path_item: Encode, definition: Encode, *, v3: bool
    ) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Paths and definitions, each encoded, sorted by name."""
        definitions = Definitions(_V3_REFS if v3 else _V2_REFS, definition, v3=v3)
        writer = Writer(definitions, v3=v3)
        paths = {
            path: path_item(item) for kind in kinds for path, item in writer.paths(kind, self._verbs(kind)) if item
        }
        for kind in kinds:
            if isinstance(kind, CustomKind):
                definitions.add_custom(kind)
            else:
                definitions.add([schema.descriptor_of(kind.message)])
        return dict(sorted(paths.items())), dict(sorted(definitions.found.items()))


def _head(name: str, version: str) -> dict[str, Any]:
    return {name: version, "info": {"title": _TITLE, "version": KUBERNETES_VERSION}}


def _object(members: dict[str, bytes]) -> bytes:
    return b"{" + b",".join(encoding.dump(name) + b":" + value for name, value in members.items()) + b"}"
