"""Who controls whom: which objects an owner has, adopts or lets go, by controller reference and selector.

Pure; called by the Deployment and ReplicaSet shells, which carry the changes out (`controlplane.controllers.shell`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from wherry.api import labels, meta
from wherry.pb import meta_v1_pb2

M = TypeVar("M", bound=meta.Object)


@dataclass(frozen=True, slots=True)
class Claims(Generic[M]):
    """`owned` are controlled already and stay so; `adopt` have no controller and match; `release` match no longer."""

    owned: tuple[M, ...]
    adopt: tuple[M, ...]
    release: tuple[M, ...]


def plan(owner: meta.Object, selector: meta_v1_pb2.LabelSelector, candidates: Iterable[M]) -> Claims[M]:
    """`candidates`: the objects of the owner's namespace that are its own or nobody's. An owner that is being deleted
    neither adopts nor releases: its objects are the garbage collector's by then."""
    owned: list[M] = []
    adopt: list[M] = []
    release: list[M] = []
    matcher = labels.from_message(selector)
    deleting = meta.is_deleting(owner)
    for candidate in candidates:
        controller = meta.controller_of(candidate)
        matches = matcher.matches(candidate.metadata.labels)
        if controller is not None:
            if controller.uid != owner.metadata.uid:
                continue
            if matches:
                owned.append(candidate)
            elif not deleting:
                release.append(candidate)
        elif matches and not deleting and not meta.is_deleting(candidate):
            adopt.append(candidate)
    return Claims(tuple(owned), tuple(adopt), tuple(release))
