"""Tables for the pod planner: one row is one moment in the life of a pod."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubelet.pods import model as m
from kubelet.pods.config import sandbox_config, target_of
from kubelet.pods.plan import plan
from kubelet.pods.policy import next_backoff, pull_policy, restart_backoff, spec_hash, valid_reference
from kubelet.pods.services import ConfigError, NodeSettings
from kubelet.pods.states import Stage
from kubelet.runtime.base import ContainerState, ContainerStatus, Image, SandboxState, SandboxStatus
from wherry.pb import core_v1_pb2
from wherry.testing.builders import CREATED_S, PodBuilder, make_pod

T0 = float(CREATED_S)
IMAGE = "example.com/app:1"
NODE = m.NodeFacts("n1", ("192.0.2.1",))


def sandbox(attempt: int = 0, state: SandboxState = SandboxState.READY) -> SandboxStatus:
    return SandboxStatus(f"s{attempt}", "default", "p", "u", attempt, state, T0 + attempt, ("10.0.0.5",), {}, {})


def running(
    name: str = "c", attempt: int = 0, *, at: float = T0, in_: str = "s0", hash_of: str = IMAGE
) -> ContainerStatus:
    annotations = {m.SPEC_HASH: spec_hash(core_v1_pb2.Container(name=name, image=hash_of)), m.RESTART_BACKOFF: "0"}
    return ContainerStatus(
        f"{name}-{attempt}", in_, name, attempt, ContainerState.RUNNING, at, at, 0.0, 0, "", "", IMAGE, "sha", "/l",
        {}, annotations,
    )  # fmt: skip


def exited(
    name: str = "c",
    attempt: int = 0,
    *,
    code: int = 1,
    at: float = T0,
    ran: float = 1.0,
    backoff: float = 0,
    in_: str = "s0",
) -> ContainerStatus:
    """Ended at `at`."""
    base = running(name, attempt, at=at - ran, in_=in_)
    annotations = {**base.annotations, m.RESTART_BACKOFF: str(backoff)}
    reason = "Completed" if code == 0 else "Error"
    return replace(
        base, state=ContainerState.EXITED, exit_code=code, reason=reason, finished_at=at, annotations=annotations
    )


def memory(*, images: bool = True, volumes: bool = True, **more: object) -> m.PodMemory:
    made = m.PodMemory(seen_at=T0, volumes_ready=volumes)
    if images:
        made.images[IMAGE] = Image("sha", (IMAGE,), (), 1)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def decide(
    pod: PodBuilder, *things: SandboxStatus | ContainerStatus, mem: m.PodMemory | None = None, now: float = T0
) -> m.Plan:
    observed = m.Observed(
        tuple(t for t in things if isinstance(t, SandboxStatus)),
        tuple(t for t in things if isinstance(t, ContainerStatus)),
    )
    return plan(pod.build(), observed, mem if mem is not None else memory(), NODE, now)


def words(made: m.Plan) -> list[str]:
    """The actions in short."""
    names: list[str] = []
    for action in made.actions:
        match action:
            case m.StartContainer():
                names.append(f"start {action.container}#{action.attempt}")
            case m.StartCreated():
                names.append(f"start-created {action.container}")
            case m.KillContainer():
                names.append(f"kill {action.container_id} in {action.deadline - T0:g}")
            case m.EnsureImage():
                names.append(f"image {action.container} {action.policy}")
            case m.CreateSandbox():
                names.append(f"sandbox#{action.attempt}")
            case m.Cleanup():
                names.append("cleanup all" if action.everything else "cleanup")
            case _:
                names.append(action.key)
    return names


def pod(policy: str = "Always") -> PodBuilder:
    made = make_pod("p").on("n1")
    made._pod.spec.restart_policy = policy
    return made


def deadline(made: PodBuilder, seconds: int) -> PodBuilder:
    made._pod.spec.active_deadline_seconds = seconds
    return made


def ready_false(made: m.Plan) -> dict[str, tuple[str, str, str]]:
    return {c.type: (c.status, c.reason, c.message) for c in made.status.conditions}


Row = tuple[PodBuilder, list[SandboxStatus | ContainerStatus], m.PodMemory, list[str], str]

ROWS: dict[str, Row] = {
    "a new pod: volumes, sandbox and image at once":
        (pod(), [], memory(images=False, volumes=False), ["volumes", "sandbox#0", "image c IfNotPresent"], "Pending"),
    "no container before the volumes are there":
        (pod(), [sandbox()], memory(volumes=False), ["volumes"], "Pending"),
    "sandbox ready: all app containers start together":
        (pod().container("d"), [sandbox()], memory(), ["start c#0", "start d#0"], "Pending"),
    "one runs, one is missing: still Pending":
        (pod().container("d"), [sandbox(), running()], memory(), ["start d#0"], "Pending"),
    "created once more, not started yet: as Running as before":
        (pod(), [sandbox(), replace(running(attempt=1), state=ContainerState.CREATED), exited()], memory(),
         ["start-created c"], "Running"),
    "one is started once more, one for the first time: Pending":
        (pod().container("d"), [sandbox(), replace(running(attempt=1), state=ContainerState.CREATED), exited()], memory(),
         ["start-created c", "start d#0"], "Pending"),
    "all run: nothing to do":
        (pod(), [sandbox(), running()], memory(), [], "Running"),
    "first crash: restarted at once":
        (pod(), [sandbox(), exited()], memory(), ["start c#1"], "Running"),
    "second crash: waits":
        (pod(), [sandbox(), exited(attempt=1, backoff=10)], memory(), [], "Running"),
    "second crash, ten seconds ago":
        (pod(), [sandbox(), exited(attempt=1, backoff=10, at=T0 - 10)], memory(), ["start c#2"], "Running"),
    "Always restarts a clean end":
        (pod(), [sandbox(), exited(code=0)], memory(), ["start c#1"], "Running"),
    "OnFailure leaves a clean end":
        (pod("OnFailure"), [sandbox(), exited(code=0)], memory(), ["stop/s0"], "Succeeded"),
    "OnFailure restarts a failure":
        (pod("OnFailure"), [sandbox(), exited(code=1)], memory(), ["start c#1"], "Running"),
    "Never: failed for good":
        (pod("Never"), [sandbox(), exited(code=1)], memory(), ["stop/s0"], "Failed"),
    "Never: one ended badly, one runs":
        (pod("Never").container("d"), [sandbox(), exited(code=1), running("d")], memory(), [], "Running"),
    "finished and stopped: volumes and cgroup go, logs stay":
        (pod("Never"), [sandbox(state=SandboxState.NOT_READY), exited(code=0)], memory(stopped_sandboxes={"s0"}),
         ["cleanup"], "Succeeded"),
    "finished and cleaned: nothing":
        (pod("Never"), [sandbox(state=SandboxState.NOT_READY), exited(code=0)],
         memory(stopped_sandboxes={"s0"}, cleaned=True), [], "Succeeded"),
    "the sandbox died: the old one is stopped first":
        (pod(), [sandbox(state=SandboxState.NOT_READY), exited(code=137)], memory(), ["stop/s0"], "Running"),
    "the sandbox died and is stopped: a new one":
        (pod(), [sandbox(state=SandboxState.NOT_READY), exited(code=137)], memory(stopped_sandboxes={"s0"}),
         ["sandbox#1", ], "Running"),
    "containers of the old sandbox run again in the new one":
        (pod(), [sandbox(1), exited(code=137)], memory(), ["start c#1"], "Running"),
    "Never and the sandbox died: it is over":
        (pod("Never"), [sandbox(state=SandboxState.NOT_READY), exited(code=137)], memory(), ["stop/s0"], "Failed"),
    "created but never started (the agent died in between)":
        (pod(), [sandbox(), replace(running(), state=ContainerState.CREATED)], memory(), ["start-created c"], "Pending"),
    "the image in the spec changed: killed with the pod's grace":
        (pod(), [sandbox(), running(hash_of="example.com/app:0")], memory(), ["kill c-0 in 30"], "Running"),
    "liveness failed: killed":
        (pod(), [sandbox(), running()], memory(probes={"c-0": m.ProbeState(liveness_failed="liveness")}),
         ["kill c-0 in 30"], "Running"),
    "a container that the spec does not have":
        (pod(), [sandbox(), running(), running("x")], memory(), ["kill x-0 in 30"], "Running"),
    "two of one name: the older one goes":
        (pod(), [sandbox(), running(), running(attempt=1)], memory(), ["kill c-0 in 30"], "Running"),
    "two living sandboxes: the older one goes, with what runs in it":
        (pod(), [sandbox(), sandbox(1), running(), running(attempt=1, in_="s1")], memory(),
         ["stop/s0", "kill c-0 in 30"], "Running"),
    "init container first":
        (pod().init_container("i"), [sandbox()], memory(), ["start i#0"], "Pending"),
    "init container runs: the app waits":
        (pod().init_container("i"), [sandbox(), running("i")], memory(), [], "Pending"),
    "second init container after the first":
        (pod().init_container("i").init_container("j"), [sandbox(), exited("i", code=0)], memory(), ["start j#0"], "Pending"),
    "init containers done":
        (pod().init_container("i"), [sandbox(), exited("i", code=0)], memory(), ["start c#0"], "Pending"),
    "init container failed: again":
        (pod().init_container("i"), [sandbox(), exited("i", code=2)], memory(), ["start i#1"], "Pending"),
    "init container failed and policy Never":
        (pod("Never").init_container("i"), [sandbox(), exited("i", code=2)], memory(), ["stop/s0"], "Failed"),
    "sidecar started: next":
        (pod().sidecar("s"), [sandbox(), running("s")], memory(), ["start c#0"], "Pending"),
    "a dead sidecar restarts beside the running app":
        (pod().sidecar("s"), [sandbox(), exited("s"), running()], memory(), ["start s#1"], "Running"),
    "a dead sidecar does not hold up the app's own restart":
        (pod().sidecar("s"), [sandbox(), exited("s"), exited()], memory(), ["start s#1", "start c#1"], "Running"),
    "init is not repeated while the app lives":
        (pod().init_container("i"), [sandbox(), running()], memory(), [], "Running"),
    "the app is done: sidecars stop, last first":
        (pod("Never").sidecar("s").sidecar("t"), [sandbox(), running("s"), running("t"), exited(code=0)], memory(),
         ["kill t-0 in 30"], "Running"),
    "deleted: all app containers at once, sidecars later":
        (pod().container("d").sidecar("s").deleting(grace_s=5), [sandbox(), running(), running("d"), running("s")], memory(),
         ["kill c-0 in 5", "kill d-0 in 5"], "Running"),
    "deleted: only the sidecar is left":
        (pod().sidecar("s").deleting(grace_s=5), [sandbox(), exited(), running("s")], memory(kill_by=T0 + 3),
         ["kill s-0 in 3"], "Running"),
    "deleted, grace over: sidecars too":
        (pod().sidecar("s").deleting(grace_s=5), [sandbox(), running(), running("s")], memory(kill_by=T0 - 1),
         ["kill c-0 in -1", "kill s-0 in -1"], "Running"),
    "deleted with grace 0: one second":
        (pod().deleting(grace_s=0), [sandbox(), running()], memory(), ["kill c-0 in 1"], "Running"),
    "deleted: a shorter grace wins over the first":
        (pod().deleting(grace_s=2), [sandbox(), running()], memory(kill_by=T0 + 30), ["kill c-0 in 2"], "Running"),
    "deleted, and connections may still come":
        (pod().deleting(grace_s=5), [sandbox(), running()], memory(drained=False), ["drain"], "Running"),
    "deleted and dead: nothing to drain":
        (pod().deleting(), [sandbox(), exited(code=143)], memory(drained=False), ["stop/s0"], "Failed"),
    "no longer ours: not a moment more":
        (pod(), [sandbox(), running()], memory(removed=True, drained=False), ["kill c-0 in 30"], "Running"),
    "deleted and dead: stop the sandbox":
        (pod().deleting(), [sandbox(), exited(code=143)], memory(), ["stop/s0"], "Failed"),
    "deleted and stopped: remove":
        (pod().deleting(), [sandbox(state=SandboxState.NOT_READY), exited(code=0)], memory(stopped_sandboxes={"s0"}),
         ["remove/s0"], "Succeeded"),
    "deleted and removed: clean up":
        (pod().deleting(), [], memory(), ["cleanup all"], "Failed"),
    "no longer ours: the spec's grace":
        (pod(), [sandbox(), running()], memory(removed=True), ["kill c-0 in 30"], "Running"),
    "evicted":
        (pod(), [sandbox(), running()], memory(ended=("Evicted", "low"), grace_s=1.0), ["kill c-0 in 1"], "Running"),
    "evicted and stopped":
        (pod(), [sandbox(), exited(code=137)], memory(ended=("Evicted", "low"), grace_s=1.0), ["stop/s0"], "Failed"),
    "active deadline over":
        (deadline(pod(), 60), [sandbox(), running()], memory(seen_at=T0 - 60), ["kill c-0 in 30"], "Running"),
    "volumes failed a moment ago":
        (pod(), [sandbox()], memory(volumes=False, volume_failure=m.Failure("FailedMount", "x", T0)), [], "Pending"),
    "old dead containers are collected, the last one stays":
        (pod(), [sandbox(), running(attempt=3), exited(attempt=2), exited(attempt=1), exited()], memory(),
         ["remove/c-1", "remove/c-0"], "Running"),
    "an ephemeral container is started once":
        (pod(), [sandbox(), running()], memory(), [], "Running"),
}  # fmt: skip


@pytest.mark.parametrize(("made", "things", "mem", "actions", "phase"), ROWS.values(), ids=ROWS)
def test_actions(
    made: PodBuilder, things: list[SandboxStatus | ContainerStatus], mem: m.PodMemory, actions: list[str], phase: str
) -> None:
    decided = decide(made, *things, mem=mem)
    assert words(decided) == actions
    assert decided.status.phase == phase


def test_plan_changes_nothing_it_was_given() -> None:
    desired, mem = pod().build(), memory()
    before = desired.SerializeToString(deterministic=True)
    observed = m.Observed((sandbox(),), (exited(),))
    first, second = plan(desired, observed, mem, NODE, T0), plan(desired, observed, mem, NODE, T0)
    assert desired.SerializeToString(deterministic=True) == before
    assert first == second
    assert mem == memory()


def test_crash_backoff_doubles_to_five_minutes_and_starts_afresh_after_ten_minutes_of_running() -> None:
    dead, waits = exited(), []
    for attempt in range(8):
        waits.append(restart_backoff(dead))
        dead = exited(attempt=attempt + 1, backoff=next_backoff(dead))
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]
    long = exited(backoff=300, ran=601)
    assert restart_backoff(long) == 0
    assert next_backoff(long) == 10


def test_crash_loop_status_and_event() -> None:
    decided = decide(pod(), sandbox(), exited(attempt=4, backoff=80), now=T0 + 1)
    status = decided.status.container_statuses[0]
    assert status.state.waiting.reason == "CrashLoopBackOff"
    assert status.state.waiting.message == ("back-off 1m20s restarting failed container=c pod=p_default(uid-default-p)")
    assert status.last_state.terminated.exit_code == 1
    assert (status.restart_count, status.ready, status.started) == (4, False, False)
    assert decided.wake_at == T0 + 80
    assert [(e.type, e.reason, e.message) for e in decided.events] == [
        ("Warning", "BackOff", "Back-off restarting failed container c in pod p_default(uid-default-p)")
    ]


def test_running_pod_status_in_full() -> None:
    status = decide(pod(), sandbox(), running(attempt=1), exited()).status
    assert (status.host_ip, status.pod_ip, [i.ip for i in status.pod_ips]) == ("192.0.2.1", "10.0.0.5", ["10.0.0.5"])
    assert status.start_time.seconds == CREATED_S
    assert status.observed_generation == 1
    assert [(c.type, c.status) for c in status.conditions] == [
        (name, "True")
        for name in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    ]
    container = status.container_statuses[0]
    assert container.container_id == "containerd://c-1"
    assert (container.image, container.image_id) == (IMAGE, "sha")
    assert container.state.HasField("running")
    assert container.last_state.terminated.container_id == "containerd://c-0"
    assert (container.ready, container.started, container.restart_count) == (True, True, 1)


def test_unready_containers_are_named() -> None:
    decided = decide(pod().container("d"), sandbox(), running(), exited("d", attempt=1, backoff=10))
    expected = ("False", "ContainersNotReady", "containers with unready status: [d]")
    assert ready_false(decided)["Ready"] == expected
    assert ready_false(decided)["ContainersReady"] == expected


def test_init_containers_pending() -> None:
    decided = decide(pod().init_container("i").init_container("j"), sandbox(), running("i"))
    assert ready_false(decided)["Initialized"] == (
        "False", "ContainersNotInitialized", "containers with incomplete status: [i j]",
    )  # fmt: skip
    assert decided.status.container_statuses[0].state.waiting.reason == "PodInitializing"
    assert decided.status.init_container_statuses[1].state.waiting.reason == "PodInitializing"


def test_a_finished_pod_says_so() -> None:
    decided = decide(pod("Never"), sandbox(), exited(code=0))
    assert decided.stage is Stage.FINISHING
    assert ready_false(decided)["Ready"][:2] == ("False", "PodCompleted")
    assert ready_false(decided)["Initialized"][:2] == ("True", "PodCompleted")


def test_an_evicted_pod_says_so() -> None:
    status = decide(pod(), sandbox(), exited(code=137), mem=memory(ended=("Evicted", "The node was low"))).status
    assert (status.phase, status.reason, status.message) == ("Failed", "Evicted", "The node was low")
    assert [c.reason for c in status.conditions if c.type == "DisruptionTarget"] == ["TerminationByKubelet"]


def test_a_terminal_pod_is_never_started_again() -> None:
    """As found by a restarted agent whose runtime has lost everything."""
    before = core_v1_pb2.PodStatus(phase="Failed", reason="Evicted", message="x")
    decided = decide(pod(), mem=memory(status=before, cleaned=True))
    assert decided.actions == []
    assert (decided.status.phase, decided.status.reason) == ("Failed", "Evicted")


def test_transition_times_stay_until_the_status_changes() -> None:
    first = decide(pod(), sandbox(), running()).status
    later = decide(pod(), sandbox(), running(), mem=memory(status=first), now=T0 + 100)
    assert {c.last_transition_time.seconds for c in later.status.conditions} == {CREATED_S}
    crashed = decide(
        pod(), sandbox(), exited(attempt=1, backoff=10, at=T0 + 99), mem=memory(status=first), now=T0 + 100
    )
    moved = {c.type for c in crashed.status.conditions if c.last_transition_time.seconds == CREATED_S + 100}
    assert moved == {"Ready", "ContainersReady"}


def test_readiness_gates() -> None:
    made = pod()
    made._pod.spec.readiness_gates.add(condition_type="example.com/lb")
    assert ready_false(decide(made, sandbox(), running()))["Ready"] == (
        "False", "ReadinessGatesNotReady", 'corresponding condition of pod readiness gate "example.com/lb" does not exist.',
    )  # fmt: skip
    made.condition("example.com/lb", "True")
    decided = decide(made, sandbox(), running())
    assert ready_false(decided)["Ready"][0] == "True"
    assert "example.com/lb" in ready_false(decided)


PROBES: dict[str, tuple[str, m.ProbeState | None, tuple[bool, bool]]] = {
    "no probe": ("", None, (True, True)),
    "readiness, no answer yet": ("readiness", None, (True, False)),
    "readiness failed": ("readiness", m.ProbeState(ready=False), (True, False)),
    "readiness passed": ("readiness", m.ProbeState(ready=True), (True, True)),
    "startup, no answer yet": ("startup", None, (False, False)),
    "startup passed": ("startup", m.ProbeState(started=True), (True, True)),
}


@pytest.mark.parametrize(("kind", "state", "expected"), PROBES.values(), ids=PROBES)
def test_probes_gate_started_and_ready(kind: str, state: m.ProbeState | None, expected: tuple[bool, bool]) -> None:
    made = pod()
    if kind:
        getattr(made._pod.spec.containers[0], f"{kind}_probe").period_seconds = 1
    status = decide(made, sandbox(), running(), mem=memory(probes={"c-0": state} if state else {})).status
    entry = status.container_statuses[0]
    assert (entry.started, entry.ready) == expected


def test_a_sidecar_holds_the_app_until_its_startup_probe_passed() -> None:
    made = pod().sidecar("s")
    made._pod.spec.init_containers[0].startup_probe.period_seconds = 1
    assert words(decide(made, sandbox(), running("s"))) == []
    passed = memory(probes={"s-0": m.ProbeState(started=True)})
    assert words(decide(made, sandbox(), running("s"), mem=passed)) == ["start c#0"]


def failing_pull(at: float, count: int = 1, reason: str = "ErrImagePull") -> m.PodMemory:
    return memory(images=False, pull_failures={IMAGE: m.Failure(reason, "no such image", at, count)})


PULLS: dict[str, tuple[m.PodMemory, str, str, list[str]]] = {
    "just failed": (failing_pull(T0 - 1), "ErrImagePull", "no such image", []),
    "backing off": (
        failing_pull(T0 - 5), "ImagePullBackOff", f'Back-off pulling image "{IMAGE}": ErrImagePull: no such image', [],
    ),
    "again after ten seconds": (
        failing_pull(T0 - 10), "ImagePullBackOff", f'Back-off pulling image "{IMAGE}": ErrImagePull: no such image',
        ["image c IfNotPresent"],
    ),
    "third time: forty seconds": (
        failing_pull(T0 - 39, 3), "ImagePullBackOff", f'Back-off pulling image "{IMAGE}": ErrImagePull: no such image', [],
    ),
    "at most five minutes": (
        failing_pull(T0 - 300, 30), "ImagePullBackOff", f'Back-off pulling image "{IMAGE}": ErrImagePull: no such image',
        ["image c IfNotPresent"],
    ),
    "never pull": (failing_pull(T0 - 5, reason="ErrImageNeverPull"), "ErrImageNeverPull", "no such image", []),
}  # fmt: skip


@pytest.mark.parametrize(("mem", "reason", "message", "actions"), PULLS.values(), ids=PULLS)
def test_image_pulls(mem: m.PodMemory, reason: str, message: str, actions: list[str]) -> None:
    decided = decide(pod(), sandbox(), mem=mem)
    waiting = decided.status.container_statuses[0].state.waiting
    assert (waiting.reason, waiting.message) == (reason, message)
    assert words(decided) == actions
    assert actions or decided.wake_at is not None


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("app", "Always"), ("app:latest", "Always"), ("app:1", "IfNotPresent"), ("host:5000/app", "Always"),
        ("host:5000/app:v2", "IfNotPresent"), ("app@sha256:" + "0" * 64, "IfNotPresent"),
    ],
)  # fmt: skip
def test_default_pull_policy(image: str, policy: str) -> None:
    assert pull_policy(core_v1_pb2.Container(image=image)) == policy


@pytest.mark.parametrize(
    ("image", "valid"),
    [
        ("app", True), ("example.com:5000/a/b_c:v1.2-3", True), ("app@sha256:" + "a" * 64, True), ("localhost/x:1", True),
        ("App", False), ("", False), ("a b", False), ("app:", False), ("http://x/y", False), ("-x", False),
    ],
)  # fmt: skip
def test_references(image: str, valid: bool) -> None:
    assert valid_reference(image) is valid


def test_an_invalid_image_name_is_said_and_not_pulled() -> None:
    decided = decide(pod().image("Bad Image"), sandbox())
    assert decided.actions == []
    assert decided.status.container_statuses[0].state.waiting.reason == "InvalidImageName"


def test_a_configuration_error_is_shown_and_retried() -> None:
    failure = m.Failure("CreateContainerConfigError", 'configmap "x" not found', T0)
    mem = memory(create_failures={"c": failure})
    decided = decide(pod(), sandbox(), mem=mem)
    waiting = decided.status.container_statuses[0].state.waiting
    assert (waiting.reason, waiting.message) == ("CreateContainerConfigError", 'configmap "x" not found')
    assert (decided.actions, decided.wake_at) == ([], T0 + 1)
    assert words(decide(pod(), sandbox(), mem=mem, now=T0 + 1)) == ["start c#0"]


def test_containers_that_the_runtime_lost_count_as_ended() -> None:
    """After the loss of the runtime's state (a reboot): restart counts go on, Never stays over."""
    before = decide(pod(), sandbox(), running(attempt=2)).status
    assert words(decide(pod(), sandbox(), mem=memory(status=before))) == ["start c#3"]
    never = decide(pod("Never"), mem=memory(status=before))
    assert never.status.phase == "Failed"
    assert never.status.container_statuses[0].state.terminated.reason == "ContainerStatusUnknown"


