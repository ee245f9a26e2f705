"""Node hosts in network namespaces, with real pods on each: who reaches whom, and what `down` leaves (nothing), in one go or from
half-made states. The control plane has no part in this."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kubelet.network import links
from kubelet.network.mesh import kernel as mesh
from kubelet.network.mesh.plan import Mesh, Peer
from kubelet.runtime.base import SandboxConfig
from kubelet.runtime.containerd import find_running
from kubelet.runtime.cri import CriRuntime
from kubelet.runtime.processes import ProcessRef, command_lines
from wherry.cli.cluster import hosts, images, layout, resolver, switch
from wherry.cli.cluster.down import down, find_traces, names
from wherry.cli.cluster.hello import fetch
from wherry.cli.cluster.layout import Cluster, Node
from wherry.cli.cluster.progress import Progress
from wherry.testing.eventually import eventually
from wherry.testing.realnode import Pods
from wherry.testing.require import require_containerd

pytestmark = [pytest.mark.root, pytest.mark.containerd]

# Starts a node's containerd and pod network the way the agent does; runs inside the node's namespace.
NODE_PROGRAM = """
import asyncio, sys
from pathlib import Path
from kubelet.network.mesh import kernel, plan
from kubelet.network.node import NodeNetwork, NodeNetworkOptions
from kubelet.runtime.containerd import Containerd, ContainerdOptions, Layout

async def main(data, run, network, pod_cidr, cluster_cidr, address, other_cidr, other_address):
    place = Layout(Path(data), Path(run))
    await Containerd(ContainerdOptions(place)).start()
    options = NodeNetworkOptions(place.cni_conf_dir, place.ipam_dir, place.netns_dir, network=network, cluster_cidr=cluster_cidr)
    await NodeNetwork(options).configure(pod_cidr)
    if other_cidr:
        own, other = plan.Peer("this", pod_cidr, address), plan.Peer("other", other_cidr, other_address)
        kernel.apply(own, plan.choose(own, [other], kernel.on_link()))

