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
    """Invariant: what it has put into memos is at most `limit_bytes`, or one encoding; the least recently used goes first."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._total_bytes = 0
        # By the identity of the memo, which stays its own for as long as it is held here.
        self._order: OrderedDict[tuple[int, str], tuple[dict[Any, Any], int]] = OrderedDict()

    def get(self, memo: dict[Any, Any], name: str) -> bytes | None:
        found: bytes | None = memo.get(name)
        if found is not None and (id(memo), name) in self._order:
            self._order.move_to_end((id(memo), name))
        return found

    def put(self, memo: dict[Any, Any], name: str, data: bytes) -> None:
        """Only what a cache's entry has: nobody would find it elsewhere (the outcome of a dry run, a bookmark)."""
        if not isinstance(memo, Memo):
            return
        place = (id(memo), name)
        if place in self._order:
            self._total_bytes -= self._order.pop(place)[1]
        size = len(data) + _OVERHEAD_BYTES
        memo[name] = data
        self._order[place] = (memo, size)
        self._total_bytes += size
        while self._total_bytes > self._limit_bytes and len(self._order) > 1:
            (_, old_name), (old_memo, old_size) = self._order.popitem(last=False)
            old_memo.pop(old_name, None)
            self._total_bytes -= old_size

    def check_invariants(self) -> None:
        assert self._total_bytes == sum(size for _, size in self._order.values()), "the account is wrong"
        assert self._total_bytes <= self._limit_bytes or len(self._order) <= 1, "more is kept than may be"
