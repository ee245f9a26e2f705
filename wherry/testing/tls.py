"""TLS of tests' own HTTPS clients: for `https`, `failover` and the benchmarks."""

from __future__ import annotations

import os
import ssl


def client_context(ca: bytes, pair: bytes = b"") -> ssl.SSLContext:
    """Both in PEM. `pair` is a certificate with its key; without it the client says nothing of itself."""
    context = ssl.create_default_context(cadata=ca.decode())
    if pair:
        # ssl reads files only; this one is in memory.
        descriptor = os.memfd_create("client")
        with os.fdopen(descriptor, "wb") as file:
            file.write(pair)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    return context
