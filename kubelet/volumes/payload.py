"""The files of a configMap, secret, downwardAPI or projected volume. Pure: the objects are looked up by the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from kubelet.pods.env import Found, resource_value
from kubelet.pods.services import ConfigError, VolumeError
from wherry.pb import core_v1_pb2

DEFAULT_MODE = 0o644
Files = dict[str, tuple[bytes, int]]


def is_payload(source: core_v1_pb2.VolumeSource) -> bool:
    return any(source.HasField(name) for name in ("config_map", "secret", "downward_api", "projected"))


def references(source: core_v1_pb2.VolumeSource) -> Iterator[tuple[str, str]]:
    """("ConfigMap" or "Secret", name)."""
    if source.HasField("config_map"):
        yield "ConfigMap", source.config_map.local_object_reference.name
    elif source.HasField("secret"):
        yield "Secret", source.secret.secret_name
    elif source.HasField("projected"):
        for part in source.projected.sources:
            if part.HasField("config_map"):
                yield "ConfigMap", part.config_map.local_object_reference.name
            elif part.HasField("secret"):
                yield "Secret", part.secret.local_object_reference.name


def tokens(source: core_v1_pb2.VolumeSource) -> Iterator[tuple[str, int]]:
    """(audience, seconds) of each token that is projected."""
    for part in source.projected.sources:
        if part.HasField("service_account_token"):
            yield part.service_account_token.audience, part.service_account_token.expiration_seconds


def build(
    pod: core_v1_pb2.Pod,
    source: core_v1_pb2.VolumeSource,
    found: Found,
    fields: Callable[[str], str],
    allocatable: Mapping[str, str],
) -> Files:
    """Raises VolumeError in the kubelet's words."""
    if source.HasField("config_map"):
        volume = source.config_map
        mode = volume.default_mode if volume.HasField("default_mode") else DEFAULT_MODE
        return _config_map(volume.local_object_reference.name, volume.items, volume.optional, mode, found)
    if source.HasField("secret"):
        secret = source.secret
        mode = secret.default_mode if secret.HasField("default_mode") else DEFAULT_MODE
        return _secret(secret.secret_name, secret.items, secret.optional, mode, found)
    if source.HasField("downward_api"):
        downward = source.downward_api
        mode = downward.default_mode if downward.HasField("default_mode") else DEFAULT_MODE
        return _downward(pod, downward.items, mode, fields, allocatable)
    projected = source.projected
    mode = projected.default_mode if projected.HasField("default_mode") else DEFAULT_MODE
    files: Files = {}
    for part in projected.sources:
        if part.HasField("config_map"):
            name = part.config_map.local_object_reference.name
            files.update(_config_map(name, part.config_map.items, part.config_map.optional, mode, found))
        elif part.HasField("secret"):
            name = part.secret.local_object_reference.name
            files.update(_secret(name, part.secret.items, part.secret.optional, mode, found))
        elif part.HasField("downward_api"):
            files.update(_downward(pod, part.downward_api.items, mode, fields, allocatable))
        elif part.HasField("service_account_token"):
            token = part.service_account_token
            # Whoever is in the pod's group may read it; without one it is for all that runs in the pod.
            private = pod.spec.security_context.HasField("fs_group")
            text = found.tokens[token.audience, token.expiration_seconds].encode()
            files[checked_path(token.path)] = (text, 0o600 if private else mode)
        else:
            raise VolumeError("projected source of a kind that is not supported on this node")
    return files


def _config_map(name: str, items: Iterable[core_v1_pb2.KeyToPath], optional: bool, mode: int, found: Found) -> Files:
    config_map = found.config_maps.get(name)
    if config_map is None:
        if optional:
            return {}
        raise VolumeError(f'configmap "{name}" not found')
    data = {key: value.encode() for key, value in config_map.data.items()} | dict(config_map.binary_data.items())
    return _selected(data, items, optional, mode, "configmap references non-existent config key: {}")


def _secret(name: str, items: Iterable[core_v1_pb2.KeyToPath], optional: bool, mode: int, found: Found) -> Files:
    secret = found.secrets.get(name)
    if secret is None:
        if optional:
            return {}
        raise VolumeError(f'secret "{name}" not found')
    return _selected(dict(secret.data.items()), items, optional, mode, "references non-existent secret key: {}")


def _selected(
    data: Mapping[str, bytes], items: Iterable[core_v1_pb2.KeyToPath], optional: bool, mode: int, missing: str
) -> Files:
    chosen = list(items)
    if not chosen:
        return {key: (value, mode) for key, value in data.items()}
    files: Files = {}
    for item in chosen:
        if item.key not in data:
            if optional:
                continue
            raise VolumeError(missing.format(item.key))
        files[checked_path(item.path)] = (data[item.key], item.mode if item.HasField("mode") else mode)
    return files


def _downward(
    pod: core_v1_pb2.Pod,
    items: Iterable[core_v1_pb2.DownwardAPIVolumeFile],
    mode: int,
    fields: Callable[[str], str],
    allocatable: Mapping[str, str],
) -> Files:
    files: Files = {}
    for item in items:
        try:
            if item.HasField("field_ref"):
                text = fields(item.field_ref.field_path)
            else:
                text = resource_value(pod, None, item.resource_field_ref, allocatable)
        except ConfigError as error:
            raise VolumeError(error.message) from error
        files[checked_path(item.path)] = (text.encode(), item.mode if item.HasField("mode") else mode)
    return files


def checked_path(path: str) -> str:
    """Relative, and inside the volume. The API refuses others; a node does not rely on it."""
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts or parts[0].startswith(".."):
        raise VolumeError(f'items.path "{path}": must be relative, without ".." and not starting with ".."')
    return "/".join(part for part in parts if part not in ("", "."))
