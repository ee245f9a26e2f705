"""Encodings that are kept for the next reader, within a bound. Used by `encoding`.

What is made of an object lies in the memo of its cache entry, where every reader of that revision finds it and which goes
when the object changes. Here is only the account of it: without one a client that lists everything would double what the
control plane holds.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from controlplane.store.cache import Memo

# Room for the JSON of more than 10,000 pods of 3 KB.
LIMIT_BYTES = 48 << 20
_OVERHEAD_BYTES = 400  # of the memo and the account of one encoding


class Kept:
    """Invariant: what it has put into memos is at most `limit_bytes`, or one encoding; the least recently used goes first.

    A list that is longer than there is room for would push out its own beginning before it comes to its end, and find nothing
    the next time: `begin` it, and what it does not find room for is not kept."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._total_bytes = 0
        self._use = 0
        # By the identity of the memo, which stays its own for as long as it is held here: with the size, and in which use of the
        # whole it was last of use.
        self._order: OrderedDict[tuple[int, str], tuple[dict[Any, Any], int, int]] = OrderedDict()

    def begin(self) -> int:
        """Of a list, which gives what it gets here to `get` and `put`."""
        self._use += 1
        return self._use

    def get(self, memo: dict[Any, Any], name: str, use: int = 0) -> bytes | None:
        found: bytes | None = memo.get(name)
        if found is not None:
            place = (id(memo), name)
            held = self._order.get(place)
            if held is not None:
                if use and held[2] != use:
                    self._order[place] = (memo, held[1], use)
                self._order.move_to_end(place)
        return found

    def put(self, memo: dict[Any, Any], name: str, data: bytes, use: int = 0) -> None:
        """Only what a cache's entry has: nobody would find it elsewhere (the outcome of a dry run, a bookmark)."""
        if not isinstance(memo, Memo):
            return
        place = (id(memo), name)
        if place in self._order:
            self._total_bytes -= self._order.pop(place)[1]
        size = len(data) + _OVERHEAD_BYTES
        while use and self._order and self._total_bytes + size > self._limit_bytes:
            if next(iter(self._order.values()))[2] == use:
                memo.pop(name, None)
                return
            self._drop()
        memo[name] = data
        self._order[place] = (memo, size, use)
        self._total_bytes += size
        while self._total_bytes > self._limit_bytes and len(self._order) > 1:
            self._drop()

    def check_invariants(self) -> None:
        assert self._total_bytes == sum(size for _, size, _ in self._order.values()), "the account is wrong"
        assert self._total_bytes <= self._limit_bytes or len(self._order) <= 1, "more is kept than may be"

    def _drop(self) -> None:
        (_, name), (memo, size, _) = self._order.popitem(last=False)
        memo.pop(name, None)
        self._total_bytes -= size
