"""MutatingAdmissionPolicy and ValidatingAdmissionPolicy: their expressions are compiled when they are written; those of the
latter are also checked against the kinds that it matches, into its status. Both take long, so it is done in slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from controlplane.registry.strategies.declared import Declared
from controlplane.registry.validation.admissionregistration import policy_in_slices
from wherry.api.errors import Cause
from wherry.api.turns import Slices


@dataclass(slots=True)
class Policies(Declared):
    """Of either kind: the expressions are compiled one at a time."""

    def examine(self, obj: Any, old: Any | None, subresource: str) -> Slices[list[Cause]]:
        if old is not None and subresource:
            return self.check_update(obj, old, subresource)
        causes = yield from policy_in_slices(obj)
        return causes if old is None else [*causes, *self.validate_update(obj, old)]


@dataclass(slots=True)
class ValidatingPolicies(Policies):
    has_status: bool = True

    def examine(self, obj: Any, old: Any | None, subresource: str) -> Slices[list[Cause]]:
        causes = yield from Policies.examine(self, obj, old, subresource)
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
