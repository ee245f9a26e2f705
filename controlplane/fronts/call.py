"""What goes beside a request: who asks, what set it off, and until when the answer is of use. Made by the transports
(`fronts.grpc.server`, `wherry.client.local`), read by the servicers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from controlplane.registry.base import Identity, RequestContext

if TYPE_CHECKING:
    from controlplane.registry.conditions import Condition


@dataclass(frozen=True, slots=True)
class Call:
    """`deadline` is a time of the loop's clock, None when the caller set none. `peer` tells where it came from, for logs. A
    session with a container sets `opened` when it is admitted and its node has been told: what is wrong before has an answer of
    its own."""

    identity: Identity
    cause: str = ""
    deadline: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    peer: str = "local"
    opened: asyncio.Event | None = None
    condition: Condition | None = None  # of all that it writes

    def context(
        self, *, field_manager: str = "", dry_run: bool = False, field_validation: str = "Strict"
    ) -> RequestContext:
        return RequestContext(
            identity=self.identity,
            cause=self.cause,
            field_manager=field_manager,
            dry_run=dry_run,
            field_validation=field_validation or "Warn",
            condition=self.condition,
        )
