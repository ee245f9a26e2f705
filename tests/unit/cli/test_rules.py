"""The pure decisions of the commands: drain, rollout status, label arguments, wait conditions, ports, tables."""

from typing import Any

import pytest

from wherry.cli.commands.change import condition_met, parse_changes
from wherry.cli.commands.nodes import MIRROR, refusal
from wherry.cli.commands.portforward import parse_ports
from wherry.cli.commands.rollout import progress
from wherry.cli.commands.streams import exit_code, seconds_of
from wherry.cli.output import layout
from wherry.cli.resources import UsageError
from wherry.pb import apps_v1_pb2, core_v1_pb2, meta_v1_pb2


def pod(**changes: Any) -> core_v1_pb2.Pod:
    made = core_v1_pb2.Pod()
    if owner := changes.get("owner"):
        made.metadata.owner_references.add(kind=owner, name="o", controller=True)
    if changes.get("mirror"):
        made.metadata.annotations[MIRROR] = "x"
    if changes.get("emptydir"):
        made.spec.volumes.add(name="d").volume_source.empty_dir.SetInParent()
    made.status.phase = changes.get("phase", "Running")
    return made


@pytest.mark.parametrize(
    ("candidate", "flags", "why", "stays"),
    [
        pytest.param(pod(owner="ReplicaSet"), {}, "", False, id="owned"),
        pytest.param(pod(), {}, "declare no controller", False, id="bare"),
        pytest.param(pod(), {"force": True}, "", False, id="bare-forced"),
        pytest.param(pod(owner="DaemonSet"), {}, "DaemonSet-managed", False, id="daemon"),
        pytest.param(pod(owner="DaemonSet"), {"ignore_daemonsets": True}, "", True, id="daemon-ignored"),
        pytest.param(pod(owner="ReplicaSet", emptydir=True), {}, "local storage", False, id="emptydir"),
        pytest.param(
            pod(owner="ReplicaSet", emptydir=True), {"delete_emptydir_data": True}, "", False, id="emptydir-lost"
        ),
        pytest.param(pod(phase="Succeeded"), {}, "", False, id="finished"),
        pytest.param(pod(mirror=True), {}, "", True, id="mirror"),
    ],
)
def test_what_a_drain_refuses(candidate: core_v1_pb2.Pod, flags: dict[str, bool], why: str, stays: bool) -> None:
    options = {"force": False, "ignore_daemonsets": False, "delete_emptydir_data": False, **flags}
    reason, left = refusal(candidate, **options)
    assert left is stays
    assert why in reason
    assert bool(why) == bool(reason)


def deployment(**status: int) -> apps_v1_pb2.Deployment:
    made = apps_v1_pb2.Deployment()
    made.metadata.name = "web"
    made.metadata.generation = 2
    made.spec.replicas = 3
    made.status.observed_generation = status.pop("observed", 2)
    for field, value in status.items():
        setattr(made.status, field, value)
    return made


@pytest.mark.parametrize(
    ("state", "says", "done"),
    [
        pytest.param(deployment(observed=1), "spec update to be observed", False, id="not-observed"),
        pytest.param(deployment(updated_replicas=1, replicas=3), "1 out of 3 new replicas", False, id="updating"),
        pytest.param(deployment(updated_replicas=3, replicas=5), "2 old replicas", False, id="old-left"),
        pytest.param(
            deployment(updated_replicas=3, replicas=3, available_replicas=2),
            "2 of 3 updated",
            False,
            id="not-available",
        ),
        pytest.param(
            deployment(updated_replicas=3, replicas=3, available_replicas=3), "successfully rolled out", True, id="done"
        ),
    ],
)
def test_rollout_progress(state: apps_v1_pb2.Deployment, says: str, done: bool) -> None:
    text, finished = progress(state)
    assert says in text
    assert finished is done


def test_a_rollout_past_its_deadline_fails() -> None:
    state = deployment(updated_replicas=1)
    state.status.conditions.add(type="Progressing", status="False", reason="ProgressDeadlineExceeded")
    with pytest.raises(UsageError, match="exceeded its progress deadline"):
        progress(state)


@pytest.mark.parametrize(
    ("words", "names", "changes"),
    [
        pytest.param(["pod", "web", "a=b"], ["pod", "web"], {"a": "b"}, id="set"),
        pytest.param(["pod/web", "a-"], ["pod/web"], {"a": None}, id="remove"),
        pytest.param(["pods", "x", "y", "a=b", "c-"], ["pods", "x", "y"], {"a": "b", "c": None}, id="both"),
        pytest.param(["no", "n", "k8s.io/a=b=c"], ["no", "n"], {"k8s.io/a": "b=c"}, id="prefix-and-equals"),
    ],
)
def test_label_arguments(words: list[str], names: list[str], changes: dict[str, str | None]) -> None:
    assert parse_changes(words, "label") == (names, changes)


def test_label_arguments_need_a_change() -> None:
    with pytest.raises(UsageError, match="at least one label update"):
        parse_changes(["pod", "web"], "label")


READY = {
    "metadata": {"generation": 1},
    "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
}


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        ("condition=Ready", True),
        ("condition=ready=true", True),
        ("condition=Ready=False", False),
        ("condition=Available", False),
        ("jsonpath={.status.phase}=Running", True),
        ("jsonpath='{.status.phase}'=Pending", False),
        ("jsonpath={.status.phase}", True),
        ("create", True),
    ],
)
def test_wait_conditions(wanted: str, holds: bool) -> None:
    assert condition_met(wanted)[1](READY) is holds


def test_a_condition_of_an_older_generation_does_not_count() -> None:
    stale = {"metadata": {"generation": 2}, "status": {**READY["status"], "observedGeneration": 1}}
    assert not condition_met("condition=Ready")[1](stale)


@pytest.mark.parametrize(
    ("word", "ports"),
    [("8080", (8080, "8080")), ("8080:80", (8080, "80")), (":80", (0, "80")), ("8080:http", (8080, "http"))],
)
def test_ports(word: str, ports: tuple[int, str]) -> None:
    assert parse_ports([word]) == [ports]


@pytest.mark.parametrize("word", ["x:80", "70000", "80:0", "80:", ":99999"])
def test_no_ports(word: str) -> None:
    with pytest.raises(UsageError, match="port"):
        parse_ports([word])


@pytest.mark.parametrize(("text", "seconds"), [("30", 30.0), ("1m30s", 90.0), ("0", 0.0), ("1.5", 1.5)])
def test_timeouts(text: str, seconds: float) -> None:
    assert seconds_of(text, "--timeout") == seconds


def test_a_timeout_that_is_none() -> None:
    with pytest.raises(UsageError, match="--timeout 'soon'"):
        seconds_of("soon", "--timeout")


def test_exit_codes_are_passed_on() -> None:
    status = meta_v1_pb2.Status(status="Failure", reason="NonZeroExitCode")
    status.details.causes.add(reason="ExitCode", message="42")
    assert exit_code(status) == 42
    assert exit_code(meta_v1_pb2.Status(status="Failure", message="no such container")) == 1


def test_columns_line_up_and_are_kept() -> None:
    widths: list[int] = []
    assert layout([["NAME", "READY"], ["long-name", "1/1"]], widths=widths) == ["NAME        READY", "long-name   1/1"]
    assert layout([["b", "0/1"]], widths=widths) == ["b           0/1"]
