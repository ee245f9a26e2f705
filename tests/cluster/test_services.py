"""Services on a real cluster of two nodes: by cluster address from every node, by node port from the host, to themselves; with
affinity, over UDP, without endpoints; when pods and agents come and go.
"""

import ipaddress
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from wherry.testing.local import LocalCluster, deployment, is_ready, trace, until
from wherry.testing.require import require_containerd, require_root

pytestmark = pytest.mark.timeout(300)

SERVE = "mkdir /tmp/w; hostname > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w"


def service(
    name: str, app: str = "web", *, port: int = 80, target: int | str = 8080, protocol: str = "TCP", spec: str = ""
) -> str:
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: {app}}}\n"
        f"  ports: [{{name: p, port: {port}, targetPort: {target}, protocol: {protocol}}}]\n{'  ' + spec if spec else ''}\n---\n"
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    require_root()
    require_containerd()
    made = LocalCluster(prefix="v")
    try:
        made.up()
        made.apply(
            deployment("web", 4, SERVE, extra="readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}")
        )
        made.apply(deployment("client", 1))
        made.apply(
            service("web")
            + service("sticky", spec="sessionAffinity: ClientIP")
            + service("port", spec="type: NodePort")
            + service("empty", app="nobody")
            + service("loadbalancer", port=8123, spec="type: LoadBalancer")
            + service("local", port=8124, app="client", spec="type: LoadBalancer\n  externalTrafficPolicy: Local")
        )
        until(lambda: len([pod for pod in made.pods("app in (web,client)") if is_ready(pod)]) == 5)
        yield made
    finally:
        description = made.description
        made.down()
    left = {what: [line for line in lines if made.name in line] for what, lines in trace().items()}
    networks = [ipaddress.ip_network(text) for text in (description.host_subnet, description.cluster_cidr)]
    for what, command in (("flows", ["conntrack", "-L"]), ("routes", ["ip", "route"])):
        told = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
        left[what] = [line for line in told if any(within(word, networks) for word in line.replace("=", " ").split())]
    assert not any(left.values()), f"left behind: {left}"


