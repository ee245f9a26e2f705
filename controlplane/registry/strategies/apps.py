"""Strategies of Deployment and ReplicaSet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from controlplane.registry.defaults import apps as defaults
from controlplane.registry.strategy import WithSpec
from controlplane.registry.validation import apps as validation
from controlplane.registry.validation import pod_warnings
from wherry.api.errors import Cause


@dataclass(slots=True)
class Deployments(WithSpec):
    def defaults(self, obj: Any) -> None:
        defaults.deployment(obj)

    def prepare_update(self, obj: Any, old: Any) -> None:
        """Annotations count too: the deployment controller copies them to its replica sets."""
        WithSpec.prepare_update(self, obj, old)
        if obj.spec == old.spec and dict(obj.metadata.annotations) != dict(old.metadata.annotations):
            obj.metadata.generation += 1

    def prepare_status(self, obj: Any, old: Any) -> None:
        WithSpec.prepare_status(self, obj, old)
        obj.metadata.labels.clear()
        obj.metadata.labels.update(old.metadata.labels)

    def validate(self, obj: Any) -> list[Cause]:
        return validation.deployment(obj)

    def validate_update(self, obj: Any, old: Any) -> list[Cause]:
        return validation.selector_update(obj, old)

    def validate_status(self, obj: Any, old: Any) -> list[Cause]:
        return validation.deployment_status(obj, old)

    def warnings(self, obj: Any, old: Any | None) -> list[str]:
        if old is not None and obj.metadata.generation == old.metadata.generation:
            return []
        return pod_warnings.template(obj.spec.template, "spec.template")


@dataclass(slots=True)
class ReplicaSets(WithSpec):
    def defaults(self, obj: Any) -> None:
        defaults.replica_set(obj)

    def validate(self, obj: Any) -> list[Cause]:
        return validation.replica_set(obj)

    def validate_update(self, obj: Any, old: Any) -> list[Cause]:
        return validation.selector_update(obj, old)

    def validate_status(self, obj: Any, old: Any) -> list[Cause]:
        return validation.replica_set_status(obj, old)

    def warnings(self, obj: Any, old: Any | None) -> list[str]:
        if old is not None and obj.metadata.generation == old.metadata.generation:
            return []
        return pod_warnings.template(obj.spec.template, "spec.template")
