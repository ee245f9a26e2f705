"""Who is at the other end of a connection: the identity in its client certificate (CN is the user, each O a group).

gRPC has verified the certificate against the cluster CA before a handler runs. Parsed identities are kept by the bytes of the
certificate, since parsing costs more than a small request.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from controlplane.registry.base import ANONYMOUS, Identity

MAX_CACHED = 4096

# The identity behind a bearer token, or None when it is nobody's.
TokenReview = Callable[[str], Awaitable[Identity | None]]


class Peers:
    """Invariant: at most MAX_CACHED entries, the least recently used goes first."""

    def __init__(self) -> None:
        self._cache: OrderedDict[bytes, Identity] = OrderedDict()

    def identity(self, context: Any) -> Identity:
        """Of the peer of a `grpc.aio.ServicerContext`; ANONYMOUS when it showed no certificate."""
        for pem in context.auth_context().get("x509_pem_cert", ()):
            known = self._cache.get(pem)
            if known is None:
                known = identity_of(pem)
                self._cache[pem] = known
                if len(self._cache) > MAX_CACHED:
                    self._cache.popitem(last=False)
            else:
                self._cache.move_to_end(pem)
            return known
        return ANONYMOUS


def bearer_token(header: str) -> str:
    """Of an authorization header; "" when it has none."""
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def identity_of(pem: bytes) -> Identity:
    """The identity that a (verified) certificate gives."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    subject = x509.load_pem_x509_certificate(pem).subject
    names = [str(name.value) for name in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = [str(group.value) for group in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    if not names or not names[0]:
        return ANONYMOUS
    return Identity(names[0], (*groups, "system:authenticated"))
