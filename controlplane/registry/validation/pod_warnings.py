"""Things that are legal and hardly meant: said in Warning headers, in Kubernetes' words."""

from __future__ import annotations

from typing import Any

from wherry.api import names, quantity

_BYTES = ("memory", "ephemeral-storage")

_DEPRECATED_LABELS = {
    "beta.kubernetes.io/arch": 'deprecated since v1.14; use "kubernetes.io/arch" instead',
    "beta.kubernetes.io/os": 'deprecated since v1.14; use "kubernetes.io/os" instead',
    "failure-domain.beta.kubernetes.io/region": 'deprecated since v1.17; use "topology.kubernetes.io/region" instead',
    "failure-domain.beta.kubernetes.io/zone": 'deprecated since v1.17; use "topology.kubernetes.io/zone" instead',
    "beta.kubernetes.io/instance-type": 'deprecated since v1.17; use "node.kubernetes.io/instance-type" instead',
}


def pod(obj: Any) -> list[str]:
    return name(obj) + spec(obj.spec, "spec")


def name(obj: Any) -> list[str]:
    found = []
    if "." in obj.metadata.name:
        wrong = ", ".join(names.dns1123_label(obj.metadata.name))
        found.append(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; "
            f"a DNS label is recommended: [{wrong}]"
        )
    return found


def template(obj: Any, path: str) -> list[str]:
    return spec(obj.spec, f"{path}.spec")


def spec(pod_spec: Any, path: str) -> list[str]:
    found = [
        f"{path}.nodeSelector[{key}]: {_DEPRECATED_LABELS[key]}"
        for key in sorted(pod_spec.node_selector)
        if key in _DEPRECATED_LABELS
    ]
    for index, secret in enumerate(pod_spec.image_pull_secrets):
        if not secret.name:
            found.append(f'{path}.imagePullSecrets[{index}].name: invalid empty name ""')
    if pod_spec.termination_grace_period_seconds < 0:
        found.append(
            f"{path}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        )
    for name, group in (("initContainers", pod_spec.init_containers), ("containers", pod_spec.containers)):
        for index, container in enumerate(group):
            found += _container(container, f"{path}.{name}[{index}]")
    found += _fractions(pod_spec.resources, f"{path}.resources")
    return found


def _fractions(resources: Any, path: str) -> list[str]:
    return [
        f'{path}.{field}[{name}]: fractional byte value "{amounts[name].string}" is invalid, must be an integer'
        for field, amounts in (("limits", resources.limits), ("requests", resources.requests))
        for name in sorted(amounts)
        if (name in _BYTES or name.startswith("hugepages-")) and quantity.milli(amounts[name]) % 1000
    ]


def _container(container: Any, path: str) -> list[str]:
    found = _fractions(container.resources, f"{path}.resources")
    seen: set[str] = set()
    for index, variable in enumerate(container.env):
        if variable.name in seen:
            found.append(
                f'{path}.env[{index}]: hides previous definition of "{variable.name}", which may be dropped when using apply'
            )
        seen.add(variable.name)
    ports: dict[tuple[int, str, str, int], int] = {}
    for index, port in enumerate(container.ports):
        if port.host_ip and not port.host_port:
            shown = (
                f"{{Name:{port.name} HostPort:{port.host_port} ContainerPort:{port.container_port} "
                f"Protocol:{port.protocol} HostIP:{port.host_ip}}}"
            )
            found.append(f"{path}.ports[{index}]: hostIP set without hostPort: {shown}")
        key = (port.container_port, port.protocol, port.host_ip, port.host_port)
        if key in ports:
            found.append(f"{path}.ports[{index}]: duplicate port definition with {path}.ports[{ports[key]}]")
        ports.setdefault(key, index)
    return found
