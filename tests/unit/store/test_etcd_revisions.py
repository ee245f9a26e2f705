"""Revisions that no message to etcd can say: they have not happened, as any other of the future."""

from __future__ import annotations

import pytest

from controlplane.store.base import FutureRevision
from controlplane.store.etcd import EtcdStore


async def test_a_revision_beyond_all_numbers_has_not_happened() -> None:
    store = EtcdStore.__new__(EtcdStore)  # nothing is asked of any server
    store._seen = 7
    for call in (store.get("/a", revision=2**63), store.list("/a/", revision=2**63)):
        with pytest.raises(FutureRevision) as caught:
            await call
        assert (caught.value.asked, caught.value.newest) == (2**63, 7)
