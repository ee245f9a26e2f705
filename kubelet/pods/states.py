"""The states of containers and pods on a node, and the one table of the moves between them.

Used by `plan` (what to do in a state), by `report` (how a phase may move) and by `worker.check_invariants`.
"""

from __future__ import annotations

from enum import Enum, StrEnum

from kubelet.runtime.base import ContainerState


class Phase(StrEnum):
    """`status.phase` of a pod."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def terminal(self) -> bool:
        return self in (Phase.SUCCEEDED, Phase.FAILED)


class Stage(Enum):
    """What the agent is doing about a pod."""

    SYNCING = "syncing"  # make it run as its spec says
    FINISHING = (
        "finishing"  # it has run its course (or was evicted, or ran out of time): stop what is left, keep the logs
    )
    TERMINATING = "terminating"  # it was deleted: stop and remove everything
    GONE = "gone"  # nothing of it is left on this node


class Role(Enum):
    """Which list of the spec a container comes from."""

    INIT = "initContainers"
    SIDECAR = "sidecar"  # an init container with restartPolicy Always
    APP = "containers"
    EPHEMERAL = "ephemeralContainers"

    @property
    def field(self) -> str:
        """The name of the list, for the fieldPath of events."""
        return "initContainers" if self is Role.SIDECAR else self.value


# One container id only ever moves forward.
CONTAINER_MOVES: frozenset[tuple[ContainerState, ContainerState]] = frozenset(
    {
        (ContainerState.CREATED, ContainerState.RUNNING),  # StartContainer
        (ContainerState.CREATED, ContainerState.EXITED),  # its process could not be started, or exited before we looked
        (ContainerState.CREATED, ContainerState.UNKNOWN),  # the runtime lost it
        (ContainerState.RUNNING, ContainerState.EXITED),  # the process ended, was killed, or ran out of memory
        (ContainerState.RUNNING, ContainerState.UNKNOWN),  # the runtime lost its shim
        (ContainerState.UNKNOWN, ContainerState.RUNNING),  # ... and found it again
        (ContainerState.UNKNOWN, ContainerState.EXITED),  # ... or found out that it is dead
    }
)

PHASE_MOVES: frozenset[tuple[Phase, Phase]] = frozenset(
    {
        (Phase.PENDING, Phase.RUNNING),  # the init containers are done and an app container started
        (Phase.PENDING, Phase.SUCCEEDED),  # all containers ended well before we looked
        (Phase.PENDING, Phase.FAILED),  # an init container failed for good, or eviction, or the deadline
        (Phase.RUNNING, Phase.PENDING),  # a new sandbox: init containers run again
        (Phase.RUNNING, Phase.SUCCEEDED),  # all containers ended well and none is to restart
        (Phase.RUNNING, Phase.FAILED),  # all ended, one of them badly; or eviction, or the deadline
    }
)

STAGE_MOVES: frozenset[tuple[Stage, Stage]] = frozenset(
    {
        (Stage.SYNCING, Stage.FINISHING),  # all containers ended for good; eviction; active deadline
        (Stage.SYNCING, Stage.TERMINATING),  # deletionTimestamp, or the pod is no longer this node's
        (Stage.FINISHING, Stage.TERMINATING),  # a finished pod is deleted
        (Stage.SYNCING, Stage.GONE),  # deleted before anything was made
        (Stage.FINISHING, Stage.GONE),  # deleted when nothing was left
        (Stage.TERMINATING, Stage.GONE),  # sandbox, containers, volumes and cgroup are removed
    }
)


def container_may_move(old: ContainerState, new: ContainerState) -> bool:
    return old == new or (old, new) in CONTAINER_MOVES


def phase_after(old: str, new: Phase) -> Phase:
    """The phase to report: what is not in the table (a terminal phase taken back) stays as it was."""
    if not old:
        return new
    before = Phase(old) if old in Phase._value2member_map_ else Phase.PENDING
    return new if before == new or (before, new) in PHASE_MOVES else before
