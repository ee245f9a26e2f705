"""Links, addresses, routes and network namespaces, by way of iproute2 and its JSON. Used by `kubelet.network.node`,
`kubelet.network.mesh` and `wherry.cli.cluster.hosts`. Blocking; each call takes a few milliseconds."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kubelet.network import NetworkError
from kubelet.runtime.processes import find_binary

IP_TIMEOUT_S = 20.0
NETNS_DIR = Path("/run/netns")
DEFAULT_MTU = 1500
# Marks the routes of this node's agent (see /etc/iproute2/rt_protos; 7x is nobody's).
ROUTE_PROTOCOL = "77"
_HELD = "lo:wherry"


def ip(*arguments: str, netns: str = "", tool: str = "ip", stdin: str = "") -> str:
    """Runs `ip` (inside the named namespace; or `bridge`) and returns its output. Raises NetworkError."""
    prefix = ["-netns", netns] if netns else []
    try:
        done = subprocess.run(
            [find_binary(tool), *prefix, *arguments],
            input=stdin, capture_output=True, text=True, timeout=IP_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise NetworkError(f"{tool} {' '.join(arguments)}: no answer within {IP_TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        raise NetworkError(f"{tool} {' '.join((*prefix, *arguments))}: {done.stderr.strip()}")
    return done.stdout


def query(*arguments: str, netns: str = "", tool: str = "ip") -> list[dict[str, Any]]:
    """What `ip` (or `bridge`) tells in JSON."""
    text = ip("-json", *arguments, netns=netns, tool=tool)
    found: list[dict[str, Any]] = json.loads(text) if text.strip() else []
    # Both print an empty object for what their selection hides.
    return [item for item in found if item]


def batch(tool: str, lines: Sequence[str]) -> None:
    """Runs all lines in one process of `ip` or `bridge`, also those behind one that fails. Raises NetworkError then."""
    if lines:
        ip("-force", "-batch", "-", tool=tool, stdin="\n".join(lines) + "\n")


def names(*, netns: str = "") -> list[str]:
    """All links' names."""
    return [str(link["ifname"]) for link in query("link", "show", netns=netns)]


def addresses(*, netns: str = "", dev: str = "") -> list[str]:
    """Every IPv4 address (of the link) with its prefix length."""
    found = query("-4", "address", "show", *(("dev", dev) if dev else ()), netns=netns)
    return [f"{item['local']}/{item['prefixlen']}" for link in found for item in link.get("addr_info", ())]


def routes(*, netns: str = "") -> dict[str, str]:
    """Destinations and their gateways ("" when direct)."""
    found = query("-4", "route", "show", netns=netns)
    return {str(route["dst"]): str(route.get("gateway", "")) for route in found}


def mtu_of(address: str) -> int:
    """The MTU of the link that has the address; else that of the link with the default route."""
    for link in query("-4", "address", "show"):
        if any(item.get("local") == address for item in link.get("addr_info", ())):
            return int(link["mtu"])
    for route in query("-4", "route", "show", "default"):
        for link in query("link", "show", "dev", str(route["dev"])):
            return int(link["mtu"])
    return DEFAULT_MTU


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
