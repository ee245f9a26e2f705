"""Services on a real cluster of two nodes: by cluster address from every node, by node port from the host, to themselves; with
affinity, over UDP, without endpoints; when pods and agents come and go.
"""

import ipaddress
import json
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from wherry.testing.inside import HERE, TCP, UDP, Witness, ask, make_socket, namespaces
from wherry.testing.local import IMAGE, LocalCluster, deployment, is_ready, trace, until
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
            + service("witnesses", target=9000, spec="type: NodePort")
            + service("near-witnesses", target=9000, spec="type: NodePort\n  externalTrafficPolicy: Local")
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


def test_whose_address_a_server_sees(cluster: LocalCluster) -> None:
    """A pod's own inside of the cluster, its node's outside; a client's from outside only where a policy of Local says so."""
    pods = {pod["metadata"]["name"]: pod for pod in cluster.pods("app in (web,client)") if is_ready(pod)}
    places = namespaces(cluster.description.nodes)
    (client,) = [pod for name, pod in pods.items() if name.startswith("client")]
    own, place = client["status"]["podIP"], places[client["status"]["podIP"]]
    webs = {name: pod["status"]["podIP"] for name, pod in pods.items() if name.startswith("web")}
    gateway = cluster.description.gateway
    with ExitStack() as stack:
        for name, ip in webs.items():
            stack.enter_context(Witness(name, places[ip]))
        outside = stack.enter_context(Witness("outside", HERE, 0, gateway))
        vip = address(cluster, "witnesses")
        until(lambda: ask(place, vip, 80)[0] in webs)
        assert {ask(place, ip, 9000) for ip in webs.values()} == {(name, own) for name in webs}
        assert {ask(place, vip, 80)[1] for _ in range(20)} == {own}
        (node,) = [node for node in cluster.description.nodes if node.name == client["spec"]["nodeName"]]
        assert ask(place, gateway, outside.port(TCP)) == ("outside", node.address)
        for service_name in ("witnesses", "near-witnesses"):
            port = cluster.json("service", service_name)["spec"]["ports"][0]["nodePort"]
            for node in cluster.description.nodes:
                seen = dict(ask(HERE, node.address, port) for _ in range(20))
                if service_name == "witnesses":
                    assert gateway not in seen.values()
                else:
                    assert seen.keys() <= {name for name in webs if pods[name]["spec"]["nodeName"] == node.name}
                    assert set(seen.values()) == {gateway}


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


@pytest.fixture
def resolve(cluster: LocalCluster) -> Callable[..., dns.message.Message]:
    """What the first node's name server says to a pod there."""
    (client,) = [pod for pod in cluster.pods("app in (client,web)") if pod["spec"]["nodeName"] == "node-1"][:1]
    place = namespaces(cluster.description.nodes)[client["status"]["podIP"]]

    def ask(name: str, kind: str = "A", *, tcp: bool = False) -> dns.message.Message:
        query = dns.message.make_query(name, kind, use_edns=0, payload=1232)
        with make_socket(place, TCP if tcp else UDP) as sock:
            sock.settimeout(5)
            sock.connect(("10.96.0.10", 53))
            if tcp:
                return dns.query.tcp(query, "10.96.0.10", timeout=5, sock=sock)
            return dns.query.udp(query, "10.96.0.10", timeout=5, sock=sock)

    return ask


