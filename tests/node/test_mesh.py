"""Pods of several nodes, without containers: hosts and pods are network namespaces, segments are bridges, and a router joins
two segments. What the agent does for the mesh is done by its own code inside each host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kubelet.network import conntrack
from kubelet.network.mesh.plan import LINK
from wherry.testing.require import require_containerd, require_root

PROGRAM = """
import json, sys
from kubelet.network.mesh import kernel, plan
own, *peers = (plan.Peer(*item) for item in json.loads(sys.argv[1]))
mesh = plan.choose(own, peers, kernel.on_link())
changed = kernel.apply(own, mesh)
print(json.dumps([mesh.routes, mesh.overlay, changed]))
"""
REMOVE = "from kubelet.network.mesh import kernel; kernel.remove()"
TAG = f"wm{os.getpid() % 100000}"


def run(*command: str, check: bool = True, netns: str = "") -> str:
    prefix = ["nsenter", f"--net=/run/netns/{netns}", "--"] if netns else []
    done = subprocess.run(
        [*prefix, *command], capture_output=True, text=True, timeout=30, cwd=Path(__file__).parents[2]
    )
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Host:
    """A node with one pod, which has the second address of the node's pod CIDR behind a bridge, as CNI would make it."""

    number: int
    address: str

    @property
    def netns(self) -> str:
        return f"{TAG}-{self.number}"

    @property
    def pod_netns(self) -> str:
        return f"{TAG}-{self.number}p"

    @property
    def pod_cidr(self) -> str:
        return f"10.200.{self.number}.0/24"

    @property
    def pod(self) -> str:
        return f"10.200.{self.number}.2"

    @property
    def described(self) -> list[str]:
        return [f"n{self.number}", self.pod_cidr, self.address]

    def join(self, *others: Host) -> tuple[dict[str, str], dict[str, str], bool]:
        told = json.dumps([host.described for host in (self, *others)])
        routes, overlay, changed = json.loads(run(sys.executable, "-c", PROGRAM, told, netns=self.netns))
        return routes, overlay, changed

    def own_state(self) -> list[str]:
        """Routes, links, neighbours and forwarding entries of the mesh."""
        lines = run("ip", "route", "show", "proto", "77", netns=self.netns).splitlines()
        if LINK in run("ip", "-br", "link", netns=self.netns):
            lines += run("ip", "neigh", "show", "dev", LINK, "nud", "permanent", netns=self.netns).splitlines()
            lines += run("bridge", "fdb", "show", "dev", LINK, netns=self.netns).splitlines()
            lines.append(LINK)
        return lines


PING = """
import socket, struct, sys
target, size, discover = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
head, body = struct.pack("!BBHHH", 8, 0, 0, 7, 7), bytes(size)
words = struct.unpack("!%dH" % ((8 + size + 1) // 2), head + body + bytes(size % 2))
total = sum(words)
total = (total >> 16) + (total & 0xFFFF)
head = struct.pack("!BBHHH", 8, 0, ~(total + (total >> 16)) & 0xFFFF, 7, 7)
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
sock.setsockopt(socket.IPPROTO_IP, 10, discover)  # IP_MTU_DISCOVER
sock.settimeout(float(sys.argv[4]))
sock.sendto(head + body, (target, 0))
while True:
    answer, sender = sock.recvfrom(65535)
    if sender[0] == target and answer[20] == 0 and len(answer) == 28 + size:
        break
"""


def reaches(one: Host, other: Host, size: int = 56, *, whole: bool = False, timeout_s: float = 20.0) -> bool:
    """`whole`: may not be cut into fragments on its way."""
    command = [sys.executable, "-c", PING, other.pod, str(size), "2" if whole else "0", str(timeout_s)]
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{one.pod_netns}", "--", *command], capture_output=True, timeout=60, check=False
    )
    return done.returncode == 0


