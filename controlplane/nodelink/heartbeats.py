"""Who was heard when: in memory only, by the loop's clock. Written by `connection`, read by `monitor`, by the joiner and by
whoever wants to know (`ControlPlane.heartbeats`).

The interval is dictated from the number of nodes, so that their sum stays at INTERVAL_NODES messages a second: up to that
many nodes a silent one is found within 5 s (4 s of silence, a tick of the monitor, one write), above it in proportion.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

INTERVAL_NODES = 500
MIN_INTERVAL_S = 1.0
MAX_INTERVAL_S = 10.0
LOST_AFTER_INTERVALS = 4


def interval_s(nodes: int) -> float:
    """In steps of half a second, so that one more node does not change it for all."""
    wanted = nodes / INTERVAL_NODES
    return min(max(MIN_INTERVAL_S, -(-wanted // 0.5) * 0.5), MAX_INTERVAL_S)


# (node, True) when its stream came up, (node, False) when it went.
Listener = Callable[[str, bool], None]


class Heartbeats:
    """Invariants: a connected node has been heard; `last_seen` never goes back."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._connected: dict[str, int] = {}  # node -> number of its live streams (2 while one replaces the other)
        self._listeners: list[Listener] = []

    def beat(self, node: str) -> None:
        self._last[node] = asyncio.get_running_loop().time()

    def last_seen(self, node: str) -> float | None:
        """Loop time of the last message of its agent; None when there was none since this process began."""
        return self._last.get(node)

    def connected(self, node: str) -> bool:
        return self._connected.get(node, 0) > 0

    def connected_nodes(self) -> list[str]:
        return sorted(self._connected)

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def forgive(self, seconds: float) -> None:
        """We did not listen for that long ourselves (the process was stopped, or the loop was busy): nobody was silent."""
        now = asyncio.get_running_loop().time()
        for node, seen in self._last.items():
            self._last[node] = min(now, seen + seconds)

    def connect(self, node: str) -> None:
        self.beat(node)
        self._connected[node] = self._connected.get(node, 0) + 1
        if self._connected[node] == 1:
            for listener in self._listeners:
                listener(node, True)

    def disconnect(self, node: str) -> None:
        left = self._connected[node] - 1
        if left:
            self._connected[node] = left
            return
        del self._connected[node]
        for listener in self._listeners:
            listener(node, False)

    def forget(self, node: str) -> None:
        """The Node object is gone."""
        if not self.connected(node):
            self._last.pop(node, None)

    def check_invariants(self) -> None:
        assert all(node in self._last for node in self._connected)
        assert all(count > 0 for count in self._connected.values())
