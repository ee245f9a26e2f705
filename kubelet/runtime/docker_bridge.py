"""A node on a Docker network of its own, in Docker's and nft's words. Pure; used by `docker_node` and `docker_network`, and by
what makes the network and removes it (`wherry up --runtime docker`, `down`).

Pods have the addresses of one part of the network's subnet, Services those of another. The node's container claims the
Services' part for itself, so that what this machine sends to a Service arrives there. Pods send everything by way of the node,
to each other too: so it can hold them to NetworkPolicies, and the answers of Services find their way back through it. Only
between a pod and this machine nobody stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubelet.network.dns.server import PORT as DNS_PORT
from kubelet.runtime import docker_messages as messages
from kubelet.runtime.base import PortMapping, RuntimeFailure

NODE_IMAGE = "wherry.local/node:1"
# Labels of the network.
ADDRESS, SERVICES, NODE_NAME = "wherry.dev/node-address", "wherry.dev/services", "wherry.dev/node-name"
INGRESS = "wherry.dev/ingress-ports"  # where at the gateway HTTP and HTTPS are served: HTTP,HTTPS
ROUTED = "wherry.dev/routed"  # of a sandbox
INGRESS_PORTS = (80, 443)
NODE_TABLE = "wherry-node"


@dataclass(frozen=True, slots=True)
class Bridge:
    """A node's Docker network, as its labels describe it."""

    name: str
    gateway: str  # this machine's own address on it
    subnet: str
    pods: str  # the part of the subnet of which pods have their addresses
    address: str  # the node's
    services: str
    node_name: str
    ingress: tuple[int, ...] = ()  # ports of the gateway that answer for the node's 80 and 443


@dataclass(frozen=True, slots=True)
class Names:
    """The cluster's DNS address, and where its name server really listens."""

    address: str
    server: str
    port: int


def describe(document: Mapping[str, Any]) -> Bridge:
    """From Docker's description. Raises RuntimeFailure for a network that is no node's."""
    labels = document.get("Labels") or {}
    configs = (document.get("IPAM") or {}).get("Config") or [{}]
    name = str(document.get("Name", ""))
    if any(not labels.get(label) for label in (ADDRESS, SERVICES, NODE_NAME)):
        raise RuntimeFailure(
            f'the Docker network "{name}" is no node\'s: `wherry up --runtime docker` makes one that is'
        )
    gateway, subnet, pods = (str(configs[0].get(key) or "") for key in ("Gateway", "Subnet", "IPRange"))
    ingress = tuple(int(port) for port in labels.get(INGRESS, "").split(",") if port.isdigit())
    return Bridge(name, gateway, subnet, pods or subnet, labels[ADDRESS], labels[SERVICES], labels[NODE_NAME], ingress)


