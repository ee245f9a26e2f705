"""The administrator's client config, written beside the data when a server starts and renewed by it long before it ends.

Called by `wherry server`. The certificate is in group system:masters; whoever can read the file can do everything.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

from controlplane.auth.ca import Authority
from controlplane.auth.certificates import USER_LIFETIME_S, check_s, expiry, issue_client, renew_at
from controlplane.auth.names import MASTERS_GROUP
from wherry.api.context import Env
from wherry.client.config import ClientConfig, ConfigError, load_config, write_config

log = logging.getLogger(__name__)

ADMIN_USER = "kubernetes-admin"
CHECK_S = 3600.0


def ensure_admin_config(
    ca: Authority, env: Env, path: Path, server: str, *, cluster: str = "wherry", lifetime_s: float = USER_LIFETIME_S
) -> bool:
    """Writes the file if it is not there, is of another CA or server, or is near its end. True when it was written."""
    wanted = ClientConfig(
        server=server, ca=ca.certificate_pem, context=cluster, cluster=cluster, user=f"{cluster}-admin"
    )
    try:
        current = load_config(path)
        # One that outlives what we issue now was made under another rule.
        fresh = bool(current.certificate) and renew_at(current.certificate, 0.5) > env.now()
        fresh = fresh and expiry(current.certificate) <= env.now() + lifetime_s
        same = replace(wanted, certificate=current.certificate, key=current.key) == replace(current, namespace="")
        if fresh and same:
            return False
    except (ConfigError, ValueError):
        pass
    pair = issue_client(ca, env, ADMIN_USER, [MASTERS_GROUP], lifetime_s=lifetime_s)
    write_config(replace(wanted, certificate=pair.certificate_pem, key=pair.key_pem), path)
    return True


async def keep_admin_config(
    ca: Authority, env: Env, path: Path, server: str, *, lifetime_s: float = USER_LIFETIME_S
) -> None:
    """Renews the file when it is time, until cancelled."""
    while True:
        await asyncio.sleep(check_s(lifetime_s, CHECK_S))
        if ensure_admin_config(ca, env, path, server, lifetime_s=lifetime_s):
            log.info("%s was renewed", path)
