"""Which way leads to which node's pods, and the commands that make it so."""

from __future__ import annotations

import pytest

from kubelet.network.mesh import plan
from kubelet.network.mesh.plan import LINK, Mesh, Peer, State
from wherry.pb import core_v1_pb2

OWN = Peer("n1", "10.1.1.0/24", "192.168.1.1")
NEAR, FAR = Peer("n2", "10.1.2.0/24", "192.168.1.2"), Peer("n3", "10.1.3.0/24", "192.168.2.3")
SEGMENT = ["192.168.1.0/24"]


@pytest.mark.parametrize(
    ("peers", "on_link", "routes", "overlay"),
    [
        ([NEAR], SEGMENT, {"10.1.2.0/24": "192.168.1.2"}, {}),
        ([FAR], SEGMENT, {}, {"10.1.3.0/24": "192.168.2.3"}),
        ([NEAR, FAR], SEGMENT, {"10.1.2.0/24": "192.168.1.2"}, {"10.1.3.0/24": "192.168.2.3"}),
        ([NEAR], ["192.168.1.254/32"], {}, {"10.1.2.0/24": "192.168.1.2"}),
        ([Peer("n9", NEAR.pod_cidr, "192.168.1.9"), NEAR], SEGMENT, {"10.1.2.0/24": "192.168.1.2"}, {}),
        ([Peer("n9", "10.1.0.0/16", "192.168.1.9")], SEGMENT, {}, {}),
        ([Peer("n9", "10.1.9.0/24", OWN.address)], SEGMENT, {}, {}),
    ],
    ids=["segment", "router", "both", "a cloud's lone gateway", "claimed twice", "ours is claimed", "our own address"],
)
def test_ways(peers: list[Peer], on_link: list[str], routes: dict[str, str], overlay: dict[str, str]) -> None:
    assert plan.choose(OWN, peers, on_link) == Mesh(routes, overlay)


@pytest.mark.parametrize(
    ("cidr", "addresses", "want"),
    [
        ("10.1.2.0/24", [("Hostname", "n"), ("InternalIP", "192.168.1.2")], Peer("n", "10.1.2.0/24", "192.168.1.2")),
        ("", [("InternalIP", "192.168.1.2")], None),
        ("10.1.2.0/24", [("Hostname", "n")], None),
        ("fd00::/64", [("InternalIP", "192.168.1.2")], None),
        ("10.1.2.0/24", [("InternalIP", "fd00::1")], None),
        ("10.1.2.0/24", [("InternalIP", "n.example")], None),
    ],
    ids=["whole", "no CIDR yet", "no address yet", "IPv6 pods", "IPv6 node", "a name for an address"],
)
def test_peers(cidr: str, addresses: list[tuple[str, str]], want: Peer | None) -> None:
    node = core_v1_pb2.Node()
    node.metadata.name = "n"
    node.spec.pod_cidr = cidr
    for kind, address in addresses:
        node.status.addresses.add(type=kind, address=address)
    assert plan.peer_of(node) == want


def test_commands_make_one_state_of_another() -> None:
    both = plan.state(plan.choose(OWN, [NEAR, FAR], SEGMENT))
    far = "02:77:c0:a8:02:03"
    assert plan.commands(State(), both) == (
        [
            f"neigh replace 10.1.3.0 lladdr {far} dev {LINK} nud permanent",
            "route replace 10.1.2.0/24 via 192.168.1.2 proto 77",
            f"route replace 10.1.3.0/24 via 10.1.3.0 dev {LINK} onlink proto 77",
        ],
        [f"fdb append {far} dev {LINK} dst 192.168.2.3 self permanent"],
    )
    assert plan.commands(both, both) == ([], [])
    moved = plan.state(plan.choose(OWN, [Peer("n3", FAR.pod_cidr, "192.168.2.4")], SEGMENT))
    assert plan.commands(both, moved) == (
        [
            "route del 10.1.2.0/24 via 192.168.1.2 proto 77",
            f"neigh replace 10.1.3.0 lladdr 02:77:c0:a8:02:04 dev {LINK} nud permanent",
        ],
        [
            f"fdb del {far} dev {LINK} dst 192.168.2.3 self",
            f"fdb append 02:77:c0:a8:02:04 dev {LINK} dst 192.168.2.4 self permanent",
        ],
    )
