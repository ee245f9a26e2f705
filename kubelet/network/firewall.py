"""A firewall that drops what it does not know (Docker's, for one): where forwarding is denied by default, the traffic of a
bridge of ours is let through. Called by `kubelet.network.node` for the pods' bridge, and by `wherry up` for that of the
local nodes. Blocking.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from kubelet.network import masquerade
from kubelet.runtime.base import RuntimeFailure
from kubelet.runtime.processes import find_binary

_TIMEOUT_S = 20


def let_through(bridge: str) -> bool:
    """False when nothing had to be done."""
    if "-P FORWARD DROP" not in _iptables("-S", "FORWARD"):
        return False
    changed = False
    for rule in _rules(bridge):
        if " ".join(("-A", *rule)) not in _iptables("-S", "FORWARD"):
            _iptables("-I", *rule)
            changed = True
    return changed


def stop_letting_through(bridge: str) -> bool:
    changed = False
    for rule in _rules(bridge):
        while " ".join(("-A", *rule)) in _iptables("-S", "FORWARD"):
            _iptables("-D", *rule)
            changed = True
    return changed


def _rules(bridge: str) -> list[tuple[str, ...]]:
    return [("FORWARD", side, bridge, "-j", "ACCEPT") for side in ("-i", "-o")]


def _legacy_tables() -> list[str]:
    try:
        return Path("/proc/net/ip_tables_names").read_text().split()
    except OSError:
        return []


def _iptables(*arguments: str) -> str:
    """Its output; empty when nobody uses iptables here (asking it would already make tables of its own)."""
    if "filter" not in masquerade.tables() and "filter" not in _legacy_tables():
        return ""
    try:
        done = subprocess.run(
            [find_binary("iptables"), "-w", *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (RuntimeFailure, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
