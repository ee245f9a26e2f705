"""The client's config file: a kubeconfig, so that the one `wherry server` writes works with kubectl's family too.

Where it is looked for: the path given, then $WHERRY_CONFIG, then ~/.wherry/config. Read by the CLI; written by the server
(admin.conf) and by `wherry up` (which merges a context into the user's file). Certificates and keys may be inline
(`...-data`, base64) or files, relative to the config file.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ENVIRONMENT = "WHERRY_CONFIG"
DEFAULT_PATH = "~/.wherry/config"


class ConfigError(Exception):
    """The config file is missing or wrong; the message names the file, the field and what would be right."""


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """One context, resolved. `server` is HOST:PORT, or several of them separated by commas (replicas). PEM as bytes."""

    server: str
    ca: bytes
    certificate: bytes = b""
    key: bytes = b""
    namespace: str = ""
    context: str = "wherry"
    cluster: str = "wherry"
    user: str = "wherry"
    token: str = ""  # in place of a certificate; such callers are served on the join port
    token_file: str = ""  # the same, in a file that somebody renews; it counts before `token`

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.server.split(",") if part.strip())

    def with_server(self, server: str) -> ClientConfig:
        return replace(self, server=_address(server, "--server"))


def config_path(path: str | os.PathLike[str] | None = None) -> Path:
    """The file that `load_config(path)` would read."""
    return Path(path or os.environ.get(ENVIRONMENT) or DEFAULT_PATH).expanduser()


def load_config(path: str | os.PathLike[str] | None = None, *, context: str | None = None) -> ClientConfig:
    """The named context, or the current one. Raises ConfigError."""
    file = config_path(path)
    document = _read(file)
    name = context or document.get("current-context") or ""
    if not name:
        raise ConfigError(f"{file}: current-context: is not set; name a context ({_names(document, 'contexts')})")
    chosen = _entry(document, "contexts", "context", name, file)
    cluster_name = str(chosen.get("cluster") or "")
    user_name = str(chosen.get("user") or "")
    cluster = _entry(document, "clusters", "cluster", cluster_name, file)
    user = _entry(document, "users", "user", user_name, file) if user_name else {}
    where = f'{file}: cluster "{cluster_name}"'
    return ClientConfig(
        server=_address(str(cluster.get("server") or ""), f"{where}: server"),
        ca=_material(cluster, "certificate-authority", file, where),
        certificate=_material(user, "client-certificate", file, f'{file}: user "{user_name}"'),
        key=_material(user, "client-key", file, f'{file}: user "{user_name}"'),
        namespace=str(chosen.get("namespace") or ""),
        context=name,
        cluster=cluster_name,
        user=user_name,
        token=str(user.get("token") or ""),
        token_file=str((file.parent / str(user["tokenFile"])).expanduser()) if user.get("tokenFile") else "",
    )


def to_document(config: ClientConfig) -> dict[str, Any]:
    """The kubeconfig that holds just this context."""
    context: dict[str, Any] = {"cluster": config.cluster, "user": config.user}
    if config.namespace:
        context["namespace"] = config.namespace
    user = {name: value for name, value in (("token", config.token), ("tokenFile", config.token_file)) if value}
    if config.certificate:
        user |= {"client-certificate-data": _encode(config.certificate), "client-key-data": _encode(config.key)}
    server = ",".join(f"https://{endpoint}" for endpoint in config.endpoints)
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": config.cluster, "cluster": {"server": server, "certificate-authority-data": _encode(config.ca)}}
        ],
        "users": [{"name": config.user, "user": user}],
        "contexts": [{"name": config.context, "context": context}],
        "current-context": config.context,
    }


def write_config(
    config: ClientConfig,
    path: str | os.PathLike[str],
    *,
    merge: bool = False,
    current: bool = True,
    as_json: bool = False,
) -> None:
    """Writes the file with mode 0600, whole or not at all. With `merge`, other contexts that are in it stay, and this one
    becomes the current one unless `current` is off. `as_json` (which is YAML, too) is for the server, which would load a YAML
    library for nothing else."""
    file = Path(path)
    document = to_document(config)
    if as_json:
        write_private(file, json.dumps(document, indent=2).encode() + b"\n")
        return
    import yaml

    if merge and file.exists():
        old = _read(file)
        for section in ("clusters", "users", "contexts"):
            mine = {entry["name"] for entry in document[section]}
            kept = [entry for entry in old.get(section) or [] if entry.get("name") not in mine]
            document[section] = [*kept, *document[section]]
        if not current and old.get("current-context"):
            document["current-context"] = old["current-context"]
    write_private(file, yaml.safe_dump(document, sort_keys=False).encode())


def remove_context(path: str | os.PathLike[str], context: str) -> None:
    """Takes a context, its cluster and its user out of the file, if they are there; an empty file is removed."""
    import yaml

    file = Path(path)
    if not file.exists():
        return
    document = _read(file)
    gone = [entry for entry in document.get("contexts") or [] if entry.get("name") == context]
    if not gone:
        return
    clusters = {entry["context"].get("cluster") for entry in gone}
    users = {entry["context"].get("user") for entry in gone}
    for section, names in (("contexts", {context}), ("clusters", clusters), ("users", users)):
        document[section] = [entry for entry in document.get(section) or [] if entry.get("name") not in names]
    if not document["contexts"]:
        file.unlink()
        return
    if document.get("current-context") == context:
        document["current-context"] = document["contexts"][0]["name"]
    write_private(file, yaml.safe_dump(document, sort_keys=False).encode())


def write_private(file: Path, data: bytes) -> None:
    """Mode 0600 from the first byte on; a crash leaves the old file or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read(file: Path) -> dict[str, Any]:
    try:
        data = file.read_text()
    except FileNotFoundError:
        raise ConfigError(
            f"{file}: no such file; `wherry up` makes it, or set {ENVIRONMENT} to the config of a cluster"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: can't be read: {error}") from error
    document = _parsed(data, file)
    if not isinstance(document, dict):
        raise ConfigError(f"{file}: is not a kubeconfig; wanted a mapping with clusters, users and contexts")
    return document


def _parsed(data: str, file: Path) -> Any:
    if data.startswith("{"):
        try:
            return json.loads(data)
        except ValueError:
            pass  # a flow mapping of YAML, or neither
    import yaml

    try:
        return yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML: {error}") from error


def _names(document: Mapping[str, Any], section: str) -> str:
    names = [str(entry.get("name")) for entry in document.get(section) or [] if isinstance(entry, dict)]
    return ", ".join(names) or "the file has none"


def _entry(document: Mapping[str, Any], section: str, field: str, name: str, file: Path) -> Mapping[str, Any]:
    for entry in document.get(section) or []:
        if isinstance(entry, dict) and entry.get("name") == name:
            value = entry.get(field)
            if isinstance(value, dict):
                return value
            raise ConfigError(f'{file}: {section}: "{name}" has no {field}')
    raise ConfigError(f'{file}: {section}: there is no "{name}"; there are: {_names(document, section)}')


def _address(text: str, where: str) -> str:
    """HOST:PORT of each address in a list separated by commas; a scheme is dropped."""
    parts = []
    for part in text.split(","):
        address = part.strip().removeprefix("https://").removeprefix("grpc://").rstrip("/")
        host, colon, port = address.rpartition(":")
        if not host or not colon or not port.isdigit() or "/" in address:
            raise ConfigError(f'{where}: "{part.strip()}" is no address; wanted HOST:PORT')
        parts.append(address)
    return ",".join(parts)


def _material(section: Mapping[str, Any], name: str, file: Path, where: str) -> bytes:
    data = section.get(f"{name}-data")
    if data:
        try:
            return base64.b64decode(str(data), validate=True)
        except binascii.Error as error:
            raise ConfigError(f"{where}: {name}-data: is not base64") from error
    path = section.get(name)
    if not path:
        return b""
    target = (file.parent / str(path)).expanduser()
    try:
        return target.read_bytes()
    except OSError as error:
        raise ConfigError(f"{where}: {name}: {target} can't be read: {error}") from error


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
