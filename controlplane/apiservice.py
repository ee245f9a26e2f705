"""The Service `kubernetes` in the namespace default, by which pods find the Kubernetes API: its address is the first of the
Services' range, its endpoints are the control plane's replicas. Run by `wherry server` beside the HTTP front.

Nobody but the replicas writes these objects. A single server's address takes the place of whatever was there. Of several each
says that it lives (`controlplane.replicas`) and writes the addresses of all that do, so one that is gone leaves when its time has
run out, and one that ends in good order at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Sequence
from typing import Any

from controlplane.replicas import LEAVING_S, Replicas
from controlplane.store.base import StoreError
from wherry.api.errors import APIError, NotFound
from wherry.client.base import ClientAPI
from wherry.pb import core_v1_pb2, discovery_v1_pb2, meta_intstr_pb2, meta_v1_pb2

log = logging.getLogger(__name__)

NAME, NAMESPACE = "kubernetes", "default"
PERIOD_S = 30.0
CHECK_S = 5.0  # with several replicas: they are followed, but somebody may have changed the objects
RETRY_S = 1.0
MAX_REPLICAS = 16


def is_routable(host: str) -> bool:
    """Whether pods can be sent to this address."""
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_link_local)


def cluster_ip(service_range: str) -> str:
    """The first address of the Services' range (a CIDR)."""
    return str(ipaddress.ip_network(service_range)[1])


async def keep(client: ClientAPI, service_range: str, host: str, port: int, replicas: Replicas | None = None) -> None:
    """Until cancelled. Without `replicas` there is one server."""
    address = cluster_ip(service_range)
    try:
        while True:
            try:
                if replicas is not None:
                    await replicas.announce(host)
                await _bring_up_to_date(client, address, host, port, replicas)
            except (APIError, StoreError) as error:
                log.debug("the Service %s: %s", NAME, error)
                await asyncio.sleep(RETRY_S)
                continue
            if replicas is not None:
                await replicas.changed(CHECK_S)
            else:
                await asyncio.sleep(PERIOD_S)
    except asyncio.CancelledError:
        if replicas is not None:
            await _leave(client, address, port, replicas)
        raise


async def _leave(client: ClientAPI, address: str, port: int, replicas: Replicas) -> None:
    """Nobody shall be sent here any more. If that fails the others do it when our time has run out."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LEAVING_S):
            try:
                await replicas.leave()
                await _bring_up_to_date(client, address, "", port, replicas)
            except (APIError, StoreError) as error:
                log.debug("the Service %s: %s", NAME, error)


async def _bring_up_to_date(client: ClientAPI, address: str, own: str, port: int, replicas: Replicas | None) -> None:
    await _ensure(client, _service(address, port))
    sliced = discovery_v1_pb2.EndpointSlice(metadata=_metadata(), address_type="IPv4")
    sliced.metadata.labels["kubernetes.io/service-name"] = NAME
    sliced.ports.add(name="https", port=port, protocol="TCP")
    found = await _ensure(client, sliced)
    legacy = core_v1_pb2.Endpoints(metadata=_metadata())
    legacy.metadata.labels["endpointslice.kubernetes.io/skip-mirror"] = "true"  # its slice is the one above
    old = await _ensure(client, legacy)
    # Who lives is read after both: one who knows less than another has older objects, and its updates are refused.
    hosts = plan_hosts(await replicas.hosts() if replicas is not None else [], own)
    if not hosts:
        return
    for each in hosts:
        sliced.endpoints.add(addresses=[each], conditions=discovery_v1_pb2.EndpointConditions(ready=True))
    if list(found.endpoints) != list(sliced.endpoints) or list(found.ports) != list(sliced.ports):
        sliced.metadata.CopyFrom(found.metadata)
        await client.update(sliced)
    subset = legacy.subsets.add(addresses=[core_v1_pb2.EndpointAddress(ip=each) for each in hosts])
    subset.ports.add(name="https", port=port, protocol="TCP")
    if list(old.subsets) != list(legacy.subsets) or dict(old.metadata.labels) != dict(legacy.metadata.labels):
        labels = dict(legacy.metadata.labels)
        legacy.metadata.CopyFrom(old.metadata)
        legacy.metadata.labels.update(labels)
        await client.update(legacy)


def plan_hosts(live: Sequence[str], own: str) -> list[str]:
    """In order; the bound drops others, never ourselves. `own` is empty when we leave; when nobody is left then, what is there
    stays: a Service without an address helps nobody, and whoever starts next puts its own there."""
    others = sorted(set(live) - {own})
    mine = [own] if own else []
    return sorted([*mine, *others[: MAX_REPLICAS - len(mine)]])


def _metadata() -> meta_v1_pb2.ObjectMeta:
    return meta_v1_pb2.ObjectMeta(name=NAME, namespace=NAMESPACE)


def _service(address: str, port: int) -> core_v1_pb2.Service:
    made = core_v1_pb2.Service(metadata=_metadata())
    made.metadata.labels.update({"component": "apiserver", "provider": "kubernetes"})
    made.spec.cluster_ip = address
    made.spec.ports.add(
        name="https", port=443, protocol="TCP", target_port=meta_intstr_pb2.IntOrString(type=0, int_val=port)
    )
    return made


async def _ensure(client: ClientAPI, made: Any) -> Any:
    """The object as it is, made if it was not there."""
    try:
        return await client.get(type(made), NAME, NAMESPACE)
    except NotFound:
        return await client.create(made)
