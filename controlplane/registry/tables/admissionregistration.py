"""Tables of webhook configurations and admission policies."""

from __future__ import annotations

from typing import Any

from controlplane.registry.strategy import Column
from controlplane.registry.tables.common import age_column, name_column

_UNSET = "<unset>"

WEBHOOKS = (name_column(), Column("Webhooks", lambda obj, now: len(obj.webhooks), type="integer"), age_column())


def _param_kind(obj: Any, now: float) -> str:
    if not obj.spec.HasField("param_kind"):
        return _UNSET
    return f"{obj.spec.param_kind.api_version}/{obj.spec.param_kind.kind}"


def _policies(name: str, field: str) -> tuple[Column, ...]:
    return (
        name_column(),
        Column(name, lambda obj, now: len(getattr(obj.spec, field)), type="integer"),
        Column("ParamKind", _param_kind),
        age_column(),
    )


VALIDATING_POLICIES = _policies("Validations", "validations")
MUTATING_POLICIES = _policies("Mutations", "mutations")


def _param_ref(obj: Any, now: float) -> str:
    if not obj.spec.HasField("param_ref"):
        return _UNSET
    ref = obj.spec.param_ref
    return f"{ref.namespace}/{ref.name}" if ref.namespace else str(ref.name) or "*"


POLICY_BINDINGS = (
    name_column(),
    Column("PolicyName", lambda obj, now: str(obj.spec.policy_name)),
    Column("ParamRef", _param_ref),
    age_column(),
)
