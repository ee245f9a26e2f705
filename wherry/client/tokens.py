"""Bootstrap tokens, which a new node shows once: `id.secret`, short-lived, kept by the cluster as a hash.

A token is a Secret `bootstrap-token-ID` in kube-system, as in Kubernetes (there with the secret in the clear, which the server
understands too). Made, listed and deleted here, with any client that may write such Secrets; `controlplane.auth.tokens` verifies.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from wherry.api.context import Env
from wherry.api.errors import AlreadyExists, BadRequest
from wherry.api.times import format_seconds, parse_rfc3339
from wherry.client.base import ClientAPI, Selection
from wherry.pb.core_v1_pb2 import Secret

NAMESPACE = "kube-system"
PREFIX = "bootstrap-token-"
SECRET_TYPE = "bootstrap.kubernetes.io/token"
ID_KEY = "token-id"
HASH_KEY = "token-secret-sha256"
PLAIN_KEY = "token-secret"
EXPIRATION_KEY = "expiration"
USAGE_KEY = "usage-bootstrap-authentication"
GROUPS_KEY = "auth-extra-groups"
DESCRIPTION_KEY = "description"

DEFAULT_TTL_S = 24 * 3600.0
MAX_TTL_S = 30 * 24 * 3600.0
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_GROUP = "system:bootstrappers"
_EXTRA_GROUP = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class Token:
    """Without its secret, which is known to its maker only. `expires_at` is Unix time, 0 for never. `groups` are those of whoever
    shows it to the Kubernetes API."""

    id: str
    expires_at: float
    description: str
    groups: tuple[str, ...] = (_GROUP,)


async def create_token(client: ClientAPI, env: Env, *, ttl_s: float = DEFAULT_TTL_S, description: str = "") -> str:
    """A new token, `id.secret`, which nobody can be told again. Raises BadRequest for a time out of range."""
    if not 0 < ttl_s <= MAX_TTL_S:
        raise BadRequest(f"ttl: {ttl_s:g} s is out of range; wanted more than 0 and at most {MAX_TTL_S:g} s")
    while True:
        name = "".join(env.rng.choice(_ALPHABET) for _ in range(6))
        secret = "".join(env.rng.choice(_ALPHABET) for _ in range(16))
        obj = Secret(type=SECRET_TYPE)
        obj.metadata.name = PREFIX + name
        obj.metadata.namespace = NAMESPACE
        obj.data[ID_KEY] = name.encode()
        obj.data[HASH_KEY] = token_hash(name, secret).encode()
        obj.data[EXPIRATION_KEY] = format_seconds(int(env.now() + ttl_s)).encode()
        obj.data[USAGE_KEY] = b"true"
        if description:
            obj.data[DESCRIPTION_KEY] = description.encode()
        try:
            await client.create(obj)
        except AlreadyExists:
            continue
        return f"{name}.{secret}"


async def list_tokens(client: ClientAPI) -> list[Token]:
    page = await client.list(Secret, Selection(NAMESPACE, field_selector=f"type={SECRET_TYPE}"))
    return [token_of(obj) for obj in page.items]


async def delete_token(client: ClientAPI, token: str) -> None:
    """By the id, or the whole token. Raises NotFound."""
    await client.delete(Secret, PREFIX + token.partition(".")[0], NAMESPACE)


def token_of(obj: Secret) -> Token:
    expiration = obj.data.get(EXPIRATION_KEY, b"").decode(errors="replace")
    try:
        expires_at = float(parse_rfc3339(expiration)[0]) if expiration else 0.0
    except ValueError:
        expires_at = 1.0  # what can't be read is over
    extra = obj.data.get(GROUPS_KEY, b"").decode(errors="replace").split(",")
    return Token(
        obj.metadata.name.removeprefix(PREFIX),
        expires_at,
        obj.data.get(DESCRIPTION_KEY, b"").decode(errors="replace"),
        (_GROUP, *sorted({group for group in extra if _EXTRA_GROUP.fullmatch(group)})),
    )


def token_hash(name: str, secret: str) -> str:
    # 82 random bits need no slow hash; the id keeps equal secrets apart.
    return hashlib.sha256(f"{name}.{secret}".encode()).hexdigest()
