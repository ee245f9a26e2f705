"""A container's environment: values, references to fields, resources, ConfigMaps and Secrets, and $(VAR) expansion. Pure.

`references` says which objects are needed; the worker fetches them and hands them in. Called by `config` and `kubelet.volumes`
(the downward API knows the same fields).
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING

from kubelet.pods.services import ConfigError
from wherry.api import quantity
from wherry.pb import core_v1_pb2, meta_resource_pb2

_VARIABLE = re.compile(r"\$\$|\$\(([^)]*)\)")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']*)'\]")


@dataclass(slots=True)
class Found:
    """Objects by name; None: there is none. Tokens by audience and lifetime."""

    config_maps: dict[str, core_v1_pb2.ConfigMap | None] = field(default_factory=dict)
    secrets: dict[str, core_v1_pb2.Secret | None] = field(default_factory=dict)
    tokens: dict[tuple[str, int], str] = field(default_factory=dict)


def references(container: core_v1_pb2.Container) -> Iterator[tuple[str, str]]:
    """("ConfigMap" or "Secret", name), each once."""
    seen: set[tuple[str, str]] = set()
    wanted: list[tuple[str, str]] = []
    for source in container.env_from:
        if source.HasField("config_map_ref"):
            wanted.append(("ConfigMap", source.config_map_ref.local_object_reference.name))
        if source.HasField("secret_ref"):
            wanted.append(("Secret", source.secret_ref.local_object_reference.name))
    for variable in container.env:
        if variable.value_from.HasField("config_map_key_ref"):
            wanted.append(("ConfigMap", variable.value_from.config_map_key_ref.local_object_reference.name))
        if variable.value_from.HasField("secret_key_ref"):
            wanted.append(("Secret", variable.value_from.secret_key_ref.local_object_reference.name))
    for reference in wanted:
        if reference not in seen:
            seen.add(reference)
            yield reference


def expand(text: str, variables: Mapping[str, str]) -> str:
    """$(NAME) becomes its value; unknown names stay as they are; $$ is a dollar."""

    def replaced(match: re.Match[str]) -> str:
        if match.group(0) == "$$":
            return "$"
        return variables.get(match.group(1), match.group(0))

    return _VARIABLE.sub(replaced, text)


def environment(
    pod: core_v1_pb2.Pod,
    container: core_v1_pb2.Container,
    found: Found,
    *,
    ips: Sequence[str],
    host_ips: Sequence[str],
    allocatable: Mapping[str, str],
    services: Mapping[str, str],
) -> list[tuple[str, str]]:
    """In order, later ones over earlier ones; `services` hold where the pod says nothing else. Raises ConfigError in the
    kubelet's words."""
    values: dict[str, str] = {}
    for source in container.env_from:
        values.update(_env_from(pod, source, found))
    fields = fields_of(pod, ips, host_ips)
    known = ChainMap(values, dict(services))
    for variable in container.env:
        if not variable.HasField("value_from"):
            values[variable.name] = expand(variable.value, known)
            continue
        value = _value_from(pod, container, variable, found, fields, allocatable)
        if value is not None:
            values[variable.name] = value
    values.update((name, value) for name, value in services.items() if name not in values)
    return list(values.items())


def _env_from(pod: core_v1_pb2.Pod, source: core_v1_pb2.EnvFromSource, found: Found) -> dict[str, str]:
    values: dict[str, str] = {}
    if source.HasField("config_map_ref"):
        name = source.config_map_ref.local_object_reference.name
        config_map = found.config_maps.get(name)
        if config_map is None and not source.config_map_ref.optional:
            raise ConfigError(f'configmap "{name}" not found')
        if config_map is not None:
            values = dict(sorted(config_map.data.items()))
    elif source.HasField("secret_ref"):
        name = source.secret_ref.local_object_reference.name
        secret = found.secrets.get(name)
        if secret is None and not source.secret_ref.optional:
            raise ConfigError(f'secret "{name}" not found')
        if secret is not None:
            values = {key: data.decode("utf-8", "surrogateescape") for key, data in sorted(secret.data.items())}
    return {source.prefix + key: value for key, value in values.items()}


