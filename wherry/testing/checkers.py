"""What must always hold in a cluster, one sentence each, checked at every change of a simulated one.

A checker sees each change once, in order, with the history up to it, and raises `Violation`. Apart from the simulation,
so that what is checked can be read without knowing how it is driven. Used by `wherry.testing.cluster`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

from wherry.api import meta, resources
from wherry.testing.history import Change, History

RECENT_S = 5.0  # a controller may act on what it saw that long ago


class Violation(AssertionError):
    """An invariant does not hold. The message names the sentence, the object and the change."""


class Checker(Protocol):
    def check(self, change: Change, history: History) -> None: ...


def _fail(checker: Checker, change: Change, what: str) -> None:
    raise Violation(f"{(checker.__doc__ or '').strip()} But: {what}. The change: {change}")


def _active(pod: Any) -> bool:
    return pod.status.phase not in ("Succeeded", "Failed") and not meta.is_deleting(pod)


class BoundPodsStay:
    """A bound pod never changes its node."""

    def check(self, change: Change, history: History) -> None:
        if change.kind.group_resource != "pods" or change.old is None or change.new is None:
            return
        before, after = change.old.spec.node_name, change.new.spec.node_name
        if change.old.metadata.uid != change.new.metadata.uid:
            _fail(self, change, "the uid of a living object changed")
        if before and before != after:
            _fail(self, change, f'it moved from "{before}" to "{after}"')


class NodesAreNotOvercommitted:
    """The pods bound to a node never ask for more than it can allocate."""

    def __init__(self) -> None:
        self._used: dict[str, Counter[str]] = {}

    def check(self, change: Change, history: History) -> None:
        if change.kind.group_resource != "pods":
            return
        self._book(change.old, -1)
        self._book(change.new, 1)
        pod = change.new
        if pod is None or not pod.spec.node_name or (change.old is not None and change.old.spec.node_name):
            return
        node = history.objects("nodes").get(pod.spec.node_name)
        if node is None:
            return  # gone between the decision and the binding
        room = resources.units(node.status.allocatable)
        for name, used in sorted(self._used[pod.spec.node_name].items()):
            if used > room.get(name, 0):
                _fail(
                    self, change, f"node {pod.spec.node_name}: {used} {name} asked for, {room.get(name, 0)} allocatable"
                )

    def _book(self, pod: Any, sign: int) -> None:
        if pod is None or not pod.spec.node_name or pod.status.phase in ("Succeeded", "Failed"):
            return
        used = self._used.setdefault(pod.spec.node_name, Counter())
        used["pods"] += sign
        for name, amount in resources.pod_requests(pod).items():
            used[name] += sign * amount


class ReplicaSetsMakeNoSurplus:
    """A ReplicaSet never has more pods than it was asked for lately."""

    def __init__(self) -> None:
        self._asked: dict[str, list[tuple[float, int]]] = {}  # uid -> (until when it held, replicas)
        self._active: dict[str, set[str]] = {}

    def check(self, change: Change, history: History) -> None:
        if change.kind.group_resource == "replicasets.apps":
            self._on_set(change)
        elif change.kind.group_resource == "pods":
            self._on_pod(change)

    def _on_set(self, change: Change) -> None:
        rs = change.new if change.new is not None else change.old
        sizes = self._asked.setdefault(rs.metadata.uid, [])
        if sizes:
            sizes[-1] = (change.at_s, sizes[-1][1])
        sizes.append((float("inf"), rs.spec.replicas))

    def _on_pod(self, change: Change) -> None:
        pod = change.new if change.new is not None else change.old
        owner = meta.controller_of(pod)
        if owner is None or owner.kind != "ReplicaSet":
            return
        active = self._active.setdefault(owner.uid, set())
        if change.new is None or not _active(change.new):
            active.discard(pod.metadata.uid)
            return
        active.add(pod.metadata.uid)
        sizes = self._asked.get(owner.uid)
        if change.old is not None or sizes is None:
            return
        allowed = max(size for until, size in sizes if until >= change.at_s - RECENT_S)
        if len(active) > allowed:
            _fail(self, change, f"{len(active)} pods of {owner.name}, {allowed} asked for")


class RevisionsAreAcknowledgedOnce:
    """No acknowledged write is lost: its revision is in the history, with its object."""

    def __init__(self) -> None:
        self._acknowledged: dict[int, str] = {}

    def acknowledge(self, obj: Any) -> None:
        """To be called with what a write answered."""
        self._acknowledged[int(obj.metadata.resource_version)] = meta.key(obj)

    def check(self, change: Change, history: History) -> None: ...

    def finish(self, history: History) -> None:
        keys: dict[int, list[str]] = {}  # a namespace comes with its service account
        for change in history.changes:
            keys.setdefault(change.revision, []).append(change.key)
        for revision, key in sorted(self._acknowledged.items()):
            if key not in keys.get(revision, ()):
                raise Violation(f"{self.__doc__} But: {key} at revision {revision} is {keys.get(revision)} there")


class ReadyPodsNeverBelow:
    """Once a Deployment is up, a rollout never leaves it fewer ready pods than allowed, nor more pods than allowed."""

    def __init__(self, namespace: str, labels: dict[str, str], *, minimum: int, maximum: int) -> None:
        self._namespace, self._labels = namespace, labels
        self._minimum, self._maximum = minimum, maximum
        self._ready: set[str] = set()
        self._active: set[str] = set()
        self.armed = False
        self.lowest = maximum
        self.highest = 0

    def check(self, change: Change, history: History) -> None:
        if change.kind.group_resource != "pods":
            return
        pod = change.new if change.new is not None else change.old
        if pod.metadata.namespace != self._namespace:
            return
        if any(pod.metadata.labels.get(key) != value for key, value in self._labels.items()):
            return
        alive = change.new is not None and _active(change.new)
        ready = alive and meta.is_true(change.new.status.conditions, "Ready")
        (self._active.add if alive else self._active.discard)(pod.metadata.uid)
        (self._ready.add if ready else self._ready.discard)(pod.metadata.uid)
        if not self.armed:
            self.armed = len(self._ready) >= self._minimum
            return
        self.lowest = min(self.lowest, len(self._ready))
        self.highest = max(self.highest, len(self._active))
        if len(self._ready) < self._minimum:
            _fail(self, change, f"{len(self._ready)} ready, at least {self._minimum} wanted")
        if len(self._active) > self._maximum:
            _fail(self, change, f"{len(self._active)} pods, at most {self._maximum} wanted")


class QuotasHold:
    """No pod is made beyond a quota on the number of pods."""

    def check(self, change: Change, history: History) -> None:
        if change.kind.group_resource != "pods" or change.old is not None or change.new is None:
            return
        namespace = change.new.metadata.namespace
        for quota in history.objects("resourcequotas").values():
            if quota.metadata.namespace != namespace or "pods" not in quota.spec.hard or quota.spec.scopes:
                continue
            here = [pod for pod in history.objects("pods").values() if pod.metadata.namespace == namespace]
            number = sum(1 for pod in here if pod.status.phase not in ("Succeeded", "Failed"))
            if number > int(quota.spec.hard["pods"].string):
                _fail(self, change, f"{number} pods, and {quota.metadata.name} allows {quota.spec.hard['pods'].string}")


def always() -> list[Checker]:
    """Those that hold whatever happens."""
    return [BoundPodsStay(), NodesAreNotOvercommitted(), ReplicaSetsMakeNoSurplus(), QuotasHold()]
