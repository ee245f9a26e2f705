"""The strategies of EndpointSlice and Endpoints: what stands behind Services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from controlplane.registry.defaults import endpoints as defaults
from controlplane.registry.strategy import Strategy
from controlplane.registry.validation import endpoints as validation
from wherry.api.errors import Cause

DEPRECATED = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"


@dataclass(slots=True)
class EndpointSlices(Strategy):
    """Without a spec, and yet with a generation: all but metadata counts."""

    def defaults(self, obj: Any) -> None:
        defaults.endpoint_slice(obj)

    def prepare_create(self, obj: Any) -> None:
        Strategy.prepare_create(self, obj)
        obj.metadata.generation = 1

    def prepare_update(self, obj: Any, old: Any) -> None:
        Strategy.prepare_update(self, obj, old)
        obj.metadata.generation = old.metadata.generation
        if list(obj.endpoints) != list(old.endpoints) or list(obj.ports) != list(old.ports):
            obj.metadata.generation += 1

    def validate(self, obj: Any) -> list[Cause]:
        return validation.endpoint_slice(obj)

    def check_update(self, obj: Any, old: Any, subresource: str) -> list[Cause]:
        """With another type, every address would be wrong as well: only the cause is told."""
        return validation.endpoint_slice_update(obj, old) or validation.endpoint_slice(obj)


@dataclass(slots=True)
class Endpoints(Strategy):
    create_on_update: bool = True

    def defaults(self, obj: Any) -> None:
        defaults.endpoints(obj)

    def validate(self, obj: Any) -> list[Cause]:
        return validation.endpoints(obj)

    def warnings(self, obj: Any, old: Any | None) -> list[str]:
        return [DEPRECATED]
