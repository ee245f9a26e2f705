"""Defaults of the core kinds besides pods. Called by their strategies."""

from __future__ import annotations

from wherry.pb import core_v1_pb2, meta_intstr_pb2

NAMESPACE_LABEL = "kubernetes.io/metadata.name"
CLIENT_IP_TIMEOUT_S = 10800


def namespace(obj: core_v1_pb2.Namespace) -> None:
    """The label is for selectors over namespaces (network policies, webhooks)."""
    if obj.metadata.name and NAMESPACE_LABEL not in obj.metadata.labels:
        obj.metadata.labels[NAMESPACE_LABEL] = obj.metadata.name
    obj.status.phase = obj.status.phase or "Active"


def node(obj: core_v1_pb2.Node) -> None:
    if not obj.status.allocatable:
        for name, amount in obj.status.capacity.items():
            obj.status.allocatable[name].CopyFrom(amount)
    # podCIDR and podCIDRs[0] are one field that grew.
    if obj.spec.pod_cidr and not obj.spec.pod_cidrs:
        obj.spec.pod_cidrs.append(obj.spec.pod_cidr)
    elif obj.spec.pod_cidrs and not obj.spec.pod_cidr:
        obj.spec.pod_cidr = obj.spec.pod_cidrs[0]


def secret(obj: core_v1_pb2.Secret) -> None:
    """`stringData` is a convenience for writing: it never comes back out."""
    for name, text in obj.string_data.items():
        obj.data[name] = text.encode()
    obj.ClearField("string_data")
    obj.type = obj.type or "Opaque"


def service(obj: core_v1_pb2.Service) -> None:
    spec = obj.spec
    spec.session_affinity = spec.session_affinity or "None"
    if spec.session_affinity == "None":
        spec.ClearField("session_affinity_config")
    elif spec.session_affinity == "ClientIP":
        client = spec.session_affinity_config.client_ip
        if not client.HasField("timeout_seconds"):
            client.timeout_seconds = CLIENT_IP_TIMEOUT_S
    spec.type = spec.type or "ClusterIP"
    for port in spec.ports:
        port.protocol = port.protocol or "TCP"
        target = port.target_port
        if not port.HasField("target_port") or (not target.int_val and not target.str_val):
            port.target_port.CopyFrom(meta_intstr_pb2.IntOrString(type=0, int_val=port.port))
    external = spec.type in ("NodePort", "LoadBalancer") or (spec.type == "ClusterIP" and len(spec.external_ips) > 0)
    if external and not spec.external_traffic_policy:
        spec.external_traffic_policy = "Cluster"
    if not spec.HasField("internal_traffic_policy") and spec.type in ("ClusterIP", "NodePort", "LoadBalancer"):
        spec.internal_traffic_policy = "Cluster"
    if spec.type == "LoadBalancer" and not spec.HasField("allocate_load_balancer_node_ports"):
        spec.allocate_load_balancer_node_ports = True
    for ingress in obj.status.load_balancer.ingress:
        if ingress.ip and not ingress.HasField("ip_mode"):
            ingress.ip_mode = "VIP"
