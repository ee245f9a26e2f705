"""What the controllers' shells share: their tools, the pod index, and carrying out claims. Called by every `controller`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message

from controlplane.controllers import claims
from wherry.api import meta
from wherry.api.context import Env
from wherry.api.errors import APIError, Forbidden, Invalid, NotFound
from wherry.client.base import ClientAPI
from wherry.client.events import EventRecorder
from wherry.client.informer import Informer, SharedInformers
from wherry.pb import core_v1_pb2, meta_v1_pb2

M = TypeVar("M", bound=Message)

log = logging.getLogger(__name__)

CONTROLLER_INDEX = "controller"
NODE_INDEX = "node"


@dataclass(frozen=True, slots=True)
class Kit:
    """What every controller works with. The informers are shared; objects in them are never changed."""

    client: ClientAPI
    env: Env
    informers: SharedInformers

    def recorder(self, component: str) -> EventRecorder:
        return EventRecorder(self.client, self.env, component)


def by_controller(obj: Any) -> tuple[str, ...]:
    """Index function: the uid of the controller, or the namespace's orphans."""
    owner = meta.controller_of(obj)
    return (owner.uid,) if owner is not None else (orphans_of(obj.metadata.namespace),)


def orphans_of(namespace: str) -> str:
    return f"orphans of {namespace}"


def by_node(pod: core_v1_pb2.Pod) -> tuple[str, ...]:
    return (pod.spec.node_name,) if pod.spec.node_name else ()


def pods(kit: Kit) -> Informer[core_v1_pb2.Pod]:
    return kit.informers.informer(core_v1_pb2.Pod, indexers={CONTROLLER_INDEX: by_controller, NODE_INDEX: by_node})


def candidates(informer: Informer[M], owner: Any) -> list[M]:
    """What the owner controls, and what nobody does in its namespace."""
    owned = informer.by_index(CONTROLLER_INDEX, owner.metadata.uid)
    orphans = informer.by_index(CONTROLLER_INDEX, orphans_of(owner.metadata.namespace))
    return [*owned, *orphans]


async def claim(client: ClientAPI, owner: Any, selector: meta_v1_pb2.LabelSelector, found: Iterable[M]) -> list[M]:
    """The objects that the owner controls afterwards. An object that changed meanwhile raises Conflict: the runner
    comes back with a fresher cache."""
    decided: claims.Claims[Any] = claims.plan(owner, selector, found)
    owned = list(decided.owned)
    if decided.adopt:
        # A cache may still show an owner that was deleted, or made anew under the same name.
        live: Any = await client.get(type(owner), owner.metadata.name, owner.metadata.namespace)
        if live.metadata.uid != owner.metadata.uid or meta.is_deleting(live):
            return owned
        for orphan in decided.adopt:
            copy = _copy(orphan)
            copy.metadata.owner_references.append(meta.owner_reference(owner))
            try:
                owned.append(await client.update(copy))
            except NotFound:
                continue
    for former in decided.release:
        copy = _copy(former)
        remove_owners(copy, lambda reference: reference.uid == owner.metadata.uid)
        try:
            await client.update(copy)
        except (NotFound, Invalid) as error:
            log.debug("releasing %s: %s", meta.key(former), error)
    return owned


def remove_owners(obj: Any, is_unwanted: Callable[[meta_v1_pb2.OwnerReference], bool]) -> bool:
    """True when there were any."""
    kept = [reference for reference in obj.metadata.owner_references if not is_unwanted(reference)]
    if len(kept) == len(obj.metadata.owner_references):
        return False
    del obj.metadata.owner_references[:]
    obj.metadata.owner_references.extend(kept)
    return True


def copy_of(obj: M) -> M:
    copy = type(obj)()
    copy.CopyFrom(obj)
    return copy


def _copy(obj: Any) -> Any:
    return copy_of(obj)


def is_namespace_terminating(error: APIError) -> bool:
    """A refusal that no retry will change, and that nobody needs to hear about."""
    return isinstance(error, Forbidden) and any(cause.reason == "NamespaceTerminating" for cause in error.causes)
