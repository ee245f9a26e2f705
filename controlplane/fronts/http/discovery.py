"""The documents of discovery: which groups, versions and resources there are. Pure; called by `handler`.

Two forms say the same: the plain documents, one per group version, and the aggregated one, for which newer clients ask by
Accept. Order and contents are those of a real API server, as far as what is served goes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from controlplane.fronts.http.subresources import Subresource, served
from controlplane.registry import versions
from wherry.api.kinds import Kind
from wherry.api.names import version_rank

# The order in which Kubernetes lists its groups; the others follow by name.
_GROUPS = (
    "apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io", "autoscaling",
    "batch", "certificates.k8s.io", "networking.k8s.io", "policy", "rbac.authorization.k8s.io", "storage.k8s.io",
    "admissionregistration.k8s.io", "apiextensions.k8s.io", "scheduling.k8s.io", "coordination.k8s.io", "node.k8s.io",
    "discovery.k8s.io", "resource.k8s.io", "flowcontrol.apiserver.k8s.io",
)  # fmt: skip

Verbs = Callable[[Kind], Sequence[str]]
Document = dict[str, Any]


class Catalogue:
    """The kinds by group and version. Made anew for each request that needs it: a few dozen kinds, some microseconds."""

    def __init__(self, kinds: Sequence[Kind], verbs: Verbs) -> None:
        self._verbs = verbs
        self._groups: dict[str, dict[str, list[Kind]]] = {}
        order = {group: number for number, group in enumerate(_GROUPS)}
        for kind in sorted(kinds, key=lambda kind: (order.get(kind.group, len(order)), kind.group, kind.plural)):
            self._groups.setdefault(kind.group, {}).setdefault(kind.version, []).append(kind)

    @property
    def groups(self) -> list[str]:
        """All but the core group."""
        return [group for group in self._groups if group]

    def versions(self, group: str) -> list[str]:
        """The preferred one first: a stable one, the newest."""
        return sorted(self._groups.get(group, ()), key=version_rank)

    def kinds(self, group: str, version: str) -> list[Kind]:
        return self._groups.get(group, {}).get(version, [])

    # plain documents

    def core_versions(self, address: str) -> Document:
        return {
            "kind": "APIVersions",
            "versions": self.versions(""),
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
        }

    def group_list(self) -> Document:
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [self._group(group) for group in self.groups]}

    def group(self, group: str) -> Document:
        return {"kind": "APIGroup", "apiVersion": "v1", **self._group(group)}

    def _group(self, group: str) -> Document:
        versions = [{"groupVersion": f"{group}/{version}", "version": version} for version in self.versions(group)]
        return {"name": group, "versions": versions, "preferredVersion": versions[0]}

    def resource_list(self, group: str, version: str) -> Document:
        resources: list[Document] = []
        for kind in self.kinds(group, version):
            resources.append(self._resource(kind))
            resources += [_subresource(kind, name, found) for name, found in served(kind).items()]
        # Kubernetes leaves the apiVersion out for the core group.
        head = {"kind": "APIResourceList", "apiVersion": "v1"} if group else {"kind": "APIResourceList"}
        return {**head, "groupVersion": f"{group}/{version}" if group else version, "resources": resources}

    def _resource(self, kind: Kind) -> Document:
        out: Document = {
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": list(self._verbs(kind)),
        }
        if kind.short_names:
            out["shortNames"] = list(kind.short_names)
        if kind.categories:
            out["categories"] = list(kind.categories)
        if "watch" in out["verbs"]:  # a review is answered, a measurement taken: neither is stored
            out["storageVersionHash"] = _storage_hash(kind)
        return out

    # aggregated

    def aggregated(self, groups: Sequence[str], version: str) -> Document:
        """`version` is that of the document's own group, v2 or v2beta1."""
        return {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": f"apidiscovery.k8s.io/{version}",
            "metadata": {},
            "items": [
                {
                    "metadata": {"name": group} if group else {},
                    "versions": [
                        {
                            "version": each,
                            "resources": [self._aggregated(kind) for kind in self.kinds(group, each)],
                            "freshness": "Current",
                        }
                        for each in self.versions(group)
                    ],
                }
                for group in groups
            ],
        }

    def _aggregated(self, kind: Kind) -> Document:
        out: Document = {
            "resource": kind.plural,
            "responseKind": _gvk(None, kind),
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "singularResource": kind.singular,
            "verbs": list(self._verbs(kind)),
        }
        if kind.short_names:
            out["shortNames"] = list(kind.short_names)
        if kind.categories:
            out["categories"] = list(kind.categories)
        below = [
            {"subresource": name, "responseKind": _gvk(found, kind), "verbs": list(found.verbs)}
            for name, found in served(kind).items()
        ]
        if below:
            out["subresources"] = below
        return out


def _gvk(found: Subresource | None, kind: Kind) -> Document:
    """Group and version stay empty where they are those of the resource itself."""
    if found is None or found.body is None:
        return {"group": "", "version": "", "kind": kind.kind}
    group, version, name = found.body
    return {"group": group, "version": version if group else "", "kind": name}


def _subresource(kind: Kind, name: str, found: Subresource) -> Document:
    out: Document = {"name": f"{kind.plural}/{name}", "singularName": "", "namespaced": kind.namespaced}
    group, version, body = found.body or ("", "", kind.kind)
    if group:
        out |= {"group": group, "version": version}
    return {**out, "kind": body, "verbs": list(found.verbs)}


def _storage_hash(kind: Kind) -> str:
    """Tells clients whether objects are stored in another way than before: eight bytes of the hash of the stored type."""
    view = versions.of(kind)
    stored = kind if view is None else view.primary
    text = f"{stored.group}/{stored.version}/{stored.kind}"
    return base64.b64encode(hashlib.sha256(text.encode()).digest()[:8]).decode()
