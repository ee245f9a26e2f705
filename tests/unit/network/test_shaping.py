"""Which buckets are of the size that was meant."""

from __future__ import annotations

from typing import Any

import pytest

from kubelet.network.shaping import Bucket, buckets, is_right, led_to, wanted_bytes

SHOWN: list[dict[str, Any]] = [
    {"kind": "noqueue", "handle": "0:", "dev": "lo", "root": True, "options": {}},
    {"kind": "tbf", "dev": "veth1", "root": True, "options": {"rate": 1250000, "burst": 193273526, "lat": 275000000}},
    {"kind": "ingress", "dev": "veth1", "parent": "ffff:fff1", "options": {}},
    {"kind": "tbf", "dev": "bwp1", "root": True, "options": {"rate": 2500000, "burst": 2500000, "lat": 25000}},
    {"kind": "tbf", "dev": "eth0", "root": True, "options": {"rate": 1250000, "burst": 32000, "lat": 25000}},
    {"kind": "tbf", "dev": "veth1", "parent": "1:2", "options": {"rate": 1250000, "burst": 32000, "lat": 25000}},
]
REDIRECT = {"kind": "mirred", "mirred_action": "redirect", "direction": "egress", "to_dev": "bwp1"}
FILTERS: list[dict[str, Any]] = [
    {"protocol": "all", "kind": "u32", "chain": 0},
    {
        "protocol": "all",
        "kind": "u32",
        "chain": 0,
        "options": {"actions": [{"order": 1, **REDIRECT}, {"kind": "gact"}]},
    },
]


def test_the_buckets_of_ports_and_of_what_they_lead_to() -> None:
    led = list(led_to(FILTERS))
    assert led == ["bwp1"]
    found = buckets(SHOWN, {"veth1", *led})
    assert found == [Bucket("bwp1", 2500000, 2500000), Bucket("veth1", 1250000, 193273526)]
    assert [is_right(bucket) for bucket in found] == [True, False]


@pytest.mark.parametrize(
    ("rate_bytes_s", "wanted"),
    [(125, 1 << 17), (1_250_000, 1_250_000), (10**12, (2**32 - 1) // 8)],
    ids=["a packet fits", "a second's worth", "what the plugin can count"],
)
def test_how_large(rate_bytes_s: int, wanted: int) -> None:
    assert wanted_bytes(rate_bytes_s) == wanted
    assert is_right(Bucket("d", rate_bytes_s, wanted))
    assert is_right(Bucket("d", rate_bytes_s, wanted - wanted // 1000))  # the kernel counts in ticks
    assert not is_right(Bucket("d", rate_bytes_s, wanted * 2))
