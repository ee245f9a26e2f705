"""The APIServices of the group versions that definitions define, as Kubernetes keeps them beside those of its own groups.

Nothing is passed on to them: tools look there for what is served. Called by `controller` with each definition, and when one goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from controlplane.controllers.definitions.plan import Definition, is_established
from wherry.api import meta
from wherry.api.context import Env
from wherry.api.errors import AlreadyExists, Conflict, NotFound
from wherry.client.base import ClientAPI, Selection
from wherry.pb import apiregistration_v1_pb2

LABEL = "kube-aggregator.kubernetes.io/automanaged"
GROUP_PRIORITY, VERSION_PRIORITY = 1000, 100


def wanted(definitions: Iterable[Definition]) -> dict[str, tuple[str, str]]:
    """By name: the group and version. Pure."""
    return {
        f"{version.name}.{definition.spec.group}": (definition.spec.group, version.name)
        for definition in definitions
        if is_established(definition)
        for version in definition.spec.versions
        if version.served
    }


async def ensure(client: ClientAPI, env: Env, definition: Definition) -> None:
    for name, (group, version) in sorted(wanted([definition]).items()):
        made: Any = apiregistration_v1_pb2.APIService()
        made.metadata.name = name
        made.metadata.labels[LABEL] = "true"
        made.spec.group, made.spec.version = group, version
        made.spec.group_priority_minimum, made.spec.version_priority = GROUP_PRIORITY, VERSION_PRIORITY
        try:
            stored = await client.create(made)
        except AlreadyExists:
            stored = await client.get(apiregistration_v1_pb2.APIService, name)
        if meta.get_condition(stored.status.conditions, "Available") is None:
            changed = apiregistration_v1_pb2.APIService()
            changed.CopyFrom(stored)
            text = "Local APIServices are always available"
            meta.set_condition(
                changed.status.conditions, "Available", "True", now=env.now(), reason="Local", message=text
            )
            try:
                await client.update_status(changed)
            except (Conflict, NotFound):
                pass  # another replica is at it too


async def clean_up(client: ClientAPI, definitions: Iterable[Definition]) -> None:
    """Takes those away that no definition stands behind any more; ours alone, by their label."""
    kept = wanted(definitions)
    selection = Selection(label_selector=f"{LABEL}=true")
    found = await client.list(apiregistration_v1_pb2.APIService, selection)
    for item in found.items:
        if item.metadata.name not in kept:
            try:
                await client.delete(apiregistration_v1_pb2.APIService, item.metadata.name)
            except NotFound:
                pass
