"""What a Deployment needs next, as data: ReplicaSets to create, to resize and to delete, its revision and its status.

Pure: `plan` takes the Deployment, the ReplicaSets that it controls, and the time. The shell carries the result out in
the order of its fields; should it be killed in between, the next plan finds what was done and goes on from there, since
every step is decided from the objects alone. Called by `controller`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from controlplane.controllers import objects
from controlplane.controllers.deployment import sizes, status, template
from wherry.api import meta
from wherry.pb import apps_v1_pb2, core_v1_pb2

ReplicaSets = Sequence[apps_v1_pb2.ReplicaSet]
NO_HISTORY_LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Resize:
    """Write `replica_set` (its replicas or annotations differ from what is stored); `message` is the event, "" for none."""

    replica_set: apps_v1_pb2.ReplicaSet
    message: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    create: apps_v1_pb2.ReplicaSet | None = None
    resize: tuple[Resize, ...] = ()
    delete: tuple[apps_v1_pb2.ReplicaSet, ...] = ()
    revision: str = ""  # for the Deployment's annotation; "" leaves it
    status: apps_v1_pb2.DeploymentStatus | None = None  # None: unchanged
    again_in_s: float | None = None


@dataclass(slots=True)
class _Step:
    """The plan in the making. `sets` are copies that carry what has been decided so far, `before` the status as this
    plan found it, with the conditions that were decided so far."""

    deployment: apps_v1_pb2.Deployment
    now: float
    sets: list[apps_v1_pb2.ReplicaSet]
    before: apps_v1_pb2.DeploymentStatus
    originals: Mapping[str, apps_v1_pb2.ReplicaSet]
    new: apps_v1_pb2.ReplicaSet | None = None
    created: apps_v1_pb2.ReplicaSet | None = None
    delete: tuple[apps_v1_pb2.ReplicaSet, ...] = ()
    revision: str = ""

    @property
    def old(self) -> list[apps_v1_pb2.ReplicaSet]:
        return [rs for rs in self.sets if rs is not self.new]


def plan(
    deployment: apps_v1_pb2.Deployment, controlled: ReplicaSets, *, has_old_pods: bool = False, now: float
) -> Plan:
    """`has_old_pods`: for Recreate, whether a pod of another than the new template may still run."""
    step = _begin(deployment, controlled, now)
    if meta.is_deleting(deployment):
        return _end(step, status.counted(deployment, step.before, step.new, step.sets, now))
    step.before.CopyFrom(status.paused_or_resumed(deployment, step.before, now))
    if deployment.spec.paused or sizes.is_scaling(deployment, step.sets):
        _sync_revision(step)
        _resize(step, sizes.scaled(deployment, step.new, step.old))
        if deployment.spec.paused:
            _clean_up(step)
        return _end(step, status.counted(deployment, step.before, step.new, step.sets, now))
    if deployment.spec.strategy.type == "Recreate":
        _recreate(step, has_old_pods)
    else:
        _roll(step)
    return _end(step, status.rolled(deployment, step.before, step.new, step.sets, now))


def has_old_pods(deployment: apps_v1_pb2.Deployment, controlled: ReplicaSets, pods: Iterable[core_v1_pb2.Pod]) -> bool:
    """Whether anything of an old template may still run; `pods` are those of the Deployment's ReplicaSets, terminating
    ones included."""
    new = template.find_new(deployment, controlled)
    old = [rs for rs in controlled if rs is not new]
    if sizes.actual_total(old) > 0:
        return True
    old_uids = {rs.metadata.uid for rs in old}
    for pod in pods:
        owner = meta.controller_of(pod)
        if owner is not None and owner.uid in old_uids and not objects.is_finished(pod):
            return True
    return False


def failed_to_create(
    deployment: apps_v1_pb2.Deployment, name: str, error: str, now: float
) -> apps_v1_pb2.DeploymentStatus | None:
    """The status when the new ReplicaSet was refused; None when there is no deadline to report against."""
    if not status.has_deadline(deployment):
        return None
    changed = apps_v1_pb2.DeploymentStatus()
    changed.CopyFrom(deployment.status)
    message = f'Failed to create new replica set "{name}": {error}'
    status.set_condition(
        changed, status.make_condition(status.PROGRESSING, "False", "ReplicaSetCreateError", message, now)
    )
    return changed


def after_collision(deployment: apps_v1_pb2.Deployment) -> apps_v1_pb2.DeploymentStatus:
    """A stranger has the name that the template's hash gives: counting it makes the next hash another one."""
    changed = apps_v1_pb2.DeploymentStatus()
    changed.CopyFrom(deployment.status)
    changed.collision_count = deployment.status.collision_count + 1
    return changed


# -- the steps


def _begin(deployment: apps_v1_pb2.Deployment, controlled: ReplicaSets, now: float) -> _Step:
    copies = []
    for rs in controlled:
        copy = apps_v1_pb2.ReplicaSet()
        copy.CopyFrom(rs)
        copies.append(copy)
    before = apps_v1_pb2.DeploymentStatus()
    before.CopyFrom(deployment.status)
    step = _Step(deployment, now, copies, before, {rs.metadata.name: rs for rs in controlled})
    step.new = template.find_new(deployment, copies)
    return step


def _sync_revision(step: _Step) -> None:
    """The ReplicaSet of the present template has the highest revision, be it new or an old one taken up again."""
    if step.new is None:
        return
    highest_old = max((template.revision_of(rs) for rs in step.old), default=0)
    template.annotate_revision(step.deployment, step.new, highest_old + 1)
    step.new.spec.min_ready_seconds = step.deployment.spec.min_ready_seconds
    step.revision = step.new.metadata.annotations[template.REVISION]
    if status.has_deadline(step.deployment) and status.get_condition(step.before, status.PROGRESSING) is None:
        message = f'Found new replica set "{step.new.metadata.name}"'
        _progress(step, "FoundNewReplicaSet", message)


