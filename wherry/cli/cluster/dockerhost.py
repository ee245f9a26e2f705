"""The Docker daemon of this machine, as `wherry up --runtime docker` and its `down` use it: is it there and of the right sort,
the cluster's network, images, and whatever of the cluster is on it. Blocking; every function starts from what there is. What
runs in the containers is the agent's business (`kubelet.runtime.docker`, `docker_node`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kubelet.runtime import docker_messages as messages
from kubelet.runtime.archives import archive_contents
from kubelet.runtime.base import RuntimeFailure, RuntimeNotFound
from kubelet.runtime.docker import DEFAULT_SOCKET
from kubelet.runtime.docker_bridge import ADDRESS, INGRESS, NODE_NAME, SERVICES, check_swept, sweeper_body
from kubelet.runtime.docker_engine import connect, translated
from wherry.cli.cluster.layout import Cluster, ClusterError

DATA = "wherry.dev/data"  # label of the network: whose it is
CALL_TIMEOUT_S = 600  # images are loaded, too
FACTS_TIMEOUT_S = 30
_CONNECT_TIMEOUT_S = 10.0


def default_host() -> str:
    return os.environ.get("DOCKER_HOST") or f"unix://{DEFAULT_SOCKET}"


class Daemon:
    """Made by `reach`. Who made it calls `close`."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._client: Any = None

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    def call(self, name: str, *args: Any, **options: Any) -> Any:
        """A method of the SDK's APIClient. Raises RuntimeFailure, RuntimeNotFound."""

        def work() -> Any:
            if self._client is None:
                self._client = connect(self.host.removeprefix("unix://"), CALL_TIMEOUT_S)
            return getattr(self._client, name)(*args, **options)

        return translated(work)

    def facts(self) -> Mapping[str, Any]:
        """How it describes itself. Raises RuntimeFailure soon when nobody answers: most calls may take long, this one may not."""

        def work() -> Mapping[str, Any]:
            client = connect(self.host.removeprefix("unix://"), FACTS_TIMEOUT_S)
            try:
                found: Mapping[str, Any] = client.info()
                return found
            finally:
                client.close()

        return translated(work)

    # -- images

    def image_ids(self) -> dict[str, str]:
        """By name."""
        return {tag: str(item["Id"]) for item in self.call("images") for tag in item.get("RepoTags") or ()}

    def has(self, archive: Path) -> bool:
        """Whether the image of one of our archives is there, under its name."""
        names, contents = archive_contents(archive)
        try:
            return all(messages.contents(self.call("inspect_image", name)) == contents for name in names)
        except RuntimeNotFound:
            return False

    def load(self, archive: Path) -> list[str]:
        """The names that it now has. Raises RuntimeFailure with Docker's words."""
        names = []

        def work(client: Any) -> None:
            with archive.open("rb") as file:
                for step in client.load_image(file):
                    if "error" in step:
                        raise RuntimeFailure(f"{archive}: {step['error']}")
                    said = str(step.get("stream", "")).strip()
                    if said.startswith("Loaded image"):
                        names.append(said.partition(": ")[2])

        self.call("ping")
        translated(lambda: work(self._client))
        return names

    # -- networks

    def networks(self) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = self.call("networks")
        return found

    def subnets(self) -> list[str]:
        """Every one of IPv4 that Docker has given to a network."""
        configs = [item for network in self.networks() for item in (network.get("IPAM") or {}).get("Config") or ()]
        return sorted(text for item in configs if "." in (text := str(item.get("Subnet") or "")))

    def clusters(self) -> list[Mapping[str, Any]]:
        """The networks of all clusters on this daemon."""
        return [network for network in self.networks() if SERVICES in (network.get("Labels") or {})]

    def make_network(self, cluster: Cluster) -> bool:
        """False when it was there. Raises ClusterError when the name is somebody else's."""
        wanted = _labels(cluster)
        for network in self.networks():
            if network["Name"] != cluster.docker_network:
                continue
            labels = network.get("Labels") or {}
            if labels.get(DATA) != cluster.data_dir:
                whose = f"belongs to the cluster in {labels[DATA]}" if DATA in labels else "is not a cluster's"
                raise ClusterError(
                    f'the Docker network "{cluster.docker_network}" {whose}: choose another --name, or remove it with '
                    f"`docker network rm {cluster.docker_network}`"
                )
            configs = (network.get("IPAM") or {}).get("Config") or [{}]
            as_wanted = all(
                # One of before there were Ingresses will do as long as none are wanted.
                labels.get(name, value if name == INGRESS and not cluster.ingress else "") == value
                for name, value in wanted.items()
            )
            if as_wanted and configs[0].get("Subnet") == cluster.host_subnet:
                return False
            self.remove_containers(cluster.docker_network)
            self.call("remove_network", network["Id"])
        ipam = {
            "Driver": "default",
            "Config": [{"Subnet": cluster.host_subnet, "IPRange": cluster.cluster_cidr, "Gateway": cluster.gateway}],
        }
        self.call(
            "create_network", cluster.docker_network, driver="bridge", ipam=ipam, labels=wanted, check_duplicate=True,
            options={"com.docker.network.bridge.name": f"wd-{cluster.name}"},
        )  # fmt: skip
        return True

    # -- what is to go

    def containers(self, network: str) -> list[str]:
        """Every container of the cluster with this network, the node's own last."""
        filters = {"label": [f"{messages.NODE}={network}"]}
        found = self.call("containers", all=True, filters=filters)
        order = {"container": 0, "sweeper": 0, "sandbox": 1}
        found.sort(key=lambda item: order.get((item.get("Labels") or {}).get(messages.TYPE, ""), 2))
        return [str(item["Id"]) for item in found]

    def is_running(self, container: str) -> bool:
        try:
            return bool(self.call("inspect_container", container)["State"].get("Running"))
        except RuntimeNotFound:
            return False

    def remove_containers(self, network: str) -> int:
        found = self.containers(network)
        for container in found:
            try:
                self.call("remove_container", container, v=True, force=True)
            except RuntimeNotFound:
                pass
        return len(found)

    def has_network(self, name: str, data_dir: str) -> bool:
        """Of the cluster with this directory."""
        return any(
            item["Name"] == name and (item.get("Labels") or {}).get(DATA) == data_dir for item in self.clusters()
        )

    def remove_network(self, name: str, data_dir: str) -> bool:
        if not self.has_network(name, data_dir):
            return False
        self.call("remove_network", name)
        return True

    def remove_images(self, references: Sequence[str]) -> bool:
        """Of those that no container has."""
        removed = False
        for reference in references:
            try:
                self.call("remove_image", reference)
                removed = True
            except RuntimeFailure:
                pass  # it is gone, or in use
        return removed

    def sweep(self, directory: Path, network: str) -> None:
        """Removes what containers of the cluster with this network have left there as root or anybody else. Raises
        RuntimeFailure."""
        made = self.call("create_container_from_config", sweeper_body(directory, network))
        try:
            self.call("start", made["Id"])
            check_swept(directory, self.call("wait", made["Id"]))
        finally:
            self.call("remove_container", made["Id"], v=True, force=True)


