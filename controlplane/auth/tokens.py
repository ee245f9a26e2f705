"""Verifies bootstrap tokens against their Secrets (`wherry.client.tokens` says what these hold), and removes those whose time is
over. Called by `join`; the cleaner is run by `controlplane.server`."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re

from controlplane.registry.base import RegistryAPI, RequestContext
from wherry.api import kinds
from wherry.api.context import Env
from wherry.api.errors import APIError, NotFound, Unauthorized
from wherry.client.base import ClientAPI
from wherry.client.tokens import (
    HASH_KEY,
    NAMESPACE,
    PLAIN_KEY,
    PREFIX,
    SECRET_TYPE,
    USAGE_KEY,
    Token,
    delete_token,
    list_tokens,
    token_hash,
    token_of,
)

log = logging.getLogger(__name__)

CLEAN_S = 600.0
_FORM = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")


async def verify_token(registry: RegistryAPI, ctx: RequestContext, env: Env, text: str) -> Token:
    """Raises Unauthorized, without telling whether the id or the secret is wrong."""
    parts = _FORM.fullmatch(text)
    if parts is None:
        raise Unauthorized('token: wanted "id.secret", 6 and 16 characters of a-z and 0-9')
    unknown = Unauthorized("token: it is not known, or its time is over")
    try:
        kind = kinds.by_name("v1", "Secret")
        obj = (await registry.get(ctx, kind, NAMESPACE, PREFIX + parts[1])).message()
    except NotFound:
        raise unknown from None
    wanted = obj.data.get(HASH_KEY, b"").decode(errors="replace")
    if not wanted and obj.data.get(PLAIN_KEY):
        wanted = token_hash(parts[1], obj.data[PLAIN_KEY].decode(errors="replace"))
    token = token_of(obj)
    good = hmac.compare_digest(wanted.encode(), token_hash(parts[1], parts[2]).encode())
    if not good or obj.type != SECRET_TYPE or obj.data.get(USAGE_KEY) != b"true":
        raise unknown
    if token.expires_at and token.expires_at <= env.now():
        raise unknown
    return token


async def clean_tokens(client: ClientAPI, env: Env) -> None:
    """Deletes tokens whose time is over, every now and then, until cancelled."""
    while True:
        await asyncio.sleep(CLEAN_S)
        try:
            for token in await list_tokens(client):
                if token.expires_at and token.expires_at <= env.now():
                    await delete_token(client, token.id)
        except APIError as error:
            log.debug("cleaning tokens: %s", error)
