"""The keys that sign service account tokens, as an administrator sees them. Called by the command line (`wherry keys`)."""

from __future__ import annotations

from wherry.client.base import ClientAPI
from wherry.pb import keys_pb2

_SERVICE = "/wherry.v1.Keys"


async def list_keys(client: ClientAPI) -> keys_pb2.KeyList:
    found: keys_pb2.KeyList = await client.call(f"{_SERVICE}/List", keys_pb2.ListKeysRequest())
    return found


async def rotate_keys(client: ClientAPI) -> keys_pb2.KeyList:
    """Adds one. Raises Conflict while the last one added does not sign yet."""
    found: keys_pb2.KeyList = await client.call(f"{_SERVICE}/Rotate", keys_pb2.RotateKeyRequest())
    return found


async def remove_key(client: ClientAPI, key_id: str, *, force: bool = False) -> keys_pb2.KeyList:
    """By the beginning of its id. Raises NotFound, BadRequest for the one that signs, Conflict when it is needed: by Secrets, or
    (unless by `force`) for tokens that are not over yet."""
    found: keys_pb2.KeyList = await client.call(f"{_SERVICE}/Remove", keys_pb2.RemoveKeyRequest(id=key_id, force=force))
    return found
