"""When a node's clock is told to be wrong, and when its certificate is."""

from __future__ import annotations

import pytest

from kubelet.clock import ClockWatch, certificate_problem


@pytest.mark.parametrize(
    ("sent", "received", "theirs", "said"),
    [
        pytest.param(100, 101, 100.5, "", id="the same"),
        pytest.param(109, 110, 100, "", id="a little ahead"),
        pytest.param(100, 190, 180, "", id="an answer that was long under way"),
        pytest.param(3700, 3701, 100, "3600 s ahead of", id="ahead"),
        pytest.param(100, 101, 3701, "3600 s behind", id="behind"),
        pytest.param(100, 101, 0, "", id="an old control plane"),
    ],
)
def test_a_difference_is_told_when_it_is_certain(sent: float, received: float, theirs: float, said: str) -> None:
    found = ClockWatch().observe(sent, received, theirs)
    assert (said in found) if said else not found


def test_each_change_is_told_once() -> None:
    watch = ClockWatch()
    assert watch.observe(500, 500, 100)
    assert not watch.observe(510, 510, 110)
    assert "agrees" in watch.observe(120, 120, 120)
    assert not watch.observe(130, 130, 130)


def test_what_proves_nothing_takes_nothing_back() -> None:
    watch = ClockWatch()
    assert watch.observe(500, 500, 100)
    assert not watch.observe(510, 600, 590)
    assert watch.wrong
    assert not watch.observe(580, 600, 610)
    assert watch.wrong
    assert "agrees" in watch.observe(605, 610, 600)


@pytest.mark.parametrize(
    ("now", "said"), [(5, "before the node's own certificate"), (50, ""), (100, "has expired at 1970-01-01T00:01:40Z")]
)
def test_a_certificate_is_of_no_use_before_and_after_its_time(now: float, said: str) -> None:
    found = certificate_problem(10, 100, now)
    assert (said in found) if said else not found