asyncio.run(main(*sys.argv[1:]))
"""


def start_node(cluster: Cluster, node: Node, pod_cidr: str, other: tuple[str, str] = ("", "")) -> None:
    place = node.containerd
    argv = ["nsenter", f"--net={node.netns_path}", "--", sys.executable, "-c", NODE_PROGRAM]
    argv += [str(place.data), str(place.run), node.network, pod_cidr, cluster.cluster_cidr, node.address, *other]
    subprocess.run(argv, check=True, timeout=60, cwd=Path(__file__).parents[2])
    for name, content in (("pause", images.pause_archive()), ("demo", images.demo_archive())):
        path = place.data / f"{name}.tar"
        path.write_bytes(content)
        images.load(place.socket, path)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    require_containerd()
    monkeypatch.setenv("WHERRY_CONFIG", str(tmp_path / "config"))
    with layout.locked("choosing"):
        taken = hosts.networks_in_use()
        made = Cluster(
            name=f"t{os.getpid() % 1000000}",
            data_dir=str(tmp_path / "cluster"),
            node_count=2,
            port=0,
            host_subnet=hosts.choose_host_subnet(taken),
            cluster_cidr=hosts.choose_cluster_cidr(taken),
            ip_forward=hosts.forwarding(),
        )
        made.save()
    yield made
    down(made.name, Progress(quiet=True))


def snapshot(cluster: Cluster) -> dict[str, object]:
    """Everything of this machine that carries the cluster's name or lies in its directories."""
    name = cluster.name
    mounts = Path("/proc/self/mountinfo").read_text()
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    needles = (cluster.data_dir, str(cluster.run), f"wherry-{name}", f"wh-{name}")
    found = {
        "links": hosts.links_of(name),
        "namespaces": hosts.namespaces_of(name),
        "routes": [line for line in routes.splitlines() if f"wh-{name}" in line],
        "rules": [line for line in rules.splitlines() if f"wherry-{name}" in line],
        "mounts": [line for line in mounts.splitlines() if any(needle in line for needle in needles)],
        "processes": [
            args for pid, args in command_lines().items()
            if pid != os.getpid() and any(needle in " ".join(args) for needle in needles)
        ],
        "cgroups": [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/wherry/{name}")],
        "cni": [str(path) for path in Path("/var/lib/cni").rglob(f"*wherry-{name}*")],
        "files": [str(path) for path in (cluster.data, cluster.run, layout.state_file(name)) if path.exists()],
        "known": [each for each in names() if each == name],
    }  # fmt: skip
    return {kind: value for kind, value in found.items() if value}


async def run_page(runtime: CriRuntime, node: Node, tmp_path: Path) -> tuple[str, str]:
    """(container id, address) of a pod that serves its node's name."""
    pods = Pods(runtime, tmp_path / node.name)
    sandbox: tuple[str, SandboxConfig] = await pods.sandbox(cgroup_parent=f"{node.cgroup_parent}/pod")
    container = await pods.container(sandbox, f"echo {node.name} > /www/index.html; httpd -f -p 8080 -h /www")
    (address,) = (await runtime.sandbox_status(sandbox[0])).ips
    return container, address


async def test_pods_of_all_nodes_and_the_host_reach_each_other(cluster: Cluster, tmp_path: Path) -> None:
    assert hosts.make_switch(cluster)
    assert not hosts.make_switch(cluster)
    subnets = [str(net) for net in list(layout.ipaddress.ip_network(cluster.cluster_cidr).subnets(new_prefix=24))[:2]]
    for node in cluster.nodes:
        assert hosts.make_host(cluster, node)
        assert not hosts.make_host(cluster, node)
    for this, other in ((0, 1), (1, 0)):
        theirs = (subnets[other], cluster.nodes[other].address)
        await asyncio.to_thread(start_node, cluster, cluster.nodes[this], subnets[this], theirs)
    cidrs = {node.name: subnet for node, subnet in zip(cluster.nodes, subnets, strict=True)}
    assert hosts.route_to_pods(cluster, cidrs)
    assert not hosts.route_to_pods(cluster, cidrs)

    runtimes = [CriRuntime(str(node.containerd.socket), netns=node.netns_path) for node in cluster.nodes]
    try:
        pages = [await run_page(runtime, node, tmp_path) for runtime, node in zip(runtimes, cluster.nodes, strict=True)]
        for node, (_, address) in zip(cluster.nodes, pages, strict=True):

            async def page(address: str = address) -> str:
                try:
                    return await asyncio.to_thread(fetch, f"http://{address}:8080/")
                except OSError:
                    return ""

            assert await eventually(page) == f"{node.name}\n"
        for runtime, (container, _) in zip(runtimes, pages, strict=True):
            for node, (_, address) in zip(cluster.nodes, pages, strict=True):
                script = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 8080"
                got = await runtime.exec_sync(container, ["sh", "-c", script], 10)
                assert got.stdout.decode().endswith(f"\r\n\r\n{node.name}\n"), got
        # A session goes through the streaming server inside the node's namespace.
        stream = await runtimes[0].exec(pages[0][0], ["hostname"], stdin=False, stdout=True, stderr=True, tty=False)
        assert b"".join([piece async for _, piece in stream.output()]) == b"pod-1\n"
        await stream.close()
    finally:
        for runtime in runtimes:
            await runtime.close()
    assert down(cluster.name, Progress(quiet=True))
    assert snapshot(cluster) == {}
    assert hosts.forwarding() == cluster.ip_forward or hosts.names_in_kernel()
    assert not down(cluster.name, Progress(quiet=True))


async def test_down_after_everything_was_killed_and_the_description_lost(cluster: Cluster, tmp_path: Path) -> None:
    # Without the description only the default data directory can be found again.
    cluster = replace(cluster, data_dir=str(layout.STATE_DIR / cluster.name), node_count=1)
    hosts.make_switch(cluster)
    node = cluster.nodes[0]
    hosts.make_host(cluster, node)
    subnet = next(layout.ipaddress.ip_network(cluster.cluster_cidr).subnets(new_prefix=24))
    await asyncio.to_thread(start_node, cluster, node, str(subnet))
    runtime = CriRuntime(str(node.containerd.socket))
    container, _ = await run_page(runtime, node, tmp_path)
    await runtime.close()
    containerd = find_running(node.containerd)
    assert containerd is not None
    containerd.terminate(0)
    for pid, arguments in command_lines().items():
        if "containerd-shim" in arguments[0] and str(node.containerd.socket) in arguments:
            ref = ProcessRef.of(pid)
            if ref is not None:
                ref.terminate(0)
    layout.state_file(cluster.name).unlink()
    node.containerd.pid_file.unlink()
    assert snapshot(cluster)["mounts"]
    assert down(cluster.name, Progress(quiet=True))
    assert snapshot(cluster) == {}
    assert container


@pytest.mark.parametrize(
    "made", ["bridge only", "namespace without cable", "cable without namespace", "plain file as namespace"]
)
def test_half_made_networks_are_mended_and_removed(made: str, cluster: Cluster) -> None:
    node = cluster.nodes[0]
    hosts.make_switch(cluster)
    if made == "namespace without cable":
        links.ip("netns", "add", node.netns)
    elif made == "cable without namespace":
        links.ip("link", "add", node.link, "type", "veth", "peer", "name", f"wp{os.getpid()}"[:15])
    elif made == "plain file as namespace":
        links.NETNS_DIR.mkdir(exist_ok=True)
        (links.NETNS_DIR / node.netns).touch()
    assert hosts.make_host(cluster, node)
    assert not hosts.make_host(cluster, node)
    assert f"{node.address}/{cluster.prefix_length}" in links.addresses(netns=node.netns)
    down(cluster.name, Progress(quiet=True))
    assert snapshot(cluster) == {}


def reaches(node: Node, address: str) -> bool:
    """Whether a connection to a port where nobody listens is refused, and not lost."""
    program = f"import socket; s = socket.socket(); s.settimeout(3); print(s.connect_ex(('{address}', 9)))"
    command = ["nsenter", f"--net={node.netns_path}", "--", sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == str(errno.ECONNREFUSED)


def test_frames_between_nodes_pass_the_bridge_by(cluster: Cluster) -> None:
    one, other = cluster.nodes
    hosts.make_switch(cluster)
    hosts.make_host(cluster, one)
    assert not switch.connect(cluster), "there is nowhere to go from the only node"
    hosts.make_host(cluster, other)
    assert switch.connect(cluster)
    assert not switch.connect(cluster)
    assert reaches(one, other.address)
    setting = ["nsenter", f"--net={one.netns_path}", "--", "cat", "/proc/sys/net/ipv4/ip_early_demux"]
    assert subprocess.run(setting, capture_output=True, text=True, check=True).stdout == "0\n"
    assert reaches(one, cluster.gateway), "what is no node takes the bridge"
    for node in (one, other):
        # From here on the bridge leads nothing from the one to the other.
        links.ip("link", "set", "dev", node.link, "isolated", "on", tool="bridge")
    assert reaches(one, other.address)
    assert reaches(other, one.address)
    # A node that is made anew has another cable.
    hosts.remove_host(other)
    assert hosts.make_host(cluster, other)
    assert switch.connect(cluster)
    links.ip("neigh", "flush", "dev", "eth0", netns=one.netns)
    assert reaches(one, other.address)
    links.ip("link", "set", "dev", other.link, "isolated", "on", tool="bridge")
    assert reaches(other, one.address)
    assert switch.disconnect(cluster.table)
    assert not reaches(other, one.address), "without the shortcut the bridge was the way"
    assert not switch.disconnect(cluster.table)
    assert switch.connect(cluster)
    down(cluster.name, Progress(quiet=True))
    assert snapshot(cluster) == {}


def test_the_network_of_the_pods_shows_as_taken_from_the_start(cluster: Cluster) -> None:
    """Also to what does not know of wherry's descriptions, before any node has joined."""
    hosts.make_switch(cluster)
    assert cluster.cluster_cidr in links.routes()
    assert not hosts.make_switch(cluster)
    part = {cluster.nodes[0].name: cluster.cluster_cidr.replace("/16", "/24")}
    assert hosts.route_to_pods(cluster, part)
    # A node of another cluster, on this machine itself, takes away what it holds for its own: not these. Whoever asked for a pod
    # would be answered by some machine behind the default route.
    mesh.apply(Peer("other", "10.9.0.0/24", "192.0.2.99"), Mesh())
    mesh.remove()
    assert not hosts.route_to_pods(cluster, part)
    assert not hosts.make_switch(cluster)
    assert hosts.route_to_pods(cluster, {})
    assert links.routes()[cluster.cluster_cidr] == ""
    down(cluster.name, Progress(quiet=True))
    assert cluster.cluster_cidr not in links.routes()


def test_two_clusters_do_not_share_anything(cluster: Cluster) -> None:
    hosts.make_switch(cluster)
    other_subnet = hosts.choose_host_subnet(hosts.networks_in_use())
    assert other_subnet != cluster.host_subnet
    other = replace(cluster, name="zz", host_subnet=other_subnet)
    assert not {node.netns for node in cluster.nodes} & {node.netns for node in other.nodes}
    assert not {node.link for node in cluster.nodes} & {node.link for node in other.nodes}
    assert find_traces("zz").nodes == []


def test_loopback_resolver_is_reached_from_inside_a_node(cluster: Cluster) -> None:
    hosts.make_switch(cluster)
    node = cluster.nodes[0]
    hosts.make_host(cluster, node)
    resolver.apply(node.netns_path, {"127.0.0.53": cluster.gateway})
    asking = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5);"
        "s.sendto(b'who is it?', ('127.0.0.53', 53)); print(s.recvfrom(100))"
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream:
        upstream.bind((cluster.gateway, 53))
        upstream.settimeout(5)
        argv = ["nsenter", f"--net={node.netns_path}", "--", sys.executable, "-c", asking]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            question, sender = upstream.recvfrom(100)
            assert (question, sender[0]) == (b"who is it?", node.address)
            upstream.sendto(b"it is me", sender)
            answer = process.communicate(timeout=10)[0]
    assert answer.strip() == "(b'it is me', ('127.0.0.53', 53))"
