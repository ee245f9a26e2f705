"""CNI's configuration for a node: a bridge with addresses from the node's pod CIDR, once without and once with host ports and
bounds of bandwidth. The agent calls `write_config` as soon as it knows the CIDR; containerd watches the directories and turns
NetworkReady. CNI's caches of what no longer exists are removed by `remove_state`."""

from __future__ import annotations

import ipaddress
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from kubelet.network import links
from wherry.api import quantity

CONFIG_NAME = "10-wherry.conflist"
# Below the directory of the ordinary configuration: that of the pods with host ports or a bounded bandwidth. The portmap plugin
# calls iptables a dozen times whenever a pod goes, ports or not, which was a third of the time that the deletion of 30 pods took.
HOST_PORTS_DIR = "host-ports"
# libcni keeps the result of every ADD here; the path is fixed in containerd.
RESULT_CACHE = Path("/var/lib/cni/results")
MAX_LINK_NAME = 15
BRIDGE = "wherry0"
_EXTRAS = (
    {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
    # It does nothing for a pod without the annotations.
    {"type": "bandwidth", "capabilities": {"bandwidth": True}},
)
# What the runtime takes the bounds from.
BANDWIDTH = ("kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth")
# In bits: a packet has to fit, and the plugin counts in 32.
MIN_BURST, MAX_BURST = 1 << 20, 2**32 - 1


# What Kubernetes takes for a mistake.
MIN_RATE, MAX_RATE = 1000, 10**15


def bandwidth(annotations: Mapping[str, str]) -> dict[str, int]:
    """The bounds that a pod's annotations ask for, as the bandwidth plugin takes them: bits a second, and after a pause a
    second's worth at once; {} without any. Raises ValueError that names the annotation."""
    bounds: dict[str, int] = {}
    for annotation, direction in zip(BANDWIDTH, ("ingress", "egress"), strict=True):
        text = annotations.get(annotation)
        if text is None:
            continue
        try:
            rate = quantity.value(text)
        except ValueError as error:
            raise ValueError(f'annotation {annotation}: "{text}": {error}') from error
        if rate < MIN_RATE:
            raise ValueError(f'annotation {annotation}: "{text}": resource is unreasonably small (< 1kbit)')
        if rate > MAX_RATE:
            raise ValueError(f'annotation {annotation}: "{text}": resource is unreasonably large (> 1Pbit)')
        bounds |= {f"{direction}Rate": rate, f"{direction}Burst": min(max(rate, MIN_BURST), MAX_BURST)}
    return bounds


def config(
    network: str, pod_cidr: str, ipam_dir: Path, *, bridge: str, mtu: int = links.DEFAULT_MTU, host_ports: bool = False
) -> dict[str, object]:
    """The conflist. Both forms are one network: same bridge, same addresses.
    Raises ValueError for a CIDR or link name that can't be used."""
    subnet = ipaddress.ip_network(pod_cidr)
    if subnet.num_addresses < 8:
        raise ValueError(f"pod CIDR {pod_cidr}: too small, want at least a /29")
    if not 0 < len(bridge) <= MAX_LINK_NAME:
        raise ValueError(f'bridge name "{bridge}": want 1 to {MAX_LINK_NAME} characters')
    anywhere = "0.0.0.0/0" if subnet.version == 4 else "::/0"
    return {
        "cniVersion": "0.4.0",
        "name": network,
        "plugins": [
            {
                "type": "bridge",
                "bridge": bridge,
                "isGateway": True,
                "hairpinMode": True,
                # `kubelet.network.masquerade` does it, for what leaves the cluster only.
                "ipMasq": False,
                "mtu": mtu,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(ipam_dir),
                    "ranges": [[{"subnet": str(subnet)}]],
                    "routes": [{"dst": anywhere}],
                },
            },
            *(_EXTRAS if host_ports else []),
        ],
    }


def write_config(directory: Path, document: dict[str, object]) -> bool:
    """Writes the file if it differs; False when it was right already. A reader never sees half of it."""
    text = json.dumps(document, indent=2) + "\n"
    path = directory / CONFIG_NAME
    try:
        if path.read_text() == text:
            return False
    except OSError:
        pass
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".{CONFIG_NAME}.tmp"
    temporary.write_text(text)
    temporary.replace(path)
    return True


def configured_subnet(directory: Path) -> str:
    """The pod CIDR that `write_config` wrote; "" when there is none."""
    try:
        document = json.loads((directory / CONFIG_NAME).read_text())
        return str(document["plugins"][0]["ipam"]["ranges"][0][0]["subnet"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def release_leaked(ipam_dir: Path, network: str, known_ids: set[str]) -> list[str]:
    """Gives back the addresses of sandboxes that no longer exist (their DEL never ran, after a reboot say)."""
    released = []
    for file in sorted((ipam_dir / network).glob("[0-9a-f]*")):
        try:
            owner = file.read_text().split()
        except OSError:
            continue
        if owner and owner[0] not in known_ids:
            file.unlink(missing_ok=True)
            released.append(file.name)
    return released


def remove_state(network: str, ipam_dir: Path, netns_dir: Path) -> None:
    """Removes everything that CNI has written about this network and the sandboxes' namespaces in `netns_dir`."""
    shutil.rmtree(ipam_dir / network, ignore_errors=True)
    for file in sorted(RESULT_CACHE.glob(f"{network}-*")):
        file.unlink(missing_ok=True)
    # The loopback network has one name for all: ours are told by the namespace they are about.
    for file in sorted(RESULT_CACHE.glob("cni-loopback-*")):
        if f"{netns_dir}/" in _text(file):
            file.unlink(missing_ok=True)
    for directory in (RESULT_CACHE, RESULT_CACHE.parent / "networks", RESULT_CACHE.parent):
        try:
            directory.rmdir()  # only when nobody else uses it
        except OSError:
            pass


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
