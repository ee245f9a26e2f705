"""The Keys servicer: lists, rotates and removes the keys that sign service account tokens.

Called through `fronts.services`. Who may is asked as of the path /wherry/keys (a rule with `nonResourceURLs`): administrators.
"""

from __future__ import annotations

from collections import Counter

from controlplane.auth.accountclaims import TOKEN_KEY
from controlplane.auth.authorizer import Attributes, Authorizer
from controlplane.auth.keyring import KeyRing
from controlplane.auth.signing import decode
from controlplane.fronts.call import Call
from controlplane.fronts.commit import Commits
from controlplane.registry.base import ListOptions, RegistryAPI
from wherry.api import jsontext, kinds
from wherry.api.context import Env
from wherry.api.errors import Conflict
from wherry.pb import keys_pb2

PATH = "/wherry/keys"
_SELECTOR = "type=kubernetes.io/service-account-token"
_NAMED = 5


class KeysServicer:
    def __init__(
        self, registry: RegistryAPI, authorizer: Authorizer, commits: Commits, env: Env, ring: KeyRing
    ) -> None:
        self._registry, self._authorizer, self._commits = registry, authorizer, commits
        self._env, self._ring = env, ring

    async def List(self, request: keys_pb2.ListKeysRequest, call: Call) -> keys_pb2.KeyList:
        await self._authorizer.check(call.identity, Attributes("get", path=PATH))
        return await self._list(call)

    async def Rotate(self, request: keys_pb2.RotateKeyRequest, call: Call) -> keys_pb2.KeyList:
        await self._authorizer.check(call.identity, Attributes("post", path=PATH))
        await self._commits.run(self._ring.rotate())
        return await self._list(call)

    async def Remove(self, request: keys_pb2.RemoveKeyRequest, call: Call) -> keys_pb2.KeyList:
        await self._authorizer.check(call.identity, Attributes("delete", path=PATH))
        key = self._ring.find(request.id)
        using = sorted((await self._users(call)).get(key.id, []))
        if using:
            named = ", ".join(using[:_NAMED]) + (f" and {len(using) - _NAMED} more" if len(using) > _NAMED else "")
            raise Conflict(
                f'key "{key.id}" has signed the tokens in the Secrets {named}, which have no end: take "{TOKEN_KEY}" out of '
                "their data, so that they get new ones, or delete them"
            )
        await self._commits.run(self._ring.remove(key.id, force=request.force))
        return await self._list(call)

    async def _list(self, call: Call) -> keys_pb2.KeyList:
        used = Counter({key: len(secrets) for key, secrets in (await self._users(call)).items()})
        keys = self._ring.keys
        signer = keys.signer(self._env.now())
        return keys_pb2.KeyList(
            keys=[
                keys_pb2.SigningKey(
                    id=key.id,
                    added_at=key.since,
                    signs_from=key.signs_from,
                    signs=key.id == signer.id,
                    secrets=used[key.id],
                )
                for key in keys.all
            ]
        )

    async def _users(self, call: Call) -> dict[str, list[str]]:
        """The Secrets with tokens that last, by the key that has signed them."""
        kind = kinds.by_name("v1", "Secret")
        listed = await self._registry.list(call.context(), kind, ListOptions(field_selector=_SELECTOR))
        found: dict[str, list[str]] = {}
        for stored in listed.items:
            secret = stored.message()
            key = _key_of(secret.data.get(TOKEN_KEY, b""))
            if key:
                found.setdefault(key, []).append(f"{secret.metadata.namespace}/{secret.metadata.name}")
        return found


def _key_of(token: bytes) -> str:
    """By what it says of itself; "" when it says nothing."""
    try:
        return str(jsontext.read(decode(token.decode().partition(".")[0])).get("kid", ""))
    except (ValueError, AttributeError):
        return ""
