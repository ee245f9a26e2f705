"""The subresources that this front serves: their verbs, and the kinds of their bodies. Read by `discovery` and `resources`.

A kind names its subresources in the schema; here stands what each of these words means. One that is not here is not served,
and so not shown in discovery.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from google.protobuf.message import Message

from wherry.api import schema
from wherry.api.kinds import Kind

READ_WRITE = ("get", "patch", "update")
CONNECT = ("create", "get")
_ANY = ("create", "delete", "get", "patch", "update")


@dataclass(frozen=True, slots=True)
class Subresource:
    """`body` is (group, version, kind) where that is not the kind itself; the first word is "" for the core group."""

    verbs: tuple[str, ...]
    body: tuple[str, str, str] | None = None
    session: bool = False  # a connection to a container or a node, and not an object
    deep: bool = False  # may have a path of its own below


_ALL = {
    "approval": Subresource(READ_WRITE),
    "attach": Subresource(CONNECT, ("", "v1", "PodAttachOptions"), session=True),
    "binding": Subresource(("create",), ("", "v1", "Binding")),
    "ephemeralcontainers": Subresource(READ_WRITE),
    "eviction": Subresource(("create",), ("policy", "v1", "Eviction")),
    "exec": Subresource(CONNECT, ("", "v1", "PodExecOptions"), session=True),
    "finalize": Subresource(("update",)),
    "log": Subresource(("get",), session=True),
    "portforward": Subresource(CONNECT, ("", "v1", "PodPortForwardOptions"), session=True),
    "proxy": Subresource(_ANY, ("", "v1", "NodeProxyOptions"), session=True, deep=True),
    "resize": Subresource(READ_WRITE),
    "scale": Subresource(READ_WRITE, ("autoscaling", "v1", "Scale")),
    "status": Subresource(READ_WRITE),
    "token": Subresource(("create",), ("authentication.k8s.io", "v1", "TokenRequest")),
}
# Those that take other options than their namesakes.
_OF_KINDS = {
    (plural, "proxy"): Subresource(_ANY, ("", "v1", options), session=True, deep=True)
    for plural, options in (("pods", "PodProxyOptions"), ("services", "ServiceProxyOptions"))
}


def served(kind: Kind) -> Mapping[str, Subresource]:
    """Of a kind, by name, in alphabetical order."""
    return _served(kind.plural, kind.subresources)


@lru_cache(maxsize=512)
def _served(plural: str, names: tuple[str, ...]) -> Mapping[str, Subresource]:
    return {name: _OF_KINDS.get((plural, name), _ALL[name]) for name in sorted(names) if name in _ALL}


def body_class(kind: Kind, name: str) -> type[Message]:
    """The class of what is written to `name` ("" is the object itself)."""
    found = served(kind).get(name)
    body = found.body if found is not None else None
    if body is None:
        return kind.message
    group, version, body_kind = body
    cls = schema.find_class(f"{group}/{version}" if group else version, body_kind)
    assert cls is not None, body
    return cls
