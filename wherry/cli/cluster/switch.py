"""A shorter way between the local nodes of a machine: a frame from one node's cable to another's goes from cable to cable and not
through the host's bridge, its netfilter hooks and its connection tracking, which are the host's own affair and know nothing of
pods. An nftables table of the family netdev; whatever it does not name (the host, nodes from elsewhere, broadcasts) takes the
bridge as before, and so does everything where the kernel has no such rules. Called by `up`, taken away by `hosts`.

Who wants to see frames between nodes listens at a node's cable: the bridge does not see them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from kubelet.network import NetworkError, links, masquerade
from wherry.cli.cluster.layout import Cluster, Node

FAMILY = "netdev"


@dataclass(frozen=True, slots=True)
class Cable:
    """`index` is of the host's end, `hardware` the address of the node's end."""

    index: int
    hardware: str


def connect(cluster: Cluster) -> bool:
    """False when nothing had to be done. Raises NetworkError where the kernel or nft can't; then all is as without it."""
    cables = {node.link: cable for node in cluster.nodes if (cable := _cable(node)) is not None}
    if len(cables) < 2:
        return disconnect(cluster.table)
    if masquerade.has_chain(cluster.table, state(cables), FAMILY):
        return False
    masquerade.apply(ruleset(cluster.table, cables))
    return True


def disconnect(table: str) -> bool:
    """False when there was nothing."""
    return masquerade.delete(table, FAMILY)


def ruleset(table: str, cables: Mapping[str, Cable]) -> str:
    """One transaction. A cable that is made anew has another number, so the table is, too."""
    devices = ", ".join(f'"{link}"' for link in sorted(cables))
    ways = ", ".join(f'{cable.hardware} : "{link}"' for link, cable in sorted(cables.items()))
    return f"""add table {FAMILY} {table}
delete table {FAMILY} {table}
table {FAMILY} {table} {{
  chain ingress {{
    type filter hook ingress devices = {{ {devices} }} priority 0; policy accept;
    fwd to ether daddr map {{ {ways} }}
  }}
  chain {state(cables)} {{ }}
}}
"""


def state(cables: Mapping[str, Cable]) -> str:
    """The name of an empty chain, which tells what the table is about."""
    words = [f"{link} {cable.index} {cable.hardware}" for link, cable in sorted(cables.items())]
    return f"state-{hashlib.sha256(chr(0).join(words).encode()).hexdigest()[:16]}"


def _cable(node: Node) -> Cable | None:
    try:
        (host,) = links.query("link", "show", "dev", node.link)
        (inner,) = links.query("link", "show", "dev", "eth0", netns=node.netns)
        return Cable(int(host["ifindex"]), str(inner["address"]))
    except (NetworkError, ValueError, LookupError):
        return None  # half made, or on its way out
