"""What a pod is called on its node, and how it finds others by name: hostname, /etc/hosts, resolv.conf, as in the kubelet. Pure.

Called by `config` for the sandbox, by `starting` and `kubelet.files` for /etc/hosts, by `worker` for what to complain of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kubelet.pods.services import NodeSettings
from kubelet.runtime.base import DNSConfig
from wherry.pb import core_v1_pb2

HOSTNAME_LIMIT = 63

# More than these, resolvers of common C libraries do not read, or fail on.
MAX_SERVERS = 3
MAX_SEARCHES = 32
MAX_SEARCH_CHARS = 2048  # of all, with the spaces between
MAX_DOMAIN_CHARS = 253

_MANAGED = (
    "# Kubernetes-managed hosts file.",
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::0\tip6-localnet",
    "fe00::0\tip6-mcastprefix",
    "fe00::1\tip6-allnodes",
    "fe00::2\tip6-allrouters",
)


def hostname_of(pod: core_v1_pb2.Pod, node: NodeSettings) -> str:
    """As the kernel knows it."""
    if pod.spec.host_network:
        return node.facts.name
    return names_of(pod, node)[0] if pod.spec.set_hostname_as_fqdn else names_of(pod, node)[-1]


def names_of(pod: core_v1_pb2.Pod, node: NodeSettings) -> tuple[str, ...]:
    """Of a pod with a network of its own, as /etc/hosts has them: the full name, if there is one, then the short one."""
    spec = pod.spec
    if spec.HasField("hostname_override"):
        return (spec.hostname_override,)
    name = (spec.hostname or pod.metadata.name)[:HOSTNAME_LIMIT].rstrip("-.")
    if not spec.subdomain:
        return (name,)
    return f"{name}.{spec.subdomain}.{pod.metadata.namespace}.svc.{node.cluster_domain}", name


def hosts_text(pod: core_v1_pb2.Pod, ips: Iterable[str], names: Sequence[str], node_file: str) -> str:
    """`node_file` is what the node's own /etc/hosts says, for pods on its network."""
    if pod.spec.host_network:
        text = f"# Kubernetes-managed hosts file (host network).\n{node_file}"
        if not text.endswith("\n"):
            text += "\n"
    else:
        shown = "\t".join(names)
        text = "".join(f"{line}\n" for line in (*_MANAGED, *(f"{ip}\t{shown}" for ip in ips)))
    if pod.spec.host_aliases:
        text += "\n# Entries added by HostAliases.\n"
        for alias in pod.spec.host_aliases:
            text += "\t".join((alias.ip, *alias.hostnames)) + "\n"
    return text


def dns_of(pod: core_v1_pb2.Pod, node: NodeSettings) -> DNSConfig:
    """By dnsPolicy, with dnsConfig on top, as far as the limits let it."""
    return _fitting(_wanted(pod, node))[0]


def dns_complaints(pod: core_v1_pb2.Pod, node: NodeSettings) -> list[str]:
    """What the limits left out, in the kubelet's words."""
    return _fitting(_wanted(pod, node))[1]


def _wanted(pod: core_v1_pb2.Pod, node: NodeSettings) -> DNSConfig:
    spec, host = pod.spec, node.host_dns
    policy = spec.dns_policy or "ClusterFirst"
    if policy == "ClusterFirst" and spec.host_network:
        policy = "Default"
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet") and node.cluster_dns:
        domain = node.cluster_domain
        own = (f"{pod.metadata.namespace}.svc.{domain}", f"svc.{domain}", domain)
        base = DNSConfig((node.cluster_dns,), _unique((*own, *host.searches)), ("ndots:5",))
    elif policy == "None":
        base = DNSConfig()
    else:
        base = host
    if not spec.HasField("dns_config"):
        return base
    extra = spec.dns_config
    options = {option.partition(":")[0]: option for option in base.options}
    for option in extra.options:
        options[option.name] = f"{option.name}:{option.value}" if option.value else option.name
    return DNSConfig(
        _unique((*base.servers, *extra.nameservers)),
        _unique((*base.searches, *extra.searches)),
        tuple(options.values()),
    )


def _fitting(wanted: DNSConfig) -> tuple[DNSConfig, list[str]]:
    complaints = []
    servers = wanted.servers[:MAX_SERVERS]
    if servers != wanted.servers:
        complaints.append(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "
            + " ".join(servers)
        )
    searches = tuple(domain for domain in wanted.searches[:MAX_SEARCHES] if len(domain) <= MAX_DOMAIN_CHARS)
    while len(" ".join(searches)) > MAX_SEARCH_CHARS:
        searches = searches[:-1]
    if searches != wanted.searches:
        complaints.append(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "
            + " ".join(searches)
        )
    return DNSConfig(servers, searches, wanted.options), complaints


def _unique(items: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))