def reach(host: str) -> Daemon:
    """Raises ClusterError that says what to do when there is no daemon on which a node can be made."""
    if not host.startswith("unix://"):
        raise ClusterError(
            f'Docker host "{host}": want unix:///PATH, a daemon of this machine: pods share its files and its network'
        )
    path = host.removeprefix("unix://")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(_CONNECT_TIMEOUT_S)
    try:
        probe.connect(path)
    except PermissionError as error:
        raise ClusterError(
            f"Docker is not reachable at {host}: permission denied. Join its group (`sudo usermod -aG docker $USER`) and log in "
            "again"
        ) from error
    except OSError as error:
        raise ClusterError(
            f"Docker is not reachable at {host}: {error.strerror or error}. Install and start it (`sudo systemctl start "
            "docker`), or say with --docker-host or DOCKER_HOST where it is"
        ) from error
    finally:
        probe.close()
    daemon = Daemon(host)
    try:
        facts = daemon.facts()
    except RuntimeFailure as error:
        raise ClusterError(f"Docker at {host} does not answer: {error.message}") from error
    if problem := unfit(facts):
        raise ClusterError(f"Docker at {host} {problem}")
    return daemon


def load_into_docker(cluster: Cluster, archive: Path) -> list[str]:
    """Raises ClusterError, RuntimeFailure, OSError."""
    with reach(cluster.docker_host) as daemon:
        return daemon.load(archive)


def unfit(facts: Mapping[str, Any]) -> str:
    """Why no node can be made on a daemon that describes itself so; "" when one can."""
    if facts.get("OSType", "linux") != "linux":
        return f"runs {facts['OSType']} containers: pods need Linux"
    options = facts.get("SecurityOptions") or ()
    if any("name=rootless" in option for option in options):
        return "is rootless: its containers' network is out of this machine's reach. Use a daemon that runs as root"
    if any("name=userns" in option for option in options):
        return "maps its containers' users (userns-remap), so they could not read the pods' volumes. Turn that off"
    if "Docker Desktop" in str(facts.get("OperatingSystem", "")):
        return "is Docker Desktop, whose containers run in a virtual machine out of reach. Use Docker Engine"
    return ""


def check_gateway(cluster: Cluster) -> None:
    """Raises ClusterError when the network's end is not on this machine, or not yet."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((cluster.gateway, 0))
        except OSError as error:
            raise ClusterError(
                f"the Docker network {cluster.docker_network} has no end on this machine ({cluster.gateway}: "
                f"{error.strerror}): the daemon at {cluster.docker_host} runs elsewhere, or in a network of its own"
            ) from error


def _labels(cluster: Cluster) -> dict[str, str]:
    node = cluster.node(1)
    ports = ",".join(str(port) for port in cluster.ingress_ports)
    return {
        DATA: cluster.data_dir, ADDRESS: node.address, SERVICES: cluster.services, NODE_NAME: node.name, INGRESS: ports,
    }  # fmt: skip
