"""How many requests are worked on at a time, so that no client can take the control plane to itself. Both transports ask it.

Nodes, the cluster's own components and everybody else have seats apart, for reads and for writes each. Within such a level a
client has at most its share of the seats; further requests wait a while, those of the client with the fewest seats first, and
then are refused with 429. A watch or a session has a seat only until it stands. Components within the process do not come
through here.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass

from controlplane.registry.base import Identity
from wherry.api.errors import TooManyRequests

# Those of kube-apiserver.
MAX_READS = 400
MAX_WRITES = 200
# What nodes and components have besides, as a part of the above: their requests are few and short.
SYSTEM_PART = 0.5
# Of a level's seats, what one client may have: even alone it leaves room for the next one that comes.
CLIENT_PART = 0.75
MAX_WAITING = 6000  # in one level
MAX_WAITING_CLIENT = 2000
MAX_WAIT_S = 15.0
RETRY_AFTER_S = 1
MESSAGE = "Too many requests, please try again later."

_COMPONENTS = ("system:kube-scheduler", "system:kube-controller-manager", "system:apiserver")
_SYSTEM_GROUPS = ("system:nodes", "system:serviceaccounts:kube-system")


@dataclass(frozen=True, slots=True)
class Limits:
    reads: int = MAX_READS
    writes: int = MAX_WRITES


def level_of(identity: Identity) -> str:
    """nodes, system or workload."""
    if "system:nodes" in identity.groups:
        return "nodes"
    if identity.user in _COMPONENTS or any(group in identity.groups for group in _SYSTEM_GROUPS):
        return "system"
    return "workload"


class Seat:
    """Of one request. `leave` may be called more than once."""

    __slots__ = ("_client", "_level")

    def __init__(self, level: Level | None, client: str) -> None:
        self._level = level
        self._client = client

    def leave(self) -> None:
        level, self._level = self._level, None
        if level is not None:
            level.leave(self._client)


FREE = Seat(None, "")


class Level:
    """The seats of one level for one kind of request.

    Invariants: as many are taken as clients have together, at most `seats`, and no client has more than its share; nobody waits
    for a seat that he may have."""

    def __init__(self, seats: int) -> None:
        self.seats = max(seats, 1)
        self.share = max(int(seats * CLIENT_PART), 1)
        self.taken = 0
        self.refused = 0
        self._of: dict[str, int] = {}
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._count = 0

    async def enter(self, client: str) -> Seat:
        """Raises TooManyRequests."""
        if self.taken < self.seats and self._of.get(client, 0) < self.share:
            self._take(client)
            return Seat(self, client)
        queue = self._waiting.get(client)
        if self._count >= MAX_WAITING or (queue is not None and len(queue) >= MAX_WAITING_CLIENT):
            raise self._refusal()
        if queue is None:
            queue = self._waiting[client] = deque()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        self._count += 1
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave(client)  # the seat came at the very moment at which we went
            else:
                self._forget(client, turn)
            if isinstance(error, TimeoutError):
                raise self._refusal() from error
            raise
        return Seat(self, client)

    def leave(self, client: str) -> None:
        self.taken -= 1
        left = self._of[client] - 1
        if left:
            self._of[client] = left
        else:
            del self._of[client]
        self._call()

    def check_invariants(self) -> None:
        assert 0 <= self.taken == sum(self._of.values()) <= self.seats
        assert all(0 < number <= self.share for number in self._of.values())
        assert self._count == sum(map(len, self._waiting.values()))
        assert all(self._waiting.values()), "an empty queue is kept"
        assert self.taken == self.seats or all(self._of.get(client, 0) >= self.share for client in self._waiting)

    def _take(self, client: str) -> None:
        self.taken += 1
        self._of[client] = self._of.get(client, 0) + 1

    def _call(self) -> None:
        """Gives the seats that are free away: first to whom has the fewest."""
        while self.taken < self.seats:
            client = min(self._waiting, key=lambda name: self._of.get(name, 0), default=None)
            if client is None or self._of.get(client, 0) >= self.share:
                return
            queue = self._waiting[client]
            turn = queue.popleft()
            self._count -= 1
            if queue:
                self._waiting.move_to_end(client)  # in turn among those who have as many
            else:
                del self._waiting[client]
            if not turn.done():
                self._take(client)
                turn.set_result(None)

    def _forget(self, client: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(client)
        if queue is not None and turn in queue:
            queue.remove(turn)
            self._count -= 1
            if not queue:
                del self._waiting[client]

    def _refusal(self) -> TooManyRequests:
        self.refused += 1
        return TooManyRequests(MESSAGE, retry_after_s=RETRY_AFTER_S)


class Flow:
    """`limits` are those of ordinary clients; nodes and components have seats of their own besides."""

    def __init__(self, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self.levels: dict[tuple[str, bool], Level] = {}
        for name, part in (("workload", 1.0), ("system", SYSTEM_PART), ("nodes", SYSTEM_PART)):
            self.levels[name, False] = Level(int(limits.reads * part))
            self.levels[name, True] = Level(int(limits.writes * part))

    async def enter(self, identity: Identity, *, writes: bool) -> Seat:
        """Raises TooManyRequests."""
        return await self.levels[level_of(identity), writes].enter(identity.user)

    def check_invariants(self) -> None:
        for level in self.levels.values():
            level.check_invariants()
