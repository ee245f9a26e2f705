"""The variables by which a container finds Services: those of its namespace (unless the pod does not want them), and the
Kubernetes API's. Pure; `kubelet.network.traffic` has the Services, `env` puts them below what the pod itself says.
"""

from __future__ import annotations

from collections.abc import Iterable

from wherry.pb import core_v1_pb2

API_NAMESPACE, API_SERVICE = "default", "kubernetes"


def variables(pod: core_v1_pb2.Pod, services: Iterable[core_v1_pb2.Service]) -> dict[str, str]:
    """`services`: those of the pod's namespace and the API's, in any order."""
    links = pod.spec.enable_service_links if pod.spec.HasField("enable_service_links") else True
    chosen: dict[str, core_v1_pb2.Service] = {}
    for service in sorted(services, key=lambda item: (item.metadata.namespace, item.metadata.name)):
        own = links and service.metadata.namespace == pod.metadata.namespace
        api = service.metadata.namespace == API_NAMESPACE and service.metadata.name == API_SERVICE
        if service.spec.cluster_ip in ("", "None") or not service.spec.ports:
            continue
        if own or (api and API_SERVICE not in chosen):
            chosen[service.metadata.name] = service
    found: dict[str, str] = {}
    for name in sorted(chosen):
        found.update(_of(chosen[name]))
    return found


def _of(service: core_v1_pb2.Service) -> dict[str, str]:
    name, host = _variable(service.metadata.name), service.spec.cluster_ip
    found = {f"{name}_SERVICE_HOST": host, f"{name}_SERVICE_PORT": str(service.spec.ports[0].port)}
    for port in service.spec.ports:
        if port.name:
            found[f"{name}_SERVICE_PORT_{_variable(port.name)}"] = str(port.port)
    # As Docker's links once were.
    for index, port in enumerate(service.spec.ports):
        protocol = port.protocol or "TCP"
        url = f"{protocol.lower()}://{f'[{host}]' if ':' in host else host}:{port.port}"
        if index == 0:
            found[f"{name}_PORT"] = url
        prefix = f"{name}_PORT_{port.port}_{protocol.upper()}"
        found[prefix] = url
        found[f"{prefix}_PROTO"] = protocol.lower()
        found[f"{prefix}_PORT"] = str(port.port)
        found[f"{prefix}_ADDR"] = host
    return found


def _variable(name: str) -> str:
    return name.replace("-", "_").upper()
