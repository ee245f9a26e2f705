"""The table in the kernel, by way of nft and conntrack. Blocking; called by `controller` in a thread."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from kubelet.network import conntrack, masquerade
from kubelet.network.services.ruleset import TABLE
from kubelet.runtime.processes import find_binary

BRIDGE_FILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
_TIMEOUT_S = 20.0
_FLUSH_BATCH = 64


class Nftables:
    def __init__(self, table: str = TABLE) -> None:
        self.table = table

    def prepare(self) -> bool:
        """Lets netfilter see packets that stay on the bridge; False when the kernel can't."""
        if not BRIDGE_FILTER.exists() and shutil.which("modprobe"):
            subprocess.run(["modprobe", "br_netfilter"], capture_output=True, timeout=_TIMEOUT_S, check=False)
        try:
            BRIDGE_FILTER.write_text("1\n")
        except OSError:
            return False
        return True

    def has(self, state: str) -> bool:
        done = subprocess.run(
            [find_binary("nft"), "list", "chain", "ip", self.table, state],
            capture_output=True, timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
        return done.returncode == 0

    def sets(self) -> str:
        """The table's sets, and what is in them, as nft's JSON has them; "" when they can't be read."""
        try:
            done = subprocess.run(
                [find_binary("nft"), "-j", "list", "sets", "table", "ip", self.table],
                capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout if done.returncode == 0 else ""

    def apply(self, transaction: str) -> None:
        """Raises NetworkError."""
        masquerade.apply(transaction)

    def remove(self) -> bool:
        return masquerade.delete(self.table)

    def udp_flows(self) -> str:
        """As `conntrack.misled` takes them. Raises NetworkError."""
        return conntrack.translated_udp()

    def forget_udp(self, flows: Iterable[tuple[str, int, str]]) -> None:
        """Of datagrams that came to the address ("": any) and port: what is remembered of their way to the endpoint, or ("")
        of their having gone nowhere."""
        for address, port, endpoint in list(flows)[:_FLUSH_BATCH]:
            selection = ["--orig-port-dst", str(port)]
            if address:
                selection += ["--orig-dst", address]
            if endpoint:
                selection += ["--dst-nat", endpoint]
            conntrack.delete("-p", "udp", *selection)
