"""Every recording of the API server is replayed by some test, or is listed with the reason why it is not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.testing import recorded_exceptions as exceptions
from wherry.testing import recordings

pytestmark = pytest.mark.skipif(
    not recordings.GOLDEN.is_dir() and not os.environ.get("CI"),
    reason="no recordings of an API server beside the checkout",
)
SITUATIONS = Path(__file__).parent / "scheduler" / "recorded.jsonl"
# Files of which every record is replayed: by tests/contract/test_http_recordings.py, tests/unit/auth and tests/unit/registry.
WHOLE = ("builtins", "discovery", "auth", "tables")
LOGS_AND_POLICIES = (51, 52, 53, 54, 77, 78, 79, 80, 81, 82)


def everything() -> Iterator[tuple[str, int, str, str]]:
    for path in sorted(recordings.GOLDEN.glob("*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            record = json.loads(line)
            yield path.stem, number, record["name"], (record.get("request") or {}).get("path", "")


def is_replayed(file: str, number: int, name: str, path: str) -> bool:
    if file in WHOLE or "golden.example" in path or "/customresourcedefinitions" in path:
        return True
    if file == "scheduler":
        known = [json.loads(line).get("situation") for line in SITUATIONS.read_text().splitlines()]
        return name.removeprefix("situation: ") in known
    if file in ("watch", "expired"):
        return "/configmaps" in path and file == "watch"
    by_http = (file == "validation" and number in recordings.DECIDED_BY_HTTP) or (
        file == "flows" and number in LOGS_AND_POLICIES
    )
    meant = exceptions.REGISTRY[file].get(number)
    return by_http or meant not in (exceptions.FRONT, exceptions.POLICIES)


def test_each_recording_is_replayed_or_excused() -> None:
    lost = [item for item in everything() if not is_replayed(*item) and item[:2] not in exceptions.UNCOMPARED]
    assert not lost, lost
    names = {item[:2] for item in everything()}
    assert not set(exceptions.UNCOMPARED) - names


def test_every_exception_has_a_reason() -> None:
    for table in (*exceptions.REGISTRY.values(), *exceptions.HTTP.values(), exceptions.UNCOMPARED):
        assert all(len(reason) > 10 for reason in table.values())
