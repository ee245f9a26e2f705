"""Client configs that a server writes beside its data when it starts, and renews long before they end: the administrator's
(admin.conf, in group system:masters: whoever can read the file can do everything) and the ingress controller's (ingress.conf, or
where it was told to).

Called by `wherry server`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from controlplane.auth.ca import Authority
from controlplane.auth.certificates import USER_LIFETIME_S, check_s, expiry, issue_client, renew_at
from controlplane.auth.names import INGRESS_USER, MASTERS_GROUP
from wherry.api.context import Env
from wherry.client.config import ClientConfig, ConfigError, load_config, write_config

log = logging.getLogger(__name__)

CLUSTER = "wherry"
CHECK_S = 3600.0


@dataclass(frozen=True, slots=True)
class Account:
    """`user` is the certificate's, `label` its name in the config. `file` is within the folder unless it is absolute."""

    file: str
    user: str
    label: str
    groups: tuple[str, ...] = ()


ADMIN = Account("admin.conf", "kubernetes-admin", "wherry-admin", (MASTERS_GROUP,))
INGRESS = Account("ingress.conf", INGRESS_USER, "wherry-ingress")


def ensure_config(
    ca: Authority, env: Env, folder: Path, server: str, account: Account, *, lifetime_s: float = USER_LIFETIME_S
) -> bool:
    """Writes the file if it is not there, is of another CA or server, or is near its end. True when it was written."""
    path = folder / account.file
    wanted = ClientConfig(server=server, ca=ca.certificate_pem, context=CLUSTER, cluster=CLUSTER, user=account.label)
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
    pair = issue_client(ca, env, account.user, list(account.groups), lifetime_s=lifetime_s)
    write_config(replace(wanted, certificate=pair.certificate_pem, key=pair.key_pem), path, as_json=True)
    return True


def accounts(ingress_config: Path | None = None) -> tuple[Account, ...]:
    """Whose files are written; the ingress controller's where it was asked for, or beside the administrator's."""
    return (ADMIN, replace(INGRESS, file=str(ingress_config.absolute())) if ingress_config else INGRESS)


def ensure_configs(
    ca: Authority,
    env: Env,
    folder: Path,
    server: str,
    wanted: Sequence[Account],
    *,
    lifetime_s: float = USER_LIFETIME_S,
) -> None:
    for account in wanted:
        if ensure_config(ca, env, folder, server, account, lifetime_s=lifetime_s):
            log.info("%s was written", folder / account.file)


async def keep_configs(
    ca: Authority,
    env: Env,
    folder: Path,
    server: str,
    wanted: Sequence[Account],
    *,
    lifetime_s: float = USER_LIFETIME_S,
) -> None:
    """Renews the files when it is time, until cancelled."""
    while True:
        await asyncio.sleep(check_s(lifetime_s, CHECK_S))
        ensure_configs(ca, env, folder, server, wanted, lifetime_s=lifetime_s)
