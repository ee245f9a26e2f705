"""Tables of EndpointSlice and Endpoints."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from controlplane.registry.strategy import Column
from controlplane.registry.tables.common import NONE, age_column, name_column

_SHOWN = 3


def _some(texts: Iterable[str], *, empty: str) -> str:
    """The first few, and how many more there are."""
    rest = iter(texts)
    shown = list(islice(rest, _SHOWN))
    more = sum(1 for _ in rest)
    return ",".join(shown) + (f" + {more} more..." if more else "") or empty


def _slice_port(port: Any) -> str:
    return str(port.port) if port.HasField("port") else port.name or "*"


def _slice_ports(obj: Any, now: float) -> str:
    return _some((_slice_port(port) for port in obj.ports), empty="<unset>")


def _slice_endpoints(obj: Any, now: float) -> str:
    return _some((address for endpoint in obj.endpoints for address in endpoint.addresses), empty="<unset>")


def _endpoints(obj: Any, now: float) -> str:
    def texts() -> Iterable[str]:
        for subset in obj.subsets:
            if not subset.ports:
                yield from (address.ip for address in subset.addresses)
            for port in subset.ports:
                for address in subset.addresses:
                    host = f"[{address.ip}]" if ":" in address.ip else address.ip
                    yield f"{host}:{port.port}"

    return _some(texts(), empty=NONE)


ENDPOINT_SLICES = (
    name_column(),
    Column("AddressType", lambda obj, now: str(obj.address_type)),
    Column("Ports", _slice_ports),
    Column("Endpoints", _slice_endpoints),
    age_column(),
)

ENDPOINTS = (name_column(), Column("Endpoints", _endpoints), age_column())