def connect(one: str, name: str, other: str, other_name: str) -> None:
    run("ip", "-n", one, "link", "add", name, "type", "veth", "peer", "name", other_name, "netns", other)
    for netns, link in ((one, name), (other, other_name)):
        run("ip", "-n", netns, "link", "set", link, "up")


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """1 and 2 share a segment; 3 is behind a router."""
    require_root()
    require_containerd()
    made = [Host(1, "192.168.1.1"), Host(2, "192.168.1.2"), Host(3, "192.168.2.3")]
    router = f"{TAG}-r"
    spaces = [router, *(netns for host in made for netns in (host.netns, host.pod_netns))]
    try:
        for netns in spaces:
            run("ip", "netns", "add", netns)
            run("ip", "-n", netns, "link", "set", "lo", "up")
        run("sysctl", "-qw", "net.ipv4.ip_forward=1", netns=router)
        for segment in ("192.168.1", "192.168.2"):
            name = f"s{segment[-1]}"
            run("ip", "-n", router, "link", "add", name, "type", "bridge")
            run("ip", "-n", router, "address", "add", f"{segment}.254/24", "dev", name)
            run("ip", "-n", router, "link", "set", name, "up")
        for host in made:
            segment = host.address.rpartition(".")[0]
            connect(host.netns, "eth0", router, f"h{host.number}")
            run("ip", "-n", router, "link", "set", f"h{host.number}", "master", f"s{segment[-1]}")
            run("ip", "-n", host.netns, "address", "add", f"{host.address}/24", "dev", "eth0")
            run("ip", "-n", host.netns, "route", "add", "default", "via", f"{segment}.254")
            run("sysctl", "-qw", "net.ipv4.ip_forward=1", netns=host.netns)
            connect(host.netns, "pod", host.pod_netns, "eth0")
            gateway = host.pod_cidr.replace(".0/24", ".1")
            run("ip", "-n", host.netns, "address", "add", f"{gateway}/24", "dev", "pod")
            run("ip", "-n", host.pod_netns, "address", "add", f"{host.pod}/24", "dev", "eth0")
            run("ip", "-n", host.pod_netns, "route", "add", "default", "via", gateway)
        yield made
    finally:
        for netns in spaces:
            run("ip", "netns", "del", netns, check=False)


def test_routes_on_a_segment_and_an_overlay_across_a_router(hosts: list[Host]) -> None:
    one, two, three = hosts
    assert one.join(two, three) == ({two.pod_cidr: two.address}, {three.pod_cidr: three.address}, True)
    assert two.join(one, three) == ({one.pod_cidr: one.address}, {three.pod_cidr: three.address}, True)
    assert three.join(one, two) == ({}, {one.pod_cidr: one.address, two.pod_cidr: two.address}, True)
    for host in hosts:
        for other in hosts:
            if host is not other:
                assert reaches(host, other), f"{host.number} to {other.number}"
    # Full frames on the segment; 50 bytes less through the overlay, and who sends more is told.
    assert reaches(one, two, 1472, whole=True)
    assert reaches(one, three, 1422, whole=True)
    assert not reaches(one, three, 1423, whole=True, timeout_s=1)
    assert reaches(one, three, 4000)
    # Done again it changes nothing.
    before = one.own_state()
    assert not one.join(two, three)[2]
    assert one.own_state() == before


def test_what_is_stale_goes_whoever_left_it(hosts: list[Host]) -> None:
    one, two, three = hosts
    gone = Host(9, "192.168.2.9")
    one.join(two, three, gone)
    assert any("10.200.9.0" in line for line in one.own_state())
    # A successor, which remembers nothing, meets what is there; three has another address now, in this segment.
    assert one.join(two, Host(3, "192.168.1.3")) == (
        {two.pod_cidr: two.address, three.pod_cidr: "192.168.1.3"}, {}, True,
    )  # fmt: skip
    assert sorted(one.own_state()) == [
        "10.200.2.0/24 via 192.168.1.2 dev eth0 ",
        "10.200.3.0/24 via 192.168.1.3 dev eth0 ",
    ]
    one.join(three)
    run(sys.executable, "-c", REMOVE, netns=one.netns)
    assert one.own_state() == []


