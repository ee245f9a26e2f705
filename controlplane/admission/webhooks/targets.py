"""Where a webhook is reached: a URL as it stands, or the endpoints behind a Service. Called by `dispatch`."""

from __future__ import annotations

from typing import Any

from controlplane.admission.base import Lookup
from controlplane.admission.webhooks.base import CallFailed, Target

_SERVICE_NAME = "kubernetes.io/service-name"


async def resolve(config: Any, timeout_s: int, lookup: Lookup) -> Target:
    """Raises CallFailed."""
    if config.HasField("url"):
        url = config.url
        return Target(f"{url}{'&' if '?' in url else '?'}timeout={timeout_s}s", config.ca_bundle)
    reference = config.service
    path = reference.path if reference.HasField("path") else "/"
    port = reference.port or 443
    host = f"{reference.name}.{reference.namespace}.svc"
    url = f"https://{host}:{port}/{path.lstrip('/')}?timeout={timeout_s}s"
    service = await lookup.find("v1", "Service", reference.namespace, reference.name)
    if service is None:
        raise CallFailed(f'Post "{url}": service "{reference.name}" not found')
    if service.spec.type == "ExternalName":
        return Target(url, config.ca_bundle, ((service.spec.external_name, port),))
    slices = await lookup.within("discovery.k8s.io/v1", "EndpointSlice", reference.namespace)
    mine = [item.message for item in slices if item.message.metadata.labels.get(_SERVICE_NAME) == reference.name]
    try:
        addresses = endpoints(service, mine, port)
    except ValueError as error:
        raise CallFailed(f'Post "{url}": {error}') from error
    return Target(url, config.ca_bundle, addresses)


def endpoints(service: Any, slices: list[Any], port: int) -> tuple[tuple[str, int], ...]:
    """Addresses that are ready, in order; those of the slices' port that stands for the Service's. Pure. Raises ValueError."""
    name = service.metadata.name
    chosen = next((item for item in service.spec.ports if item.port == port), None)
    if chosen is None:
        raise ValueError(f'no service port {port} found for service "{name}"')
    found: list[tuple[str, int]] = []
    for item in slices:
        numbers = [each.port for each in item.ports if each.name == chosen.name]
        for endpoint in item.endpoints:
            ready = not endpoint.conditions.HasField("ready") or endpoint.conditions.ready
            if ready and endpoint.addresses and numbers:
                found.append((endpoint.addresses[0], numbers[0]))
    if not found:
        raise ValueError(f'no endpoints available for service "{name}"')
    return tuple(sorted(found))