def test_the_last_states_outlive_the_removal_of_the_containers() -> None:
    before = decide(pod().deleting(), sandbox(), exited(code=143)).status
    after = decide(pod().deleting(), mem=memory(status=before)).status
    assert after.container_statuses[0].state.terminated.exit_code == 143
    assert after.phase == "Failed"


def test_gone() -> None:
    assert decide(pod().deleting(), mem=memory(purged=True)).stage is Stage.GONE
    finished = decide(pod().deleting(), mem=memory(cleaned=True))
    assert words(finished) == ["cleanup all"], "what a finished pod kept goes too"


def test_restart_rules_of_a_container() -> None:
    made = pod("Never")
    rule = made._pod.spec.containers[0].restart_policy_rules.add(action="Restart")
    rule.exit_codes.operator = "In"
    rule.exit_codes.values.append(42)
    assert words(decide(made, sandbox(), exited(code=42))) == ["start c#1"]
    assert words(decide(made, sandbox(), exited(code=1))) == ["stop/s0"]


def test_host_network_pods_have_the_address_of_the_node() -> None:
    made = pod()
    made._pod.spec.host_network = True
    bare = replace(sandbox(), ips=())
    assert decide(made, bare, running()).status.pod_ip == "192.0.2.1"


def test_the_end_of_the_active_deadline_is_told_once() -> None:
    made, mem = deadline(pod(), 60), memory(seen_at=T0 - 60)
    first = decide(made, sandbox(), running(), mem=mem)
    assert [event.reason for event in first.events] == ["DeadlineExceeded"]
    mem.ended = first.ended
    assert decide(made, sandbox(), running(), mem=mem).events == []


