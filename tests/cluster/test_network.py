"""The pods' network and Services on a real cluster of two nodes, seen from both ends of each connection: whose address a server
sees, where packets may go, which endpoint answers. The ends are the tests' own, in the pods' namespaces.
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from wherry.testing.inside import (
    HERE,
    REFUSED,
    SILENT,
    UDP,
    Witness,
    ask,
    ask_by,
    everybody,
    make_socket,
    namespaces,
)
from wherry.testing.local import IMAGE, LocalCluster, is_ready, trace, until
from wherry.testing.require import require_containerd, require_root

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]

IP_MTU_DISCOVER, DO = 10, 2
SERVERS = {"a": "node-1", "b": "node-2"}
CLIENTS = {"near": "node-1", "far": "node-2"}


def pod(name: str, node: str, app: str, *ports: dict[str, Any], **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": IMAGE, "command": ["sleep", "1000000"], "ports": list(ports)}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container], **spec},
    }  # fmt: skip


def service(name: str, *, target: int | str = 9000, app: str | None = "web", **spec: Any) -> dict[str, Any]:
    ports = [
        {"name": protocol.lower(), "port": 80, "targetPort": target, "protocol": protocol}
        for protocol in ("TCP", "UDP")
    ]
    selector = {"selector": {"app": app}} if app else {}
    body = {"ports": ports, **selector, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": body}


class Network:
    """The cluster, the namespaces of its pods and their addresses."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.ips: dict[str, str] = {}
        self.places: dict[str, str] = {}

    def apply(self, *documents: dict[str, Any]) -> None:
        self.cluster.apply("\n---\n".join(json.dumps(document) for document in documents))

    def look(self, *names: str) -> None:
        """Waits for these pods."""
        for name in names:
            found = until(lambda name=name: is_ready(pod := self.cluster.json("pod", name)) and pod)  # type: ignore[misc]
            self.ips[name] = found["status"]["podIP"]
        places = namespaces(self.cluster.description.nodes)
        self.places |= {name: places[self.ips[name]] for name in names}

    def vip(self, name: str) -> str:
        found: str = self.cluster.json("service", name)["spec"]["clusterIP"]
        return found

    def node_port(self, name: str) -> int:
        found: int = self.cluster.json("service", name)["spec"]["ports"][0]["nodePort"]
        return found

    def address(self, node: str) -> str:
        return next(item.address for item in self.cluster.description.nodes if item.name == node)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    require_root()
    require_containerd()
    made = LocalCluster(prefix="w")
    try:
        made.up()
        network = Network(made)
        network.apply(
            *(pod(name, node, "web", {"name": "who", "containerPort": 9000}) for name, node in SERVERS.items())
        )
        network.apply(*(pod(name, node, "client") for name, node in CLIENTS.items()))
        network.apply(
            service("web", type="NodePort"),
            service("local", type="NodePort", externalTrafficPolicy="Local"),
            service("inside", internalTrafficPolicy="Local"),
        )
        network.look(*SERVERS, *CLIENTS)
        yield network
    finally:
        made.down()
    left = {what: [line for line in lines if made.name in line] for what, lines in trace().items()}
    assert not any(left.values()), f"left behind: {left}"


@pytest.fixture
def witnesses(network: Network) -> Iterator[None]:
    """Servers in both pods."""
    with ExitStack() as stack:
        for name in SERVERS:
            stack.enter_context(Witness(name, network.places[name]))
        until(lambda: everybody(network.places["near"], network.vip("web"), 80) == set(SERVERS))
        yield


