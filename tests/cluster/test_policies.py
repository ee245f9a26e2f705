"""NetworkPolicies on a real cluster of two nodes: they block what they should, and only that."""

import asyncio
import json
import subprocess
from collections.abc import Iterator

import pytest

from kubelet.network.policy.plan import TABLE
from kubelet.runtime import netns
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