def _value_from(
    pod: core_v1_pb2.Pod,
    container: core_v1_pb2.Container,
    variable: core_v1_pb2.EnvVar,
    found: Found,
    fields: Callable[[str], str],
    allocatable: Mapping[str, str],
) -> str | None:
    source = variable.value_from
    namespace = pod.metadata.namespace
    if source.HasField("field_ref"):
        return fields(source.field_ref.field_path)
    if source.HasField("resource_field_ref"):
        return resource_value(pod, container, source.resource_field_ref, allocatable)
    if source.HasField("config_map_key_ref"):
        key_ref = source.config_map_key_ref
        name = key_ref.local_object_reference.name
        config_map = found.config_maps.get(name)
        if config_map is None:
            if key_ref.optional:
                return None
            raise ConfigError(f'configmap "{name}" not found')
        if key_ref.key not in config_map.data:
            if key_ref.optional:
                return None
            raise ConfigError(f"couldn't find key {key_ref.key} in ConfigMap {namespace}/{name}")
        return config_map.data[key_ref.key]
    if source.HasField("secret_key_ref"):
        secret_ref = source.secret_key_ref
        name = secret_ref.local_object_reference.name
        secret = found.secrets.get(name)
        if secret is None:
            if secret_ref.optional:
                return None
            raise ConfigError(f'secret "{name}" not found')
        if secret_ref.key not in secret.data:
            if secret_ref.optional:
                return None
            raise ConfigError(f"couldn't find key {secret_ref.key} in Secret {namespace}/{name}")
        return secret.data[secret_ref.key].decode("utf-8", "surrogateescape")
    raise ConfigError(f"env {variable.name}: this kind of valueFrom is not supported on this node")


def fields_of(pod: core_v1_pb2.Pod, ips: Sequence[str], host_ips: Sequence[str]) -> Callable[[str], str]:
    """A function from a downward API path to its value; raises ConfigError for an unknown path."""
    simple = {
        "metadata.name": pod.metadata.name,
        "metadata.namespace": pod.metadata.namespace,
        "metadata.uid": pod.metadata.uid,
        "spec.nodeName": pod.spec.node_name,
        "spec.serviceAccountName": pod.spec.service_account_name,
        "status.hostIP": host_ips[0] if host_ips else "",
        "status.hostIPs": ",".join(host_ips),
        "status.podIP": ips[0] if ips else "",
        "status.podIPs": ",".join(ips),
    }

    def look_up(path: str) -> str:
        if path in simple:
            return simple[path]
        match = _SUBSCRIPT.fullmatch(path)
        if match:
            table = pod.metadata.labels if match.group(1) == "labels" else pod.metadata.annotations
            return table.get(match.group(2), "")
        if path in ("metadata.labels", "metadata.annotations"):
            table = pod.metadata.labels if path.endswith("labels") else pod.metadata.annotations
            return "\n".join(f"{key}={_quoted(value)}" for key, value in sorted(table.items()))
        raise ConfigError(f"fieldRef.fieldPath: {path} is not a field that the downward API offers")

    return look_up


def _quoted(text: str) -> str:
    escaped = (
        text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    )
    return f'"{escaped}"'


def resource_value(
    pod: core_v1_pb2.Pod,
    container: core_v1_pb2.Container | None,
    reference: core_v1_pb2.ResourceFieldSelector,
    allocatable: Mapping[str, str],
) -> str:
    """Rounded up to whole divisors. A container without a limit may use what the node has."""
    if reference.container_name:
        named = [c for c in [*pod.spec.containers, *pod.spec.init_containers] if c.name == reference.container_name]
        if not named:
            raise ConfigError(f"resourceFieldRef.containerName: the pod has no container {reference.container_name}")
        container = named[0]
    if container is None:
        raise ConfigError("resourceFieldRef.containerName: required in a volume")
    which, _, resource = reference.resource.partition(".")
    limits, requests = container.resources.limits, container.resources.requests
    amount: meta_resource_pb2.Quantity | str
    if which == "limits":
        amount = limits[resource] if resource in limits else allocatable.get(resource, "0")
    elif which == "requests":
        amount = requests[resource] if resource in requests else limits.get(resource, "0")
    else:
        raise ConfigError(f"resourceFieldRef.resource: {reference.resource} is neither limits.NAME nor requests.NAME")
    divisor = quantity.amount(reference.divisor) if reference.HasField("divisor") else quantity.amount("1")
    if divisor == 0:
        divisor = quantity.amount("1")
    return str((quantity.amount(amount) / divisor).to_integral_value(rounding=ROUND_CEILING))
