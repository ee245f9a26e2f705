"""A pod's priority comes from its class: the one that it names, else the cluster's default one, else none.

The two built-in classes hold from the first moment, before their objects have been made."""

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
        value, preemption = await self._class(request, lookup, name)
        if spec.HasField("priority") and spec.priority != value:
            raise request.forbid(
                f"the integer value of priority ({spec.priority}) must not be provided in pod spec; "
                f"priority admission controller computed {value} from the given PriorityClass name"
            )
        if spec.HasField("preemption_policy") and spec.preemption_policy != preemption:
            raise request.forbid(
                f"the string value of PreemptionPolicy ({spec.preemption_policy}) must not be provided in pod spec; "
                f"priority admission controller computed {preemption} from the given PriorityClass name"
            )
        spec.priority = value
        spec.preemption_policy = preemption

    async def _class(self, request: Request, lookup: Lookup, name: str) -> tuple[int, str]:
        """Value and preemption policy of the pod's class."""
        if name in BUILT_IN:
            return BUILT_IN[name], _PREEMPTION
        if name:
            found = await lookup.find("scheduling.k8s.io/v1", "PriorityClass", "", name)
            if found is None:
                raise request.forbid(f"no PriorityClass with name {name} was found")
            return found.value, found.preemption_policy or _PREEMPTION
        chosen = None
        for found in await lookup.all("scheduling.k8s.io/v1", "PriorityClass"):
            if found.global_default and (chosen is None or found.value < chosen.value):
                chosen = found  # of several, the lowest: as Kubernetes has it
        if chosen is None:
            return 0, _PREEMPTION
        request.obj.spec.priority_class_name = chosen.metadata.name
        return chosen.value, chosen.preemption_policy or _PREEMPTION

    async def validate(self, request: Request, lookup: Lookup) -> None:
        """There is one default at most."""
        if request.kind.kind != "PriorityClass" or request.operation == "DELETE" or not request.obj.global_default:
            return
        for found in await lookup.all("scheduling.k8s.io/v1", "PriorityClass"):
            if found.global_default and found.metadata.name != request.name:
                raise request.forbid(
                    f"PriorityClass {found.metadata.name} is already marked as default. Only one default can exist"
                )