def within(word: str, networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    try:
        return any(ipaddress.ip_network(word).overlaps(network) for network in networks)
    except ValueError:
        return False


def names(cluster: LocalCluster, app: str) -> list[str]:
    return [pod["metadata"]["name"] for pod in cluster.pods(f"app={app}") if is_ready(pod)]


def address(cluster: LocalCluster, name: str) -> str:
    found: str = cluster.json("service", name)["spec"]["clusterIP"]
    return found


def fetch(cluster: LocalCluster, pod: str, host: str, times: int = 1) -> list[str]:
    """The bodies of pages, which are the names of the pods that served them."""
    # The demo image's wget is linked statically and falls over its resolver, even with an address.
    get = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {host} 80 | tail -n 1"
    told = cluster.ok("exec", pod, "--", "sh", "-c", f"for i in $(seq {times}); do {get} || echo FAILED; done")
    return told.split() or [""]


def test_connections_are_spread_over_the_pods_of_all_nodes(cluster: LocalCluster) -> None:
    (client,) = names(cluster, "client")
    backends = names(cluster, "web")
    nodes = {pod["spec"]["nodeName"] for pod in cluster.pods("app=web")}
    assert len(nodes) == 2
    until(lambda: fetch(cluster, client, address(cluster, "web"))[0] in backends)
    counts = Counter(fetch(cluster, client, address(cluster, "web"), 80))
    assert counts.keys() == set(backends)
    assert min(counts.values()) >= 5


def test_a_pod_reaches_itself_through_its_service(cluster: LocalCluster) -> None:
    for pod in names(cluster, "web"):
        assert set(fetch(cluster, pod, address(cluster, "web"), 12)) <= set(names(cluster, "web"))


def test_a_client_with_affinity_stays_with_its_pod(cluster: LocalCluster) -> None:
    (client,) = names(cluster, "client")
    until(lambda: fetch(cluster, client, address(cluster, "sticky"))[0] in names(cluster, "web"))
    assert len(set(fetch(cluster, client, address(cluster, "sticky"), 20))) == 1


def test_node_ports_answer_on_every_node_from_the_host(cluster: LocalCluster) -> None:
    port = cluster.json("service", "port")["spec"]["ports"][0]["nodePort"]
    backends = set(names(cluster, "web"))
    for node in cluster.description.nodes:
        command = ["curl", "-s", "-m", "3", f"http://{node.address}:{port}/"]
        found = {subprocess.run(command, capture_output=True, text=True).stdout.strip() for _ in range(20)}
        assert found <= backends
        assert len(found) > 1


def test_a_service_without_endpoints_refuses_at_once(cluster: LocalCluster) -> None:
    (client,) = names(cluster, "client")
    told = cluster.wherry("exec", client, "--", "nc", "-w", "20", address(cluster, "empty"), "80")
    assert told.returncode != 0
    assert "refused" in told.stderr


@pytest.mark.full
def test_pods_that_are_not_ready_and_policies_from_outside(cluster: LocalCluster) -> None:
    """A pod that never gets ready is behind the Services that publish it: by the name of its port, headless, and from outside by
    its own node only."""
    never = "ports: [{name: web, containerPort: 8080}], readinessProbe: {exec: {command: ['false']}}"
    publish = "publishNotReadyAddresses: true"
    cluster.apply(
        deployment("shy", 1, SERVE, extra=never)
        + "---\n"
        + service("hidden", app="shy", target="web")
        + service("named", app="shy", target="web", spec=publish)
        + service("heads", app="shy", target="web", spec=f"clusterIP: None\n  {publish}")
        + service(
            "outside", app="shy", target="web", spec=f"type: NodePort\n  externalTrafficPolicy: Local\n  {publish}"
        )
    )
    (client,) = names(cluster, "client")
    pod = until(lambda: next((pod for pod in cluster.pods("app=shy") if pod["status"].get("podIP")), None))
    until(lambda: fetch(cluster, client, address(cluster, "named")) == [pod["metadata"]["name"]])
    assert not is_ready(cluster.json("pod", pod["metadata"]["name"]))
    told = cluster.wherry("exec", client, "--", "nc", "-w", "20", address(cluster, "hidden"), "80")
    assert "refused" in told.stderr
    found = cluster.wherry("exec", client, "--", "nslookup", "heads.default.svc.cluster.local").stdout
    assert f"Address: {pod['status']['podIP']}" in found
    port = cluster.json("service", "outside")["spec"]["ports"][0]["nodePort"]
    for node in cluster.description.nodes:
        command = ["curl", "-s", "-m", "2", f"http://{node.address}:{port}/"]
        page = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        assert page == (pod["metadata"]["name"] if node.name == pod["spec"]["nodeName"] else "")


def test_names_are_found_from_pods(cluster: LocalCluster) -> None:
    (client,) = names(cluster, "client")
    wanted = address(cluster, "web")

    def look_up(name: str) -> str:
        return cluster.wherry("exec", client, "--", "nslookup", name).stdout

    until(lambda: f"Address: {wanted}" in look_up("web.default.svc.cluster.local"))
    assert f"Address: {wanted}" in look_up("web")
    assert "NXDOMAIN" in look_up("nope.default.svc.cluster.local")
    resolver = cluster.ok("exec", client, "--", "cat", "/etc/resolv.conf").splitlines()
    assert resolver[0].startswith("search default.svc.cluster.local svc.cluster.local cluster.local")
    assert resolver[1:] == ["nameserver 10.96.0.10", "options ndots:5"]


def test_services_work_while_an_agent_is_gone_and_when_it_is_back(cluster: LocalCluster) -> None:
    (client,) = names(cluster, "client")
    node = cluster.description.node(1)
    old = cluster.agent_pid(1)
    subprocess.run(["kill", "-9", str(old)], check=True)
    port = cluster.json("service", "port")["spec"]["ports"][0]["nodePort"]
    command = ["curl", "-s", "-m", "3", f"http://{node.address}:{port}/"]
    told = [subprocess.run(command, capture_output=True, text=True).stdout for _ in range(10)]
    assert all(told)
    cluster.up()
    assert cluster.agent_pid(1) != old
    cluster.apply(service("later"))
    until(lambda: fetch(cluster, client, address(cluster, "later"))[0])


def test_the_table_follows_pods_that_come_and_go(cluster: LocalCluster) -> None:
    (client,) = names(cluster, "client")
    cluster.ok("scale", "deployment", "web", "--replicas", "1")
    until(lambda: len(cluster.pods("app=web")) == 1)
    (left,) = names(cluster, "web")
    until(lambda: set(fetch(cluster, client, address(cluster, "web"), 10)) == {left})
    cluster.ok("scale", "deployment", "web", "--replicas", "4")
    until(lambda: len(set(fetch(cluster, client, address(cluster, "web"), 30))) == 4)


def test_datagrams_find_their_way_to_endpoints_that_somebody_names(cluster: LocalCluster) -> None:
    """A Service without a selector: the endpoint is this test, on the host."""
    script = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1); "
        "s.connect((sys.argv[1], 53)); s.send(b'ping'); print(s.recv(99).decode())"
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.bind((cluster.description.gateway, 0))
        cluster.apply(
            service("datagrams", port=53, protocol="UDP").replace("  selector: {app: web}\n", "")
            + "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n"
            + "metadata: {name: mine, labels: {kubernetes.io/service-name: datagrams}}\n"
            + f"ports: [{{name: p, port: {here.getsockname()[1]}, protocol: UDP}}]\n"
            + f"endpoints: [{{addresses: [{cluster.description.gateway}]}}]\n"
        )

        def echo() -> None:
            while True:
                try:
                    data, sender = here.recvfrom(99)
                except OSError:
                    return
                if data == b"end":
                    return
                here.sendto(b"you said " + data, sender)

        thread = threading.Thread(target=echo)
        thread.start()
        try:
            netns = ["ip", "netns", "exec", cluster.description.node(1).netns, sys.executable, "-c", script]
            command = [*netns, address(cluster, "datagrams")]
            until(lambda: subprocess.run(command, capture_output=True, text=True).stdout == "you said ping\n")
        finally:
            here.sendto(b"end", here.getsockname())
            thread.join()


