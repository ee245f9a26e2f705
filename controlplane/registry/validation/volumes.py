"""Volumes of a pod."""

from __future__ import annotations

from typing import Any

from controlplane.registry import violations
from controlplane.registry.violations import Causes
from wherry.api import names, quantity

_HOST_PATH_TYPES = (
    "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket",
)  # fmt: skip
_MAX_MODE = 0o777
_MIN_TOKEN_S = 10 * 60
_MAX_TOKEN_S = 1 << 32
_FIELD_PATHS = ("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid")


def volumes(found: Any, path: str) -> tuple[Causes, set[str]]:
    """The violations, and the names of the volumes that can be mounted."""
    causes: Causes = []
    seen: set[str] = set()
    for index, volume in enumerate(found):
        place = f"{path}[{index}]"
        wrong = [violations.invalid(f"{place}.name", volume.name, text) for text in names.dns1123_label(volume.name)]
        if not volume.name:
            wrong = [violations.required(f"{place}.name")]
        elif volume.name in seen:
            wrong.append(violations.duplicate(f"{place}.name", volume.name))
        causes += wrong
        seen.add(volume.name)
        causes += _source(volume.volume_source, place)
    return causes, seen


def _source(source: Any, path: str) -> Causes:
    fields = [field for field, _ in source.ListFields()]
    if not fields:
        return [violations.required(path, "must specify a volume type")]
    causes: Causes = []
    for number, field in enumerate(sorted(fields, key=_rank)):
        place = f"{path}.{field.json_name}"
        if number:
            causes.append(violations.forbidden(place, "may not specify more than 1 volume type"))
            continue
        check = _CHECKS.get(field.name)
        if check is not None:
            causes += check(getattr(source, field.name), place)
    return causes


def _rank(field: Any) -> tuple[int, int]:
    """emptyDir is looked at first, as in Kubernetes; the rest in the order of their numbers."""
    return (0 if field.name == "empty_dir" else 1, field.number)


def _empty_dir(source: Any, path: str) -> Causes:
    if source.HasField("size_limit") and quantity.amount(source.size_limit) < 0:
        return [violations.forbidden(f"{path}.sizeLimit", "SizeLimit field must be a valid resource quantity")]
    return []


def _host_path(source: Any, path: str) -> Causes:
    if not source.path:
        return [violations.required(f"{path}.path")]
    causes: Causes = []
    if ".." in source.path.split("/"):
        causes.append(violations.invalid(f"{path}.path", source.path, "must not contain '..'"))
    if source.HasField("type") and source.type not in _HOST_PATH_TYPES:
        causes.append(violations.unsupported(f"{path}.type", source.type, _HOST_PATH_TYPES))
    return causes


def _mode(source: Any, field: str, path: str) -> Causes:
    if source.HasField(field) and not 0 <= getattr(source, field) <= _MAX_MODE:
        detail = "must be a number between 0 and 0777 (octal), both inclusive"
        return [violations.invalid(path, getattr(source, field), detail)]
    return []


def _items(items: Any, path: str) -> Causes:
    causes: Causes = []
    for index, item in enumerate(items):
        place = f"{path}[{index}]"
        if not item.key:
            causes.append(violations.required(f"{place}.key"))
        causes += _inner_path(item.path, f"{place}.path")
        causes += _mode(item, "mode", f"{place}.mode")
    return causes


def _inner_path(text: str, path: str) -> Causes:
    if not text:
        return [violations.required(path)]
    if text.startswith("/"):
        return [violations.invalid(path, text, "must be a relative path")]
    if ".." in text.split("/"):
        return [violations.invalid(path, text, "must not contain '..'")]
    if text.startswith(".."):
        return [violations.invalid(path, text, "must not start with '..'")]
    return []


def _secret(source: Any, path: str) -> Causes:
    causes = [] if source.secret_name else [violations.required(f"{path}.secretName")]
    causes += _mode(source, "default_mode", f"{path}.defaultMode")
    return causes + _items(source.items, f"{path}.items")


def _config_map(source: Any, path: str) -> Causes:
    causes = [] if source.local_object_reference.name else [violations.required(f"{path}.name")]
    causes += _mode(source, "default_mode", f"{path}.defaultMode")
    return causes + _items(source.items, f"{path}.items")


def _downward(source: Any, path: str) -> Causes:
    return _mode(source, "default_mode", f"{path}.defaultMode") + _downward_files(source.items, path)


