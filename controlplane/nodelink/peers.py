"""All pods, as network policies see them, for a node: the few fields that tell whom a policy means and where they are. Called by
`servicer`; the rest of other nodes' pods is none of a node's business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from controlplane.registry.base import ListOptions, RegistryAPI, RequestContext, WatchOptions
from wherry.api import kinds
from wherry.api.errors import Expired, ServiceUnavailable
from wherry.pb import core_v1_pb2, nodelink_pb2

BATCH = 500


def projection(pod: core_v1_pb2.Pod) -> core_v1_pb2.Pod:
    found = core_v1_pb2.Pod()
    found.metadata.namespace, found.metadata.name = pod.metadata.namespace, pod.metadata.name
    found.metadata.uid = pod.metadata.uid
    found.metadata.labels.update(pod.metadata.labels)
    found.spec.node_name, found.spec.host_network = pod.spec.node_name, pod.spec.host_network
    sidecars = [container for container in pod.spec.init_containers if container.restart_policy == "Always"]
    named = [port for container in (*pod.spec.containers, *sidecars) for port in container.ports if port.name]
    if named:
        ports = found.spec.containers.add().ports
        for port in named:
            ports.add(name=port.name, protocol=port.protocol, container_port=port.container_port)
    found.status.phase, found.status.pod_ip = pod.status.phase, pod.status.pod_ip
    return found


async def peers(registry: RegistryAPI, ctx: RequestContext) -> AsyncIterator[nodelink_pb2.PodBatch]:
    """Until the caller goes, or raises ServiceUnavailable when everything has to be told again."""
    kind = kinds.by_name("v1", "Pod")
    told: dict[tuple[str, str], int] = {}  # a hash of what was told
    listed = await registry.list(ctx, kind, ListOptions())
    items = list(listed.items)
    for start in range(0, max(len(items), 1), BATCH):
        batch = nodelink_pb2.PodBatch(synced=start + BATCH >= len(items))
        for stored in items[start : start + BATCH]:
            _tell(stored.message(), batch, told)
        yield batch
    watch: Any = registry.watch(ctx, kind, WatchOptions(resource_version=str(listed.revision)))
    try:
        async for changes in watch:
            batch = nodelink_pb2.PodBatch()
            # The last word on each pod: what is removed is read before what is new.
            last = {_key(event.stored.message()): event for event in changes.events if event.type != "BOOKMARK"}
            for key, event in last.items():
                if event.type == "DELETED":
                    told.pop(key, None)
                    uid = event.stored.message().metadata.uid
                    batch.removed.add(namespace=key[0], name=key[1], uid=uid)
                else:
                    _tell(event.stored.message(), batch, told)
            if batch.upserts or batch.removed:
                yield batch
    except Expired as error:
        raise ServiceUnavailable("the pods have to be listed again") from error
    finally:
        await watch.aclose()


def _tell(pod: core_v1_pb2.Pod, batch: nodelink_pb2.PodBatch, told: dict[tuple[str, str], int]) -> None:
    """Most changes of a pod are none to policies."""
    found = projection(pod)
    digest = hash(found.SerializeToString(deterministic=True))
    if told.get(_key(pod)) != digest:
        told[_key(pod)] = digest
        batch.upserts.append(found)


def _key(pod: core_v1_pb2.Pod) -> tuple[str, str]:
    return pod.metadata.namespace, pod.metadata.name
