"""ValidatingAdmissionPolicy: its expressions are checked against the kinds it matches when it is written, into its status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from controlplane.registry.strategies.declared import Declared


@dataclass(slots=True)
class ValidatingPolicies(Declared):
    has_status: bool = True

    def prepare_create(self, obj: Any) -> None:
        Declared.prepare_create(self, obj)
        _check_types(obj)

    def prepare_update(self, obj: Any, old: Any) -> None:
        Declared.prepare_update(self, obj, old)
        if obj.metadata.generation != old.status.observed_generation:
            _check_types(obj)


def _check_types(obj: Any) -> None:
    from controlplane.admission.policies import typecheck

    obj.status.observed_generation = obj.metadata.generation
    obj.status.type_checking.Clear()
    obj.status.type_checking.SetInParent()
    for path, text in typecheck.warnings(obj.spec):
        obj.status.type_checking.expression_warnings.add(field_ref=path, warning=text)
