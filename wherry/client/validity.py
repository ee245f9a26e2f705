"""From when to when a certificate is valid, read with the standard library: `cryptography` would stay in the memory of every
agent, and costs each command of the command line a tenth of a second. Used by `kubelet.identity` and `wherry.cli.session`.
"""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Mapping
from typing import Any

RENEW_AT = 0.7  # of the lifetime, and up to a tenth later


def validity(certificate_pem: bytes) -> tuple[float, float]:
    """(notBefore, notAfter) as Unix time. Raises ValueError."""
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(certificate_pem)
        file.flush()
        try:
            decoded: Mapping[str, Any] = ssl._ssl._test_decode_cert(file.name)  # type: ignore[attr-defined]  # not in the stubs
        except ssl.SSLError as error:
            raise ValueError(f"the certificate cannot be read: {error}") from error
    return ssl.cert_time_to_seconds(decoded["notBefore"]), ssl.cert_time_to_seconds(decoded["notAfter"])


def is_due(certificate_pem: bytes, now: float) -> bool:
    """It is time for another one; also when this one cannot be read."""
    try:
        start, end = validity(certificate_pem)
    except ValueError:
        return True
    return now >= start + (end - start) * RENEW_AT
