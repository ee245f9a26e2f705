"""Where objects lie in the store, and the tokens that resume a list. Pure; called by the registry's reads and writes.

`/registry/<group or "core">/<plural>/[<namespace>/]<name>`: one prefix per kind, one below it per namespace, so that a
list is one range and byte order is order by namespace and name.
"""

from __future__ import annotations

import base64
import binascii
import json

from wherry.api import jsontext
from wherry.api.errors import BadRequest
from wherry.api.kinds import Kind

ROOT = "/registry/"
MAX_REVISION = 2**63 - 1


def prefix(kind: Kind, namespace: str = "") -> str:
    base = f"{ROOT}{kind.group or 'core'}/{kind.plural}/"
    return f"{base}{namespace}/" if namespace else base


def key(kind: Kind, namespace: str, name: str) -> str:
    if kind.namespaced:
        return f"{ROOT}{kind.group or 'core'}/{kind.plural}/{namespace}/{name}"
    return f"{ROOT}{kind.group or 'core'}/{kind.plural}/{name}"


def split(kind: Kind, store_key: str) -> tuple[str, str]:
    """Namespace and name of a key of this kind."""
    if kind.namespaced:
        _, namespace, name = store_key.rsplit("/", 2)
        return namespace, name
    return "", store_key.rsplit("/", 1)[1]


def encode_continue(revision: int, last: str) -> str:
    """`last` is the key, relative to the kind's prefix, after which the next page starts."""
    body = {"v": "meta.k8s.io/v1", "rv": revision, "start": last + "\0"}
    return base64.urlsafe_b64encode(json.dumps(body, separators=(",", ":")).encode()).rstrip(b"=").decode()


def decode_continue(token: str) -> tuple[int, str]:
    """Revision and relative key. Raises BadRequest in Kubernetes' words."""
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        body = jsontext.read(data)
        json.dumps(body, ensure_ascii=False).encode()  # no key has half a character in it
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"invalid continue token: continue key is not valid: {error}") from error
    revision, start = (body.get("rv"), body.get("start")) if isinstance(body, dict) else (None, None)
    if type(revision) is not int or not isinstance(start, str) or body.get("v") != "meta.k8s.io/v1":
        raise BadRequest("invalid continue token: continue key is not valid: server did not recognize this version")
    if not 0 <= revision <= MAX_REVISION or not start or ".." in start.split("/"):
        raise BadRequest(f"invalid continue token: continue key is not valid: {start!r}")
    # A Kubernetes token ends in NUL (the next possible key); without it the named key is itself part of the page.
    return revision, start[:-1].lstrip("/") if start.endswith("\0") else _before(start.lstrip("/"))


def _before(start: str) -> str:
    """The greatest string that sorts before `start` for all practical keys."""
    if not start or ord(start[-1]) <= 1:
        return ""
    before = ord(start[-1]) - 1
    return start[:-1] + chr(0xD7FF if before == 0xDFFF else before) + "\U0010ffff"
