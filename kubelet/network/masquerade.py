"""Source addresses of what pods send outside of the cluster: an nftables table of our own. Used by `kubelet.network.node`, and by
`wherry up` for the network that joins local nodes."""

from __future__ import annotations

import subprocess

from kubelet.network import NetworkError
from kubelet.runtime.processes import find_binary

NFT_TIMEOUT_S = 20.0


def ruleset(table: str, source: str, inside: tuple[str, ...], bridge: str) -> str:
    """Traffic from `source` gets the node's own address unless it goes to one of `inside` or back into the bridge.

    Adding and deleting the table first makes this idempotent: nft applies the file as one transaction.
    """
    destinations = ", ".join(sorted({*inside, "224.0.0.0/4", "255.255.255.255"}))
    return f"""add table ip {table}
delete table ip {table}
table ip {table} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {source} ip daddr != {{ {destinations} }} oifname != "{bridge}" masquerade
  }}
}}
"""


def apply(rules: str) -> None:
    """Raises NetworkError with nft's words."""
    _nft(["-f", "-"], rules)


def delete(table: str, family: str = "ip") -> bool:
    """False when there was no such table."""
    if table not in tables(family):
        return False
    _nft(["delete", "table", family, table], "")
    return True


def tables(family: str = "ip") -> list[str]:
    """The names of all tables of the family in the current namespace."""
    listed = _nft(["list", "tables", family], "").splitlines()
    return [line.split()[2] for line in listed if line.startswith(f"table {family} ")]


def has_chain(table: str, chain: str, family: str = "ip") -> bool:
    try:
        _nft(["list", "chain", family, table, chain], "")
    except NetworkError:
        return False
    return True


def _nft(arguments: list[str], text: str) -> str:
    try:
        done = subprocess.run(
            [find_binary("nft"), *arguments],
            input=text, capture_output=True, text=True, timeout=NFT_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise NetworkError(f"nft {' '.join(arguments)}: no answer within {NFT_TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        raise NetworkError(f"nft {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
