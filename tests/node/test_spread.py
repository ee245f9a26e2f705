"""How a real kernel spreads the connections to one Service over its endpoints: evenly, whichever way the table chooses.
Clients are in one network namespace, with the table; endpoints are addresses of another, with one server for all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from kubelet.network.services.plan import FEW
from wherry.testing.require import require_containerd, require_root

SERVER = """
import socket
listener = socket.create_server(("0.0.0.0", 8080), backlog=100)
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(connection.getsockname()[0].encode())
    connection.close()
"""
CLIENT = """
import json, socket, sys
from collections import Counter
from kubelet.network.services.kernel import Nftables
from kubelet.network.services.plan import Place, plan
from kubelet.network.services.ruleset import TABLE, Ruleset, skeleton
from wherry.pb import core_v1_pb2, discovery_v1_pb2

service = core_v1_pb2.Service()
service.metadata.namespace, service.metadata.name = "default", "web"
service.spec.type, service.spec.cluster_ip = "ClusterIP", "10.96.1.1"
service.spec.ports.add(name="p", port=80, protocol="TCP")
told = {}
for count in map(int, sys.argv[2:]):
    found = discovery_v1_pb2.EndpointSlice(address_type="IPv4")
    found.ports.add(name="p", port=8080, protocol="TCP")
    for number in range(count):
        found.endpoints.add(addresses=[f"10.50.0.{number + 1}"]).conditions.ready = True
    rules = Ruleset(TABLE, skeleton(TABLE))
    rules.change({"default/web": plan(service, [found], Place("n1", "10.1.0.0/24"))})
    Nftables().apply(rules.whole())
    counts = Counter()
    for _ in range(count * int(sys.argv[1])):
        with socket.create_connection(("10.96.1.1", 80), timeout=10) as sock:
            counts[sock.recv(100).decode()] += 1
    told[count] = list(counts.values())
print(json.dumps(told))
"""
ENDPOINTS, EXPECTED = (1, 3, FEW, 30), 50


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def test_connections_are_spread_evenly() -> None:
    require_root()
    require_containerd()
    client, server = (f"ws{os.getpid() % 100000}{end}" for end in "cs")
    root = Path(__file__).parents[2]
    process = None
    try:
        for netns in (client, server):
            ip("netns", "add", netns)
        ip("-n", client, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", server)
        for netns, address in ((client, "10.9.0.1/24"), (server, "10.9.0.2/24")):
            ip("-n", netns, "address", "add", address, "dev", "eth0")
            for link in ("lo", "eth0"):
                ip("-n", netns, "link", "set", link, "up")
        ip("-n", client, "route", "add", "default", "via", "10.9.0.2")
        ip("-n", server, "route", "add", "local", "10.50.0.0/24", "dev", "lo")
        inside = {
            netns: ["nsenter", f"--net=/run/netns/{netns}", "--", sys.executable, "-c"] for netns in (client, server)
        }
        process = subprocess.Popen([*inside[server], SERVER], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        words = [str(EXPECTED), *(str(count) for count in ENDPOINTS)]
        done = subprocess.run([*inside[client], CLIENT, *words], capture_output=True, text=True, timeout=60, cwd=root)
    finally:
        if process is not None:
            process.kill()
            process.communicate()
        for netns in (client, server):
            subprocess.run(["ip", "netns", "del", netns], check=False)
    assert done.returncode == 0, done.stderr
    for count, counts in json.loads(done.stdout).items():
        assert len(counts) == int(count)
        # Each is binomial with a deviation of 7 at most: five of these are less likely than one in a million.
        assert all(abs(each - EXPECTED) <= 35 for each in counts), (count, sorted(counts))
