"""How `wherry agent` gets its identity and its connection: it joins the cluster once with a token, and keeps what it was given.
Called by `wherry.cli.agent`."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wherry.cli.agent_flags import split_address

if TYPE_CHECKING:
    from kubelet.identity import Identity, IdentityStore
    from wherry.api.context import Env
    from wherry.client.base import Transport

log = logging.getLogger("wherry.agent")

CA_ROUNDS = 30
# A token may carry the hash of the CA's public key behind it, so that one string is enough to join.
_TOKEN = re.compile(r"([a-z0-9]{6}\.[a-z0-9]{16})(?:[.:@](?:sha256:)?([0-9a-f]{64}))?")


async def identity(arguments: argparse.Namespace, env: Env, store: IdentityStore, name: str) -> Identity:
    """The stored one while it is valid; else joins."""
    from kubelet.clock import certificate_problem
    from kubelet.identity import IdentityError, fetch_ca, join_with_patience
    from wherry.client.grpc import TLS, GrpcTransport

    known = store.load()
    if known is not None and env.now() < known.not_after:
        return known
    why = "this node has not joined a cluster yet"
    if known is not None:
        why = certificate_problem(known.not_before, known.not_after, env.now())
        log.warning("%s", why)
    token = _read_token(arguments.token)
    if not token:
        raise IdentityError(f"{why}: --token is needed (`wherry token create` makes one)")
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise IdentityError(
            '--token: wanted "id.secret", 6 and 16 characters of a-z and 0-9, maybe with ".sha256:HEX" behind'
        )
    addresses = _join_addresses(arguments)
    wanted_hash = arguments.ca_hash or match.group(2) or ""
    if arguments.ca is not None:
        ca = arguments.ca.read_bytes()
    elif wanted_hash:
        ca = await _patient_ca(addresses, wanted_hash, fetch_ca)
    elif known is not None:
        ca = known.ca
    else:
        raise IdentityError(
            "--ca or --ca-hash is needed to join: else this node could not tell the cluster from an impostor"
        )
    endpoints = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses]
    transport = GrpcTransport(endpoints, TLS(ca))
    try:
        identity = await join_with_patience(transport, name, match.group(1), ca)
    finally:
        await transport.close()
    store.save(identity)
    return identity


def connector(arguments: argparse.Namespace) -> Callable[[Identity], Transport]:
    from kubelet.link import CONNECT
    from wherry.client.grpc import TLS, GrpcTransport

    endpoints = [endpoint.strip() for endpoint in arguments.server.split(",")]

    def connect(identity: Identity) -> Transport:
        tls = TLS(identity.ca, identity.certificate, identity.key)
        return GrpcTransport(endpoints, tls, follow=CONNECT)

    return connect


def _read_token(text: str) -> str:
    return Path(text[1:]).read_text().strip() if text.startswith("@") else text


def _join_addresses(arguments: argparse.Namespace) -> list[tuple[str, int]]:
    """Where to join: at any of the replicas."""
    if arguments.join_server:
        return [split_address(text.strip(), "--join-server") for text in arguments.join_server.split(",")]
    servers = [split_address(text.strip(), "--server") for text in arguments.server.split(",")]
    return [(host, port + 1) for host, port in servers]


async def _patient_ca(addresses: Sequence[tuple[str, int]], wanted: str, fetch: Any) -> bytes:
    """From the first that answers. A control plane that is still starting refuses connections for a while."""
    from kubelet.identity import IdentityError

    delay_s = 0.1
    for host, port in itertools.chain.from_iterable(itertools.repeat(addresses, CA_ROUNDS)):
        try:
            return bytes(await fetch(host, port, wanted))
        except IdentityError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            log.warning("%s", error)
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, 3.0)
    return bytes(await fetch(*addresses[0], wanted))
