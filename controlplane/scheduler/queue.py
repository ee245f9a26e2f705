"""The pods that wait for a node, with kube-scheduler's semantics. Pure: the time comes in as `now` (the loop's clock).

Every pod is in one state, each edge by one event:

    add ----------> ACTIVE --pop--> IN_FLIGHT --bound, deleted--> (gone)
    add, gates ---> GATED                |---no node fits-------> UNSCHEDULABLE
    gates removed:  GATED -> ACTIVE      |---the bind failed----> BACKOFF
    a cluster event that may help, a change of the pod's needs, 5 minutes without either:
                    UNSCHEDULABLE -> ACTIVE, or BACKOFF while its back-off lasts
    back-off over:  BACKOFF -> ACTIVE

`Scheduler` owns the one instance. Invariants (`check_invariants`): every entry whose state has a heap is in that heap under
its current ticket; a stale ticket is skipped when it comes up.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import Enum

from controlplane.scheduler.cluster import PodInfo
from controlplane.scheduler.needs import Needs

BACKOFF_INITIAL_S = 1.0
BACKOFF_MAX_S = 10.0
# After so long a pod is tried again even though nothing seems to have changed: a safety net against a missed event.
FLUSH_AFTER_S = 300.0


class State(Enum):
    ACTIVE = "active"
    BACKOFF = "backoff"
    UNSCHEDULABLE = "unschedulable"
    GATED = "gated"
    IN_FLIGHT = "in flight"


@dataclass(slots=True, eq=False)
class Entry:
    info: PodInfo
    state: State
    since: float  # when it came into the queue, or last failed: the order among equals
    attempts: int = 0
    ticket: int = 0  # of its valid place in a heap
    wakes_on: frozenset[str] = frozenset()

    # cycle.Schedulable
    @property
    def needs(self) -> Needs:
        return self.info.needs

    @property
    def priority(self) -> int:
        return self.info.priority

    @property
    def may_preempt(self) -> bool:
        return self.info.may_preempt

    def backoff_until(self) -> float:
        if not self.attempts:
            return self.since
        return self.since + min(BACKOFF_INITIAL_S * 2.0 ** min(self.attempts - 1, 10), BACKOFF_MAX_S)


class SchedulingQueue:
    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._active: list[tuple[int, float, int, Entry]] = []
        self._backoff: list[tuple[float, int, Entry]] = []
        self._unschedulable: dict[str, Entry] = {}
        self._tickets = 0
        self._active_count = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def active(self) -> int:
        return self._active_count

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    # -- what the watch says

    def put(self, info: PodInfo, now: float) -> Entry:
        """A pod that waits has appeared or changed."""
        entry = self._entries.get(info.key)
        if entry is not None and entry.info.uid != info.uid:
            self.delete(info.key)
            entry = None
        gated = bool(info.pod.spec.scheduling_gates)
        if entry is None:
            entry = self._entries[info.key] = Entry(info, State.GATED, now)
            if not gated:
                self._activate(entry)
            return entry
        changed = entry.info.needs is not info.needs
        entry.info = info
        if entry.state is State.GATED:
            if not gated:
                entry.since = now
                self._activate(entry)
        elif entry.state is State.UNSCHEDULABLE and changed:
            self._leave_unschedulable(entry, now)
        return entry

    def delete(self, key: str) -> None:
        """The pod is bound, gone, or no longer ours. One in flight stays so until the one who popped it hears of it."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._leave(entry)

    def move(self, events: frozenset[str], now: float) -> None:
        """Something happened in the cluster: whoever may be helped by it tries again."""
        if events and self._unschedulable:
            for entry in [entry for entry in self._unschedulable.values() if entry.wakes_on & events]:
                self._leave_unschedulable(entry, now)

    # -- the cycle

    def pop(self, limit: int) -> list[Entry]:
        """The next pods: the highest priority first, then who has waited longest. They are in flight, and each must come
        back by `unschedulable` or `back_off`, or be deleted once they are bound."""
        popped: list[Entry] = []
        while self._active and len(popped) < limit:
            _, _, ticket, entry = heapq.heappop(self._active)
            if entry.ticket == ticket and entry.state is State.ACTIVE:
                self._leave(entry)
                entry.state = State.IN_FLIGHT
                entry.attempts += 1
                popped.append(entry)
        return popped

    def unschedulable(self, entry: Entry, wakes_on: frozenset[str], now: float) -> None:
        if self._owns(entry):
            entry.since, entry.wakes_on = now, wakes_on
            entry.state = State.UNSCHEDULABLE
            self._unschedulable[entry.info.key] = entry

    def back_off(self, entry: Entry, now: float) -> None:
        """An error that has nothing to do with the pod: try again by itself."""
        if self._owns(entry):
            entry.since = now
            self._to_backoff(entry)

    # -- time

    def advance(self, now: float) -> None:
        """Moves those whose back-off is over, and those that have waited for an event for too long."""
        while self._backoff and self._backoff[0][0] <= now:
            _, ticket, entry = heapq.heappop(self._backoff)
            if entry.ticket == ticket and entry.state is State.BACKOFF:
                self._activate(entry)
        while self._unschedulable:
            # Entries come in as time passes, so the first is the oldest.
            oldest = next(iter(self._unschedulable.values()))
            if oldest.since + FLUSH_AFTER_S > now:
                break
            self._leave_unschedulable(oldest, now)

    def next_time(self) -> float | None:
        """When `advance` will have something to do."""
        while self._backoff and (
            self._backoff[0][2].ticket != self._backoff[0][1] or self._backoff[0][2].state is not State.BACKOFF
        ):
            heapq.heappop(self._backoff)
        times = [self._backoff[0][0]] if self._backoff else []
        if self._unschedulable:
            times.append(next(iter(self._unschedulable.values())).since + FLUSH_AFTER_S)
        return min(times, default=None)

    # -- inside

    def _owns(self, entry: Entry) -> bool:
        """Whether the entry is still the pod's, and in flight: it may have been deleted, or bound by others, meanwhile."""
        return self._entries.get(entry.info.key) is entry and entry.state is State.IN_FLIGHT

    def _ticket(self, entry: Entry) -> int:
        self._tickets += 1
        entry.ticket = self._tickets
        return self._tickets

    def _activate(self, entry: Entry) -> None:
        entry.state = State.ACTIVE
        self._active_count += 1
        heapq.heappush(self._active, (-entry.priority, entry.since, self._ticket(entry), entry))

    def _to_backoff(self, entry: Entry) -> None:
        entry.state = State.BACKOFF
        heapq.heappush(self._backoff, (entry.backoff_until(), self._ticket(entry), entry))

    def _leave_unschedulable(self, entry: Entry, now: float) -> None:
        self._leave(entry)
        if entry.backoff_until() > now:
            self._to_backoff(entry)
        else:
            self._activate(entry)

    def _leave(self, entry: Entry) -> None:
        if entry.state is State.ACTIVE:
            self._active_count -= 1
        elif entry.state is State.UNSCHEDULABLE:
            del self._unschedulable[entry.info.key]
        entry.ticket = 0
        if len(self._active) > 2 * self._active_count + 64:
            # Deleted pods leave stale tickets behind; without this a flood of short-lived pods would pile them up.
            self._active = [item for item in self._active if item[3].ticket == item[2]]
            heapq.heapify(self._active)

    def check_invariants(self) -> None:
        valid = {item[2] for item in self._active if item[3].ticket == item[2]}
        waiting = {item[1] for item in self._backoff if item[2].ticket == item[1]}
        counts = dict.fromkeys(State, 0)
        for key, entry in self._entries.items():
            assert entry.info.key == key
            counts[entry.state] += 1
            if entry.state is State.ACTIVE:
                assert entry.ticket in valid, key
            elif entry.state is State.BACKOFF:
                assert entry.ticket in waiting, key
            elif entry.state is State.UNSCHEDULABLE:
                assert self._unschedulable[key] is entry, key
        assert counts[State.ACTIVE] == self._active_count == len(valid)
        assert counts[State.BACKOFF] == len(waiting)
        assert counts[State.UNSCHEDULABLE] == len(self._unschedulable)
