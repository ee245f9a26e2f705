"""Which rules of the nat table are the jumps to portmap's chains."""

from kubelet.network.hostports import jumps

RULES = """\
-P PREROUTING ACCEPT
-N CNI-HOSTPORT-DNAT
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A PREROUTING -p tcp -j DOCKER
-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
-A CNI-DN-1 -j CNI-HOSTPORT-SETMARK
"""


def test_only_the_jumps_of_ordinary_chains_are_named() -> None:
    assert jumps(RULES) == [
        ["PREROUTING", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "CNI-HOSTPORT-DNAT"],
        ["POSTROUTING", "-m", "comment", "--comment", "CNI portfwd requiring masquerade", "-j", "CNI-HOSTPORT-MASQ"],
    ]
