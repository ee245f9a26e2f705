"""NetworkPolicies on a real cluster of two nodes: they block what they should, and only that."""

import asyncio
import json
import subprocess
from collections.abc import Iterator

import dns.message
import dns.query
import pytest

from kubelet.network.policy.plan import TABLE
from kubelet.runtime import netns
from wherry.testing.inside import HERE, SILENT, TCP, UDP, Witness, ask, make_socket
from wherry.testing.local import IMAGE, LocalCluster, is_ready, trace, until
from wherry.testing.require import require_containerd, require_root

pytestmark = pytest.mark.timeout(300)

# Two ports and an answer on each.
SERVE = (
    "mkdir /tmp/w; hostname > /tmp/w/index.html; httpd -p 8080 -h /tmp/w; httpd -p 8081 -h /tmp/w; exec sleep 1000000"
)
PODS = {  # name -> namespace, node, labels
    "web": ("default", "node-1", {"app": "web"}),
    "near": ("default", "node-1", {"app": "client"}),
    "far": ("default", "node-2", {"app": "client"}),
    "stranger": ("default", "node-2", {"app": "stranger"}),
    "foreign": ("other", "node-2", {"app": "client"}),
}
PATHS: dict[str, str] = {}  # of the pods' network namespaces


def pod(name: str) -> str:
    namespace, node, labels = PODS[name]
    document = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "c", "image": IMAGE, "command": ["sh", "-c", SERVE],
                "ports": [{"name": "main", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1},
            }],
        },
    }  # fmt: skip
    return json.dumps(document) + "\n---\n"


def policy(spec: dict[str, object], name: str = "p", namespace: str = "default") -> str:
    metadata = {"name": name, "namespace": namespace}
    document = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
    return json.dumps(document)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    require_root()
    require_containerd()
    made = LocalCluster(prefix="n")
    try:
        made.up()
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other", "labels": {"team": "y"}}}
        service = {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        }  # fmt: skip
        made.apply(json.dumps(namespace) + "\n---\n" + "".join(pod(name) for name in PODS) + json.dumps(service))
        until(lambda: all(is_ready(made.json("pod", name, "-n", PODS[name][0])) for name in PODS))
        PATHS.update({name: namespace_of(made, name) for name in PODS})
        yield made
    finally:
        made.down()
    left = {what: [line for line in lines if made.name in line] for what, lines in trace().items()}
    assert not any(left.values()), f"left behind: {left}"


@pytest.fixture(autouse=True)
def no_policies(cluster: LocalCluster) -> Iterator[None]:
    yield
    cluster.ok("delete", "networkpolicies", "--all")


def address(cluster: LocalCluster, name: str) -> str:
    found: str = cluster.json("pod", name, "-n", PODS[name][0])["status"]["podIP"]
    return found


def namespace_of(cluster: LocalCluster, name: str) -> str:
    """The path of the pod's network namespace, found by its address."""
    node = next(node for node in cluster.description.nodes if node.name == PODS[name][1])
    wanted = address(cluster, name)
    for path in sorted(node.containerd.netns_dir.iterdir()):
        told = subprocess.run(["nsenter", f"--net={path}", "ip", "-4", "-o", "address"], capture_output=True, text=True)
        if f" {wanted}/" in told.stdout:
            return str(path)
    raise AssertionError(f"no namespace has {wanted}")


