"""Whether a pod may be evicted, as the PodDisruptionBudgets of its namespace stand. Pure; called by `pods`.

The budget's status is the ledger: the disruption controller says how many disruptions it allows, each eviction takes one of them
and writes the pod's name down, in the very transaction that deletes the pod, so two evictions never spend the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wherry.api import labels, meta, times
from wherry.api.errors import Cause, Forbidden, InternalError, TooManyRequests
from wherry.pb import core_v1_pb2, policy_v1_pb2

DISRUPTION_ALLOWED = "DisruptionAllowed"
MAX_DISRUPTED_PODS = 2000  # evictions that the controller has not seen the end of yet
_PROCESSING_RETRY_S = 10


@dataclass(frozen=True, slots=True)
class Decision:
    """The pod may go. `spent` is the budget with one disruption less, None when none has to give one."""

    budget: policy_v1_pb2.PodDisruptionBudget | None = None
    spent: policy_v1_pb2.PodDisruptionBudget | None = None


def concerns_budgets(pod: core_v1_pb2.Pod) -> bool:
    """A pod that serves nobody yet, or no more, goes without asking."""
    return not meta.is_deleting(pod) and pod.status.phase not in ("Succeeded", "Failed", "Pending")


def budgets_of(
    pod: core_v1_pb2.Pod, budgets: Sequence[policy_v1_pb2.PodDisruptionBudget]
) -> list[policy_v1_pb2.PodDisruptionBudget]:
    found = []
    for budget in budgets:
        if budget.metadata.namespace != pod.metadata.namespace or not budget.spec.HasField("selector"):
            continue
        try:
            if labels.from_message(budget.spec.selector).matches(pod.metadata.labels):
                found.append(budget)
        except labels.BadSelector:
            continue  # stored by an older version: it selects nothing
    return found


def decide(pod: core_v1_pb2.Pod, budgets: Sequence[policy_v1_pb2.PodDisruptionBudget], now: float) -> Decision:
    """`budgets`: all of the namespace. Raises TooManyRequests, Forbidden, InternalError."""
    matching = budgets_of(pod, budgets)
    if len(matching) > 1:
        raise InternalError(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        )
    if not matching:
        return Decision()
    budget = matching[0]
    status = budget.status
    if not meta.is_true(pod.status.conditions, "Ready"):
        enough = status.desired_healthy > 0 and status.current_healthy >= status.desired_healthy
        if budget.spec.unhealthy_pod_eviction_policy == "AlwaysAllow" or enough:
            return Decision(budget)
    return Decision(budget, _spend(pod, budget, now))


def _spend(
    pod: core_v1_pb2.Pod, budget: policy_v1_pb2.PodDisruptionBudget, now: float
) -> policy_v1_pb2.PodDisruptionBudget:
    name, status = budget.metadata.name, budget.status
    if status.observed_generation < budget.metadata.generation:
        raise refusal(f"The disruption budget {name} is still being processed by the server.", _PROCESSING_RETRY_S)
    if status.disruptions_allowed < 0:
        raise _forbidden(name, "pdb disruptions allowed is negative")
    if len(status.disrupted_pods) > MAX_DISRUPTED_PODS:
        raise _forbidden(name, "DisruptedPods map too big - too many evictions not confirmed by PDB controller")
    if status.disruptions_allowed == 0:
        raise refusal(
            f"The disruption budget {name} needs {status.desired_healthy} healthy pods and has "
            f"{status.current_healthy} currently"
        )
    spent = policy_v1_pb2.PodDisruptionBudget()
    spent.CopyFrom(budget)
    spent.status.disruptions_allowed -= 1
    spent.status.disrupted_pods[pod.metadata.name].CopyFrom(times.to_time(now))
    if spent.status.disruptions_allowed == 0:
        for condition in spent.status.conditions:
            if condition.type == DISRUPTION_ALLOWED and condition.status == "True":
                condition.status, condition.reason, condition.message = "False", "InsufficientPods", ""
                condition.observed_generation = status.observed_generation
                condition.last_transition_time.CopyFrom(times.to_time(now))
    return spent


def refusal(why: str, retry_after_s: int = 0) -> TooManyRequests:
    message = "Cannot evict pod as it would violate the pod's disruption budget."
    return TooManyRequests(message, causes=(Cause("DisruptionBudget", why),), retry_after_s=retry_after_s)


def _forbidden(name: str, why: str) -> Forbidden:
    message = f'poddisruptionbudget.policy "{name}" is forbidden: {why}'
    return Forbidden(message, group="policy", kind="poddisruptionbudget", name=name)


def mark(pod: core_v1_pb2.Pod, now: float) -> None:
    """Says on the pod why it goes: controllers do not count such a failure against the workload."""
    meta.set_condition(
        pod.status.conditions, "DisruptionTarget", "True", reason="EvictionByEvictionAPI",
        message="Eviction API: evicting", now=now,
    )  # fmt: skip
