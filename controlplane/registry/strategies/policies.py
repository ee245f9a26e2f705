"""ValidatingAdmissionPolicy: its expressions are checked against the kinds it matches when it is written, into its status. That
takes long, so it is a part of the examination, which is made in slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from controlplane.registry.strategies.declared import Declared
from wherry.api.errors import Cause
from wherry.api.turns import Slices


@dataclass(slots=True)
class ValidatingPolicies(Declared):
    has_status: bool = True

    def examine(self, obj: Any, old: Any | None, subresource: str) -> Slices[list[Cause]]:
        causes = yield from Declared.examine(self, obj, old, subresource)
        if not causes and not subresource and obj.metadata.generation != obj.status.observed_generation:
            yield from _check_types(obj)
        return causes


def _check_types(obj: Any) -> Slices[None]:
    from controlplane.admission.policies import typecheck

    obj.status.observed_generation = obj.metadata.generation
    obj.status.type_checking.Clear()
    obj.status.type_checking.SetInParent()
    for path, text in (yield from typecheck.warnings(obj.spec)):
        obj.status.type_checking.expression_warnings.add(field_ref=path, warning=text)
