"""Answers about the cluster's names as they were sent, by the question as it came: what pods ask again and again is not worked
out again. Used by `server`, for datagrams. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_QUESTIONS = 2048
# Records come in another order each time, since many clients take the first; so many orders are kept.
MAX_ORDERS = 16


@dataclass(slots=True)
class _Kept:
    orders: list[bytes] = field(default_factory=list)  # without the question's id
    wanted: int = 1
    turn: int = 0


class Answers:
    """Invariant: all that is kept was true when the zone had `_version`. `add` what `get` did not have."""

    def __init__(self) -> None:
        self._version = -1
        self._kept: dict[bytes, _Kept] = {}

    def get(self, data: bytes, version: int) -> bytes | None:
        """The answer to a message; None when it has to be made. `version`: of the zone, now."""
        if version != self._version:
            self._kept.clear()
            self._version = version
            return None
        kept = self._kept.get(data[2:])
        if kept is None or len(kept.orders) < kept.wanted:
            return None
        kept.turn = (kept.turn + 1) % kept.wanted
        return data[:2] + kept.orders[kept.turn]

    def add(self, data: bytes, answer: bytes, records: int) -> None:
        """`records`: how many there are to be given in one or another order."""
        question = data[2:]
        kept = self._kept.get(question)
        if kept is None:
            while len(self._kept) >= MAX_QUESTIONS:
                del self._kept[next(iter(self._kept))]
            kept = self._kept[question] = _Kept(wanted=min(max(records, 1), MAX_ORDERS))
        kept.orders.append(answer[2:])
