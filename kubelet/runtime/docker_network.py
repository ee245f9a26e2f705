"""The network of sandboxes on Docker: made by the node's CNI configuration, as with containerd, or by Docker's own bridge; with a
bridge that is the node's own, the node's ports lead to the pods. Used by `kubelet.runtime.docker`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from kubelet.network import NetworkError
from kubelet.network.cni import bandwidth
from kubelet.network.cni_exec import Plugins
from kubelet.runtime import docker_messages as messages
from kubelet.runtime.base import SandboxConfig
from kubelet.runtime.docker_bridge import is_routed, routed_body
from kubelet.runtime.docker_containers import Containers
from kubelet.runtime.docker_files import write_resolver
from kubelet.runtime.docker_node import NodeContainer


class SandboxNetwork:
    """Exactly one of `cni` and `node_container`, or none: then it is the bridge that every daemon has."""

    def __init__(self, containers: Containers, cni: Plugins | None, node_container: NodeContainer | None) -> None:
        self._containers = containers
        self._cni = cni
        self._node_container = node_container
        # Of two that set the node's ports the later must have looked later.
        self._levelling = asyncio.Lock()

    def ready(self) -> str:
        return self._cni.ready() if self._cni is not None else ""

    async def modes(self) -> tuple[str, str]:
        """Docker's network modes: of a pod, and of one with the host's network."""
        if self._node_container is not None:
            return self._node_container.network, f"container:{await self._node_container.ensure()}"
        return "none" if self._cni is not None else "bridge", "host"

    async def body(self, body: dict[str, Any], config: SandboxConfig) -> dict[str, Any]:
        """Of a sandbox, with what it needs to join."""
        if self._node_container is None or config.security.host_network:
            return body
        return routed_body(body, await self._node_container.bridge())

    def still_joined(self, document: Mapping[str, Any]) -> bool:
        """False when a pod that runs is on a network that is no longer the node's."""
        node = self._node_container
        if node is None:
            return True
        mode = str(document["HostConfig"]["NetworkMode"])
        if mode.startswith("container:"):
            return not node.id or mode == f"container:{node.id}"  # else the node has another namespace now
        return is_routed(document)

    async def join(self, sandbox_id: str, config: SandboxConfig) -> None:
        """When it runs. Raises NetworkError, RuntimeFailure."""
        if self._node_container is not None and not config.security.host_network:
            await self._node_container.route(sandbox_id)
        if self._cni is not None and not config.security.host_network:
            await self._join_cni(self._cni, await self._containers.inspect(sandbox_id), config)
        if config.port_mappings and self._node_container is not None:
            await self.level_ports()

    async def leave(self, document: Mapping[str, Any]) -> None:
        """Before it ends; also when it has ended. Raises NetworkError."""
        if self._cni is not None:
            await asyncio.to_thread(self._cni.delete, document["Id"], netns(document))

    async def level_ports(self) -> list[Any]:
        """The node's own address has the host ports of the pods that run, and no others. Returns all sandboxes. Raises
        RuntimeFailure."""
        async with self._levelling:
            documents = await self._containers.documents({messages.TYPE: "sandbox"})
            if self._node_container is not None:
                await self._node_container.hold_ports(
                    (port, address)
                    for document in documents
                    if document["State"].get("Running")
                    for address in self.ips(document)[:1]
                    for port in messages.host_ports(document)
                )
            return documents

    def ips(self, document: Mapping[str, Any]) -> tuple[str, ...]:
        if messages.on_host_network(document):
            return ()
        if self._cni is not None:
            return self._cni.addresses(document["Id"])
        networks = (document.get("NetworkSettings") or {}).get("Networks") or {}
        return tuple(str(item["IPAddress"]) for _, item in sorted(networks.items()) if item.get("IPAddress"))

    async def _join_cni(self, cni: Plugins, document: Mapping[str, Any], config: SandboxConfig) -> None:
        arguments = {
            "IgnoreUnknown": "1", "K8S_POD_NAMESPACE": config.namespace, "K8S_POD_NAME": config.name,
            "K8S_POD_INFRA_CONTAINER_ID": document["Id"], "K8S_POD_UID": config.uid,
        }  # fmt: skip
        mappings = [
            {
                "hostPort": port.host_port, "containerPort": port.container_port, "protocol": port.protocol.lower(),
                "hostIP": port.host_ip,
            }
            for port in config.port_mappings
        ]  # fmt: skip
        try:
            bounds = bandwidth(config.annotations)
        except ValueError as error:
            raise NetworkError(str(error)) from error
        wanted = {"portMappings": mappings, "bandwidth": bounds}
        capabilities = {name: value for name, value in wanted.items() if value}
        await asyncio.to_thread(cni.add, document["Id"], netns(document), arguments, capabilities)
        if config.dns is not None and document.get("ResolvConfPath"):
            # Docker writes this file once, when the container starts; the pod's containers share it.
            await asyncio.to_thread(write_resolver, str(document["ResolvConfPath"]), config.dns)


def netns(document: Mapping[str, Any]) -> str:
    """Of a running container; "" of one that has ended."""
    pid = int(document["State"].get("Pid") or 0)
    return f"/proc/{pid}/ns/net" if pid else ""
