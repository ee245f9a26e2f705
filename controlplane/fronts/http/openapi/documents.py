"""The documents themselves, and the index of those of v3. Called by `handler`.

Each is made when it is first asked for, and kept as bytes for as long as the same kinds are served. The hash in the index changes
with the kinds and their schema, so that a client may keep a document under it for ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import wherry
from controlplane.fronts.http import encoding
from controlplane.fronts.http.openapi.operations import Verbs, Writer
from controlplane.fronts.http.openapi.schemas import Definitions
from controlplane.fronts.resources import KUBERNETES_VERSION
from wherry.api import schema
from wherry.api.kinds import Kind

_TITLE = "Wherry: the Kubernetes API"
_V2_REFS, _V3_REFS = "#/definitions/", "#/components/schemas/"


class Documents:
    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs
        self._of: tuple[Kind, ...] = ()
        self._cache: dict[str, bytes] = {}

    def index(self, kinds: Sequence[Kind]) -> dict[str, Any]:
        paths = {}
        for path, group in self._groups(kinds).items():
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={self.hash_of(group)}"}
        return {"paths": paths}

    def hash_of(self, kinds: Sequence[Kind]) -> str:
        digest = hashlib.sha256(f"{wherry.__version__} {KUBERNETES_VERSION}".encode())
        for kind in kinds:
            digest.update(f"{kind.api_version} {kind.kind} {','.join(self._verbs(kind))}\n".encode())
        for file in sorted({schema.descriptor_of(kind.message).file.name for kind in kinds}):
            found = next(kind for kind in kinds if schema.descriptor_of(kind.message).file.name == file)
            digest.update(schema.descriptor_of(found.message).file.serialized_pb)
        return digest.hexdigest().upper()

    def v3(self, kinds: Sequence[Kind], path: str) -> tuple[bytes, str] | None:
        """The document of one group version (`apis/apps/v1`) and its hash; None when there is no such."""
        group = self._groups(kinds).get(path)
        if group is None:
            return None
        return self._cached(kinds, path, lambda: encoding.dump(self._document(group, v3=True))), self.hash_of(group)

    def v2_json(self, kinds: Sequence[Kind]) -> bytes:
        return self._cached(kinds, "v2.json", lambda: encoding.dump(self._document(kinds, v3=False)))

    def v2_wire(self, kinds: Sequence[Kind]) -> bytes:
        from controlplane.fronts.http.openapi.wire import document

        return self._cached(kinds, "v2.pb", lambda: document(self._document(kinds, v3=False)))

    def _groups(self, kinds: Sequence[Kind]) -> dict[str, list[Kind]]:
        found: dict[str, list[Kind]] = {}
        for kind in sorted(kinds, key=lambda kind: (kind.api_version, kind.plural)):
            found.setdefault(f"apis/{kind.api_version}" if kind.group else f"api/{kind.version}", []).append(kind)
        return found

    def _cached(self, kinds: Sequence[Kind], name: str, make: Any) -> bytes:
        if self._of != tuple(kinds):
            self._of, self._cache = tuple(kinds), {}
        found = self._cache.get(name)
        if found is None:
            found = self._cache[name] = make()
        return found

    def _document(self, kinds: Sequence[Kind], *, v3: bool) -> dict[str, Any]:
        definitions = Definitions(_V3_REFS if v3 else _V2_REFS, v3=v3)
        writer = Writer(definitions, v3=v3)
        paths = {path: item for kind in kinds for path, item in writer.paths(kind, self._verbs(kind)) if item}
        definitions.add(schema.descriptor_of(kind.message) for kind in kinds)
        head = {"info": {"title": _TITLE, "version": KUBERNETES_VERSION}, "paths": dict(sorted(paths.items()))}
        found = dict(sorted(definitions.found.items()))
        if v3:
            return {"openapi": "3.0.0", **head, "components": {"schemas": found}}
        return {"swagger": "2.0", **head, "definitions": found}