async def connects(path: str, host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(1):
            (await netns.connect(path, host, port)).close()
    except (OSError, TimeoutError):
        return False
    return True


def reaches(cluster: LocalCluster, name: str, host: str, port: int = 8080) -> bool:
    return asyncio.run(connects(PATHS[name], host, port))


def who_reaches(cluster: LocalCluster, host: str, port: int = 8080) -> set[str]:
    async def ask() -> set[str]:
        names = [name for name in PODS if name != "web"]
        told = await asyncio.gather(*(connects(PATHS[name], host, port) for name in names))
        return {name for name, reached in zip(names, told, strict=True) if reached}

    return asyncio.run(ask())


def test_ingress_from_pods_to_a_port_by_name(cluster: LocalCluster) -> None:
    web = address(cluster, "web")
    everybody = {"near", "far", "stranger", "foreign"}
    assert who_reaches(cluster, web) == everybody
    rule = {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": "main"}]}
    cluster.apply(policy({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [rule]}))
    until(lambda: who_reaches(cluster, web) == {"near", "far"})
    assert who_reaches(cluster, web, 8081) == set()
    # Through its Service likewise, and nobody else is held to it.
    service = cluster.json("service", "web")["spec"]["clusterIP"]
    assert who_reaches(cluster, service, 80) == {"near", "far"}
    assert reaches(cluster, "web", address(cluster, "stranger"))
    # Its node still gets through, with probes for one.
    node = cluster.description.node(1)
    assert subprocess.run(
        ["ip", "netns", "exec", node.netns, "curl", "-s", "-m", "3", f"http://{web}:8080/"], capture_output=True
    ).stdout
    assert is_ready(cluster.json("pod", "web"))
    # A pod's labels change whom it is for; a second policy allows more.
    cluster.ok("label", "pod", "stranger", "app=client", "--overwrite")
    until(lambda: reaches(cluster, "stranger", web))
    cluster.ok("label", "pod", "stranger", "app=stranger", "--overwrite")
    until(lambda: not reaches(cluster, "stranger", web))
    selector = {"namespaceSelector": {"matchLabels": {"team": "y"}}}
    cluster.apply(policy({"podSelector": {}, "ingress": [{"from": [selector]}]}, "more"))
    until(lambda: who_reaches(cluster, web) == {"near", "far", "foreign"})
    cluster.ok("delete", "networkpolicies", "--all")
    until(lambda: who_reaches(cluster, web) == everybody)


def test_egress_to_a_block_but_for_one_address(cluster: LocalCluster) -> None:
    web, stranger = address(cluster, "web"), address(cluster, "stranger")
    block = {"cidr": cluster.description.cluster_cidr, "except": [f"{stranger}/32"]}
    rule = {"to": [{"ipBlock": block}], "ports": [{"port": 8000, "endPort": 8080}]}
    spec = {"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"], "egress": [rule]}
    cluster.apply(policy(spec))
    until(lambda: not reaches(cluster, "near", stranger) and not reaches(cluster, "far", stranger))
    for name in ("near", "far"):
        assert reaches(cluster, name, web)
        assert not reaches(cluster, name, web, 8081)
    # It is not the other namespace's, and says nothing about who comes in.
    assert reaches(cluster, "foreign", stranger)
    assert reaches(cluster, "stranger", address(cluster, "near"), 8081)


@pytest.mark.full
def test_a_namespace_and_its_pods_together_or_either(cluster: LocalCluster) -> None:
    """In one peer both selectors have to fit; of two peers one is enough."""
    web = address(cluster, "web")
    other, stranger = {"matchLabels": {"team": "y"}}, {"matchLabels": {"app": "stranger"}}
    mine = {"matchLabels": {"app": "web"}}
    client = {"matchExpressions": [{"key": "app", "operator": "In", "values": ["client"]}]}
    everywhere: dict[str, object] = {}
    cases: list[tuple[list[dict[str, object]], set[str]]] = [
        ([{"namespaceSelector": other, "podSelector": stranger}], set()),
        ([{"namespaceSelector": other, "podSelector": client}], {"foreign"}),
        ([{"namespaceSelector": other}, {"podSelector": stranger}], {"foreign", "stranger"}),
        ([{"namespaceSelector": everywhere, "podSelector": client}], {"near", "far", "foreign"}),
        ([{"namespaceSelector": everywhere}], {"near", "far", "foreign", "stranger"}),
        ([{"ipBlock": {"cidr": f"{address(cluster, 'near')}/32"}}, {"podSelector": stranger}], {"near", "stranger"}),
    ]
    for peers, wanted in cases:
        cluster.apply(policy({"podSelector": mine, "ingress": [{"from": peers}]}))
        until(lambda wanted=wanted: who_reaches(cluster, web) == wanted)  # type: ignore[misc]
    # A rule without peers is for all, an empty list of rules for nobody.
    cluster.apply(policy({"podSelector": mine, "ingress": [{"ports": [{"port": 8081}]}]}))
    until(lambda: who_reaches(cluster, web, 8081) == {"near", "far", "foreign", "stranger"})
    assert who_reaches(cluster, web) == set()
    cluster.apply(policy({"podSelector": mine, "ingress": []}))
    until(lambda: who_reaches(cluster, web, 8081) == set())
    # Labels of a namespace that change change whom it means.
    cluster.apply(
        policy({"podSelector": mine, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "z"}}}]}]})
    )
    cluster.ok("label", "namespace", "other", "team=z", "--overwrite")
    until(lambda: who_reaches(cluster, web) == {"foreign"})
    cluster.ok("label", "namespace", "other", "team=y", "--overwrite")
    until(lambda: who_reaches(cluster, web) == set())


