"""The table of Services in a real kernel, without a cluster: a network namespace of its own holds the addresses of all endpoints,
and connects to Services like a program on a node."""

from __future__ import annotations

import ctypes
import random
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from kubelet.network.services import affinity
from kubelet.network.services.kernel import Nftables
from kubelet.network.services.plan import DRAWS, Part, Place, plan
from kubelet.network.services.ruleset import TABLE, Ruleset, skeleton
from wherry.api import codec
from wherry.pb import core_v1_pb2, discovery_v1_pb2
from wherry.testing.require import require_root

T = TypeVar("T")

PLACE = Place("n1", "10.244.0.0/24", "z1")
VIP = "10.96.0.1"
MANY = DRAWS + 4  # more than the table has rules for from the start
CLONE_NEWNET = 0x40000000


def address(number: int) -> str:
    return f"10.244.0.{number}"


def service(name: str = "web", protocol: str = "TCP", vip: str = VIP, **spec: Any) -> core_v1_pb2.Service:
    port = {"port": 80, "protocol": protocol, **({"nodePort": spec.pop("node_port")} if "node_port" in spec else {})}
    body = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": vip, "type": "ClusterIP", "ports": [port], **spec},
    }  # fmt: skip
    return codec.from_dict(body, core_v1_pb2.Service)


def slices(*endpoints: int, protocol: str = "TCP", far: tuple[int, ...] = ()) -> list[Any]:
    """Those that are `far` are on another node, in another zone."""
    items = [
        {
            "addresses": [address(number)], "nodeName": "n2" if number in far else "n1",
            "conditions": {"ready": True}, "hints": {"forZones": [{"name": "z2" if number in far else "z1"}]} if far else {},
        }
        for number in endpoints
    ]  # fmt: skip
    body = {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s", "namespace": "default"},
        "addressType": "IPv4", "endpoints": items, "ports": [{"name": "", "port": 8080, "protocol": protocol}],
    }  # fmt: skip
    return [codec.from_dict(body, discovery_v1_pb2.EndpointSlice)]


class Node:
    """Every method runs in the namespace."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=_unshare)
        self._rules = Ruleset(TABLE, skeleton(TABLE))
        self._closing = False
        self._servers = self._run(self._prepare)

    def _run(self, work: Callable[[], T]) -> T:
        return self._thread.submit(work).result(60)

    def _prepare(self) -> list[socket.socket]:
        for arguments in ("link set lo up", f"address add {address(0)}/24 dev lo", "route add default dev lo"):
            subprocess.run(["ip", *arguments.split()], check=True)
        Nftables().apply(self._rules.whole())
        servers = []
        for kind, serve in ((socket.SOCK_STREAM, _accept), (socket.SOCK_DGRAM, _echo)):
            for number in range(1, MANY + 1):
                # The whole of 127/8 and of a /24 on lo is local.
                server = socket.socket(socket.AF_INET, kind)
                server.bind((address(number), 8080))
                servers.append(server)
                threading.Thread(target=serve, args=(server,), daemon=True).start()
        return servers

    def close(self) -> None:
        for server in self._servers:
            try:
                server.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # datagrams: nobody is connected, whoever waits is woken all the same
            server.close()
        self._thread.shutdown()

    def change(self, changes: dict[str, Part | None]) -> None:
        transaction = self._rules.change(changes)
        self._rules.check_invariants()
        if transaction:
            self._run(lambda: Nftables().apply(transaction))

    def clients(self) -> dict[str, list[affinity.Client]]:
        return affinity.clients(self._run(Nftables().sets))

    def remember(self, name: str, *, timeout_s: int, expires_s: int) -> None:
        """The first client of the set, as if it had come then."""
        host = self.clients()[name][0].address
        element = f"element ip {TABLE} {name} {{ {host}"
        again = f"delete {element} }}\nadd {element} timeout {timeout_s}s expires {expires_s}s }}\n"
        self._run(lambda: Nftables().apply(again))

    def is_level(self) -> bool:
        return self._run(lambda: Nftables().has(self._rules.state))

    def listing(self) -> list[str]:
        """In no order: neither do maps have one, nor does it matter among chains."""
        told = self._run(
            lambda: subprocess.run(["nft", "-s", "list", "table", "ip", TABLE], capture_output=True, text=True)
        )
        words = told.stdout.replace(",", "\n").replace("elements = {", "").replace("}", "").splitlines()
        return sorted(word.strip() for word in words)

    def write_anew(self) -> None:
        """As the controller does when it does not trust the kernel's table."""
        self._run(lambda: Nftables().apply(self._rules.whole(affinity.clients(Nftables().sets()))))

    def apart(self, work: Callable[[], None]) -> threading.Thread:
        """A thread of its own, in the namespace."""
        thread = threading.Thread(target=work, daemon=True)
        self._run(thread.start)
        return thread

    def reached(self, host: str = VIP, port: int = 80, times: int = 1, timeout_s: float = 20) -> Counter[int]:
        """The endpoints that answered."""
        return self._run(lambda: Counter(_ask(host, port, socket.SOCK_STREAM, timeout_s) for _ in range(times)))

    def reached_by_datagrams(self, times: int) -> Counter[int]:
        return self._run(lambda: Counter(_ask(VIP, 80, socket.SOCK_DGRAM) for _ in range(times)))


