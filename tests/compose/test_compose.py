"""The compose cluster as `make compose-up` starts it: three real nodes, reached from the host by `wherry` and kubectl."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import pytest

from wherry.testing.compose import NODES, ComposeCluster
from wherry.testing.dockerd import Dockerd
from wherry.testing.kubectl import binaries
from wherry.testing.local import deployment, until

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def cluster(dockerd: Dockerd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeCluster]:
    made = ComposeCluster(dockerd, tmp_path_factory.mktemp("compose"))
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def web(cluster: ComposeCluster) -> list[dict[str, object]]:
    """Three pods that answer with their names, behind a Service with a node port."""
    cluster.apply(
        deployment(
            "web",
            6,
            "hostname > /www/index.html; exec httpd -f -p 8080 -h /www",
            extra="ports: [{containerPort: 8080}]",
        )
        + "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: NodePort\n"
        "  selector: {app: web}\n  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]\n"
    )
    return cluster.running("app=web", 6)


def test_the_hosts_tools_reach_it(cluster: ComposeCluster) -> None:
    names = [item["metadata"]["name"] for item in cluster.json("nodes")["items"]]
    assert names == list(NODES)
    if binaries():
        assert cluster.kubectl("get", "nodes", "-o", "name").split() == [f"node/{name}" for name in NODES]


def test_nodes_are_not_privileged(cluster: ComposeCluster) -> None:
    for node in NODES:
        said = json.loads(cluster.docker("inspect", node))[0]["HostConfig"]
        assert said["Privileged"] is False
        assert [name.removeprefix("CAP_") for name in said["CapDrop"]] == ["SYS_RESOURCE"]


def test_pods_run_on_every_node(cluster: ComposeCluster, web: list[dict[str, dict[str, str]]]) -> None:
    assert {pod["spec"]["nodeName"] for pod in web} == set(NODES)
    name = web[0]["metadata"]["name"]
    assert cluster.wherry("exec", name, "--", "hostname").strip() == name


def test_a_node_port_answers_the_host(cluster: ComposeCluster, web: list[dict[str, dict[str, str]]]) -> None:
    names = {pod["metadata"]["name"] for pod in web}
    for node in NODES:
        url = f"http://{cluster.address(node)}:30080/"

        def fetch(url: str = url) -> str:
            return cluster.dockerd.host("curl", "-sf", "-m", "5", url, check=False).stdout

        assert until(fetch).strip() in names


def test_pods_of_different_nodes_reach_each_other(
    cluster: ComposeCluster, web: list[dict[str, dict[str, str]]]
) -> None:
    by_node = {pod["spec"]["nodeName"]: pod for pod in web}
    for source in NODES:
        inside = by_node[source]["metadata"]["name"]

        def ask(host: str, port: int, inside: str = inside) -> str:
            # Not wget: the demo image's falls over its resolver, even with an address.
            command = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {host} {port} | tail -n 1"
            return cluster.wherry("exec", inside, "--", "sh", "-c", command, check=False).strip()

        for target in NODES:
            address = by_node[target]["status"]["podIP"]
            assert until(partial(ask, address, 8080)) == by_node[target]["metadata"]["name"]
        # The cluster DNS knows the Service, and its address leads to one of its pods.
        said = cluster.wherry("exec", inside, "--", "nslookup", "-type=a", "web.default.svc.cluster.local")
        service = cluster.json("service", "web")["spec"]["clusterIP"]
        assert service in said
        assert until(partial(ask, service, 80)) in {pod["metadata"]["name"] for pod in web}
