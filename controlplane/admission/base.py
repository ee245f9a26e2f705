"""The face of an admission plugin, and what it gets to see. Implemented by the modules beside this one, called by the
registry's writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from controlplane.registry.base import Identity
from wherry.api.errors import Cause, Forbidden
from wherry.api.kinds import Kind

Operation = Literal["CREATE", "UPDATE", "DELETE"]


@dataclass(slots=True)
class Request:
    """One write. `obj` is None for DELETE; `old` is None for CREATE; `name` may be empty when it is to be generated.

    Plugins that mutate change `obj` in place; nobody changes `old`."""

    operation: Operation
    kind: Kind
    subresource: str
    namespace: str
    name: str
    obj: Any
    old: Any
    identity: Identity
    dry_run: bool = False

    def forbid(self, reason: str, *, causes: tuple[Cause, ...] = ()) -> Forbidden:
        """The refusal in Kubernetes' words: `pods "x" is forbidden: <reason>`."""
        name = self.name or (self.obj.metadata.generate_name if self.obj is not None else "")
        full = self.kind.group_resource
        head = f'{full} "{name}" is forbidden' if name else f"{full} is forbidden"
        return Forbidden(f"{head}: {reason}", group=self.kind.group, kind=self.kind.plural, name=name, causes=causes)


class Lookup(Protocol):
    """Reads that see every acknowledged write. The messages are shared: not to be changed."""

    async def find(self, api_version: str, kind: str, namespace: str, name: str) -> Any | None:
        """The object, or None when there is none (or its kind is not served)."""
        ...

    async def all(self, api_version: str, kind: str) -> list[Any]:
        """All objects of a kind without namespaces, by name."""
        ...


class Plugin(Protocol):
    async def mutate(self, request: Request, lookup: Lookup) -> None:
        """Before validation. Raises an APIError to refuse."""
        ...

    async def validate(self, request: Request, lookup: Lookup) -> None:
        """After validation, on the object as it would be stored. Raises an APIError to refuse."""
        ...
