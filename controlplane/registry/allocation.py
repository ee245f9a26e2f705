"""Cluster addresses and node ports of Services: each is given to one Service at a time.

Every one that is taken has a key of its own under `/ranges/`, written in the Service's transaction on condition that it
does not exist. So two replicas cannot give the same one twice, and a crash at any moment leaves no reservation without its
Service. What is free is read from a watch cache of these keys. Each address also has an IPAddress object (`addresses`).
Called by `writes` (as `Companions`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from controlplane.registry import violations
from controlplane.registry.addresses import Addresses
from controlplane.registry.validation import services as validation
from controlplane.store.base import Compare, Delete, Operation, Put, Store, StoreError
from controlplane.store.cache import WatchCache
from wherry.api.context import Env
from wherry.api.errors import Cause, ServiceUnavailable

ROOT = "/ranges/"
_ADDRESSES = f"{ROOT}serviceips/"
_PORTS = f"{ROOT}servicenodeports/"
_RANDOM_TRIES = 50
WAIT_S = 10.0

Reservations = tuple[tuple[Compare, ...], tuple[Operation, ...]]


@dataclass(frozen=True, slots=True)
class Ranges:
    """Of the addresses, the lowest ones are given only to those who ask for them by number (the API, DNS)."""

    cidr: str = "10.96.0.0/16"
    first_port: int = 30000
    last_port: int = 32767


def held(obj: Any) -> tuple[list[str], list[int]]:
    """Addresses and ports that a Service holds."""
    addresses = [text for text in obj.spec.cluster_ips if text and text != "None"]
    ports = {port.node_port for port in obj.spec.ports if port.node_port}
    if obj.spec.health_check_node_port:
        ports.add(obj.spec.health_check_node_port)
    return addresses, sorted(ports)


def _address_of(key: str) -> str:
    """The last part of a key: for those of addresses, the address."""
    return key.rpartition("/")[2]


def _keys(addresses: list[str], ports: list[int]) -> list[str]:
    return [*(_ADDRESSES + text for text in addresses), *(f"{_PORTS}{port}" for port in ports)]


class ServiceAllocator:
    """`start()` before, `stop()` after use."""

    def __init__(self, store: Store, env: Env, ranges: Ranges, objects: Addresses) -> None:
        self._cache = WatchCache(store, ROOT)
        self._started = False
        self._objects = objects
        self._env = env
        self._network = ipaddress.ip_network(ranges.cidr)
        size = self._network.num_addresses
        self._reserved = min(max(16, size // 16), 256) if size > 32 else 0
        self._ranges = ranges

    async def stop(self) -> None:
        if self._started:
            await self._cache.stop()

    async def plan(self, obj: Any, old: Any | None, refused: set[str], at_least: int) -> Reservations:
        """Chooses for `obj` what it lacks. `refused` are keys that turned out to be taken. Raises Invalid."""
        if not self._started:
            self._started = True
            await self._cache.start()
        try:
            await self._cache.wait_for(at_least, WAIT_S)
        except (StoreError, TimeoutError) as error:
            raise _behind() from error
        old_addresses, old_ports = held(old) if old is not None else ([], [])
        mine = set(_keys(old_addresses, old_ports))

        # Somebody else's IPAddress takes an address as well.
        taken = refused | {
            _ADDRESSES + address for address in map(_address_of, refused) if self._objects.key(address) in refused
        }

        def free(key: str) -> bool:
            return key in mine or (key not in taken and self._cache.get(key) is None)

        given = type(obj.spec)()
        given.CopyFrom(obj.spec)
        causes = self._address(obj, free) + self._node_ports(obj, free)
        if causes:
            # Another replica may have set free meanwhile what our cache still shows as taken.
            await self._wait_fresh()
            obj.spec.CopyFrom(given)
            causes = self._address(obj, free) + self._node_ports(obj, free)
        violations.raise_for("", "Service", obj.metadata.name, causes)
        addresses, ports = held(obj)
        wanted = _keys(addresses, ports)
        holder = f"{obj.metadata.namespace}/{obj.metadata.name}".encode()
        new = [key for key in wanted if key not in mine]
        operations: list[Operation] = [Put(key, holder) for key in new]
        operations += (Delete(key) for key in sorted(mine.difference(wanted)))
        compares = [Compare(key, 0) for key in new]
        for address in addresses:
            if address not in old_addresses:
                compare, operation = self._objects.make(address, obj)
                compares.append(compare)
                operations.append(operation)
        operations += (self._objects.remove(address) for address in old_addresses if address not in addresses)
        return tuple(compares), tuple(operations)

    async def _wait_fresh(self) -> None:
        try:
            await self._cache.wait_fresh(WAIT_S)
        except (StoreError, TimeoutError) as error:
            raise _behind() from error

    def committed(self, revision: int) -> None:
        """Nobody reads reservations but their own cache, which hears of them."""
        self._objects.committed(revision)

    def release(self, old: Any) -> tuple[Operation, ...]:
        addresses, ports = held(old)
        return (
            *(Delete(key) for key in _keys(addresses, ports)),
            *(self._objects.remove(address) for address in addresses),
        )

    def _address(self, obj: Any, free: Callable[[str], bool]) -> list[Cause]:
        spec = obj.spec
        if spec.type == "ExternalName":
            return []
        causes = _families(spec)
        if causes or spec.cluster_ip == "None":
            return causes
        if spec.cluster_ip:
            text = spec.cluster_ip
            path = "spec.clusterIPs"
            if ipaddress.ip_address(text) not in self._network:
                detail = (
                    f"failed to allocate IP {text}: the provided IP ({text}) is not in the valid range. "
                    f"The range of valid IPs is {self._network}"
                )
                return [violations.invalid(path, [text], detail)]
            if not free(_ADDRESSES + text):
                detail = f"failed to allocate IP {text}: provided IP is already allocated"
                return [violations.invalid(path, [text], detail)]
            return []
        chosen = self._free_address(free)
        if not chosen:
            detail = f"failed to allocate a serviceIP: range is full: {self._network}"
            return [violations.invalid("spec.clusterIPs", [], detail)]
        spec.cluster_ip = chosen
        del spec.cluster_ips[:]
        spec.cluster_ips.append(chosen)
        return []

    def _free_address(self, free: Callable[[str], bool]) -> str:
        first, last = max(self._reserved, 1), self._network.num_addresses - 2
        for _ in range(_RANDOM_TRIES):
            text = str(self._network[self._env.rng.randint(first, last)])
            if free(_ADDRESSES + text):
                return text
        for offset in (*range(first, last + 1), *range(1, first)):
            text = str(self._network[offset])
            if free(_ADDRESSES + text):
                return text
        return ""

    def _node_ports(self, obj: Any, free: Callable[[str], bool]) -> list[Cause]:
        spec = obj.spec
        causes: list[Cause] = []
        if spec.type not in ("NodePort", "LoadBalancer"):
            return causes
        taken = {port.node_port for port in spec.ports if port.node_port}
        automatic = spec.type == "NodePort" or spec.allocate_load_balancer_node_ports
        for index, port in enumerate(spec.ports):
            path = f"spec.ports[{index}].nodePort"
            if port.node_port:
                causes += self._asked_port(port.node_port, path, free)
            elif automatic:
                # One number for both protocols of a port, if it may be.
                used = {(item.protocol, item.node_port) for item in spec.ports}
                beside = (item.node_port for item in spec.ports if item.port == port.port and item.node_port)
                shared = next((number for number in beside if (port.protocol, number) not in used), 0)
                port.node_port = shared or self._free_port(taken, free)
                taken.add(port.node_port)
                if not port.node_port:
                    causes.append(violations.invalid(path, 0, "failed to allocate a nodePort: range is full"))
        if spec.type == "LoadBalancer" and spec.external_traffic_policy == "Local":
            path = "spec.healthCheckNodePort"
            if spec.health_check_node_port:
                causes += self._asked_port(spec.health_check_node_port, path, free)
            else:
                spec.health_check_node_port = self._free_port(taken, free)
        return causes

    def _asked_port(self, port: int, path: str, free: Callable[[str], bool]) -> list[Cause]:
        first, last = self._ranges.first_port, self._ranges.last_port
        if not first <= port <= last:
            detail = f"provided port is not in the valid range. The range of valid ports is {first}-{last}"
            return [violations.invalid(path, port, detail)]
        if not free(f"{_PORTS}{port}"):
            return [violations.invalid(path, port, "provided port is already allocated")]
        return []

    def _free_port(self, taken: set[int], free: Callable[[str], bool]) -> int:
        first, last = self._ranges.first_port, self._ranges.last_port
        for _ in range(_RANDOM_TRIES):
            port = self._env.rng.randint(first, last)
            if port not in taken and free(f"{_PORTS}{port}"):
                return port
        return next((port for port in range(first, last + 1) if port not in taken and free(f"{_PORTS}{port}")), 0)


def _behind() -> ServiceUnavailable:
    return ServiceUnavailable("what Services hold is not known just now: the store does not answer", retry_after_s=1)


def _families(spec: Any) -> list[Cause]:
    """This cluster has IPv4 only. A headless Service without a selector may name endpoints of either family."""
    open_ended = spec.cluster_ip == "None" and not spec.selector
    if not spec.HasField("ip_family_policy"):
        spec.ip_family_policy = "RequireDualStack" if open_ended else "SingleStack"
    causes: list[Cause] = validation.cluster_addresses(spec)
    if spec.ip_family_policy == "SingleStack":
        for what, values in (("cluster IPs", spec.cluster_ips), ("IP families", spec.ip_families)):
            if len(values) == 2:
                detail = f"must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
                causes.append(violations.invalid("spec.ipFamilyPolicy", spec.ip_family_policy, detail))
    for index, text in enumerate(spec.cluster_ips):
        if index >= len(spec.ip_families) and validation.family_of(text) == "IPv6":
            detail = "IPv6 is not configured on this cluster"
            causes.append(violations.invalid(f"spec.clusterIPs[{index}]", list(spec.cluster_ips), detail))
    if causes:
        return causes
    if open_ended:
        if not spec.ip_families:
            spec.ip_families.append("IPv4")
        if len(spec.ip_families) < 2 and spec.ip_family_policy != "SingleStack":
            spec.ip_families.append("IPv6" if spec.ip_families[0] == "IPv4" else "IPv4")
        return []
    if spec.ip_family_policy == "RequireDualStack":
        detail = "this cluster is not configured for dual-stack services"
        causes.append(violations.invalid("spec.ipFamilyPolicy", spec.ip_family_policy, detail))
    for index, family in enumerate(spec.ip_families):
        if family == "IPv6":
            causes.append(violations.invalid(f"spec.ipFamilies[{index}]", family, "not configured on this cluster"))
    if not spec.ip_families:
        spec.ip_families.append("IPv4")
    return causes
