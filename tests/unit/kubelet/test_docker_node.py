"""The node that is a container: its description, its rules, and what Docker tells of pods with ports of the node."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kubelet.network import NetworkError
from kubelet.runtime import docker_messages as messages
from kubelet.runtime.base import PortMapping, RuntimeFailure, SandboxConfig, SecurityContext
from kubelet.runtime.docker_bridge import Bridge, Names, describe, node_body, rules
from kubelet.runtime.docker_ground import BridgeGround

BRIDGE = Bridge("wherry-a", "10.78.0.1", "10.78.0.0/20", "10.78.0.0/24", "10.78.1.1", "10.78.8.0/21", "node-1")
DOCUMENT = {
    "Name": "wherry-a",
    "Labels": {
        "wherry.dev/node-address": "10.78.1.1", "wherry.dev/services": "10.78.8.0/21", "wherry.dev/node-name": "node-1",
    },
    "IPAM": {"Config": [{"Subnet": "10.78.0.0/20", "IPRange": "10.78.0.0/24", "Gateway": "10.78.0.1"}]},
}  # fmt: skip


def test_the_network_tells_of_its_node() -> None:
    assert describe(DOCUMENT) == BRIDGE
    with pytest.raises(RuntimeFailure, match='the Docker network "mine" is no node\'s'):
        describe({"Name": "mine", "Labels": {}, "IPAM": {"Config": []}})
    told = DOCUMENT | {"Labels": DOCUMENT["Labels"] | {"wherry.dev/ingress-ports": "17443,17444"}}  # type: ignore[operator]
    text = rules(describe(told), None, [])
    assert "ip daddr 10.78.1.1 tcp dport 80 dnat to 10.78.0.1:17443" in text
    assert "ip daddr 10.78.1.1 tcp dport 443 dnat to 10.78.0.1:17444" in text
    body = node_body(BRIDGE)
    assert body["NetworkingConfig"]["EndpointsConfig"]["wherry-a"]["IPAMConfig"]["IPv4Address"] == "10.78.1.1"
    assert body["HostConfig"]["CapAdd"] == ["NET_ADMIN"]


@pytest.mark.parametrize(
    ("names", "ports", "lines"),
    [
        pytest.param(None, [], [], id="nothing yet"),
        pytest.param(
            Names("10.78.8.10", "10.78.0.1", 4711),
            [],
            [
                "ip daddr 10.78.8.10 tcp dport 53 dnat to 10.78.0.1:4711",
                "ip daddr 10.78.8.10 udp dport 53 dnat to 10.78.0.1:4711",
            ],
            id="names",
        ),
        pytest.param(
            None,
            [(PortMapping(80, 8080), "10.78.0.7"), (PortMapping(53, 5353, "UDP"), "10.78.0.8")],
            [
                "ip daddr 10.78.1.1 tcp dport 8080 dnat to 10.78.0.7:80",
                "ip daddr 10.78.1.1 udp dport 5353 dnat to 10.78.0.8:53",
            ],
            id="ports of the node",
        ),
        pytest.param(
            None,
            [(PortMapping(80, 8080, "TCP", "127.0.0.1"), "10.78.0.7"), (PortMapping(9, 9, "SCTP"), "10.78.0.8")],
            [],
            id="not for the node's address, not led",
        ),
    ],
)
def test_the_nodes_own_rules(names: Names | None, ports: list[tuple[PortMapping, str]], lines: list[str]) -> None:
    text = rules(BRIDGE, names, ports)
    assert [line.strip() for line in text.splitlines() if "dnat to" in line] == lines
    assert "ct status dnat ip saddr != 10.78.0.0/24 masquerade" in text
    published = [line.strip() for line in text.splitlines() if " sport " in line]
    wanted = [(port, to) for port, to in ports if port.protocol != "SCTP"]
    assert published == [f"ip saddr {to} {p.protocol.lower()} sport {p.container_port} accept" for p, to in wanted]
    assert rules(BRIDGE, names, reversed(ports)) == text


class Node:
    """`problem`: at which step, and what."""

    def __init__(self, step: str, problem: Exception) -> None:
        self.step, self.problem = step, problem
        self.serving = asyncio.Event()
        self.address = ("10.78.0.1", 4711)
        self.sweep: Any = None

    def _reach(self, step: str) -> None:
        if step == self.step:
            raise self.problem

    async def bridge(self) -> Bridge:
        self._reach("bridge")
        return BRIDGE

    async def serve(self, address: str, port: int) -> None:
        self._reach("serve")
        self.serving.set()
        await asyncio.Event().wait()

    async def hold_names(self, names: Names) -> None:
        self._reach("hold")


@pytest.mark.parametrize(
    ("step", "problem", "kind"),
    [
        ("bridge", RuntimeFailure("no such network"), NetworkError),
        ("serve", OSError("address not available"), OSError),
        ("hold", RuntimeFailure("rules were refused"), NetworkError),
    ],
)
async def test_why_names_are_not_served_is_said(step: str, problem: Exception, kind: type[Exception]) -> None:
    node: Any = Node(step, problem)
    with pytest.raises(kind) as raised:
        await BridgeGround(node).serve_names(node, "10.78.8.10")
    assert str(raised.value) == str(problem)


def sandbox(**security: bool) -> dict[str, Any]:
    config = SandboxConfig(
        "default", "p", "uid", 0, "p", "/logs", port_mappings=(PortMapping(80, 8080), PortMapping(53, 5353, "UDP", "127.0.0.1")),
        security=SecurityContext(**security),
    )  # fmt: skip
    return messages.sandbox_body(config, "pause", "wherry-a", "wherry-a", "container:abc")


def test_ports_are_read_back_as_they_were_asked_for() -> None:
    found = messages.host_ports(sandbox())
    assert found == [PortMapping(53, 5353, "UDP", "127.0.0.1"), PortMapping(80, 8080)]
    assert not messages.on_host_network(sandbox())


def test_a_pod_on_the_hosts_network_has_the_nodes() -> None:
    made = sandbox(host_network=True)
    assert made["HostConfig"]["NetworkMode"] == "container:abc"
    assert messages.on_host_network(made)
    assert "Hostname" not in made
    assert messages.host_ports(made) == []
