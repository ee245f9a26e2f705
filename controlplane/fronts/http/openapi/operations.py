"""The paths of a kind: which methods, parameters and bodies. Pure; kubectl looks here for what a server can do (dry run, field
validation) before it uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from controlplane.fronts.http import media, subresources
from controlplane.fronts.http.openapi.schemas import Definitions
from controlplane.fronts.http.resources import APPLY_TYPE, PATCH_TYPES
from wherry.api import schema
from wherry.api.kinds import CustomKind, Kind
from wherry.pb import meta_v1_pb2

Operation = dict[str, Any]

_LIST = (
    "allowWatchBookmarks", "continue", "fieldSelector", "labelSelector", "limit", "resourceVersion", "resourceVersionMatch",
    "sendInitialEvents", "timeoutSeconds", "watch",
)  # fmt: skip
_WRITE = ("dryRun", "fieldManager", "fieldValidation")
_DELETE = ("dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy")
_STREAMS = ("container", "stderr", "stdin", "stdout", "tty")
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "get": (),
    "list": _LIST,
    "post": _WRITE,
    "put": _WRITE,
    "patch": (*_WRITE, "force"),
    "delete": _DELETE,
    "deletecollection": (*_DELETE, *(name for name in _LIST if name not in ("allowWatchBookmarks", "watch"))),
}
_SESSIONS: dict[str, tuple[str, ...]] = {
    "attach": _STREAMS,
    "exec": ("command", *_STREAMS),
    "log": (
        "container", "follow", "insecureSkipTLSVerifyBackend", "limitBytes", "previous", "sinceSeconds", "stream",
        "tailLines", "timestamps", "pretty",
    ),
    "portforward": ("ports",),
    "proxy": ("path",),
}  # fmt: skip
_INTEGERS = ("limit", "timeoutSeconds", "gracePeriodSeconds", "limitBytes", "sinceSeconds", "tailLines", "ports")
_BOOLEANS = (
    "allowWatchBookmarks", "sendInitialEvents", "watch", "force", "orphanDependents", "stderr", "stdin", "stdout", "tty",
    "follow", "previous", "timestamps", "insecureSkipTLSVerifyBackend",
)  # fmt: skip
# Verb of the API -> action in the documents and method. "list" also stands for "watch".
_COLLECTION = {"list": ("list", "get"), "create": ("post", "post"), "deletecollection": ("deletecollection", "delete")}
_ITEM = {"get": ("get", "get"), "update": ("put", "put"), "patch": ("patch", "patch"), "delete": ("delete", "delete")}


def parameter_type(name: str) -> str:
    return "integer" if name in _INTEGERS else "boolean" if name in _BOOLEANS else "string"


class Writer:
    """Writes operations in the form of one version of OpenAPI."""

    def __init__(self, definitions: Definitions, *, v3: bool) -> None:
        self._definitions = definitions
        self._v3 = v3

    def paths(self, kind: Kind, verbs: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        root = f"/apis/{kind.api_version}" if kind.group else f"/api/{kind.version}"
        if kind.namespaced:
            below = f"{root}/namespaces/{{namespace}}/{kind.plural}"
            if "list" in verbs:
                yield f"{root}/{kind.plural}", {"get": self._operation(kind, kind.message, "list", "", everywhere=True)}
        else:
            below = f"{root}/{kind.plural}"
        yield below, self._methods(kind, _COLLECTION, verbs)
        item = f"{below}/{{name}}"
        yield item, self._methods(kind, _ITEM, verbs)
        for name, found in subresources.served(kind).items():
            yield f"{item}/{name}", self._subresource(kind, name, found)

    def _methods(self, kind: Kind, table: dict[str, tuple[str, str]], verbs: Sequence[str]) -> dict[str, Any]:
        found = {
            method: self._operation(kind, kind.message, action, "")
            for verb, (action, method) in table.items()
            if verb in verbs
        }
        return self._with_path(found, kind, named=table is _ITEM)

    def _subresource(self, kind: Kind, name: str, found: subresources.Subresource) -> dict[str, Any]:
        cls = subresources.body_class(kind, name)
        table = {**_ITEM, "create": ("post", "post")}
        methods = {table[verb][1]: self._operation(kind, cls, table[verb][0], name) for verb in found.verbs}
        return self._with_path(methods, kind, named=True)

    def _with_path(self, methods: dict[str, Any], kind: Kind, *, named: bool) -> dict[str, Any]:
        names = (["name"] if named else []) + (["namespace"] if kind.namespaced else [])
        return {**methods, "parameters": [self._parameter(name, "path") for name in names]} if methods else {}

    def _operation(
        self, kind: Kind, cls: type[Any], action: str, subresource: str, *, everywhere: bool = False
    ) -> Operation:
        group, version, name = kind.group, kind.version, kind.kind
        meta = schema.type_meta(cls)
        if meta is not None:
            group, _, version = meta[0].rpartition("/")
            name = meta[1]
        session = subresource in _SESSIONS
        queries = _SESSIONS[subresource] if session else (*_PARAMETERS[action], "pretty")
        words = "".join(part.capitalize() for part in (action, kind.group.split(".")[0] or "core", kind.version))
        where = "ForAllNamespaces" if everywhere else "Namespaced" if kind.namespaced else ""
        out: Operation = {
            "operationId": f"{words[0].lower()}{words[1:]}{where}{kind.kind}{subresource.capitalize()}",
            "x-kubernetes-action": "connect" if session and subresource != "log" else action,
            "x-kubernetes-group-version-kind": {"group": group, "kind": name, "version": version},
            "parameters": [self._parameter(query, "query") for query in sorted(queries)],
        }
        answer = None if session else self._answer(kind, cls, action)
        if self._v3:
            offered = media.TEXTS if isinstance(kind, CustomKind) else media.ENCODINGS
            content = {each: {"schema": answer} for each in offered} if answer else {}
            out["responses"] = {"200": {"description": "OK", **({"content": content} if content else {})}}
        else:
            out["responses"] = {"200": {"description": "OK", **({"schema": answer} if answer else {})}}
        self._body(out, kind, cls, action, session)
        return out

    def _answer(self, kind: Kind, cls: type[Any], action: str) -> dict[str, Any]:
        if isinstance(kind, CustomKind) and cls is kind.message and action not in ("delete", "deletecollection"):
            return self._definitions.ref_custom(kind, listed=action == "list")
        if action == "list":
            listed = schema.find_class(kind.api_version, f"{kind.kind}List")
            if listed is not None:
                return self._refer(listed)
        if action in ("delete", "deletecollection"):
            return self._refer(meta_v1_pb2.Status)
        return self._refer(cls)

    def _body(self, out: Operation, kind: Kind, cls: type[Any], action: str, session: bool) -> None:
        if session or action in ("get", "list"):
            return
        types: tuple[str, ...] = ("*/*",)
        wanted = cls
        if action == "patch":
            types, wanted = (*PATCH_TYPES, APPLY_TYPE), meta_v1_pb2.Patch
            if isinstance(kind, CustomKind):
                types = tuple(each for each in types if "strategic" not in each)
        elif action in ("delete", "deletecollection"):
            wanted = meta_v1_pb2.DeleteOptions
        own = isinstance(kind, CustomKind) and wanted is kind.message
        body = self._definitions.ref_custom(kind) if isinstance(kind, CustomKind) and own else self._refer(wanted)
        needed = action in ("post", "put", "patch")
        if self._v3:
            out["requestBody"] = {"content": {each: {"schema": body} for each in types}, "required": needed}
        else:
            out["consumes"] = list(types)
            out["parameters"].append({"name": "body", "in": "body", "required": needed, "schema": body})

    def _refer(self, cls: type[Any]) -> dict[str, Any]:
        descriptor = schema.descriptor_of(cls)
        self._definitions.add([descriptor])
        return self._definitions.ref(descriptor)

    def _parameter(self, name: str, place: str) -> dict[str, Any]:
        kind: dict[str, Any] = {"type": parameter_type(name)}
        out: dict[str, Any] = {"name": name, "in": place}
        if place == "path":
            out["required"] = True
        return {**out, "schema": {**kind, "uniqueItems": True}} if self._v3 else {**out, **kind, "uniqueItems": True}


Verbs = Callable[[Kind], Sequence[str]]