def _create_new(step: _Step) -> None:
    deployment = step.deployment
    hashed = template.hash_of(deployment.spec.template, deployment.status.collision_count)
    rs = apps_v1_pb2.ReplicaSet()
    rs.metadata.name = f"{deployment.metadata.name}-{hashed}"
    rs.metadata.namespace = deployment.metadata.namespace
    rs.spec.template.CopyFrom(deployment.spec.template)
    rs.spec.template.metadata.labels[template.HASH_LABEL] = hashed
    rs.metadata.labels.update(rs.spec.template.metadata.labels)
    rs.spec.selector.CopyFrom(deployment.spec.selector)
    rs.spec.selector.match_labels[template.HASH_LABEL] = hashed
    rs.spec.min_ready_seconds = deployment.spec.min_ready_seconds
    rs.metadata.owner_references.append(meta.owner_reference(deployment))
    highest_old = max((template.revision_of(old) for old in step.sets), default=0)
    template.annotate_revision(deployment, rs, highest_old + 1)
    limits = sizes.bounds(deployment)
    template.annotate_replicas(rs, limits.replicas, limits.maximum)
    rs.spec.replicas = sizes.of_new(deployment, step.sets, 0)
    step.sets.append(rs)
    step.new = step.created = rs
    step.revision = rs.metadata.annotations[template.REVISION]
    if status.has_deadline(deployment):
        _progress(step, "NewReplicaSetCreated", f'Created new replica set "{rs.metadata.name}"')


def _progress(step: _Step, reason: str, message: str) -> None:
    status.set_condition(
        step.before, status.make_condition(status.PROGRESSING, "True", reason, message, step.now), refresh=True
    )


def _roll(step: _Step) -> None:
    """One step of a rolling update: the new one grows if there is room, else old ones shrink as far as is safe."""
    if step.new is None:
        _create_new(step)
        return  # old ones shrink when the new one's pods are there to see
    _sync_revision(step)
    wanted = sizes.of_new(step.deployment, step.old, step.new.spec.replicas)
    if wanted != step.new.spec.replicas:
        _resize(step, {step.new.metadata.name: wanted})
        return
    smaller = sizes.of_old(step.deployment, step.old, step.new)
    if smaller:
        _resize(step, smaller)
        return
    if status.is_complete(step.deployment, step.deployment.status):
        _clean_up(step)


def _recreate(step: _Step, has_old_pods: bool) -> None:
    """All of the old first, then all of the new."""
    _sync_revision(step)
    running = sizes.active(step.old)
    if running:
        _resize(step, {rs.metadata.name: 0 for rs in template.by_age(running)})
        return
    if has_old_pods:
        return
    if step.new is None:
        _create_new(step)
        return
    _resize(step, {step.new.metadata.name: step.deployment.spec.replicas})
    if status.is_complete(step.deployment, step.deployment.status):
        _clean_up(step)


def _resize(step: _Step, wanted: Mapping[str, int]) -> None:
    """Only where the size changes, or where the sizes it is scaled for do, is there something to write."""
    limits = sizes.bounds(step.deployment)
    for rs in step.sets:
        if rs.metadata.name in wanted:
            rs.spec.replicas = wanted[rs.metadata.name]
            template.annotate_replicas(rs, limits.replicas, limits.maximum)


def _clean_up(step: _Step) -> None:
    """Old ReplicaSets beyond the history limit go, lowest revision first, once they are known to be empty."""
    limit = step.deployment.spec.revision_history_limit
    if not step.deployment.spec.HasField("revision_history_limit") or limit == NO_HISTORY_LIMIT:
        return
    kept = [rs for rs in template.by_age(step.old) if not meta.is_deleting(rs)]
    surplus = sorted(kept, key=template.revision_of)[: max(0, len(kept) - limit)]
    step.delete = tuple(
        rs
        for rs in surplus
        if not rs.status.replicas and not rs.spec.replicas and rs.metadata.generation <= rs.status.observed_generation
    )


def _end(step: _Step, after: apps_v1_pb2.DeploymentStatus) -> Plan:
    deployment = step.deployment
    resized = []
    gone = {rs.metadata.name for rs in step.delete}
    for rs in step.sets:
        original = step.originals.get(rs.metadata.name)
        if original is not None and rs.metadata.name not in gone and not meta.equal(rs, original):
            resized.append(Resize(rs, _scaling_message(rs.metadata.name, original.spec.replicas, rs.spec.replicas)))
    # Shrinking before growing: should we be killed in between, there are fewer pods than allowed at most, never more.
    resized.sort(key=lambda resize: resize.replica_set is step.new)
    annotated = deployment.metadata.annotations.get(template.REVISION, "")
    return Plan(
        create=step.created,
        resize=tuple(resized),
        delete=step.delete,
        revision=step.revision if step.revision != annotated else "",
        status=None if meta.equal(after, deployment.status) else after,
        again_in_s=status.deadline_in(deployment, after, step.now),
    )


def created_message(rs: apps_v1_pb2.ReplicaSet) -> str:
    return _scaling_message(rs.metadata.name, 0, rs.spec.replicas)


def _scaling_message(name: str, before: int, after: int) -> str:
    if before == after:
        return ""
    return f"Scaled {'up' if after > before else 'down'} replica set {name} from {before} to {after}"
