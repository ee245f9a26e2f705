"""The server's own certificate: made at start, renewed in place long before it ends, handed to gRPC at each handshake.

Its key lives in memory only, since a new one costs less than keeping the old one safe. Used by `wherry server`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from controlplane.auth.ca import Authority
from controlplane.auth.certificates import SERVING_LIFETIME_S, KeyPair, check_s, issue_serving, renew_at
from wherry.api.context import Env

log = logging.getLogger(__name__)

# The wall clock may jump or the machine sleep, so the time is looked at often in place of one long sleep.
CHECK_S = 600.0
WARN_EVERY_S = 86_400.0


class ServingCertificate:
    def __init__(
        self, ca: Authority, env: Env, names: Sequence[str], *, lifetime_s: float = SERVING_LIFETIME_S
    ) -> None:
        self._ca = ca
        self._env = env
        self._names = tuple(dict.fromkeys(names))
        self._lifetime_s = lifetime_s
        self._configuration: Any = None
        self.current = self._issue()

    def check_s(self, usual_s: float = CHECK_S) -> float:
        return check_s(self._lifetime_s, usual_s)

    async def run(self) -> None:
        """Renews when it is time, and warns of the CA's own end once a day, until cancelled."""
        loop = asyncio.get_running_loop()
        next_warning = loop.time()
        while True:
            if loop.time() >= next_warning:
                next_warning = loop.time() + WARN_EVERY_S
                if warning := self._ca.warning(self._env.now()):
                    log.warning("%s", warning)
            await asyncio.sleep(self.check_s())
            self.maybe_renew()

    def maybe_renew(self) -> bool:
        """True when a new certificate took the place of the old one. Connections that stand are not touched."""
        if self._env.now() < self._renew_at:
            return False
        self.current = self._issue()
        self._configuration = None
        log.info("the serving certificate was renewed")
        return True

    def credentials(self, *, require_client_certificate: bool) -> Any:
        """gRPC server credentials that follow renewals."""
        import grpc

        return grpc.dynamic_ssl_server_credentials(
            self._grpc_configuration(), self._grpc_configuration, require_client_certificate
        )

    def _issue(self) -> KeyPair:
        pair = issue_serving(self._ca, self._env, self._names, lifetime_s=self._lifetime_s)
        self._renew_at = renew_at(pair.certificate_pem, self._env.rng.random())
        return pair

    def _grpc_configuration(self) -> Any:
        """Called by gRPC at every handshake, on a thread of its own: reads `current` once and touches nothing else."""
        import grpc

        configuration = self._configuration
        if configuration is None:
            pair = self.current
            # The CA goes along, so that a node which knows only its hash can find it in the handshake.
            chain = pair.certificate_pem + self._ca.certificate_pem
            configuration = grpc.ssl_server_certificate_configuration([(pair.key_pem, chain)], self._ca.certificate_pem)
            self._configuration = configuration
        return configuration
