"""Hostnames, /etc/hosts and resolv.conf of pods, by the kubelet's rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kubelet import files
from kubelet.files import PodFiles
from kubelet.node import host_dns
from kubelet.pods.model import NodeFacts
from kubelet.pods.naming import dns_complaints, dns_of, hostname_of, hosts_text, names_of
from kubelet.pods.services import NodeSettings
from kubelet.runtime.base import DNSConfig
from wherry.api import codec
from wherry.pb import core_v1_pb2

HOST = DNSConfig(("192.0.2.1", "192.0.2.2"), ("example.com", "corp.example.com"), ("timeout:2", "rotate"))
CLUSTER = ("team.svc.cluster.local", "svc.cluster.local", "cluster.local")


def node(host: DNSConfig = HOST, cluster_dns: str = "10.96.0.10") -> NodeSettings:
    return NodeSettings(NodeFacts("node-1", ("192.0.2.9",)), cluster_dns=cluster_dns, host_dns=host)


def pod(name: str = "web-0", **spec: Any) -> core_v1_pb2.Pod:
    body = {"metadata": {"name": name, "namespace": "team", "uid": "u"}, "spec": {"containers": [], **spec}}
    return codec.from_dict(body, core_v1_pb2.Pod)


LONG = {
    "nameservers": ["198.51.100.1"],
    "searches": ["own.example.com"],
    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
}
RESOLVERS: dict[str, tuple[dict[str, Any], DNSConfig]] = {
    "by default the cluster comes first": (
        {},
        DNSConfig(("10.96.0.10",), (*CLUSTER, "example.com", "corp.example.com"), ("ndots:5",)),
    ),
    "ClusterFirst": (
        {"dnsPolicy": "ClusterFirst"},
        DNSConfig(("10.96.0.10",), (*CLUSTER, "example.com", "corp.example.com"), ("ndots:5",)),
    ),
    "ClusterFirst on the node's network is Default": ({"dnsPolicy": "ClusterFirst", "hostNetwork": True}, HOST),
    "ClusterFirstWithHostNet": (
        {"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": True},
        DNSConfig(("10.96.0.10",), (*CLUSTER, "example.com", "corp.example.com"), ("ndots:5",)),
    ),
    "ClusterFirstWithHostNet without the node's network": (
        {"dnsPolicy": "ClusterFirstWithHostNet"},
        DNSConfig(("10.96.0.10",), (*CLUSTER, "example.com", "corp.example.com"), ("ndots:5",)),
    ),
    "Default": ({"dnsPolicy": "Default"}, HOST),
    "None": (
        {"dnsPolicy": "None", "dnsConfig": LONG},
        DNSConfig(("198.51.100.1",), ("own.example.com",), ("ndots:2", "edns0")),
    ),
    "one's own come last, and its options win": (
        {"dnsConfig": LONG},
        DNSConfig(
            ("10.96.0.10", "198.51.100.1"),
            (*CLUSTER, "example.com", "corp.example.com", "own.example.com"),
            ("ndots:2", "edns0"),
        ),
    ),
    "one's own on top of the node's": (
        {"dnsPolicy": "Default", "dnsConfig": {"options": [{"name": "timeout"}, {"name": "attempts", "value": "3"}]}},
        DNSConfig(HOST.servers, HOST.searches, ("timeout", "rotate", "attempts:3")),
    ),
    "what is there already is not there twice": (
        {"dnsConfig": {"nameservers": ["10.96.0.10"], "searches": ["cluster.local", "new.example.com"]}},
        DNSConfig(
            ("10.96.0.10",), (*CLUSTER, "example.com", "corp.example.com", "new.example.com"), ("ndots:5",)
        ),
    ),
    "an empty dnsConfig changes nothing": ({"dnsPolicy": "Default", "dnsConfig": {}}, HOST),
}  # fmt: skip


@pytest.mark.parametrize("case", RESOLVERS)
def test_resolvers(case: str) -> None:
    spec, wanted = RESOLVERS[case]
    assert dns_of(pod(**spec), node()) == wanted
    assert dns_complaints(pod(**spec), node()) == []


def test_without_cluster_dns_the_nodes_resolver_is_asked() -> None:
    assert dns_of(pod(), node(cluster_dns="")) == HOST


def test_domains_of_the_node_that_are_the_clusters_are_there_once() -> None:
    host = DNSConfig(("192.0.2.1",), ("svc.cluster.local", "a.example", "a.example"))
    assert dns_of(pod(), node(host)).searches == (*CLUSTER, "a.example")


def domains(count: int, letters: int = 1) -> list[str]:
    return [f"{'x' * letters}{number:02}.example" for number in range(count)]


LIMITS: dict[str, tuple[DNSConfig, dict[str, Any], int, int, list[str]]] = {
    # the node's, the pod's spec -> servers, searches, what is complained of
    "three servers": (HOST, {"dnsPolicy": "Default", "dnsConfig": {"nameservers": ["192.0.2.3"]}}, 3, 2, []),
    "a fourth server": (
        HOST,
        {"dnsPolicy": "Default", "dnsConfig": {"nameservers": ["192.0.2.3", "192.0.2.4"]}},
        3,
        2,
        [
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "
            "192.0.2.1 192.0.2.2 192.0.2.3"
        ],
    ),
    "thirty-two domains": (DNSConfig(("192.0.2.1",)), {"dnsConfig": {"searches": domains(29)}}, 1, 32, []),
    "a thirty-third domain": (
        DNSConfig(("192.0.2.1",)),
        {"dnsConfig": {"searches": domains(30)}},
        1,
        32,
        [
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "
            + " ".join((*CLUSTER, *domains(29)))
        ],
    ),
    "more than 2048 characters": (
        DNSConfig(("192.0.2.1",), tuple(domains(10, letters=230))),
        {"dnsPolicy": "Default"},
        1,
        8,  # of 240 each, and the spaces: a ninth would make 2168
        [
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "
            + " ".join(domains(8, letters=230))
        ],
    ),
    "a domain that is too long": (
        DNSConfig(("192.0.2.1",), ("a" * 254, "b" * 253)),
        {"dnsPolicy": "Default"},
        1,
        1,
        [
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "
            + "b" * 253
        ],
    ),
}


@pytest.mark.parametrize("case", LIMITS)
def test_limits(case: str) -> None:
    host, spec, servers, searches, complaints = LIMITS[case]
    found = dns_of(pod(**spec), node(host))
    assert (len(found.servers), len(found.searches)) == (servers, searches)
    assert len(" ".join(found.searches)) <= 2048
    assert dns_complaints(pod(**spec), node(host)) == complaints


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("nameserver 192.0.2.1\nnameserver\n# nameserver 192.0.2.9\n", DNSConfig(("192.0.2.1",))),
        (
            "search old.example\nnameserver 192.0.2.1\nsearch a.example. b.example .\n",
            DNSConfig(("192.0.2.1",), ("a.example", "b.example", ".")),
        ),
        ("domain a.example\nnameserver 192.0.2.1\n", DNSConfig(("192.0.2.1",), ("a.example",))),
        (
            "options timeout:1\nnameserver 192.0.2.1\n\toptions ndots:2 rotate\n",
            DNSConfig(("192.0.2.1",), (), ("ndots:2", "rotate")),
        ),
    ],
    ids=["servers", "the last search line", "a domain", "the last options line"],
)
def test_what_the_nodes_file_says(tmp_path: Path, text: str, wanted: DNSConfig) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(text)
    assert host_dns((str(file),)) == wanted


NAMES: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    # spec -> hostname, what /etc/hosts has beside the address
    "its own name": ({}, "web-0", ("web-0",)),
    "a hostname": ({"hostname": "front"}, "front", ("front",)),
    "in a subdomain": ({"subdomain": "club"}, "web-0", ("web-0.club.team.svc.cluster.local", "web-0")),
    "with its full name as the hostname": (
        {"hostname": "front", "subdomain": "club", "setHostnameAsFQDN": True},
        "front.club.team.svc.cluster.local",
        ("front.club.team.svc.cluster.local", "front"),
    ),
    "with a full name that it does not have": ({"setHostnameAsFQDN": True}, "web-0", ("web-0",)),
    "overridden": (
        {"hostname": "front", "subdomain": "club", "hostnameOverride": "any.example.com"},
        "any.example.com",
        ("any.example.com",),
    ),
}


@pytest.mark.parametrize("case", NAMES)
def test_names(case: str) -> None:
    spec, hostname, names = NAMES[case]
    assert hostname_of(pod(**spec), node()) == hostname
    assert names_of(pod(**spec), node()) == names


def test_a_long_name_is_cut_where_a_label_may_end() -> None:
    assert names_of(pod("a" * 62 + "-bcd"), node()) == ("a" * 62,)
    assert names_of(pod("a" * 62 + ".bcd"), node()) == ("a" * 62,)
    assert names_of(pod("a" * 70), node()) == ("a" * 63,)


def test_on_the_nodes_network_it_bears_the_nodes_name() -> None:
    assert hostname_of(pod(hostname="front", hostNetwork=True), node()) == "node-1"


ALIASES = [{"ip": "192.0.2.7", "hostnames": ["db", "db.example.com"]}, {"ip": "::7", "hostnames": ["six"]}]
ADDED = "\n# Entries added by HostAliases.\n192.0.2.7\tdb\tdb.example.com\n::7\tsix\n"
MANAGED = """# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""