def node_body(bridge: Bridge) -> dict[str, Any]:
    """The body of /containers/create. The route makes every address of the Services the container's own, so it answers for
    them on the bridge."""
    return {
        "Image": NODE_IMAGE,
        "Hostname": bridge.node_name,
        "Cmd": ["/bin/sh", "-c", f"ip route add local {bridge.services} dev lo && exec sleep 2147483647"],
        "StopSignal": "SIGKILL",
        "Labels": {messages.NODE: bridge.name, messages.TYPE: "node"},
        "HostConfig": {
            "NetworkMode": bridge.name,
            "IpcMode": "private",
            "CapDrop": ["ALL"],
            "CapAdd": ["NET_ADMIN"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "Sysctls": {"net.ipv4.ip_forward": "1"},
            "LogConfig": {"Type": "none"},
        },
        "NetworkingConfig": {"EndpointsConfig": {bridge.name: {"IPAMConfig": {"IPv4Address": bridge.address}}}},
    }


def routed_body(body: dict[str, Any], bridge: Bridge) -> dict[str, Any]:
    """A sandbox whose pod reaches all others, and the world, by way of the node. It sets its own routes, as the only container
    of the pod that may."""
    host = body["HostConfig"] | {"CapDrop": ["ALL"], "CapAdd": ["NET_ADMIN"]}
    command = ["/bin/sh", "-c", f"{routes(bridge)} && exec /pause"]
    return body | {
        "Image": NODE_IMAGE, "Cmd": command, "User": "0:0", "HostConfig": host, "Labels": body["Labels"] | {ROUTED: "1"},
    }  # fmt: skip


def routes(bridge: Bridge) -> str:
    """Run in a pod's namespace, any number of times. The machine itself is reached directly: what it sends to pods does not pass
    the node either."""
    near = " && ".join(f"ip route replace {address} dev eth0" for address in (bridge.gateway, bridge.address))
    gone = f"{{ ip route del {bridge.subnet} dev eth0 2>/dev/null; true; }}"
    return f"{near} && ip route replace default via {bridge.address} && {gone}"


def is_routed(document: Mapping[str, Any]) -> bool:
    """Of a sandbox: one of a wherry before this one may not be."""
    return ROUTED in messages.labels_of(document)


def sweeper_body(directory: Path, network: str) -> dict[str, Any]:
    """A container that empties a directory of this machine, as root: what containers have written there as somebody else, an
    agent without root can't remove. By its labels `down` finds one whose maker was killed."""
    return {
        "Image": NODE_IMAGE,
        "Cmd": ["/bin/sh", "-c", "rm -rf /swept/* /swept/.[!.]* /swept/..?*"],
        "User": "0:0",
        "Labels": {messages.NODE: network, messages.TYPE: "sweeper"},
        "HostConfig": {
            "Mounts": [{"Type": "bind", "Source": str(directory), "Target": "/swept"}],
            "NetworkMode": "none",
            "LogConfig": {"Type": "none"},
        },
    }


def check_swept(directory: Path, ended: Mapping[str, Any]) -> None:
    """`ended`: Docker's answer about the sweeper. Raises RuntimeFailure when it could not remove everything."""
    if code := int(ended.get("StatusCode") or 0):
        raise RuntimeFailure(f"emptying {directory}: rm ended with exit code {code}")


def rules(bridge: Bridge, names: Names | None, ports: Iterable[tuple[PortMapping, str]]) -> str:
    """The table of what is led on besides Services: the questions for names, and the ports of the node that pods have (hostPort),
    each with the address of its pod. Two pods that want one port never get that far: Docker publishes it once.

    What is led on keeps its sender where both ends are pods (this machine has an address among theirs), since the answer comes
    back this way. Answers to who came by a port of this machine have not come this way, and keep the pod's address; all else that
    pods send to the world has the node's."""
    lines, published = [], []
    if names is not None:
        for kind in ("tcp", "udp"):
            lines.append(f"ip daddr {names.address} {kind} dport {DNS_PORT} dnat to {names.server}:{names.port}")
    for port, address in sorted(ports, key=lambda item: (item[0].protocol, item[0].host_port, item[1])):
        kind, to = port.protocol.lower(), f"{address}:{port.container_port}"
        if kind not in ("tcp", "udp"):
            continue
        published.append(f"ip saddr {address} {kind} sport {port.container_port} accept")
        if port.host_ip in ("", "0.0.0.0"):
            lines.append(f"ip daddr {bridge.address} {kind} dport {port.host_port} dnat to {to}")
    # What no pod and no Service has of the node's ports.
    rest = "\n    ".join(
        f"ip daddr {bridge.address} tcp dport {own} dnat to {bridge.gateway}:{port}"
        for own, port in zip(INGRESS_PORTS, bridge.ingress, strict=False)
    )
    body, answers = "\n    ".join(lines), "\n    ".join(dict.fromkeys(published))
    return f"""add table ip {NODE_TABLE}
delete table ip {NODE_TABLE}
table ip {NODE_TABLE} {{
  chain lead {{
    {body}
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat - 5; policy accept;
    jump lead
  }}
  chain rest {{
    type nat hook prerouting priority dstnat + 5; policy accept;
    {rest}
  }}
  chain output {{
    type nat hook output priority -105; policy accept;
    jump lead
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat ip saddr {bridge.gateway} masquerade
    ct status dnat ip daddr {bridge.gateway} masquerade
    ct status dnat ip saddr != {bridge.pods} masquerade
    {answers}
    ip saddr {bridge.pods} ip daddr != {bridge.subnet} masquerade
  }}
  chain redirects {{
    type filter hook output priority filter; policy accept;
    icmp type redirect drop
  }}
}}
"""