def test_damage_is_mended(hosts: list[Host]) -> None:
    one, two, three = hosts
    wanted = one.join(two, three)[:2]
    three.join(one, two)
    before = sorted(one.own_state())
    run("bridge", "-n", one.netns, "fdb", "del", "02:77:c0:a8:02:03", "dev", LINK, "dst", three.address, "self")
    run("ip", "-n", one.netns, "neigh", "flush", "dev", LINK, "nud", "permanent")
    run("ip", "-n", one.netns, "route", "del", two.pod_cidr)
    run("ip", "-n", one.netns, "link", "set", LINK, "mtu", "1400")
    assert not reaches(one, three, timeout_s=1)
    assert one.join(two, three)[:2] == wanted
    assert sorted(one.own_state()) == before
    assert reaches(one, three, 1422, whole=True)


def test_a_firewall_that_drops_what_it_forwards_is_told_of_the_pods(hosts: list[Host]) -> None:
    one, two, _ = hosts
    one.join(two)
    two.join(one)
    run("iptables", "-P", "FORWARD", "DROP", netns=two.netns)
    assert not reaches(one, two, timeout_s=1)
    call = "import sys; from kubelet.network import firewall; print(getattr(firewall, sys.argv[1])('pod'))"
    before = run("iptables", "-S", "FORWARD", netns=two.netns)
    told = [run(sys.executable, "-c", call, "let_through", netns=two.netns) for _ in range(2)]
    assert told == ["True\n", "False\n"]
    assert reaches(one, two)
    run(sys.executable, "-c", call, "stop_letting_through", netns=two.netns)
    assert run("iptables", "-S", "FORWARD", netns=two.netns) == before


def test_flows_to_endpoints_that_are_none_are_told_from_others() -> None:
    def line(target: str, port: int, endpoint: str) -> str:
        return (
            f"udp      17 29 src=10.1.0.9 dst={target} sport=4000 dport={port} [UNREPLIED] "
            f"src={endpoint} dst=10.1.0.9 sport=9000 dport=4000 mark=0 use=1"
        )

    right, wrong = [("10.96.0.5", 53, "10.1.0.2"), ("192.0.2.1", 30053, "10.1.0.2")], [("10.96.0.5", 53, "10.1.0.8")]
    others = [("10.96.0.6", 53, "10.1.0.8"), ("10.96.0.5", 54, "10.1.0.8"), ("192.0.2.7", 30053, "192.0.2.7")]
    wrong.append(("192.0.2.1", 30053, "10.1.0.8"))
    listing = "\n".join(line(*flow) for flow in (*right, *wrong, *others, *wrong)) + "\nudp 17 torn\n"
    wanted = {("10.96.0.5", 53): {"10.1.0.2", "10.1.0.3"}, ("", 30053): {"10.1.0.2"}}
    assert conntrack.misled(listing, wanted) == wrong


def test_flows_of_a_network_are_told_from_others() -> None:
    listing = (
        "tcp      6 86 TIME_WAIT src=10.9.0.1 dst=10.77.0.2 sport=51 dport=30080 "
        "src=10.200.1.2 dst=10.77.0.2 sport=8080 dport=51 [ASSURED] mark=0 use=1\n"
        "udp      17 20 src=10.9.0.1 dst=10.96.0.10 sport=52 dport=53 src=10.201.0.9 dst=10.9.0.1 sport=53 dport=52 use=1\n"
    )
    assert conntrack.led_to(listing, "10.200.1.0/24") == [
        [
            "-p",
            "tcp",
            "--orig-src",
            "10.9.0.1",
            "--orig-dst",
            "10.77.0.2",
            "--orig-port-src",
            "51",
            "--orig-port-dst",
            "30080",
        ]
    ]
