"""Times, durations and ages."""

from __future__ import annotations

import pytest

from wherry.api import times
from wherry.pb import meta_v1_pb2

SECOND = 10**9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", (0, 0)),
        ("2026-01-02T03:04:05Z", (1767323045, 0)),
        ("2026-01-02T03:04:05.123456Z", (1767323045, 123456000)),
        ("2026-01-02T05:04:05+02:00", (1767323045, 0)),
        ("2026-01-01T22:04:05-05:00", (1767323045, 0)),
        ("0001-01-01T00:00:00Z", (-62135596800, 0)),
    ],
)
def test_rfc3339(text: str, expected: tuple[int, int]) -> None:
    assert times.parse_rfc3339(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "nope", "2026-01-02", "2026-13-02T03:04:05Z", "2026-01-02T03:04:05", "2026-02-30T00:00:00Z", "1767323045"],
)
def test_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        times.parse_rfc3339(text)


def test_messages_from_the_clock() -> None:
    now = 1767323045.987654
    assert times.to_time(now) == meta_v1_pb2.Time(seconds=1767323045)
    assert times.to_micro_time(now) == meta_v1_pb2.MicroTime(seconds=1767323045, nanos=987654000)
    assert times.from_time(times.to_micro_time(now)) == pytest.approx(now)
    assert times.format_micros(1767323045, 987654000) == "2026-01-02T03:04:05.987654Z"


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "0s"), (1, "1ns"), (1500, "1.5µs"), (250 * 10**6, "250ms"), (SECOND, "1s"), (1500 * 10**6, "1.5s"),
        (60 * SECOND, "1m0s"), (3600 * SECOND, "1h0m0s"), (3661 * SECOND, "1h1m1s"), (-90 * SECOND, "-1m30s"),
    ],
)  # fmt: skip
def test_durations_as_go_prints_them(nanos: int, text: str) -> None:
    assert times.format_duration(nanos) == text
    assert times.parse_duration(text) == nanos


@pytest.mark.parametrize(("text", "seconds"), [("1.5h", 5400), ("+1m", 60), ("1h30m", 5400), ("0", 0), ("1m1m", 120)])
def test_durations_read(text: str, seconds: int) -> None:
    assert times.parse_duration(text) == seconds * SECOND


@pytest.mark.parametrize("text", ["", "1", "h", "1 s", "1d", "-", "1h x", "9999999999999h"])
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        times.parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (119, "119s"), (120, "2m"), (303, "5m3s"), (599, "9m59s"), (600, "10m"), (10799, "179m"), (10800, "3h"),
        (12600, "3h30m"), (28800, "8h"), (172799, "47h"), (172800, "2d"), (183600, "2d3h"), (273600, "3d4h"), (691200, "8d"),
        (63072000, "2y"), (63936000, "2y10d"), (252288000, "8y"), (-1, "0s"), (-5, "<invalid>"),
    ],
)  # fmt: skip
def test_ages_as_kubectl_shows_them(seconds: float, text: str) -> None:
    assert times.human_duration(seconds) == text


def test_age_of_nothing() -> None:
    assert times.age(None, 5.0) == "<unknown>"
    assert times.age(meta_v1_pb2.Time(), 5.0) == "<unknown>"
    assert times.age(meta_v1_pb2.Time(seconds=100), 160.0) == "60s"
