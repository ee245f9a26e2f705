"""The Service `kubernetes` in the namespace default, by which pods find the Kubernetes API: its address is the first of the
Services' range, its endpoints are the control plane's replicas. Run by `wherry server` beside the HTTP front.

Nobody but the replicas writes these objects. A single server's address takes the place of whatever was there; one of several
adds its own.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from typing import Any

from wherry.api.errors import APIError, NotFound
from wherry.client.base import ClientAPI
from wherry.pb import core_v1_pb2, discovery_v1_pb2, meta_intstr_pb2, meta_v1_pb2

log = logging.getLogger(__name__)

NAME, NAMESPACE = "kubernetes", "default"
PERIOD_S = 30.0
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


async def keep(client: ClientAPI, service_range: str, host: str, port: int, *, alone: bool) -> None:
    """Until cancelled. `alone`: there is one server."""
    while True:
        try:
            await _bring_up_to_date(client, cluster_ip(service_range), host, port, alone)
            delay_s = PERIOD_S
        except APIError as error:
            log.debug("the Service %s: %s", NAME, error)
            delay_s = RETRY_S
        await asyncio.sleep(delay_s)


async def _bring_up_to_date(client: ClientAPI, address: str, host: str, port: int, alone: bool) -> None:
    await _ensure(client, _service(address, port))
    made = discovery_v1_pb2.EndpointSlice(metadata=_metadata(), address_type="IPv4")
    made.metadata.labels["kubernetes.io/service-name"] = NAME
    made.ports.add(name="https", port=port, protocol="TCP")
    found = await _ensure(client, made)
    hosts = plan_hosts([address for item in found.endpoints for address in item.addresses], host, alone)
    for each in hosts:
        made.endpoints.add(addresses=[each], conditions=discovery_v1_pb2.EndpointConditions(ready=True))
    if list(found.endpoints) != list(made.endpoints) or list(found.ports) != list(made.ports):
        made.metadata.CopyFrom(found.metadata)
        await client.update(made)
    legacy = core_v1_pb2.Endpoints(metadata=_metadata())
    legacy.metadata.labels["endpointslice.kubernetes.io/skip-mirror"] = "true"  # its slice is the one above
    subset = legacy.subsets.add(addresses=[core_v1_pb2.EndpointAddress(ip=each) for each in hosts])
    subset.ports.add(name="https", port=port, protocol="TCP")
    old = await _ensure(client, legacy)
    if list(old.subsets) != list(legacy.subsets) or dict(old.metadata.labels) != dict(legacy.metadata.labels):
        labels = dict(legacy.metadata.labels)
        legacy.metadata.CopyFrom(old.metadata)
        legacy.metadata.labels.update(labels)
        await client.update(legacy)


def plan_hosts(present: list[str], own: str, alone: bool) -> list[str]:
    """In order; the bound drops others, never ourselves."""
    if alone:
        return [own]
    others = sorted(set(present) - {own})
    return sorted([own, *others[: MAX_REPLICAS - 1]])


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
