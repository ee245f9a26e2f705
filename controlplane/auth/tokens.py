"""Bootstrap tokens: what a new node shows once to get its certificate. `id.secret`, short-lived, kept as a hash.

Keys in the store: /wherry/tokens/ID. They carry a time to live, so the store forgets them by itself; the expiry is checked as
well. Called by `join`, by `wherry token create|list|delete` (through `controlplane.auth.admin`) and by `wherry up`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import dataclass

from controlplane.store.base import Compare, Delete, Put, Store
from wherry.api.context import Env
from wherry.api.errors import BadRequest, NotFound, Unauthorized

PREFIX = "/wherry/tokens/"
DEFAULT_TTL_S = 24 * 3600
MAX_TTL_S = 30 * 24 * 3600
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_FORM = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")


@dataclass(frozen=True, slots=True)
class Token:
    """Without its secret, which is known to its maker only."""

    id: str
    expires_at: float
    description: str


async def create_token(store: Store, env: Env, *, ttl_s: float = DEFAULT_TTL_S, description: str = "") -> str:
    """A new token, durable when this returns."""
    if not 0 < ttl_s <= MAX_TTL_S:
        raise BadRequest(f"ttl: {ttl_s:g} s is out of range; wanted more than 0 and at most {MAX_TTL_S} s")
    while True:
        name = "".join(env.rng.choice(_ALPHABET) for _ in range(6))
        secret = "".join(env.rng.choice(_ALPHABET) for _ in range(16))
        value = {"hash": _hash(name, secret), "expires": env.now() + ttl_s, "description": description}
        data = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
        key = PREFIX + name
        result = await store.txn([Compare(key, 0)], [Put(key, data, ttl_s=int(ttl_s) + 1)])
        if result.succeeded:
            return f"{name}.{secret}"


async def verify_token(store: Store, env: Env, token: str) -> Token:
    """Raises Unauthorized, without telling whether the id or the secret is wrong."""
    parts = _FORM.fullmatch(token)
    if parts is None:
        raise Unauthorized('token: wanted "id.secret", 6 and 16 characters of a-z and 0-9')
    kept = await store.get(PREFIX + parts[1])
    value = json.loads(kept.value) if kept is not None else {}
    if not hmac.compare_digest(str(value.get("hash", "")), _hash(parts[1], parts[2])):
        raise Unauthorized("token: it is not known, or its time is over")
    if value["expires"] <= env.now():
        raise Unauthorized("token: it is not known, or its time is over")
    return Token(parts[1], value["expires"], value["description"])


async def list_tokens(store: Store, env: Env) -> list[Token]:
    found = []
    for kept in (await store.list(PREFIX)).items:
        value = json.loads(kept.value)
        if value["expires"] > env.now():
            found.append(Token(kept.key.removeprefix(PREFIX), value["expires"], value["description"]))
    return found


async def delete_token(store: Store, name: str) -> None:
    """`name` is the id, or the whole token. Raises NotFound."""
    key = PREFIX + name.partition(".")[0]
    kept = await store.get(key)
    if kept is None:
        raise NotFound(f'token "{name.partition(".")[0]}" not found', kind="tokens", name=name.partition(".")[0])
    await store.txn([Compare(key, kept.mod_revision)], [Delete(key)])


def _hash(name: str, secret: str) -> str:
    # 82 random bits need no slow hash; the id keeps equal secrets apart.
    return hashlib.sha256(f"{name}.{secret}".encode()).hexdigest()
