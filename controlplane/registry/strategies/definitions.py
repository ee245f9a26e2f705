"""CustomResourceDefinitions: what the pipeline does with them. Which of them are served, `custom.catalogue` finds by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from controlplane.registry import deletion
from controlplane.registry.strategy import WithSpec
from wherry.api import meta
from wherry.api.errors import Cause
from wherry.pb import meta_v1_pb2

CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
_WEBHOOK_PORT = 443


@dataclass(slots=True)
class Definitions(WithSpec):
    unconditional_update: bool = False
    any_finalizer: bool = True

    def defaults(self, obj: Any) -> None:
        spec = obj.spec
        if spec.names.kind:
            spec.names.singular = spec.names.singular or spec.names.kind.lower()
            spec.names.list_kind = spec.names.list_kind or f"{spec.names.kind}List"
        spec.conversion.strategy = spec.conversion.strategy or "None"
        config = spec.conversion.webhook.client_config
        if spec.conversion.HasField("webhook") and config.HasField("service") and not config.service.HasField("port"):
            config.service.port = _WEBHOOK_PORT

    def prepare_create(self, obj: Any) -> None:
        WithSpec.prepare_create(self, obj)
        obj.status.stored_versions.extend(version.name for version in obj.spec.versions if version.storage)
        del obj.status.stored_versions[1:]

    def prepare_update(self, obj: Any, old: Any) -> None:
        WithSpec.prepare_update(self, obj, old)
        for version in obj.spec.versions:
            if version.storage and version.name not in obj.status.stored_versions:
                obj.status.stored_versions.append(version.name)

    # What checks a definition is imported with the first one: discovery loads this module, and most clusters have none.

    def validate(self, obj: Any) -> list[Cause]:
        from controlplane.registry.custom import definitions

        return definitions.validate(obj)

    def validate_update(self, obj: Any, old: Any) -> list[Cause]:
        from controlplane.registry.custom import definitions

        return definitions.validate_update(obj, old)

    def validate_status(self, obj: Any, old: Any) -> list[Cause]:
        from controlplane.registry.custom import definitions

        return definitions.stored_versions(obj)

    def plan_deletion(self, obj: Any, options: meta_v1_pb2.DeleteOptions, now: float) -> deletion.Deletion:
        """First the objects go: the finalizer holds the definition until its controller has deleted them."""
        if obj.metadata.HasField("deletion_timestamp"):
            return WithSpec.plan_deletion(self, obj, options, now)
        if CLEANUP not in obj.metadata.finalizers:
            obj.metadata.finalizers.append(CLEANUP)
        text = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"
        meta.set_condition(
            obj.status.conditions, "Terminating", "True", reason="InstanceDeletionPending", message=text, now=now
        )
        return WithSpec.plan_deletion(self, obj, options, now)
