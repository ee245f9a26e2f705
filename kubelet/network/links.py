"""Links, addresses, routes and network namespaces, by way of iproute2 and its JSON. Used by `kubelet.network.node` and
`wherry.cli.cluster.hosts`. Blocking; each call takes a few milliseconds."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kubelet.network import NetworkError
from kubelet.runtime.processes import find_binary

IP_TIMEOUT_S = 20.0
NETNS_DIR = Path("/run/netns")
# Marks the routes that are ours (see /etc/iproute2/rt_protos; 7x is nobody's).
ROUTE_PROTOCOL = "77"
_HELD = "lo:wherry"


def ip(*arguments: str, netns: str = "") -> str:
    """Runs `ip` (inside the named namespace) and returns its output. Raises NetworkError."""
    prefix = ["-netns", netns] if netns else []
    try:
        done = subprocess.run(
            [find_binary("ip"), *prefix, *arguments],
            capture_output=True, text=True, timeout=IP_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise NetworkError(f"ip {' '.join(arguments)}: no answer within {IP_TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        raise NetworkError(f"ip {' '.join((*prefix, *arguments))}: {done.stderr.strip()}")
    return done.stdout


def query(*arguments: str, netns: str = "") -> list[dict[str, Any]]:
    text = ip("-json", *arguments, netns=netns)
    found: list[dict[str, Any]] = json.loads(text) if text.strip() else []
    return found


def names(*, netns: str = "") -> list[str]:
    """All links' names."""
    return [str(link["ifname"]) for link in query("link", "show", netns=netns)]


def addresses(*, netns: str = "") -> list[str]:
    """Every IPv4 address with its prefix length."""
    found = query("-4", "address", "show", netns=netns)
    return [f"{item['local']}/{item['prefixlen']}" for link in found for item in link.get("addr_info", ())]


def routes(*, netns: str = "", ours: bool = False) -> dict[str, str]:
    """Destinations and their gateways ("" when direct); only those of `sync_routes` with `ours`."""
    selection = ("proto", ROUTE_PROTOCOL) if ours else ()
    found = query("-4", "route", "show", *selection, netns=netns)
    return {str(route["dst"]): str(route.get("gateway", "")) for route in found}


def sync_routes(wanted: Mapping[str, str], *, netns: str = "") -> bool:
    """Makes our routes (pod CIDR -> address of the node that has it) exactly these; False when they were."""
    present = routes(netns=netns, ours=True)
    if present == dict(wanted):
        return False
    for destination in sorted(present.keys() - wanted.keys()):
        ip("route", "del", destination, "proto", ROUTE_PROTOCOL, netns=netns)
    for destination, gateway in sorted(wanted.items()):
        if present.get(destination) != gateway:
            ip("route", "replace", destination, "via", gateway, "proto", ROUTE_PROTOCOL, netns=netns)
    return True


def hold_address(address: str) -> None:
    """Makes the address this node's own, on the loopback link (not every kernel has dummy links)."""
    ip("address", "replace", f"{address}/32", "dev", "lo", "label", _HELD)


def drop_addresses() -> None:
    """Those of `hold_address`."""
    ip("address", "flush", "dev", "lo", "label", _HELD)


def namespaces() -> list[str]:
    """The named network namespaces of this machine."""
    try:
        return sorted(path.name for path in NETNS_DIR.iterdir())
    except OSError:
        return []
