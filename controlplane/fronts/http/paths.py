"""What a request asks for, read from its method, path and query. Pure; called by `handler`.

The rules are those of Kubernetes' RequestInfo: the authoriser and the audit log see the same verb and names that they would
see there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from controlplane.auth.authorizer import Attributes

_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
# Below a namespace's name these are its own subresources and not kinds within it.
_OF_NAMESPACES = ("status", "finalize")


@dataclass(frozen=True, slots=True)
class Target:
    """One resource request. `verb` as the authoriser knows it; `namespace` is "" for the cluster scope."""

    verb: str
    group: str
    version: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    extra: str = ""  # what follows the subresource

    def attributes(self, *, field_selector: str = "", name: str | None = None) -> Attributes:
        # Kubernetes counts a namespace as lying within itself.
        inside = self.name if self.resource == "namespaces" and not self.group else self.namespace
        return Attributes(
            verb=self.verb,
            group=self.group,
            resource=self.resource,
            subresource=self.subresource,
            namespace=inside,
            name=self.name if name is None else name,
            field_selector=field_selector,
        )


def resource_target(method: str, path: str, query: Mapping[str, str]) -> Target | None:
    """None for what is no resource: discovery, health, and everything unknown."""
    parts = [part for part in path.split("/") if part]
    if len(parts) > 2 and parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    elif len(parts) > 3 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    verb = _VERBS.get(method, "")
    watching = rest[0] == "watch" and len(rest) > 1
    if watching:
        rest = rest[1:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in _OF_NAMESPACES:
        namespace, rest = rest[1], rest[2:]
    target = Target(
        verb,
        group,
        version,
        rest[0],
        subresource=rest[2] if len(rest) > 2 else "",
        namespace=namespace,
        name=rest[1] if len(rest) > 1 else "",
        extra="/".join(rest[3:]),
    )
    if watching:
        return replace(target, verb="watch") if verb == "get" else replace(target, verb="")
    if not target.name:
        if verb == "get":
            return replace(target, verb="watch" if flag(query.get("watch")) else "list")
        if verb == "delete":
            return replace(target, verb="deletecollection")
    return target


def flag(text: str | None) -> bool:
    """A boolean of a query, where anything that is not a no is a yes; None is absent."""
    return text is not None and text.lower() not in ("false", "0")
