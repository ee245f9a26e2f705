"""Which replicas the Service `kubernetes` leads to."""

import pytest

from controlplane.apiservice import MAX_REPLICAS, is_routable, plan_hosts


@pytest.mark.parametrize(
    ("present", "alone", "wanted"),
    [
        ([], True, ["192.0.2.1"]),
        (["192.0.2.9"], True, ["192.0.2.1"]),
        (["192.0.2.0", "192.0.2.9"], False, ["192.0.2.0", "192.0.2.1", "192.0.2.9"]),
        (["192.0.2.1"], False, ["192.0.2.1"]),
    ],
    ids=["the first", "in place of an older address", "beside others", "as it is"],
)
def test_hosts(present: list[str], alone: bool, wanted: list[str]) -> None:
    assert plan_hosts(present, "192.0.2.1", alone) == wanted


def test_the_bound_never_drops_ourselves() -> None:
    hosts = plan_hosts([f"10.0.0.{number}" for number in range(30)], "192.0.2.1", False)
    assert len(hosts) == MAX_REPLICAS
    assert "192.0.2.1" in hosts


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "169.254.1.1", "::1", "localhost"])
def test_pods_cannot_be_sent_everywhere(host: str) -> None:
    assert not is_routable(host)
