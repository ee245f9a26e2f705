"""What a binding gives its policy to go by: objects of the policy's paramKind. Called by `enforce`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controlplane.admission import matching
from controlplane.admission.base import Lookup
from wherry.api import labels


class BadParams(Exception):
    """The binding can't be used as it stands, in Kubernetes' words."""


async def collect(spec: Any, binding: Any, namespace: str, lookup: Lookup) -> Sequence[dict[str, Any] | None]:
    """The policy is asked once with each; a single None for a policy that goes by none. Raises BadParams."""
    if not spec.HasField("param_kind") or not binding.HasField("param_ref"):
        return [None]
    kind, ref = spec.param_kind, binding.param_ref
    namespaced = await lookup.namespaced(kind.api_version, kind.kind)
    if namespaced is None:
        raise BadParams(f"paramKind kind `{kind.api_version}, Kind={kind.kind}` not known")
    if ref.namespace and not namespaced:
        raise BadParams("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
    where = (ref.namespace or namespace) if namespaced else ""
    if namespaced and not where:
        raise BadParams("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")
    if ref.name:
        one = await lookup.find(kind.api_version, kind.kind, where, ref.name)
        found = [one] if one is not None else []
    else:
        selector = labels.from_message(ref.selector)
        if namespaced:
            present = [item.message for item in await lookup.within(kind.api_version, kind.kind, where)]
        else:
            present = await lookup.all(kind.api_version, kind.kind)
        found = [item for item in present if selector.matches(item.metadata.labels)]
    if not found and ref.parameter_not_found_action != "Allow":
        raise BadParams("no params found for policy binding with `Deny` parameterNotFoundAction")
    return [matching.plain(item) for item in found]