def _downward_files(items: Any, path: str) -> Causes:
    causes: Causes = []
    for index, item in enumerate(items):
        place = f"{path}.items[{index}]" if path.endswith("downwardAPI") else f"{path}[{index}]"
        causes += _inner_path(item.path, f"{place}.path")
        if item.HasField("field_ref"):
            if item.HasField("resource_field_ref"):
                detail = "fieldRef and resourceFieldRef can not be specified simultaneously"
                causes.append(violations.invalid(place, "resource", detail))
            causes += field_ref(item.field_ref, _FIELD_PATHS, f"{place}.fieldRef")
        elif not item.HasField("resource_field_ref"):
            causes.append(violations.required(place, "one of fieldRef and resourceFieldRef is required"))
        elif not item.resource_field_ref.container_name:
            causes.append(violations.required(f"{place}.resourceFieldRef.containerName"))
        causes += _mode(item, "mode", f"{place}.mode")
    return causes


def field_ref(ref: Any, allowed: tuple[str, ...], path: str) -> Causes:
    """`metadata.labels['key']` counts as metadata.labels."""
    if not ref.api_version:
        return [violations.required(f"{path}.apiVersion")]
    if not ref.field_path:
        return [violations.required(f"{path}.fieldPath")]
    text = ref.field_path
    base, bracket, rest = text.partition("[")
    if bracket and base in ("metadata.labels", "metadata.annotations") and rest.endswith("']") and rest.startswith("'"):
        key = rest[1:-2]
        wrong = names.qualified_name(key if base == "metadata.labels" else key.lower())
        return [violations.invalid(path, key, message) for message in wrong]
    known = (
        "metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations",
        "spec.nodeName", "spec.serviceAccountName", "spec.host", "status.hostIP", "status.hostIPs", "status.podIP",
        "status.podIPs", "spec.restartPolicy", "spec.schedulerName", "status.phase", "status.nominatedNodeName",
        "spec.hostNetwork",
    )  # fmt: skip
    if text not in known:
        detail = f"error converting fieldPath: field label not supported: {text}"
        return [violations.invalid(f"{path}.fieldPath", text, detail)]
    if text not in allowed:
        return [violations.unsupported(f"{path}.fieldPath", text, sorted(allowed))]
    return []


def _projected(source: Any, path: str) -> Causes:
    causes = _mode(source, "default_mode", f"{path}.defaultMode")
    for index, projection in enumerate(source.sources):
        place = f"{path}.sources[{index}]"
        fields = [field for field, _ in projection.ListFields()]
        if not fields:
            causes.append(violations.required(place, "must specify a projected source"))
        for number, field in enumerate(fields):
            at = f"{place}.{field.json_name}"
            if number:
                causes.append(violations.forbidden(at, "may not specify more than 1 volume type"))
                continue
            value = getattr(projection, field.name)
            match field.name:
                case "secret" | "config_map":
                    if not value.local_object_reference.name:
                        causes.append(violations.required(f"{at}.name"))
                    causes += _items(value.items, f"{at}.items")
                case "downward_api":
                    causes += _downward_files(value.items, at)
                case "service_account_token":
                    causes += _token(value, at)
    return causes


def _token(token: Any, path: str) -> Causes:
    causes: Causes = []
    if token.expiration_seconds < _MIN_TOKEN_S:
        detail = "may not specify a duration less than 10 minutes"
        causes.append(violations.invalid(f"{path}.expirationSeconds", token.expiration_seconds, detail))
    elif token.expiration_seconds > _MAX_TOKEN_S:
        detail = "may not specify a duration larger than 2^32 seconds"
        causes.append(violations.invalid(f"{path}.expirationSeconds", token.expiration_seconds, detail))
    return causes + _inner_path(token.path, f"{path}.path")


def _claim(source: Any, path: str) -> Causes:
    return [] if source.claim_name else [violations.required(f"{path}.claimName")]


def _nfs(source: Any, path: str) -> Causes:
    causes = [violations.required(f"{path}.{name}") for name in ("server", "path") if not getattr(source, name)]
    if source.path and not source.path.startswith("/"):
        causes.append(violations.invalid(f"{path}.path", source.path, "must be an absolute path"))
    return causes


def _csi(source: Any, path: str) -> Causes:
    if not source.driver:
        return [violations.required(f"{path}.driver")]
    return [
        violations.invalid(f"{path}.driver", source.driver, text)
        for text in names.dns1123_subdomain(source.driver.lower())
    ]


def _image(source: Any, path: str) -> Causes:
    causes = [] if source.reference else [violations.required(f"{path}.reference")]
    if source.pull_policy not in ("Always", "IfNotPresent", "Never"):
        causes.append(
            violations.unsupported(f"{path}.pullPolicy", source.pull_policy, ("Always", "IfNotPresent", "Never"))
        )
    return causes


_CHECKS = {
    "empty_dir": _empty_dir,
    "host_path": _host_path,
    "secret": _secret,
    "config_map": _config_map,
    "downward_api": _downward,
    "projected": _projected,
    "persistent_volume_claim": _claim,
    "nfs": _nfs,
    "csi": _csi,
    "image": _image,
}
