"""What the kernel remembers of flows (conntrack), by way of the tool of that name. Used where something goes for good: endpoints
of UDP services, a node's pod network, a local cluster. Blocking. Without the tool, flows are forgotten when they time out.
"""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from collections.abc import Collection, Mapping

from kubelet.network import NetworkError

_TIMEOUT_S = 20.0


_MAX_TRANSLATED = 1000  # flows given up one by one; the tool takes a few milliseconds each


def delete(*selection: str) -> None:
    """Raises NetworkError. That nothing was selected is no error."""
    _run("-D", *selection)


def forget(network: str) -> None:
    """Every flow from or to an address of the network, also those that were only led there. Raises NetworkError."""
    if not network:
        return
    for side in ("--orig-src", "--orig-dst"):
        delete(side, network)
    # The tool takes no network for this one.
    for selection in led_to(_run("-L", "--dst-nat"), network)[:_MAX_TRANSLATED]:
        delete(*selection)


def translated_udp() -> str:
    """The listing of datagrams' flows that were led elsewhere. Raises NetworkError."""
    return _run("-L", "-p", "udp", "--dst-nat")


def misled(listing: str, wanted: Mapping[tuple[str, int], Collection[str]]) -> list[tuple[str, int, str]]:
    """(address, port, endpoint) of the flows in such a listing that go to an endpoint which is none of those `wanted` for that
    address ("": any) and port."""
    found: dict[tuple[str, int, str], None] = {}
    for line in listing.splitlines():
        values = _values(line)
        sources, targets, ports = values.get("src", []), values.get("dst", []), values.get("dport", [])
        if len(sources) != 2 or not targets or not ports:
            continue
        address, port, endpoint = targets[0], int(ports[0]), sources[1]
        endpoints = wanted.get((address, port), wanted.get(("", port)))
        if endpoints is not None and endpoint != address and endpoint not in endpoints:
            found[address, port, endpoint] = None
    return list(found)


def _values(line: str) -> dict[str, list[str]]:
    """Each twice: as it came, and as it is answered."""
    values: dict[str, list[str]] = {}
    for word in line.split():
        name, equals, value = word.partition("=")
        if equals:
            values.setdefault(name, []).append(value)
    return values


def led_to(listing: str, network: str) -> list[list[str]]:
    """The selections of the flows in `conntrack -L`'s listing that are answered from an address of the network."""
    inside = ipaddress.ip_network(network)
    found = []
    for line in listing.splitlines():
        words, values = line.split(), _values(line)
        sources, targets = values.get("src", []), values.get("dst", [])
        if len(sources) == 2 and targets and ipaddress.ip_address(sources[1]) in inside:
            ports = [
                word for flag, name in (("--orig-port-src", "sport"), ("--orig-port-dst", "dport"))
                if values.get(name) for word in (flag, values[name][0])
            ]  # fmt: skip
            found.append(["-p", words[0], "--orig-src", sources[0], "--orig-dst", targets[0], *ports])
    return found


def _run(*arguments: str) -> str:
    tool = shutil.which("conntrack")
    if tool is None:
        return ""
    try:
        # It also fails when there was nothing to delete.
        done = subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetworkError(f"conntrack: {error}") from error
    return done.stdout