def test_names_as_the_specification_says(cluster: LocalCluster, resolve: Callable[..., dns.message.Message]) -> None:
    """Of pods with a name of their own, ports, aliases, addresses; and that a name is not there, or has nothing of that type."""
    pets = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pet", "labels": {"app": "pet"}},
        "spec": {
            "hostname": "cat", "subdomain": "pets", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "1000000"]}],
        },
    }  # fmt: skip
    many = {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "many", "labels": {"kubernetes.io/service-name": "many"}},
        "endpoints": [{"addresses": [f"10.9.8.{number}"]} for number in range(1, 101)],
    }  # fmt: skip
    cluster.apply(
        service("pets", app="pet", spec="clusterIP: None")
        + service("many", spec="clusterIP: None").replace("  selector: {app: web}\n", "")
        + "apiVersion: v1\nkind: Service\nmetadata: {name: alias}\n"
        + "spec: {type: ExternalName, externalName: web.default.svc.cluster.local}\n---\n"
        + "\n---\n".join(json.dumps(item) for item in (pets, many))
    )
    pet = until(lambda: is_ready(pod := cluster.json("pod", "pet")) and pod)["status"]["podIP"]
    domain, web = "default.svc.cluster.local", address(cluster, "web")
    until(lambda: resolve(f"cat.pets.{domain}").answer and resolve(f"many.{domain}").answer)
    back = ".".join(reversed(pet.split("."))) + ".in-addr.arpa"
    answers = {
        (f"web.{domain}", "A"): [web],
        (f"WEB.{domain}", "A"): [web],
        (f"pets.{domain}", "A"): [pet],
        (f"cat.pets.{domain}", "A"): [pet],
        (f"{pet.replace('.', '-')}.default.pod.cluster.local", "A"): [pet],
        (f"_p._tcp.web.{domain}", "SRV"): [f"0 100 80 web.{domain}."],
        (f"_p._tcp.pets.{domain}", "SRV"): [f"0 100 8080 cat.pets.{domain}."],
        (back, "PTR"): [f"cat.pets.{domain}."],
        (".".join(reversed(web.split("."))) + ".in-addr.arpa", "PTR"): [f"web.{domain}."],
        (f"alias.{domain}", "CNAME"): [f"web.{domain}."],
        (f"alias.{domain}", "A"): [f"web.{domain}.", web],
    }
    for (name, kind), wanted in answers.items():
        said = resolve(name, kind)
        assert (said.rcode(), [item.to_text() for found in said.answer for item in found]) == (0, wanted), name
    assert [item.to_text() for item in resolve(f"_p._tcp.pets.{domain}", "SRV").additional[0]] == [pet]
    for name, kind in (
        (f"web.{domain}", "AAAA"),
        (f"cat.pets.{domain}", "AAAA"),
        (f"web.{domain}", "MX"),
        (domain, "A"),
    ):
        said = resolve(name, kind)
        assert (said.rcode(), said.answer, len(said.authority)) == (0, [], 1), name
    for name, kind in (
        (f"no.{domain}", "A"), (f"dog.pets.{domain}", "A"), (f"_q._tcp.web.{domain}", "SRV"), (f"a.b.c.{domain}", "AAAA"),
        (f"_p._udp.web.{domain}", "SRV"),
    ):  # fmt: skip
        assert resolve(name, kind).rcode() == dns.rcode.NXDOMAIN, name
    # What does not fit into a datagram is asked for again over TCP.
    assert resolve(f"many.{domain}").flags & dns.flags.TC
    assert len(resolve(f"many.{domain}", tcp=True).answer[0]) == 100
    cluster.ok("delete", "pod", "pet")
    until(lambda: resolve(f"pets.{domain}").rcode() == dns.rcode.NXDOMAIN)


def test_names_and_services_outlive_the_control_plane_and_then_an_agent(
    cluster: LocalCluster, resolve: Callable[..., dns.message.Message]
) -> None:
    node, vip = cluster.description.node(1), address(cluster, "web")
    name = "web.default.svc.cluster.local"
    # The agent has told its disk what it knows of them (`kubelet.network.known`).
    until(lambda: b"web" in (node.data / "known.pb").read_bytes() if (node.data / "known.pb").exists() else False)
    (client,) = [pod for pod in cluster.pods("app in (client,web)") if pod["spec"]["nodeName"] == "node-1"][:1]
    place = namespaces([node])[client["status"]["podIP"]]

    def serves() -> bool:
        with make_socket(place) as sock:
            sock.settimeout(5)
            sock.connect((vip, 80))
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return b"200 OK" in sock.recv(100)

    try:
        subprocess.run(["kill", "-9", str(cluster.server_pid())], check=True)
        for _ in range(5):
            assert str(resolve(name).answer[0][0]) == vip
            assert serves()
        assert resolve(f"no.{name}").rcode() == dns.rcode.NXDOMAIN
        cluster.restart_agent(1)

        def answers() -> bool:
            try:
                return [str(item) for found in resolve(name).answer for item in found] == [vip]
            except OSError:
                return False  # nobody is there for a moment

        until(answers)
        assert serves()
        assert resolve(f"no.{name}").rcode() == dns.rcode.NXDOMAIN
    finally:
        cluster.up()
    cluster.apply(service("younger"))
    until(lambda: resolve("younger.default.svc.cluster.local").answer)


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