@pytest.mark.full
def test_nothing_goes_out_but_what_is_said(cluster: LocalCluster) -> None:
    """Of TCP and UDP, by Service and by address, inside and outside; and a host on the pods' node is no pod."""
    near, web, stranger = PATHS["near"], address(cluster, "web"), address(cluster, "stranger")
    vip = cluster.json("service", "web")["spec"]["clusterIP"]
    gateway = cluster.description.gateway
    selected = {"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"]}
    with Witness("s", PATHS["stranger"]), Witness("w", PATHS["web"]), Witness("out", HERE, 0, gateway) as out:

        def open_to() -> set[str]:
            found = {
                "web": ask(near, web, 9000, timeout_s=0.5), "vip": (str(reaches(cluster, "near", vip, 80)), ""),
                "stranger": ask(near, stranger, 9000, timeout_s=0.5), "udp": ask(near, stranger, 9000, UDP, timeout_s=0.5),
                "outside": ask(near, gateway, out.port(TCP), timeout_s=0.5),
                "outside udp": ask(near, gateway, out.port(UDP), UDP, timeout_s=0.5),
            }  # fmt: skip
            return {name for name, (answer, _) in found.items() if answer in ("w", "s", "out", "True")}

        everything = {"web", "vip", "stranger", "udp", "outside", "outside udp"}
        assert open_to() == everything
        cluster.apply(policy({**selected, "egress": []}))
        until(lambda: open_to() == set())
        # Its own node it reaches always, and so the names.
        assert dns_answers(near)
        but_one = {"ipBlock": {"cidr": "0.0.0.0/0", "except": [f"{gateway}/32"]}}
        cases: list[tuple[list[dict[str, object]], set[str]]] = [
            ([{"ports": [{"protocol": "UDP", "port": 9000}]}], {"udp"}),
            ([{"ports": [{"protocol": "UDP", "port": 8000, "endPort": 9500}]}], {"udp"}),
            ([{"to": [{"podSelector": {"matchLabels": {"app": "web"}}}]}], {"web", "vip"}),
            ([{"to": [{"podSelector": {}}], "ports": [{"port": "main"}]}], {"vip"}),
            ([{"to": [{"ipBlock": {"cidr": f"{gateway}/32"}}]}], {"outside", "outside udp"}),
            ([{"to": [but_one], "ports": [{"port": 9000}]}], {"web", "stranger"}),
            ([{}], everything),
        ]  # fmt: skip
        for rules, wanted in cases:
            cluster.apply(policy({**selected, "egress": rules}))
            until(lambda wanted=wanted: open_to() == wanted)  # type: ignore[misc]
        # On the host's network a pod is its node, which no selector means.
        cluster.apply(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": "host", "labels": {"app": "client"}},
                    "spec": {
                        "nodeName": "node-2",
                        "hostNetwork": True,
                        "terminationGracePeriodSeconds": 0,
                        "containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "1000000"]}],
                    },
                }
            )
        )
        until(lambda: is_ready(cluster.json("pod", "host")))
        cluster.apply(policy({**selected, "egress": []}))
        until(lambda: open_to() == set())
        host = cluster.description.node(2).netns_path
        assert ask(host, web, 9000)[0] == "w"
        mine = {"podSelector": {"matchLabels": {"app": "web"}}}
        cluster.apply(
            policy({**mine, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]}, "in")
        )
        until(lambda: ask(host, web, 9000, timeout_s=0.5)[0] == SILENT)
        # Neither is it held back from the pods of its own node, with probes for one.
        cluster.apply(policy({"podSelector": {}, "ingress": []}, "in"))
        until(lambda: ask(PATHS["web"], stranger, 9000, timeout_s=0.5)[0] == SILENT)
        assert ask(host, stranger, 9000)[0] == "s"
    cluster.ok("delete", "pod", "host")


def dns_answers(place: str) -> bool:
    query = dns.message.make_query("web.default.svc.cluster.local", "A")
    with make_socket(place, UDP) as sock:
        sock.settimeout(5)
        return bool(dns.query.udp(query, "10.96.0.10", timeout=5, sock=sock).answer)


def test_policies_hold_while_an_agent_is_gone_and_the_table_goes_with_the_last(cluster: LocalCluster) -> None:
    web = address(cluster, "web")
    cluster.apply(policy({"podSelector": {"matchLabels": {"app": "web"}}}))
    until(lambda: who_reaches(cluster, web) == set())
    subprocess.run(["kill", "-9", str(cluster.agent_pid(1))], check=True)
    assert not reaches(cluster, "far", web)
    cluster.up()
    assert not reaches(cluster, "far", web)
    cluster.ok("delete", "networkpolicies", "--all")
    until(lambda: reaches(cluster, "far", web))
    netns = cluster.description.node(1).netns

    def tables() -> str:
        return subprocess.run(
            ["ip", "netns", "exec", netns, "nft", "list", "tables"], capture_output=True, text=True
        ).stdout

    until(lambda: TABLE not in tables())
