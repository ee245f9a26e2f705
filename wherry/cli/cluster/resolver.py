"""Name resolution inside node hosts. Where the machine's resolver listens on its own loopback (systemd-resolved on Ubuntu,
dnsmasq), a network namespace has another loopback and nobody there: queries to that address are sent on to the resolver's
upstream. Called by `wherry.cli.cluster.hosts`."""

from __future__ import annotations

import ipaddress
import subprocess
from pathlib import Path

from kubelet.network import NetworkError
from kubelet.runtime.processes import find_binary

RESOLV_CONF = Path("/etc/resolv.conf")
# Where systemd-resolved writes whom it asks itself.
UPSTREAM_CONF = Path("/run/systemd/resolve/resolv.conf")
TABLE = "wherry-resolver"


def redirects(resolv_conf: str, upstream_conf: str) -> dict[str, str]:
    """Loopback name servers and whom to ask instead; empty when there is nothing to do, or nobody to ask."""
    local = [server for server in nameservers(resolv_conf) if ipaddress.ip_address(server).is_loopback]
    upstream = [server for server in nameservers(upstream_conf) if not ipaddress.ip_address(server).is_loopback]
    return {server: upstream[0] for server in local} if upstream else {}


def nameservers(text: str) -> list[str]:
    """The IPv4 name servers of a resolv.conf."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            try:
                found.append(str(ipaddress.IPv4Address(words[1])))
            except ValueError:
                continue
    return found


def ruleset(redirected: dict[str, str]) -> str:
    rules = "\n".join(
        f"    ip daddr {local} {protocol} dport 53 dnat to {upstream}"
        for local, upstream in sorted(redirected.items())
        for protocol in ("udp", "tcp")
    )
    return f"""add table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
  chain output {{
    type nat hook output priority -100; policy accept;
{rules}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 127.0.0.0/8 ip daddr != 127.0.0.0/8 masquerade
  }}
}}
"""


def set_up(netns_path: str) -> None:
    """In the namespace; does nothing on machines whose resolver can be reached from there. Raises NetworkError."""
    redirected = redirects(_read(RESOLV_CONF), _read(UPSTREAM_CONF))
    if redirected:
        apply(netns_path, redirected)


def apply(netns_path: str, redirected: dict[str, str]) -> None:
    # A packet from a loopback address may leave only with this.
    script = f"echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet && exec {find_binary('nft')} -f -"
    done = subprocess.run(
        [find_binary("nsenter"), f"--net={netns_path}", "--", "/bin/sh", "-c", script],
        input=ruleset(redirected),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    if done.returncode != 0:
        raise NetworkError(f"redirecting name resolution in {netns_path}: {done.stderr.strip()}")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
