"""networking.k8s.io/v1: Ingress, IngressClass, NetworkPolicy, IPAddress, ServiceCIDR."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.registry.defaults import networking as defaults
from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry
from controlplane.registry.tables import networking as tables
from controlplane.registry.validation import networking as validation

_V1 = "networking.k8s.io/v1"


def kinds() -> Iterator[Served]:
    yield entry(
        _V1, "IngressClass", columns=tables.INGRESS_CLASSES, fill=defaults.ingress_class,
        check=validation.ingress_class, compare=validation.ingress_class_update, counted=("spec",),
    )  # fmt: skip
    yield entry(
        _V1, "Ingress", columns=tables.INGRESSES, check=validation.ingress, warn=validation.ingress_warnings,
        counted=("spec",),
    )  # fmt: skip
    yield entry(
        _V1, "IPAddress", columns=tables.IP_ADDRESSES, name_rule=validation.ip_address_name,
        check=validation.ip_address, compare=validation.ip_address_update,
        stored_only="a Service's is not made again when somebody deletes it",
    )  # fmt: skip
    yield entry(
        _V1, "NetworkPolicy", columns=tables.NETWORK_POLICIES, fill=defaults.network_policy,
        check=validation.network_policy, counted=("spec",),
    )  # fmt: skip
    yield entry(
        _V1, "ServiceCIDR", columns=tables.SERVICE_CIDRS, check=validation.service_cidr,
        compare=validation.service_cidr_update, stored_only="addresses of Services are not taken from it",
    )  # fmt: skip
