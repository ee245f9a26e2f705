"""What objects refer to, in words: where a container's environment comes from, and which pods a Service leads to. Pure; called
by `describe`.
"""

from __future__ import annotations

from collections.abc import Iterable

from wherry.pb import core_v1_pb2, discovery_v1_pb2

SERVICE_NAME = "kubernetes.io/service-name"  # the label that ties a slice to its Service
ENDPOINTS_SHOWN = 6


def value_of(item: core_v1_pb2.EnvVar) -> str:
    """The value of a variable, or where it is taken from, as kubectl tells it."""
    if not item.HasField("value_from"):
        return item.value
    source = item.value_from
    if source.HasField("field_ref"):
        return f"({source.field_ref.api_version or 'v1'}:{source.field_ref.field_path})"
    if source.HasField("resource_field_ref"):
        amount = source.resource_field_ref
        return f"{amount.container_name} ({amount.resource})".lstrip()
    if source.HasField("config_map_key_ref"):
        ref = source.config_map_key_ref
        return f"<set to the key '{ref.key}' of config map '{_name(ref)}'>{_optional(ref)}"
    if source.HasField("secret_key_ref"):
        secret = source.secret_key_ref
        return f"<set to the key '{secret.key}' in secret '{_name(secret)}'>{_optional(secret)}"
    return "<set from a reference>"


def sources_of(container: core_v1_pb2.Container) -> list[str]:
    """The ConfigMaps and Secrets of which the container has every key."""
    found = []
    for item in container.env_from:
        kind, ref = ("Secret", item.secret_ref) if item.HasField("secret_ref") else ("ConfigMap", item.config_map_ref)
        prefix = f" with prefix '{item.prefix}'" if item.prefix else ""
        found.append(f"{ref.local_object_reference.name}  {kind}{prefix}{_optional(ref)}")
    return found


def endpoints(slices: Iterable[discovery_v1_pb2.EndpointSlice], port: core_v1_pb2.ServicePort) -> str:
    """The ready addresses behind a Service's port; of many the first ones and how many more there are."""
    found: set[str] = set()
    for part in slices:
        for number in [each.port for each in part.ports if each.name == port.name]:
            for endpoint in part.endpoints:
                if not endpoint.conditions.HasField("ready") or endpoint.conditions.ready:
                    found.update(f"[{ip}]:{number}" if ":" in ip else f"{ip}:{number}" for ip in endpoint.addresses)
    shown = sorted(found)
    more = f" + {len(shown) - ENDPOINTS_SHOWN} more..." if len(shown) > ENDPOINTS_SHOWN else ""
    return ",".join(shown[:ENDPOINTS_SHOWN]) + more or "<none>"


def _name(ref: core_v1_pb2.ConfigMapKeySelector | core_v1_pb2.SecretKeySelector) -> str:
    return ref.local_object_reference.name


def _optional(
    ref: core_v1_pb2.ConfigMapKeySelector | core_v1_pb2.SecretKeySelector | core_v1_pb2.ConfigMapEnvSource
    | core_v1_pb2.SecretEnvSource,
) -> str:  # fmt: skip
    return "  Optional: true" if ref.optional else ""
