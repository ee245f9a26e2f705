"""Fills Secrets of type kubernetes.io/service-account-token, the old way to a token: one that holds until its Secret goes.

A controller: it sees the cluster through a client, and is run by `controlplane.server`, which holds the signing key. Whoever
makes such a Secret names the account in an annotation; a Secret whose account is gone, or is another one of that name, is
deleted. `plan` decides and is pure; `accounttokens` verifies what comes of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from controlplane.auth import accountclaims
from wherry.api.context import Env
from wherry.api.errors import NotFound
from wherry.api.tasks import TaskGroup
from wherry.client.base import ClientAPI, DeleteOptions, Selection
from wherry.client.controller import Controller
from wherry.client.informer import SharedInformers, split_key
from wherry.pb import core_v1_pb2

log = logging.getLogger(__name__)

TYPE = "kubernetes.io/service-account-token"
NAME = "kubernetes.io/service-account.name"
UID = "kubernetes.io/service-account.uid"
_BY_ACCOUNT = "account"

Secret = core_v1_pb2.Secret
Account = core_v1_pb2.ServiceAccount


def plan(
    secret: Secret, account: Account | None, ca_pem: bytes, sign: Callable[[dict[str, Any]], str]
) -> Secret | None:
    """The Secret as it is to be (itself when it is right); None: it is to go."""
    metadata = secret.metadata
    if account is None or metadata.annotations.get(UID, account.metadata.uid) != account.metadata.uid:
        return None
    wanted = Secret()
    wanted.CopyFrom(secret)
    wanted.metadata.annotations[UID] = account.metadata.uid
    wanted.data["ca.crt"] = ca_pem
    wanted.data["namespace"] = metadata.namespace.encode()
    if not wanted.data.get(accountclaims.TOKEN_KEY):
        ref = accountclaims.Ref(account.metadata.name, account.metadata.uid)
        wanted.data[accountclaims.TOKEN_KEY] = sign(
            accountclaims.write_lasting(metadata.namespace, ref, metadata.name)
        ).encode()
    return secret if wanted == secret else wanted


class AccountSecrets:
    def __init__(self, client: ClientAPI, env: Env, ca_pem: bytes, sign: Callable[[dict[str, Any]], str]) -> None:
        self._client = client
        self._ca_pem = ca_pem
        self._sign = sign
        self._informers = SharedInformers(client, env)
        selection = Selection(field_selector=f"type={TYPE}")
        self._secrets = self._informers.informer(Secret, selection=selection, indexers={_BY_ACCOUNT: _account_of})
        self._accounts = self._informers.informer(Account)
        self._controller: Controller[str] = Controller("account-secrets", self._reconcile)
        self._secrets.add_handler(self._secret_changed)
        self._accounts.add_handler(self._account_changed)

    async def run(self) -> None:
        """Until cancelled."""
        async with TaskGroup() as group:
            group.create_task(self._informers.run(), name="account-secret-informers")
            await self._secrets.wait_synced()
            await self._accounts.wait_synced()
            group.create_task(self._controller.run(), name="account-secrets")

    def _secret_changed(self, old: Any, new: Any) -> None:
        if new is not None:
            self._controller.enqueue(f"{new.metadata.namespace}/{new.metadata.name}")

    def _account_changed(self, old: Any, new: Any) -> None:
        account = new if new is not None else old
        for secret in self._secrets.by_index(_BY_ACCOUNT, f"{account.metadata.namespace}/{account.metadata.name}"):
            self._controller.enqueue(f"{secret.metadata.namespace}/{secret.metadata.name}")

    async def _reconcile(self, key: str) -> None:
        namespace, name = split_key(key)
        secret = self._secrets.get(name, namespace)
        if secret is None or secret.metadata.HasField("deletion_timestamp"):
            return
        account: Account | None
        try:  # asked, and not looked up in a copy that may be behind: what is deleted is gone for good
            account = await self._client.get(Account, secret.metadata.annotations.get(NAME, ""), namespace)
        except NotFound:
            account = None
        wanted = plan(secret, account, self._ca_pem, self._sign)
        if wanted is None:
            log.info("deleting the token Secret %s: its service account is gone", key)
            try:
                await self._client.delete(Secret, name, namespace, DeleteOptions(uid=secret.metadata.uid))
            except NotFound:
                pass
        elif wanted is not secret:
            await self._client.update(wanted)


def _account_of(secret: Secret) -> tuple[str, ...]:
    name = secret.metadata.annotations.get(NAME, "")
    return (f"{secret.metadata.namespace}/{name}",) if name else ()
