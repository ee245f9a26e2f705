"""RuntimeClasses are not served yet, so a pod that names one, or the overhead that only one may bring, is refused."""

from __future__ import annotations

from controlplane.admission.base import Lookup, Request


class RuntimeClass:
    async def mutate(self, request: Request, lookup: Lookup) -> None:
        return

    async def validate(self, request: Request, lookup: Lookup) -> None:
        if request.kind.kind != "Pod" or request.operation != "CREATE" or request.subresource:
            return
        spec = request.obj.spec
        if spec.runtime_class_name:
            raise request.forbid(f'pod rejected: RuntimeClass "{spec.runtime_class_name}" not found')
        if spec.overhead:
            raise request.forbid("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