def outcomes(place: str, host: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> dict[str, str]:
    """Who answers, and the address that it sees."""
    return dict(ask(place, host, port, kind) for _ in range(30))


@pytest.mark.usefixtures("witnesses")
def test_only_what_leaves_the_cluster_has_the_nodes_address(network: Network) -> None:
    near, places, description = network.ips["near"], network.places, network.cluster.description
    for kind in (socket.SOCK_STREAM, UDP):
        # To pods, near and far, by their addresses and by a Service's.
        for name in SERVERS:
            assert ask(places["near"], network.ips[name], 9000, kind) == (name, near)
        assert outcomes(places["near"], network.vip("web"), 80, kind) == {"a": near, "b": near}
        # To itself by its Service: the answer has to come back by way of the node.
        seen = outcomes(places["a"], network.vip("web"), 80, kind)
        assert seen.keys() == {"a", "b"}
        assert seen["b"] == network.ips["a"]
        assert seen["a"] not in (network.ips["a"], SILENT)
    with Witness("outside", HERE, 0, description.gateway) as outside:
        for kind in (socket.SOCK_STREAM, UDP):
            answer = ask(places["near"], description.gateway, outside.port(kind), kind)
            assert answer == ("outside", network.address("node-1"))


@pytest.mark.usefixtures("witnesses")
def test_who_comes_in_by_a_node_port_is_hidden_but_with_a_policy_of_local(network: Network) -> None:
    gateway, places = network.cluster.description.gateway, network.places
    for name, node in SERVERS.items():
        host = network.address(node)
        for kind in (socket.SOCK_STREAM, UDP):
            seen = outcomes(HERE, host, network.node_port("web"), kind)
            assert seen.keys() == {"a", "b"}
            assert gateway not in seen.values()
            assert seen["b" if name == "a" else "a"] == host
            assert outcomes(HERE, host, network.node_port("local"), kind) == {name: gateway}
    # Inside: the pods of one's own node only, and none where there is none.
    for client, name in (("near", "a"), ("far", "b")):
        assert outcomes(places[client], network.vip("inside"), 80) == {name: network.ips[client]}
    network.cluster.ok("label", "pod", "b", "app=away", "--overwrite")
    try:
        until(lambda: ask(places["far"], network.vip("inside"), 80, timeout_s=0.5)[0] == SILENT)
        until(lambda: ask(HERE, network.address("node-2"), network.node_port("local"), timeout_s=0.5)[0] == SILENT)
        assert everybody(places["near"], network.vip("inside"), 80) == {"a"}
        assert everybody(places["far"], network.vip("web"), 80) == {"a"}
    finally:
        network.cluster.ok("label", "pod", "b", "app=web", "--overwrite")


@pytest.mark.usefixtures("witnesses")
def test_datagrams_of_one_client_go_on_elsewhere_when_their_endpoint_goes(network: Network) -> None:
    """The kernel remembers where a flow went; what it remembers of an endpoint that is gone has to be forgotten."""
    vip = network.vip("web")
    with make_socket(network.places["near"], UDP) as sock:
        first, _ = ask_by(sock, vip, 80)
        other = next(iter(SERVERS.keys() - {first}))
        assert {ask_by(sock, vip, 80)[0] for _ in range(10)} == {first}
        network.cluster.ok("label", "pod", first, "app=away", "--overwrite")
        until(lambda: ask_by(sock, vip, 80, timeout_s=0.5)[0] == other)
        network.cluster.ok("label", "pod", other, "app=away", "--overwrite")
        until(lambda: ask_by(sock, vip, 80, timeout_s=0.5)[0] == REFUSED)
        network.cluster.ok("label", "pod", *SERVERS, "app=web", "--overwrite")
        (first, _) = until(lambda: (told := ask_by(sock, vip, 80, timeout_s=0.5))[0] in SERVERS and told)
        # Likewise when it goes while the node has no agent: the client does not stop asking for that.
        subprocess.run(["kill", "-9", str(network.cluster.agent_pid(1))], check=True)
        network.cluster.ok("label", "pod", first, "app=away", "--overwrite")
        other = next(iter(SERVERS.keys() - {first}))
        until(lambda: endpoints(network) == {network.ips[other]})
        assert ask_by(sock, vip, 80)[0] == first
        network.cluster.up()
        until(lambda: ask_by(sock, vip, 80, timeout_s=0.5)[0] == other, 120)
        network.cluster.ok("label", "pod", first, "app=web", "--overwrite")


def endpoints(network: Network) -> set[str]:
    slices = network.cluster.json("endpointslices", "-l", "kubernetes.io/service-name=web")["items"]
    return {address for found in slices for item in found.get("endpoints") or () for address in item["addresses"]}


@pytest.mark.usefixtures("witnesses")
def test_hints_keep_connections_near(network: Network) -> None:
    """By the zones that somebody gives the nodes with kubectl, in the slices and in the nodes' tables."""
    cluster, places = network.cluster, network.places
    vip = network.vip("web")

    def spread() -> bool:
        return all(everybody(places[client], vip, 80) == {"a", "b"} for client in CLIENTS)

    def near() -> bool:
        return everybody(places["near"], vip, 80) == {"a"} and everybody(places["far"], vip, 80) == {"b"}

    def hints() -> list[Any]:
        slices = cluster.json("endpointslices", "-l", "kubernetes.io/service-name=web")["items"]
        return [endpoint.get("hints") for found in slices for endpoint in found["endpoints"]]

    def patch(**spec: Any) -> None:
        network.apply(service("web", type="NodePort", **spec))

    try:
        for name, node in SERVERS.items():
            cluster.ok("label", "node", node, f"topology.kubernetes.io/zone=zone-{name}", "--overwrite")
        assert spread()
        for distribution in ("PreferClose", "PreferSameNode", "PreferSameZone"):
            patch(trafficDistribution=distribution)
            by_node = distribution == "PreferSameNode"
            until(lambda by_node=by_node: all(h and ("forNodes" in h) == by_node for h in hints()) and near())  # type: ignore[misc]
        # Without an endpoint in its zone a node goes anywhere.
        cluster.ok("label", "pod", "b", "app=away", "--overwrite")
        until(lambda: everybody(places["far"], vip, 80) == {"a"})
        cluster.ok("label", "pod", "b", "app=web", "--overwrite")
        until(near)
        patch()
        until(spread)
        assert not any(hints())
        cluster.ok("annotate", "service", "web", "service.kubernetes.io/topology-mode=Auto")
        until(near)
    finally:
        cluster.ok("label", "pod", "b", "app=web", "--overwrite")
        for node in SERVERS.values():
            cluster.ok("label", "node", node, "topology.kubernetes.io/zone-")
        cluster.ok("annotate", "service", "web", "service.kubernetes.io/topology-mode-")
        patch()


def test_a_port_by_name_is_each_pods_own(network: Network) -> None:
    network.apply(
        pod("other-port", "node-2", "named", {"name": "who", "containerPort": 9100}),
        pod("one-port", "node-1", "named", {"name": "who", "containerPort": 9200}),
        pod("no-port", "node-1", "named"),
        service("named", target="who", app="named"),
    )
    network.look("other-port", "one-port", "no-port")
    ports = {"other-port": 9100, "one-port": 9200, "no-port": 9100}
    with ExitStack() as stack:
        for name, port in ports.items():
            stack.enter_context(Witness(name, network.places[name], port))
        until(lambda: everybody(network.places["near"], network.vip("named"), 80) == {"other-port", "one-port"})
    network.cluster.ok("delete", "pod", *ports)


@pytest.mark.usefixtures("witnesses")
def test_endpoints_that_somebody_writes(network: Network) -> None:
    """By an Endpoints object, which is mirrored; there is no selector."""
    body = {
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "written"},
        "subsets": [{
            "addresses": [{"ip": network.ips["b"]}],
            "ports": [{"name": name, "port": 9000, "protocol": name.upper()} for name in ("tcp", "udp")],
        }],
    }  # fmt: skip
    network.apply(service("written", app=None), body)
    for kind in (socket.SOCK_STREAM, UDP):
        until(lambda kind=kind: ask(network.places["near"], network.vip("written"), 80, kind)[0] == "b")  # type: ignore[misc]
    network.cluster.ok("delete", "endpoints", "written")
    until(lambda: ask(network.places["near"], network.vip("written"), 80)[0] == REFUSED)


