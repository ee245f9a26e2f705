"""Which hooks a request concerns, in their order: by name of the configuration, then as written. Called by `dispatch`.

What is worked out of a configuration is kept as long as it stays the same revision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from controlplane.admission import matching
from controlplane.admission.base import Request

if TYPE_CHECKING:
    from controlplane.admission.expressions import Conditions


@dataclass(frozen=True, slots=True)
class Hook:
    """`configuration` is the name of the object that it stands in."""

    configuration: str
    message: Any
    conditions: Conditions | None

    @property
    def name(self) -> str:
        return str(self.message.name)

    @property
    def ignores_failure(self) -> bool:
        return bool(self.message.failure_policy == "Ignore")

    @property
    def key(self) -> str:
        return f"{self.configuration}/{self.name}"


class Hooks:
    """Of one kind of configuration."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, Sequence[Hook]]] = {}

    def of(self, configurations: Sequence[Any]) -> Iterator[Hook]:
        if len(self._kept) > len(configurations):
            names = {found.metadata.name for found in configurations}
            self._kept = {name: kept for name, kept in self._kept.items() if name in names}
        for found in configurations:
            name = found.metadata.name
            kept = self._kept.get(name)
            if kept is None or kept[0] is not found:
                kept = self._kept[name] = found, [_hook(name, message) for message in found.webhooks]
            yield from kept[1]


def _hook(configuration: str, message: Any) -> Hook:
    if not message.match_conditions:
        return Hook(configuration, message, None)
    from controlplane.admission.expressions import Conditions

    return Hook(configuration, message, Conditions(message.match_conditions))


def concerned(hook: Hook, request: Request, namespace: Any | None, served: Sequence[str]) -> str | None:
    """By rules and selectors: the version in which the hook asks for the object; None when it does not. Conditions are asked
    last, since they cost the most."""
    message = hook.message
    if not matching.namespace_matches(message.namespace_selector, request, namespace):
        return None
    if not matching.object_matches(message.object_selector, request):
        return None
    return matching.matched(message.rules, request, matching.versions(message.match_policy, request, served))