def test_the_hosts_file_of_a_pod() -> None:
    made = pod(subdomain="club", hostAliases=ALIASES)
    text = hosts_text(made, ["10.244.1.5", "fd00::5"], names_of(made, node()), "")
    named = "web-0.club.team.svc.cluster.local\tweb-0\n"
    assert text == f"{MANAGED}10.244.1.5\t{named}fd00::5\t{named}{ADDED}"
    assert hosts_text(pod(), ["10.244.1.5"], ["web-0"], "") == f"{MANAGED}10.244.1.5\tweb-0\n"


@pytest.mark.parametrize("end", ["\n", ""])
def test_on_the_nodes_network_it_is_the_nodes_file(end: str) -> None:
    made = pod(hostNetwork=True, hostAliases=ALIASES)
    text = hosts_text(made, ["192.0.2.9"], ["web-0"], f"127.0.0.1 localhost{end}")
    assert text == f"# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n{ADDED}"


def test_the_file_stays_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers that run have it mounted: one that took its place would not be theirs."""
    own = tmp_path / "hosts"
    own.write_text("192.0.2.9 node-1\n")
    monkeypatch.setattr(files, "NODE_HOSTS", own)
    kept = PodFiles(tmp_path / "root")
    first = kept.hosts_mount(pod(), ["10.244.1.5"], ["web-0"])
    assert first is not None
    assert first.container_path == "/etc/hosts"
    before = Path(first.host_path).stat()
    assert before.st_mode & 0o777 == 0o644
    second = kept.hosts_mount(pod(), ["10.244.1.6"], ["web-0"])
    assert second == first
    assert Path(first.host_path).stat().st_ino == before.st_ino
    assert "10.244.1.6\tweb-0" in Path(first.host_path).read_text()
    assert kept.hosts_mount(pod(hostNetwork=True), ["192.0.2.9"], ["web-0"]) is None
    aliased = kept.hosts_mount(pod(hostNetwork=True, hostAliases=ALIASES), ["192.0.2.9"], ["web-0"])
    assert aliased is not None
    assert "192.0.2.9 node-1\n" in Path(aliased.host_path).read_text()
