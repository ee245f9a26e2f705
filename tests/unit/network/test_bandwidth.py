"""What the bandwidth plugin is asked for by a pod's annotations."""

from __future__ import annotations

import pytest

from kubelet.network.cni import bandwidth

IN, OUT = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"


@pytest.mark.parametrize(
    ("annotations", "bounds"),
    [
        pytest.param({"a": "b"}, {}, id="none"),
        pytest.param({IN: "8M"}, {"ingressRate": 8_000_000, "ingressBurst": 8_000_000}, id="a second's worth at once"),
        pytest.param({OUT: "10k"}, {"egressRate": 10_000, "egressBurst": 1 << 20}, id="a packet fits"),
        pytest.param(
            {IN: "1G", OUT: "10G"},
            {"ingressRate": 10**9, "ingressBurst": 10**9, "egressRate": 10**10, "egressBurst": 2**32 - 1},
            id="both",
        ),
    ],
)
def test_bounds(annotations: dict[str, str], bounds: dict[str, int]) -> None:
    assert bandwidth(annotations) == bounds


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        pytest.param({IN: "fast"}, f'annotation {IN}: "fast"', id="no quantity"),
        pytest.param({IN: "10"}, "unreasonably small", id="too small"),
        pytest.param({OUT: "2P"}, "unreasonably large", id="too large"),
    ],
)
def test_what_is_no_bound(annotations: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        bandwidth(annotations)