def test_a_load_balancer_has_the_addresses_of_the_nodes(cluster: LocalCluster) -> None:
    nodes = sorted(node.address for node in cluster.description.nodes)

    def addresses() -> list[str]:
        ingress = cluster.json("service", "loadbalancer")["status"]["loadBalancer"].get("ingress", [])
        return sorted(item["ip"] for item in ingress)

    until(lambda: addresses() == nodes)

    def pages() -> list[str]:
        command = ["curl", "-s", "-m", "3"]
        urls = [f"http://{node}:8123/" for node in nodes]
        return [subprocess.run([*command, url], capture_output=True, text=True).stdout.strip() for url in urls]

    until(lambda: set(pages()) <= set(names(cluster, "web")))


def test_a_load_balancer_learns_which_nodes_have_endpoints(cluster: LocalCluster) -> None:
    port = cluster.json("service", "local")["spec"]["healthCheckNodePort"]
    (client,) = cluster.pods("app=client")

    def codes() -> dict[str, str]:
        command = ["curl", "-s", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}"]
        return {
            node.name: subprocess.run(
                [*command, f"http://{node.address}:{port}/"], capture_output=True, text=True
            ).stdout
            for node in cluster.description.nodes
        }

    wanted = {
        node.name: "200" if node.name == client["spec"]["nodeName"] else "503" for node in cluster.description.nodes
    }
    until(lambda: codes() == wanted)


def test_pods_find_the_api(cluster: LocalCluster) -> None:
    node = cluster.description.node(1)
    command = ["ip", "netns", "exec", node.netns, "curl", "-sk", "-m", "5", "https://10.96.0.1/version"]
    until(lambda: '"major"' in subprocess.run(command, capture_output=True, text=True).stdout)
    (subset,) = cluster.json("endpoints", "kubernetes")["subsets"]
    assert [item["ip"] for item in subset["addresses"]] == [cluster.description.gateway]
