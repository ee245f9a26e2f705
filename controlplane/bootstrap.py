"""What a cluster has from its first moment beside its namespaces (which the registry makes): an id. Called by
`controlplane.server` at every start; what is there already stays as it is."""

from __future__ import annotations

from controlplane.store.base import Compare, Put, Store
from wherry.api.context import Env

CLUSTER_ID_KEY = "/wherry/cluster-id"


async def ensure_cluster_id(store: Store, env: Env) -> str:
    """The first of several replicas draws it."""
    kept = await store.get(CLUSTER_ID_KEY)
    if kept is None:
        await store.txn([Compare(CLUSTER_ID_KEY, 0)], [Put(CLUSTER_ID_KEY, env.uuid().encode())])
        kept = await store.get(CLUSTER_ID_KEY)
        assert kept is not None
    return kept.value.decode()
