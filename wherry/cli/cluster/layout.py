"""A local cluster's description: names, places and networks, kept in one small file so that every later command finds what `up`
made. Pure but for reading and writing that file. Used by everything in this package.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kubelet.runtime.containerd import Layout

if os.geteuid() == 0:
    STATE_DIR = Path("/var/lib/wherry")
    RUN_DIR = Path("/run/wherry")
    LOCK_DIR = Path("/run/lock")
else:
    # Not in the session's run-time directory, which goes with the last logout: the processes stay.
    STATE_DIR = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "wherry"
    RUN_DIR = STATE_DIR / ".run"
    LOCK_DIR = STATE_DIR / ".lock"
CONTAINERD, DOCKER = "containerd", "docker"
# With Docker a cluster has a /20 of this: the first /24 is the pods', the second the node's, and the upper half is for Services.
NETWORKS = ipaddress.IPv4Network("10.78.0.0/16")
DEFAULT_NAME = "wherry"
MAX_NODES = 200  # addresses of one /24, with room for the host's
FORMAT = 1
# A link's name has at most 15 characters: "wh-", this, "-", the node's number.
_NAME = re.compile(r"[a-z][a-z0-9]{0,7}")


class ClusterError(Exception):
    """What a person has to know, and can do something about; printed without a traceback."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node host: a network namespace of this machine (with Docker: a container's)."""

    cluster: str
    number: int
    address: str
    data: Path
    run: Path

    @property
    def name(self) -> str:
        return f"node-{self.number}"

    @property
    def netns(self) -> str:
        return f"wherry-{self.cluster}-{self.name}"

    @property
    def netns_path(self) -> str:
        return f"/run/netns/{self.netns}"

    @property
    def link(self) -> str:
        """The host's end of the node's cable."""
        return f"wh-{self.cluster}-{self.number}"

    @property
    def network(self) -> str:
        """CNI's name for the node's pod network."""
        return f"wherry-{self.cluster}-{self.name}"

    @property
    def cgroup_parent(self) -> str:
        return f"/wherry/{self.cluster}/{self.name}"

    @property
    def containerd(self) -> Layout:
        return Layout(data=self.data, run=self.run)

    @property
    def pid_file(self) -> Path:
        return self.run / "agent.pid"

    @property
    def log(self) -> Path:
        return self.data / "agent.log"

    @property
    def token_file(self) -> Path:
        return self.data / "join-token"


@dataclass(frozen=True, slots=True)
class Cluster:
    """What `up` has decided. `ip_forward` is the host's setting before us, restored by `down`."""

    name: str
    data_dir: str
    node_count: int
    port: int
    host_subnet: str
    cluster_cidr: str
    ip_forward: str = ""
    ingress: bool = True
    registry_config_dir: str = ""  # "" for the agents' own default
    runtime: str = CONTAINERD
    docker_host: str = ""  # unix:///PATH, with DOCKER

    @property
    def data(self) -> Path:
        return Path(self.data_dir)

    @property
    def run(self) -> Path:
        return RUN_DIR / self.name

    @property
    def bridge(self) -> str:
        return f"wh-{self.name}"

    @property
    def table(self) -> str:
        """The nftables table on the host."""
        return f"wherry-{self.name}"

    @property
    def gateway(self) -> str:
        """The host's own address on the bridge, where the nodes reach the control plane."""
        return str(ipaddress.ip_network(self.host_subnet)[1])

    @property
    def ingress_ports(self) -> tuple[int, int]:
        """Where haproxy listens at the gateway, for HTTP and HTTPS. On Docker nobody is root, and the node leads its own ports
        there."""
        return (80, 443) if self.runtime != DOCKER else (self.port + 10_000, self.port + 10_001)

    @property
    def ingress_address(self) -> str:
        """Where Ingresses are reached, at ports 80 and 443."""
        return self.gateway if self.runtime != DOCKER else self.node(1).address

    @property
    def docker_network(self) -> str:
        """Its subnet is `host_subnet`, the pods' part of it `cluster_cidr`."""
        return f"wherry-{self.name}"

    @property
    def services(self) -> str:
        """The addresses of Services, where they have to be in the Docker network: its upper half."""
        return str(list(ipaddress.IPv4Network(self.host_subnet).subnets())[1])

    @property
    def prefix_length(self) -> int:
        return ipaddress.ip_network(self.host_subnet).prefixlen

    @property
    def server_address(self) -> str:
        return f"{self.gateway}:{self.port}"

    @property
    def server_data(self) -> Path:
        return self.data / "server"

    @property
    def server_log(self) -> Path:
        return self.data / "server.log"

    @property
    def server_pid_file(self) -> Path:
        return self.run / "server.pid"

    @property
    def ingress_data(self) -> Path:
        return self.data / "ingress"

    @property
    def ingress_log(self) -> Path:
        return self.data / "ingress.log"

    @property
    def ingress_pid_file(self) -> Path:
        return self.run / "ingress.pid"

    @property
    def nodes(self) -> list[Node]:
        return [self.node(number) for number in range(1, self.node_count + 1)]

    def node(self, number: int) -> Node:
        name = f"node-{number}"
        address = str(ipaddress.ip_network(self.host_subnet)[(256 if self.runtime == DOCKER else 1) + number])
        return Node(self.name, number, address, self.data / name, self.run / name)

    def save(self) -> None:
        path = state_file(self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"format": FORMAT} | asdict(self), indent=2) + "\n")
        temporary.replace(path)


def check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ClusterError(f'cluster name "{name}": want 1 to 8 small letters and digits, a letter first')
    return name


def state_file(name: str) -> Path:
    return STATE_DIR / f"{name}.json"


def load(name: str) -> Cluster | None:
    """None when there is no such cluster. Raises ClusterError for a file that a newer version wrote, or a broken one."""
    path = state_file(name)
    try:
        document = json.loads(path.read_text())
        written = document.pop("format")
        if written != FORMAT:
            raise ClusterError(f"{path}: format {written}, this version reads {FORMAT}; use the wherry that made it")
        return Cluster(**document)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClusterError(f"{path}: damaged ({error}); `wherry down --name {name}` removes the cluster") from error


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Holds a lock file for as long as the block runs: one command at a time works on a cluster, and one chooses networks."""
    path = LOCK_DIR / f"wherry-{name}.lock"
    while True:
        LOCK_DIR.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("w")
        except FileNotFoundError:
            continue  # the last one to hold a lock has taken the directory with it
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever held it before has removed the file: then the lock that counts is another one.
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
                if LOCK_DIR.is_relative_to(STATE_DIR):
                    for directory in (LOCK_DIR, STATE_DIR):
                        with suppress(OSError):
                            directory.rmdir()  # unless somebody else's things are in it
            return


def known() -> list[str]:
    """The names of all clusters that have a description."""
    return sorted(path.stem for path in STATE_DIR.glob("*.json") if _NAME.fullmatch(path.stem))