def test_host_ports(network: Network) -> None:
    host, gateway, places = network.address("node-1"), network.cluster.description.gateway, network.places
    both = [{"name": p.lower(), "containerPort": 9000, "hostPort": 8055, "protocol": p} for p in ("TCP", "UDP")]
    network.apply(
        pod("open", "node-1", "ports", *both),
        pod("loopback", "node-1", "ports", {"containerPort": 9000, "hostPort": 8056, "hostIP": "127.0.0.1"}),
    )
    network.look("open", "loopback")
    forced = pod("forced", "node-1", "ports", {"containerPort": 9000, "hostPort": 8055})
    asked = pod("asked", "", "ports", *both[:1], nodeSelector={"kubernetes.io/hostname": "node-1"})
    network.apply(forced, asked)
    with Witness("open", places["open"]), Witness("loopback", places["loopback"]):
        for kind in (socket.SOCK_STREAM, UDP):
            assert ask(HERE, host, 8055, kind) == ("open", gateway)
            assert ask(places["far"], host, 8055, kind)[0] == "open"
            assert ask(places["near"], host, 8055, kind)[0] == "open"
            assert ask(places["open"], host, 8055, kind)[0] == "open"
            assert ask(HERE, network.address("node-2"), 8055, kind)[0] == REFUSED
        node = network.cluster.description.node(1).netns_path
        assert ask(node, "127.0.0.1", 8056)[0] == "loopback"
        assert ask(HERE, host, 8056)[0] == REFUSED
    # Two pods cannot have it: one waits, and one that has named its node itself fails.
    status = until(lambda: (found := network.cluster.json("pod", "forced")["status"])["phase"] == "Failed" and found)
    assert status["reason"] == "NodePorts"
    told = until(lambda: network.cluster.ok("describe", "pod", "asked").partition("FailedScheduling")[2])
    assert "1 node(s) didn't have free ports for the requested pod ports" in told
    network.cluster.ok("delete", "pod", "open", "forced")
    network.look("asked")
    with Witness("asked", places["asked"]):
        until(lambda: ask(HERE, host, 8055) == ("asked", gateway))  # the other one's sandbox goes meanwhile
    network.cluster.ok("delete", "pod", "asked", "loopback")
    until(lambda: ask(HERE, host, 8055)[0] == REFUSED)


def test_a_pod_has_the_mtu_of_its_way(network: Network) -> None:
    """On one segment that of the nodes' link; who sends more in one piece is told."""
    told = subprocess.run(
        ["nsenter", f"--net={network.places['near']}", "ip", "-j", "link"], capture_output=True, text=True, check=True
    ).stdout
    (mtu,) = [link["mtu"] for link in json.loads(told) if link["ifname"] == "eth0"]
    with (
        make_socket(network.places["near"], UDP) as sock,
        make_socket(network.places["b"], UDP) as other,
    ):
        other.bind(("0.0.0.0", 9000))
        other.settimeout(20)
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, DO)
        sock.connect((network.ips["b"], 9000))
        sock.send(bytes(mtu - 28))
        assert len(other.recv(65535)) == mtu - 28
        with pytest.raises(OSError, match="Message too long"):
            sock.send(bytes(mtu - 27))
