"""What the dispatcher needs of the outside world. Implemented by `controlplane.outbound.https`, and by tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class CallFailed(Exception):
    """No answer, or none that can be read: in the words of Go's HTTP client, as Kubernetes shows them."""


@dataclass(frozen=True, slots=True)
class Target:
    """`url` names the host that the certificate must be for; `addresses` (host, port) are where it is reached, empty: by the name
    itself. `ca_bundle`: PEM; empty: the system's own."""

    url: str
    ca_bundle: bytes = b""
    addresses: Sequence[tuple[str, int]] = ()


class Transport(Protocol):
    async def post(self, target: Target, body: bytes, timeout_s: float) -> bytes:
        """The body of a 200 answer to this JSON. Raises CallFailed."""
        ...
