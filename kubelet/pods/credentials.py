"""Which of a pull Secret's entries fit an image. Pure; called by `images`.

The rules are the kubelet's: an entry names a registry, perhaps with a path that the image's repository must begin with, and `*`
may stand for a part of one label of the host's name. The longest fitting entry is tried first.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import json
from collections.abc import Iterator
from typing import Any

from kubelet.runtime.base import RegistryAuth
from wherry.pb import core_v1_pb2

DEFAULT_REGISTRY = "docker.io"
_DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


def repository_of(reference: str) -> tuple[str, str]:
    """(registry, path) without tag and digest: `nginx:1` is ("docker.io", "library/nginx")."""
    name = reference.partition("@")[0]
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        registry, path = first, rest
    else:
        registry, path = DEFAULT_REGISTRY, name
    head, _, last = path.rpartition("/")
    path = f"{head}/{last.partition(':')[0]}".lstrip("/")
    if registry in _DOCKER_HUB:
        return DEFAULT_REGISTRY, path if "/" in path else f"library/{path}"
    return registry, path


def credentials_in(secret: core_v1_pb2.Secret, reference: str) -> Iterator[RegistryAuth]:
    """Those that fit, of a dockerconfigjson or dockercfg Secret; a malformed one holds none."""
    raw = secret.data.get(".dockerconfigjson") or secret.data.get(".dockercfg")
    try:
        document: Any = json.loads(raw) if raw else {}
    except ValueError:
        return
    entries = document.get("auths", document) if isinstance(document, dict) else {}
    if not isinstance(entries, dict):
        return
    registry, path = repository_of(reference)
    for server in sorted(entries, reverse=True):
        entry = entries[server]
        if isinstance(entry, dict) and fits(server, registry, path) and (found := _auth(entry)) is not None:
            yield found


def fits(server: str, registry: str, path: str) -> bool:
    """`server` is an entry's key: HOST[:PORT][/PATH], with or without a scheme, as `docker login` writes it."""
    bare = server.removeprefix("https://").removeprefix("http://").rstrip("/")
    host, _, prefix = bare.partition("/")
    if host in _DOCKER_HUB:
        host = DEFAULT_REGISTRY
    if prefix in ("v1", "v2"):  # the API's version, not a repository
        prefix = ""
    pattern, _, wanted_port = host.partition(":")
    name, _, port = registry.partition(":")
    patterns, labels = pattern.split("."), name.split(".")
    return (
        port == wanted_port
        and len(patterns) == len(labels)
        and all(fnmatch.fnmatchcase(label, part) for label, part in zip(labels, patterns, strict=True))
        and path.startswith(prefix)
    )


def _auth(entry: dict[str, Any]) -> RegistryAuth | None:
    """Without the server: that it fits is decided, and containerd would hold it against the address of a mirror."""
    username, password = str(entry.get("username", "")), str(entry.get("password", ""))
    if not username and entry.get("auth"):
        try:
            username, _, password = base64.b64decode(str(entry["auth"])).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
    token = str(entry.get("identitytoken", ""))
    if not (username or token):
        return None
    return RegistryAuth(username=username, password=password, identity_token=token)
