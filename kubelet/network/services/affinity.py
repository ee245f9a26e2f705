"""Which client is whose, of Services with session affinity: what the kernel's sets hold, kept when the table is written anew.
Pure; called by `controller`, between `Kernel.sets` and `Ruleset.whole`.

The kernel alone knows the clients: it enters them as connections come. Those that come between the reading of the sets and the
new table are forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# A set's body; the time-out is that of the rule that enters clients, so that another one does not take another set.
SET = "type ipv4_addr; flags dynamic,timeout;"
MAX_CLIENTS = 50_000  # of all sets together: half a second's work for nft
_PREFIX = "aff-"


@dataclass(frozen=True, slots=True, order=True)
class Client:
    """Whole seconds: of being remembered without a new connection, and of those what is left."""

    expires_s: int
    address: str
    timeout_s: int


def set_name(port_id: str, address: str, port: int) -> str:
    return f"{_PREFIX}{port_id}/{address}/{port}"


def clients(listing: str) -> dict[str, list[Client]]:
    """Set -> clients, of what `nft -j list sets` says; {} for what can't be understood. Of too many those stay that were here
    last."""
    try:
        items = json.loads(listing)["nftables"]
        found = [(item["set"]["name"], client) for item in items if "set" in item for client in _clients(item["set"])]
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}
    found.sort(key=lambda pair: pair[1], reverse=True)
    result: dict[str, list[Client]] = {}
    for name, client in found[:MAX_CLIENTS]:
        result.setdefault(name, []).append(client)
    return result


def restore(table: str, sets: Collection[str], known: Mapping[str, list[Client]]) -> Iterator[str]:
    """The lines that put clients back into those of the sets that the new table has."""
    for name in sorted(known.keys() & set(sets)):
        body = ", ".join(f"{each.address} timeout {each.timeout_s}s expires {each.expires_s}s" for each in known[name])
        yield f"add element ip {table} {name} {{ {body} }}"


def _clients(found: dict[str, Any]) -> Iterator[Client]:
    if not found["name"].startswith(_PREFIX):
        return
    for item in found.get("elem", ()):
        element = item["elem"]  # one without time-outs would be a bare address
        expires_s = int(element["expires"])
        if expires_s > 0:
            # The kernel goes by a new time-out of the rule, and goes on telling the old one.
            timeout_s = max(expires_s, int(element.get("timeout", found.get("timeout", 0))))
            yield Client(expires_s, str(element["val"]), timeout_s)
