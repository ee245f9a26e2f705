"""The Deployment's plan as tables, and as a property: every rollout keeps its bounds and ends."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.controllers.deployment import plan as deployment_plan
from controlplane.controllers.deployment import sizes, status, template
from controlplane.controllers.deployment.plan import Plan, plan
from wherry.api import times
from wherry.pb import apps_v1_pb2
from wherry.testing.builders import CREATED_S, make_pod
from wherry.testing.workloads import DeploymentBuilder, make_deployment, make_replicaset

NOW = CREATED_S + 1_000.0
OLD = "example.com/app:0"


def resized(decided: Plan) -> dict[str, int]:
    return {resize.replica_set.metadata.name: resize.replica_set.spec.replicas for resize in decided.resize}


def condition(decided: Plan, kind: str) -> tuple[str, str, str]:
    assert decided.status is not None
    found = status.get_condition(decided.status, kind)
    assert found is not None
    return found.status, found.reason, found.message


BOUNDS = [
    pytest.param(10, "25%", "25%", (13, 8), id="percent: surge rounds up, unavailable down"),
    pytest.param(3, "25%", "25%", (4, 3), id="percent of three"),
    pytest.param(1, "25%", "25%", (2, 1), id="one replica"),
    pytest.param(4, 0, "10%", (4, 3), id="both round to nothing: one may be missing"),
    pytest.param(4, 2, 1, (6, 3), id="absolute"),
    pytest.param(2, 0, 5, (2, 0), id="more unavailable than there are"),
    pytest.param(0, "25%", "25%", (0, 0), id="none"),
]


@pytest.mark.parametrize(("replicas", "surge", "unavailable", "expected"), BOUNDS)
def test_bounds(replicas: int, surge: int | str, unavailable: int | str, expected: tuple[int, int]) -> None:
    limits = sizes.bounds(make_deployment("web", replicas).rolling(surge, unavailable).build())
    assert (limits.maximum, limits.minimum_available) == expected


def test_first_rollout_creates_the_whole_replica_set() -> None:
    deployment = make_deployment("web", 3).annotations(
        {"team": "blue", "kubectl.kubernetes.io/last-applied-configuration": "x"}
    )
    decided = plan(deployment.build(), [], now=NOW)
    made = decided.create
    assert made is not None
    hashed = made.metadata.labels["pod-template-hash"]
    assert made.metadata.name == f"web-{hashed}"
    assert made.spec.replicas == 3
    assert dict(made.spec.selector.match_labels) == {"app": "web", "pod-template-hash": hashed}
    assert dict(made.spec.template.metadata.labels) == {"app": "web", "pod-template-hash": hashed}
    assert dict(made.metadata.annotations) == {
        "team": "blue",
        "deployment.kubernetes.io/revision": "1",
        "deployment.kubernetes.io/desired-replicas": "3",
        "deployment.kubernetes.io/max-replicas": "4",
    }
    assert [reference.uid for reference in made.metadata.owner_references] == ["uid-default-web"]
    assert decided.revision == "1"
    assert deployment_plan.created_message(made) == f"Scaled up replica set web-{hashed} from 0 to 3"
    assert condition(decided, "Progressing") == (
        "True",
        "NewReplicaSetCreated",
        f'Created new replica set "web-{hashed}"',
    )
    assert condition(decided, "Available") == (
        "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.",
    )  # fmt: skip


# Sizes and availability of the old and the new ReplicaSet (spec, available), and what the plan makes of them.
STEPS = [
    pytest.param(10, (3, 2), (10, 10), (3, 0), {"old": 8}, id="the new one has used its surge: the old one gives way"),
    pytest.param(10, (3, 2), (8, 8), (3, 0), {"new": 5}, id="room again: the new one grows"),
    pytest.param(10, (3, 2), (8, 8), (5, 0), {}, id="new pods not available: it stops within the limits"),
    pytest.param(10, (3, 2), (8, 8), (5, 2), {"old": 6}, id="as many old ones go as new ones came"),
    pytest.param(10, (3, 2), (0, 0), (10, 10), {}, id="done"),
    pytest.param(10, (3, 2), (2, 0), (8, 8), {"new": 10}, id="the last step up"),
    pytest.param(10, (3, 2), (3, 1), (10, 7), {"old": 1}, id="unhealthy old ones go first, then one healthy"),
    pytest.param(
        10, (3, 0), (10, 4), (3, 3), {"old": 7}, id="unhealthy old ones are cut although too few are available"
    ),
    pytest.param(3, (1, 0), (3, 3), (1, 0), {}, id="none may be missing: wait for the new pod"),
    pytest.param(3, (1, 0), (3, 3), (1, 1), {"old": 2}, id="none may be missing: one for one"),
    pytest.param(3, (0, 1), (3, 3), (0, 0), {"old": 2}, id="no surge: the old one starts"),
    pytest.param(3, (0, 1), (2, 2), (0, 0), {"new": 1}, id="no surge: then the new one follows"),
    pytest.param(10, (3, 2), (8, 10), (3, 0), {"new": 5}, id="old status lags behind: growing is safe"),
    pytest.param(10, (3, 2), (8, 10), (5, 0), {}, id="old status lags behind: shrinking again is not"),
]


@pytest.mark.parametrize(("replicas", "strategy", "old", "new", "expected"), STEPS)
def test_rolling_step(
    replicas: int, strategy: tuple[int, int], old: tuple[int, int], new: tuple[int, int], expected: dict[str, int]
) -> None:
    deployment = make_deployment("web", replicas).rolling(*strategy).build()
    old_set = make_replicaset("old", old[0]).of(deployment, OLD).has(old[0], available=old[1]).revision(1)
    new_set = make_replicaset("new", new[0]).of(deployment).has(new[0], available=new[1]).revision(2).age(5)
    sets = [builder.sized_for(replicas, replicas + strategy[0]).build() for builder in (old_set, new_set)]
    decided = plan(deployment, sets, now=NOW)
    assert resized(decided) == expected
    assert decided.create is None


def test_scaling_events_are_in_kubernetes_words() -> None:
    deployment = make_deployment("web", 10).rolling(3, 2).build()
    old = make_replicaset("web-old", 10).of(deployment, OLD).revision(1).sized_for(10, 13).build()
    new = make_replicaset("web-new", 3).of(deployment).has(3, available=0).revision(2).sized_for(10, 13).build()
    assert [resize.message for resize in plan(deployment, [old, new], now=NOW).resize] == [
        "Scaled down replica set web-old from 10 to 8"
    ]


def test_an_old_template_takes_its_replica_set_up_again_with_the_highest_revision() -> None:
    deployment = make_deployment("web", 2).rolling(1, 0).image(OLD).build()
    good = make_replicaset("good", 0).of(deployment).revision(1).sized_for(2, 3).build()
    bad = (
        make_replicaset("bad", 2)
        .of(deployment, "example.com/app:bad")
        .has(2, available=0)
        .revision(2)
        .sized_for(2, 3)
        .age(9)
    )
    decided = plan(deployment, [good, bad.build()], now=NOW)
    assert decided.create is None
    assert decided.revision == "3"
    raised = next(resize.replica_set for resize in decided.resize if resize.replica_set.metadata.name == "good")
    assert raised.metadata.annotations["deployment.kubernetes.io/revision"] == "3"
    assert raised.metadata.annotations["deployment.kubernetes.io/revision-history"] == "1"
    assert raised.spec.replicas == 1


# Spec sizes before, the new number of replicas, sizes after.
SCALINGS = [
    pytest.param({"new": 4}, 4, 7, {"new": 7}, id="one in use: it gets all"),
    pytest.param({"new": 5, "old": 8}, 10, 20, {"new": 10, "old": 15}, id="up in the middle of a rollout"),
    pytest.param({"new": 5, "old": 8}, 10, 5, {"new": 3, "old": 4}, id="down in the middle of a rollout"),
    pytest.param({"new": 5, "old": 8}, 10, 0, {"new": 0, "old": 0}, id="to nothing"),
    pytest.param({"new": 1, "old": 1}, 2, 4, {"new": 3, "old": 2}, id="the newer one takes what is left over"),
]


@pytest.mark.parametrize(("before", "replicas_before", "replicas", "expected"), SCALINGS)
def test_scaling_is_proportional(
    before: dict[str, int], replicas_before: int, replicas: int, expected: dict[str, int]
) -> None:
    deployment = make_deployment("web", replicas).build()
    maximum = sizes.bounds(make_deployment("web", replicas_before).build()).maximum
    sets = [
        make_replicaset(name, size).of(deployment, "" if name == "new" else OLD)
        .sized_for(replicas_before, maximum).revision(2 if name == "new" else 1).age(9 if name == "new" else 0).build()
        for name, size in before.items()
    ]  # fmt: skip
    decided = plan(deployment, sets, now=NOW)
    assert resized(decided) == expected
    for resize in decided.resize:
        assert resize.replica_set.metadata.annotations["deployment.kubernetes.io/desired-replicas"] == str(replicas)


def test_a_paused_deployment_scales_and_does_not_roll() -> None:
    deployment = make_deployment("web", 6).paused().build()
    old = make_replicaset("old", 3).of(deployment, OLD).revision(1).sized_for(3, 4).build()
    decided = plan(deployment, [old], now=NOW)
    assert decided.create is None
    assert resized(decided) == {"old": 6}
    assert condition(decided, "Progressing") == ("Unknown", "DeploymentPaused", "Deployment is paused")
    assert decided.again_in_s is None


def test_a_resumed_deployment_says_so() -> None:
    deployment = make_deployment("web", 1).build()
    paused = status.make_condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", NOW - 5_000)
    deployment.status.conditions.append(paused)
    rs = make_replicaset("rs", 1).of(deployment).has(1, ready=0).revision(1).sized_for(1, 2).build()
    deployment.status.updated_replicas = deployment.status.replicas = 1
    decided = plan(deployment, [rs], now=NOW)
    assert condition(decided, "Progressing") == ("Unknown", "DeploymentResumed", "Deployment is resumed")
    assert decided.again_in_s is not None  # the deadline runs anew


RECREATE = [
    pytest.param({"old": (3, 3)}, True, {"old": 0}, False, id="the old one goes first"),
    pytest.param({"old": (0, 0)}, True, {}, False, id="its pods are still there: wait"),
    pytest.param({"old": (0, 0)}, False, {}, True, id="then the new one is made"),
    pytest.param({"old": (0, 0), "new": (0, 0)}, False, {"new": 3}, False, id="or taken up again"),
    pytest.param({"new": (3, 3)}, False, {}, False, id="done"),
]


@pytest.mark.parametrize(("sets", "has_old_pods", "expected", "creates"), RECREATE)
def test_recreate(
    sets: dict[str, tuple[int, int]], has_old_pods: bool, expected: dict[str, int], creates: bool
) -> None:
    deployment = make_deployment("web", 3).recreate().build()
    made = [
        make_replicaset(name, spec).of(deployment, "" if name == "new" else OLD).has(actual)
        .revision(2 if name == "new" else 1).sized_for(3, 3).build()
        for name, (spec, actual) in sets.items()
    ]  # fmt: skip
    decided = plan(deployment, made, has_old_pods=has_old_pods, now=NOW)
    assert resized(decided) == expected
    assert (decided.create is not None) == creates
    if decided.create is not None:
        assert decided.create.spec.replicas == 3


def test_a_terminating_pod_of_the_old_template_counts_for_recreate() -> None:
    deployment = make_deployment("web", 1).recreate().build()
    old = make_replicaset("old", 0).of(deployment, OLD).build()
    pod = make_pod("p").phase("Running").build()
    pod.metadata.owner_references.add(uid="uid-default-old", kind="ReplicaSet", name="old", controller=True)
    pod.metadata.deletion_timestamp.seconds = CREATED_S
    assert deployment_plan.has_old_pods(deployment, [old], [pod])
    pod.status.phase = "Succeeded"
    assert not deployment_plan.has_old_pods(deployment, [old], [pod])


def test_history_keeps_the_newest_revisions_and_what_is_in_use() -> None:
    deployment = make_deployment("web", 1).history(2).build()
    deployment.status.updated_replicas = deployment.status.replicas = deployment.status.available_replicas = 1
    deployment.status.observed_generation = 1
    new = make_replicaset("new", 1).of(deployment).revision(9).sized_for(1, 2).build()
    old = [
        make_replicaset(f"r{revision}", 0).of(deployment, f"example.com/app:{revision}").revision(revision).build()
        for revision in (4, 12, 3, 1, 2)
    ]
    old[4].status.replicas = 1  # r2 still has a pod
    decided = plan(deployment, [*old, new], now=NOW)
    assert [rs.metadata.name for rs in decided.delete] == ["r1", "r3"]


def progressing(reason: str, since: float) -> apps_v1_pb2.DeploymentCondition:
    return status.make_condition("Progressing", "True", reason, "", since)


DEADLINES = [
    pytest.param("ReplicaSetUpdated", 599, 0, "ReplicaSetUpdated", 2.0, id="not yet"),
    pytest.param("ReplicaSetUpdated", 601, 0, "ProgressDeadlineExceeded", None, id="struck"),
    pytest.param("ReplicaSetUpdated", 601, 1, "ReplicaSetUpdated", 601.0, id="a pod became ready: it starts anew"),
    pytest.param("ReplicaSetUpdated", 601, 2, "NewReplicaSetAvailable", None, id="complete after all"),
    pytest.param("NewReplicaSetAvailable", 5_000, 0, "NewReplicaSetAvailable", 1.0, id="a settled one has no deadline"),
]


@pytest.mark.parametrize(("reason", "age_s", "available", "expected", "again_in_s"), DEADLINES)
def test_progress_deadline(reason: str, age_s: int, available: int, expected: str, again_in_s: float | None) -> None:
    deployment = make_deployment("web", 2).rolling(1, 0).build()
    deployment.status.CopyFrom(
        apps_v1_pb2.DeploymentStatus(
            observed_generation=1, replicas=2, updated_replicas=2, unavailable_replicas=2,
            conditions=[progressing(reason, NOW - age_s)],
        )
    )  # fmt: skip
    rs = make_replicaset("web-x", 2).of(deployment).has(2, ready=available).revision(1).sized_for(2, 3).build()
    decided = plan(deployment, [rs], now=NOW)
    assert condition(decided, "Progressing")[1] == expected
    assert decided.again_in_s == again_in_s
    if expected == "ProgressDeadlineExceeded":
        assert condition(decided, "Progressing") == ("False", expected, 'ReplicaSet "web-x" has timed out progressing.')


def test_the_failure_of_the_new_replica_set_is_the_deployments() -> None:
    deployment = make_deployment("web", 2).build()
    rs = make_replicaset("web-x", 2).of(deployment).has(0).revision(1).sized_for(2, 3).build()
    rs.status.conditions.add(type="ReplicaFailure", status="True", reason="FailedCreate", message="quota")
    assert condition(plan(deployment, [rs], now=NOW), "ReplicaFailure") == ("True", "FailedCreate", "quota")


def test_nothing_to_do_is_an_empty_plan() -> None:
    deployment = make_deployment("web", 2).annotations({template.REVISION: "1"}).build()
    rs = make_replicaset("web-x", 2).of(deployment).revision(1).sized_for(2, 3).build()
    decided = plan(deployment, [rs], now=NOW)
    assert decided.status is not None
    deployment.status.CopyFrom(decided.status)
    assert plan(deployment, [rs], now=NOW + 9_999) == Plan()


def test_a_deleted_deployment_does_nothing_but_count() -> None:
    deployment = make_deployment("web", 2).deleting().build()
    decided = plan(deployment, [], now=NOW)
    assert (decided.create, decided.resize, decided.delete) == (None, (), ())


def test_the_hash_of_a_template_ignores_the_hash_label_and_counts_collisions() -> None:
    deployment = make_deployment("web", 2).build()
    bare = template.hash_of(deployment.spec.template, 0)
    deployment.spec.template.metadata.labels["pod-template-hash"] = "zzz"
    assert template.hash_of(deployment.spec.template, 0) == bare
    assert template.hash_of(deployment.spec.template, 1) != bare
    assert template.hash_of(make_deployment("web").image("other").build().spec.template, 0) != bare


def test_a_collision_is_counted_in_the_status() -> None:
    deployment = make_deployment("web", 2).build()
    first = deployment_plan.after_collision(deployment)
    assert first.collision_count == 1
    deployment.status.CopyFrom(first)
    decided = plan(deployment, [], now=NOW)
    assert decided.status is not None
    assert decided.status.collision_count == 1
    assert decided.create is not None
    assert decided.create.metadata.name.endswith(template.hash_of(deployment.spec.template, 1))


class Model:
    """An idealised cluster around the plan: ReplicaSets whose pods come and become available one at a time."""

    def __init__(self, builder: DeploymentBuilder, replicas: int) -> None:
        self.deployment = builder.build()
        self.limits = sizes.bounds(self.deployment)
        old = make_replicaset("old", replicas).of(self.deployment, OLD).revision(1)
        self.sets = {"old": old.sized_for(replicas, self.limits.maximum).build()}
        self.now = NOW

    def step(self, choice: int) -> None:
        """Runs the plan, or lets one ReplicaSet catch up: `choice` says which."""
        self.now += 1
        names = sorted(self.sets)
        if choice % 3:
            rs = self.sets[names[choice % len(names)]]
            rs.status.replicas = rs.spec.replicas
            available = min(rs.status.available_replicas + choice % 3, rs.spec.replicas)
            rs.status.ready_replicas = rs.status.available_replicas = available
            return
        decided = plan(self.deployment, list(self.sets.values()), now=self.now)
        if decided.create is not None:
            made = decided.create
            made.metadata.creation_timestamp.CopyFrom(times.to_time(self.now))
            self.sets[made.metadata.name] = made
        for resize in decided.resize:
            self.sets[resize.replica_set.metadata.name] = resize.replica_set
        if decided.status is not None:
            self.deployment.status.CopyFrom(decided.status)

    def check(self) -> None:
        everyone = list(self.sets.values())
        assert sizes.spec_total(everyone) <= self.limits.maximum
        sure = sum(min(rs.spec.replicas, rs.status.available_replicas) for rs in everyone)
        assert sure >= self.limits.minimum_available


@settings(max_examples=150, deadline=None)
@given(
    replicas=st.integers(0, 12),
    surge=st.sampled_from([0, 1, 3, "25%", "100%"]),
    unavailable=st.sampled_from([0, 1, 2, "25%", "100%"]),
    choices=st.lists(st.integers(0, 11), max_size=60),
)
def test_every_rollout_keeps_its_bounds_and_ends(
    replicas: int, surge: int | str, unavailable: int | str, choices: list[int]
) -> None:
    model = Model(make_deployment("web", replicas).rolling(surge, unavailable), replicas)
    for choice in [*choices, *([0, 1, 2, 4, 5] * 60)]:
        model.step(choice)
        model.check()
    assert status.is_complete(model.deployment, model.deployment.status)
    assert model.sets["old"].spec.replicas == 0
