"""The floor of `bench.network`: the hops of a pod network made by hand, without a rule, ours or anybody's.

Two nodes (namespaces), each with a bridge and `veth` cables to its pods; their own cables go to the bridge of a third, as those
of local nodes do. So `near` to `pod` is a bare bridge with bare cables; `far` to `pod` is three bridges and two routers, as from
a pod of one node to one of another. Whoever makes one leaves the block, and nothing is left.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PREFIX = f"wb{os.getpid() % 100000}"


@dataclass(frozen=True, slots=True)
class Bare:
    """Paths of namespaces, and addresses."""

    pod: str
    near: str
    near_ip: str
    far: str
    far_ip: str


@contextmanager
def bare() -> Iterator[Bare]:
    switch, pods = f"{PREFIX}-s", {1: ("pod", "near"), 2: ("far",)}
    names = [
        switch,
        *(f"{PREFIX}-{number}" for number in pods),
        *(f"{PREFIX}-{pod}" for p in pods.values() for pod in p),
    ]
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _add_bridge(switch, "")
        for number, inside in pods.items():
            node = f"{PREFIX}-{number}"
            _cable(switch, f"node{number}", node, f"10.8.0.{number}/24")
            _add_bridge(node, f"10.9.{number}.254/24")
            for place, pod in enumerate(inside, 1):
                _cable(node, pod, f"{PREFIX}-{pod}", f"10.9.{number}.{place}/24")
                _ip("-n", f"{PREFIX}-{pod}", "route", "add", "default", "via", f"10.9.{number}.254")
            other = 3 - number
            _ip("-n", node, "route", "add", f"10.9.{other}.0/24", "via", f"10.8.0.{other}")
            forward = ("sysctl", "-q", "net.ipv4.ip_forward=1")
            subprocess.run(["nsenter", f"--net=/run/netns/{node}", *forward], check=True)
        yield Bare(
            pod=f"/run/netns/{PREFIX}-pod",
            near=f"/run/netns/{PREFIX}-near", near_ip="10.9.1.2",
            far=f"/run/netns/{PREFIX}-far", far_ip="10.9.2.1",
        )  # fmt: skip
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _add_bridge(netns: str, address: str) -> None:
    _ip("-n", netns, "link", "add", "br0", "type", "bridge")
    if address:
        _ip("-n", netns, "address", "add", address, "dev", "br0")
    _ip("-n", netns, "link", "set", "br0", "up")


def _cable(switch: str, port: str, netns: str, address: str) -> None:
    _ip("-n", netns, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", switch)
    _ip("-n", switch, "link", "set", port, "master", "br0", "up")
    _ip("-n", netns, "address", "add", address, "dev", "eth0")
    _ip("-n", netns, "link", "set", "eth0", "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
