"""DaemonSet: the one workload whose writes do something of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from controlplane.registry.strategies.declared import Declared
from wherry.api import integers

_GENERATION = "deprecated.daemonset.template.generation"


@dataclass(slots=True)
class DaemonSets(Declared):
    """Counts the generations of its template in an annotation, which old clients read."""

    def defaults_of_new(self, obj: Any) -> None:
        obj.metadata.annotations[_GENERATION] = "1"

    def prepare_update(self, obj: Any, old: Any) -> None:
        Declared.prepare_update(self, obj, old)
        before = old.metadata.annotations.get(_GENERATION, "0")
        count = integers.parse(before) or 0
        changed = obj.spec.template != old.spec.template
        obj.metadata.annotations[_GENERATION] = str(count + 1 if changed else count)
