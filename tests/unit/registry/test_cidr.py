"""What counts as a CIDR: nft and Go read less than Python does."""

from __future__ import annotations

import pytest

from controlplane.registry.validation import common


@pytest.mark.parametrize("text", ["10.0.0.0/8", "10.1.2.3/0", "192.0.2.1/32", "fd00::/8"])
def test_taken(text: str) -> None:
    assert common.cidr(text, "spec.x") == []


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/0.0.0.255",
        "10.0.0.0/08",
        "10.0.0.0/33",
        "10.0.0.0/\u0668",
        "/8",
    ],
)
def test_refused(text: str) -> None:
    (cause,) = common.cidr(text, "spec.x")
    assert common.CIDR_MESSAGE in cause.message
