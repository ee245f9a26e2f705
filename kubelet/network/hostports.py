"""What CNI's portmap plugin leaves behind: three chains of the nat table, and the jumps to them, which it makes for the first pod
with a host port and never removes. Called by `NodeNetwork.remove`; on a node with a namespace of its own they go with it.
"""

from __future__ import annotations

import shlex
import subprocess

from kubelet.runtime.base import RuntimeFailure
from kubelet.runtime.processes import find_binary

_DNAT = "CNI-HOSTPORT-DNAT"
_CHAINS = (_DNAT, "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK")
_TIMEOUT_S = 30


def _iptables(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [find_binary("iptables"), "-w", "-t", "nat", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)


def jumps(rules: str) -> list[list[str]]:
    """The arguments that name the jumps of the ordinary chains to portmap's, from `iptables -S`."""
    found = []
    for line in rules.splitlines():
        words = shlex.split(line)
        if words[:1] == ["-A"] and not words[1].startswith("CNI-") and words[-1] in _CHAINS and words[-2] == "-j":
            found.append(words[1:])
    return found


def remove_unused() -> None:
    """Removes the chains when no pod has a host port any more; somebody else's pods may."""
    try:
        used = _iptables("-S", _DNAT)
    except RuntimeFailure:  # without iptables there was no portmap
        return
    if used.returncode or any(line.startswith("-A") for line in used.stdout.splitlines()):
        return
    for jump in jumps(_iptables("-S").stdout):
        _iptables("-D", *jump)
    for flag in ("-F", "-X"):
        for chain in _CHAINS:
            _iptables(flag, chain)
