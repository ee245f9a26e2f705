"""A pod's priority comes from its class. PriorityClass is not served yet, so the two built-in ones are what there is."""

from __future__ import annotations

from typing import Any

from controlplane.admission.base import Lookup, Request

BUILT_IN = {"system-node-critical": 2000001000, "system-cluster-critical": 2000000000}
_PREEMPTION = "PreemptLowerPriority"


class Priority:
    async def mutate(self, request: Request, lookup: Lookup) -> None:
        if request.kind.kind != "Pod" or request.subresource or request.operation == "DELETE":
            return
        spec: Any = request.obj.spec
        if request.operation == "UPDATE":
            # Fixed for life: what a client leaves out of an update is kept, what it changes validation refuses.
            old = request.old.spec
            if not spec.HasField("priority") and old.HasField("priority"):
                spec.priority = old.priority
            if not spec.HasField("preemption_policy") and old.HasField("preemption_policy"):
                spec.preemption_policy = old.preemption_policy
            return
        name = spec.priority_class_name
        if name and name not in BUILT_IN:
            raise request.forbid(f"no PriorityClass with name {name} was found")
        value = BUILT_IN.get(name, 0)
        if spec.HasField("priority") and spec.priority != value:
            raise request.forbid(
                f"the integer value of priority ({spec.priority}) must not be provided in pod spec; "
                f"priority admission controller computed {value} from the given PriorityClass name"
            )
        if spec.HasField("preemption_policy") and spec.preemption_policy != _PREEMPTION:
            raise request.forbid(
                f"the string value of PreemptionPolicy ({spec.preemption_policy}) must not be provided in pod spec; "
                f"priority admission controller computed {_PREEMPTION} from the given PriorityClass name"
            )
        spec.priority = value
        spec.preemption_policy = _PREEMPTION

    async def validate(self, request: Request, lookup: Lookup) -> None:
        return
