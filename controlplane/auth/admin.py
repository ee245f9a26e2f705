"""The administrator's client config, written beside the data when a server starts and renewed by it long before it ends.

Called by `wherry server`. The certificate is in group system:masters; whoever can read the file can do everything.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

from controlplane.auth.ca import Authority
from controlplane.auth.certificates import issue_client, renew_at
from controlplane.auth.names import MASTERS_GROUP
from wherry.api.context import Env
from wherry.client.config import ClientConfig, ConfigError, load_config, write_config

log = logging.getLogger(__name__)

ADMIN_USER = "kubernetes-admin"
CHECK_S = 3600.0


def ensure_admin_config(ca: Authority, env: Env, path: Path, server: str, *, cluster: str = "wherry") -> bool:
    """Writes the file if it is not there, is of another CA or server, or is near its end. True when it was written."""
    wanted = ClientConfig(
        server=server, ca=ca.certificate_pem, context=cluster, cluster=cluster, user=f"{cluster}-admin"
    )
    try:
        current = load_config(path)
        fresh = bool(current.certificate) and renew_at(current.certificate, 0.5) > env.now()
        same = replace(wanted, certificate=current.certificate, key=current.key) == replace(current, namespace="")
        if fresh and same:
            return False
    except (ConfigError, ValueError):
        pass
    pair = issue_client(ca, env, ADMIN_USER, [MASTERS_GROUP])
    write_config(replace(wanted, certificate=pair.certificate_pem, key=pair.key_pem), path)
    return True


async def keep_admin_config(ca: Authority, env: Env, path: Path, server: str) -> None:
    """Renews the file when it is time, until cancelled."""
    while True:
        await asyncio.sleep(CHECK_S)
        if ensure_admin_config(ca, env, path, server):
            log.info("%s was renewed", path)