def test_a_host_network_pod_bears_the_name_of_its_host() -> None:
    """A runtime refuses a name of its own to a sandbox without a UTS namespace of its own."""
    made = make_pod("p").build()
    settings = NodeSettings(NODE)
    assert sandbox_config(made, 0, settings, log_directory="/l", cgroup_parent="").hostname == "p"
    made.spec.host_network = True
    assert sandbox_config(made, 0, settings, log_directory="/l", cgroup_parent="").hostname == ""


def test_ephemeral_containers_start_once_and_never_again() -> None:
    made = pod()
    common = made._pod.spec.ephemeral_containers.add().ephemeral_container_common
    common.name, common.image = "debug", IMAGE
    assert words(decide(made, sandbox(), running())) == ["start debug#0"]
    ended = decide(made, sandbox(), running(), exited("debug"))
    assert (words(ended), ended.status.phase) == ([], "Running")
    assert ended.status.ephemeral_container_statuses[0].state.terminated.exit_code == 1


def test_every_action_has_its_own_key() -> None:
    decided = decide(pod().container("d").container("e", image="example.com/other:1"), sandbox())
    keys = [action.key for action in decided.actions]
    assert len(keys) == len(set(keys)) == 3


def test_an_ephemeral_container_looks_into_one_that_runs() -> None:
    made = make_pod("p").build()
    ephemeral = made.spec.ephemeral_containers.add(target_container_name="app")
    ephemeral.ephemeral_container_common.name = "debug"
    assert target_of(made, "debug", {"app": "some-id"}) == "some-id"
    assert target_of(made, "app", {"app": "some-id"}) == ""
    with pytest.raises(ConfigError, match="unable to find target container app"):
        target_of(made, "debug", {})
