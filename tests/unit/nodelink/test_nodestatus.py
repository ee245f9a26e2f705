"""When a node's conditions last changed: by its agent, and behind its agent's back."""

import pytest

from controlplane.nodelink.nodestatus import merged, silenced
from wherry.api.times import to_time
from wherry.pb import core_v1_pb2

REPORTED_S, SILENT_S, BACK_S = 100, 200, 300


def status(ready: str, since_s: int) -> core_v1_pb2.NodeStatus:
    found = core_v1_pb2.NodeStatus()
    found.conditions.add(type="Ready", status=ready).last_transition_time.CopyFrom(to_time(since_s))
    return found


def node(ready: str, since_s: int) -> core_v1_pb2.Node:
    return core_v1_pb2.Node(status=status(ready, since_s))


@pytest.mark.parametrize(
    ("stored", "reported", "changed_s"),
    [
        (node("True", REPORTED_S), status("True", SILENT_S), REPORTED_S),
        (node("True", REPORTED_S), status("False", SILENT_S), SILENT_S),
        (node("Unknown", SILENT_S), status("True", REPORTED_S), BACK_S),
        (node("Unknown", SILENT_S), status("False", REPORTED_S), BACK_S),
        (core_v1_pb2.Node(), status("True", REPORTED_S), REPORTED_S),
    ],
    ids=["not at all", "by its agent", "heard again", "heard again and not ready", "never before"],
)
def test_when_it_changed(stored: core_v1_pb2.Node, reported: core_v1_pb2.NodeStatus, changed_s: int) -> None:
    (ready,) = merged(stored, reported, BACK_S).status.conditions
    assert ready.last_transition_time.seconds == changed_s


def test_silence_changes_what_was_known() -> None:
    silent = silenced(node("True", REPORTED_S), SILENT_S)
    assert silent is not None
    ready = next(item for item in silent.status.conditions if item.type == "Ready")
    assert (ready.status, ready.reason, ready.last_transition_time.seconds) == (
        "Unknown",
        "NodeStatusUnknown",
        SILENT_S,
    )
    assert silenced(silent, BACK_S) is None