def _unshare() -> None:
    """This thread alone, and what it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNET) == 0, ctypes.get_errno()


def _accept(server: socket.socket) -> None:
    server.listen(64)
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            connection.sendall(server.getsockname()[0].encode())


def _echo(server: socket.socket) -> None:
    while True:
        try:
            data, sender = server.recvfrom(64)
            if not data:
                return
            server.sendto(server.getsockname()[0].encode(), sender)
        except OSError:
            return


def _ask(host: str, port: int, kind: socket.SocketKind, timeout_s: float = 20) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.settimeout(timeout_s)
        sock.connect((host, port))
        if kind == socket.SOCK_DGRAM:
            sock.send(b"?")
        return int(sock.recv(64).decode().rsplit(".", 1)[1])


@pytest.fixture(scope="module")
def made() -> Iterator[Node]:
    require_root()
    node = Node()
    yield node
    node.close()


@pytest.fixture
def node(made: Node) -> Iterator[Node]:
    yield made
    made.change({"default/web": None, "default/other": None})


@pytest.mark.parametrize("count", [1, 2, 3, DRAWS, MANY])
def test_all_endpoints_are_drawn_alike(node: Node, count: int) -> None:
    node.change({"default/web": plan(service(), slices(*range(1, count + 1)), PLACE)})
    found = node.reached(times=40 * count)
    assert found.keys() == set(range(1, count + 1))
    assert min(found.values()) >= 10  # of 40; less than one run in a million


def test_endpoints_come_and_go(node: Node) -> None:
    for endpoints in ((1, 2), (2, 3, 4), (4,), tuple(range(1, MANY + 1)), (7, 9)):
        node.change({"default/web": plan(service(), slices(*endpoints), PLACE)})
        assert node.reached(times=20).keys() <= set(endpoints)
    node.change({"default/web": plan(service(), [], PLACE)})
    with pytest.raises(ConnectionRefusedError):
        node.reached()
    node.change({"default/web": plan(service(), slices(5), PLACE)})
    assert node.reached() == {5: 1}


def test_datagrams(node: Node) -> None:
    node.change({"default/web": plan(service(protocol="UDP"), slices(1, 2, protocol="UDP"), PLACE)})
    assert node.reached_by_datagrams(60).keys() == {1, 2}


def test_policies_hints_and_affinity(node: Node) -> None:
    local = {"internalTrafficPolicy": "Local"}
    cases = {
        "hints": (service(), slices(1, 2, 3, far=(2, 3)), {1}),
        "internal policy Local": (service(**local), slices(1, 2, 3, far=(3,)), {1, 2}),
    }
    for what, (made, found, wanted) in cases.items():
        node.change({"default/web": plan(made, found, PLACE)})
        assert node.reached(times=30).keys() == wanted, what
    sticky = service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 600}})
    node.change({"default/web": plan(sticky, slices(1, 2, 3), PLACE)})
    (first,) = node.reached(times=20)
    others = sorted({1, 2, 3} - {first})
    node.change({"default/web": plan(sticky, slices(*others), PLACE)})
    (second,) = node.reached(times=20)
    assert second in others
    node.change({"default/web": plan(sticky, slices(1, 2, 3), PLACE)})
    assert node.reached(times=20) == {second: 20}


def sticky(**client_ip: int) -> core_v1_pb2.Service:
    return service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": client_ip})


def test_clients_keep_their_endpoint_when_the_table_is_written_anew(node: Node) -> None:
    everybody = slices(*range(1, MANY + 1))
    node.change({"default/web": plan(sticky(timeoutSeconds=600), everybody, PLACE)})
    (first,) = node.reached()
    node.write_anew()
    assert node.reached(times=5) == {first: 5}
    # Nor does another time-out make them strangers.
    node.change({"default/web": plan(sticky(timeoutSeconds=5000), everybody, PLACE)})
    assert node.reached(times=5) == {first: 5}
    # A time-out that has run goes on running, and one of an endpoint that is gone is nobody's.
    (name,) = [name for name, found in node.clients().items() if found]
    node.change({"default/web": plan(sticky(timeoutSeconds=600), everybody, PLACE)})
    node.remember(name, timeout_s=600, expires_s=100)
    node.write_anew()
    (known,) = node.clients()[name]
    assert known.timeout_s == 600
    assert 0 < known.expires_s <= 100
    node.change({"default/web": plan(sticky(timeoutSeconds=600), slices(*({1, 2} - {first})), PLACE)})
    node.write_anew()
    assert node.clients() == {}


def test_nobody_notices_changes(node: Node) -> None:
    """Connections go on while their Service, others and the table as a whole change: each finds an endpoint that there was."""
    over = threading.Event()
    answers: list[int] = []
    failures: list[OSError] = []

    def ask() -> None:
        while not over.is_set():
            try:
                answers.append(_ask(VIP, 80, socket.SOCK_STREAM))
            except OSError as error:
                failures.append(error)

    rng = random.Random(3)
    node.change({"default/web": plan(service(), slices(1, 2), PLACE)})
    thread = node.apart(ask)
    for turn in range(20):
        endpoints = rng.sample(range(1, MANY), rng.choice([1, 2, 5, DRAWS, DRAWS + 1]))
        changes: dict[str, Part | None] = {"default/web": plan(service(), slices(*endpoints), PLACE)}
        for other in range(10):
            made = service(f"other-{other}", vip=f"10.96.1.{other}", sessionAffinity=rng.choice(["None", "ClientIP"]))
            changes[f"default/other-{other}"] = plan(made, slices(*endpoints), PLACE) if rng.random() < 0.7 else None
        node.change(changes)
        if turn % 5 == 4:
            node.write_anew()
    over.set()
    thread.join(60)
    node.change({f"default/other-{other}": None for other in range(10)})
    assert failures == []
    assert len(answers) > 20
    assert set(answers) <= set(range(1, MANY))


def test_node_ports(node: Node) -> None:
    port = {"node_port": 30080, "type": "NodePort"}
    node.change({"default/web": plan(service(**port), slices(1, 2), PLACE)})
    assert node.reached(address(0), 30080, times=40).keys() == {1, 2}
    assert node.reached(times=40).keys() == {1, 2}
    # From the node itself a policy of Local leads anywhere, as from pods.
    node.change({"default/web": plan(service(**port, externalTrafficPolicy="Local"), slices(1, 2, far=(2,)), PLACE)})
    assert node.reached(address(0), 30080, times=20).keys() == {1}


def test_a_load_balancer_is_open_to_its_ranges_only(node: Node) -> None:
    def balancer(*ranges: str) -> core_v1_pb2.Service:
        made = service(node_port=30080, type="LoadBalancer", loadBalancerSourceRanges=list(ranges))
        made.status.load_balancer.ingress.add(ip="192.0.2.9")
        return made

    node.change({"default/web": plan(balancer("203.0.113.0/24"), slices(1, 2), PLACE)})
    with pytest.raises(TimeoutError):
        node.reached("192.0.2.9", timeout_s=0.5)
    assert node.reached(address(0), 30080, times=40).keys() == {1, 2}  # as in Kubernetes, for that address only
    node.change({"default/web": plan(balancer("203.0.113.0/24", "10.0.0.0/8"), slices(1, 2), PLACE)})
    assert node.reached("192.0.2.9", times=40).keys() == {1, 2}
    node.change({"default/web": plan(balancer(), slices(1, 2), PLACE)})
    assert node.reached("192.0.2.9", times=40).keys() == {1, 2}


def test_a_walk_of_changes_ends_where_a_new_table_begins(node: Node) -> None:
    """Every transaction is taken, and none leaves anything behind or undone."""
    rng = random.Random(7)
    specs: list[dict[str, Any]] = [
        {}, {"sessionAffinity": "ClientIP"}, {"node_port": 30080, "type": "NodePort"}, {"internalTrafficPolicy": "Local"},
        {"node_port": 30080, "type": "NodePort", "externalTrafficPolicy": "Local"}, {"externalIPs": ["192.0.2.1"]},
        {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"]},
    ]  # fmt: skip
    for _ in range(40):
        changes: dict[str, Part | None] = {}
        for name, vip in (("web", VIP), ("other", "10.96.0.2")):
            count = rng.choice([0, 1, 2, 5, DRAWS, DRAWS + 1, MANY])
            endpoints = rng.sample(range(1, MANY + 1), count)
            protocol = rng.choice(["TCP", "UDP"])
            spec = rng.choice(specs)
            found = slices(*endpoints, protocol=protocol)
            asked = service(name, protocol, vip, **spec)
            if asked.spec.type == "LoadBalancer":
                asked.status.load_balancer.ingress.add(ip="192.0.2.1")
            changes[f"default/{name}"] = plan(asked, found, PLACE) if count else None
        node.change(changes)
    assert node.is_level()
    walked = node.listing()
    node.write_anew()
    assert walked == node.listing()
