"""Defaults of a PodSpec, for pods and for the templates of workloads. Called by the strategies of pods and of apps."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from wherry.api import quantity
from wherry.pb import core_v1_pb2

_DEFAULT_MODE = 0o644


def pod(obj: core_v1_pb2.Pod) -> None:
    spec = obj.spec
    pod_spec(spec)
    if spec.termination_grace_period_seconds < 0:
        spec.termination_grace_period_seconds = 1
    if not spec.HasField("enable_service_links"):
        spec.enable_service_links = True
    if spec.host_network:
        _host_ports(spec)
    containers = [*spec.init_containers, *spec.containers]
    for container in containers:
        _requests_from_limits(container.resources)
    _pod_level_resources(spec)


def pod_template(template: core_v1_pb2.PodTemplateSpec) -> None:
    """As in a workload: requests are not filled in from limits here, they are when the pod is made."""
    pod_spec(template.spec)
    if template.spec.host_network:
        _host_ports(template.spec)


def pod_spec(spec: core_v1_pb2.PodSpec) -> None:
    spec.dns_policy = spec.dns_policy or "ClusterFirst"
    spec.restart_policy = spec.restart_policy or "Always"
    spec.scheduler_name = spec.scheduler_name or "default-scheduler"
    if not spec.HasField("security_context"):
        spec.security_context.SetInParent()
    if not spec.HasField("termination_grace_period_seconds"):
        spec.termination_grace_period_seconds = 30
    # The old name is an alias of the new one; the new one wins.
    if spec.service_account_name:
        spec.service_account = spec.service_account_name
    elif spec.service_account:
        spec.service_account_name = spec.service_account
    for container in spec.init_containers:
        _container(container)
    for container in spec.containers:
        _container(container)
    for ephemeral in spec.ephemeral_containers:
        _container(ephemeral.ephemeral_container_common)
    for volume in spec.volumes:
        _volume(volume.volume_source)


def _host_ports(spec: core_v1_pb2.PodSpec) -> None:
    """On the host's network a container's port is the host's."""
    for container in (*spec.containers, *spec.init_containers):
        for port in container.ports:
            if port.host_port == 0:
                port.host_port = port.container_port


def _requests_from_limits(resources: core_v1_pb2.ResourceRequirements) -> None:
    for name, limit in resources.limits.items():
        if name not in resources.requests:
            resources.requests[name].CopyFrom(limit)


def _pod_level_resources(spec: core_v1_pb2.PodSpec) -> None:
    """A pod-level limit stands for the request where neither the pod nor one of its containers requests it."""
    if not spec.HasField("resources") or not spec.resources.limits:
        return
    for name, limit in spec.resources.limits.items():
        if name in spec.resources.requests:
            continue
        asked = [
            container.resources.requests[name] for container in spec.containers if name in container.resources.requests
        ]
        if asked and not name.startswith("hugepages-"):
            spec.resources.requests[name].string = quantity.add(asked)
        else:
            spec.resources.requests[name].CopyFrom(limit)


def pull_policy(image: str) -> str:
    """Always for `:latest`, spelled out or implied; a digest pins the image, whatever its tag says."""
    if "@" in image:
        return "IfNotPresent"
    last = image.rsplit("/", 1)[-1]
    _, colon, tag = last.partition(":")
    return "IfNotPresent" if colon and tag != "latest" else "Always"


def _container(container: Any) -> None:
    """A Container, or the common part of an EphemeralContainer."""
    _round_up(container.resources.limits)
    _round_up(container.resources.requests)
    if not container.image_pull_policy:
        container.image_pull_policy = pull_policy(container.image)
    container.termination_message_path = container.termination_message_path or "/dev/termination-log"
    container.termination_message_policy = container.termination_message_policy or "File"
    for port in container.ports:
        port.protocol = port.protocol or "TCP"
    for variable in container.env:
        source = variable.value_from
        if variable.HasField("value_from") and source.HasField("field_ref"):
            source.field_ref.api_version = source.field_ref.api_version or "v1"
    for name in ("liveness_probe", "readiness_probe", "startup_probe"):
        if container.HasField(name):
            _probe(getattr(container, name))
    if container.HasField("lifecycle"):
        for name in ("post_start", "pre_stop"):
            if container.lifecycle.HasField(name):
                _http(getattr(container.lifecycle, name))
    if container.HasField("security_context") and container.security_context.HasField("proc_mount"):
        container.security_context.proc_mount = container.security_context.proc_mount or "Default"


def _round_up(amounts: Any) -> None:
    """Nothing finer than a thousandth is kept."""
    for name in amounts:
        text = amounts[name].string
        if text[-1:] in ("n", "u") or "." in text or "e-" in text.lower():
            parsed = quantity.parse(text)
            thousandths = quantity.milli(text)
            if parsed.amount.scaleb(3) != thousandths:
                amounts[name].string = quantity.format_amount(Decimal(thousandths).scaleb(-3), parsed.format)


def _probe(probe: core_v1_pb2.Probe) -> None:
    probe.timeout_seconds = probe.timeout_seconds or 1
    probe.period_seconds = probe.period_seconds or 10
    probe.success_threshold = probe.success_threshold or 1
    probe.failure_threshold = probe.failure_threshold or 3
    handler = probe.handler
    _http(handler)
    if handler.HasField("grpc") and not handler.grpc.HasField("service"):
        handler.grpc.service = ""


def _http(handler: Any) -> None:
    if handler.HasField("http_get"):
        handler.http_get.path = handler.http_get.path or "/"
        handler.http_get.scheme = handler.http_get.scheme or "HTTP"


def _volume(source: core_v1_pb2.VolumeSource) -> None:
    if not source.ListFields():
        source.empty_dir.SetInParent()
        return
    if source.HasField("secret") and not source.secret.HasField("default_mode"):
        source.secret.default_mode = _DEFAULT_MODE
    if source.HasField("config_map") and not source.config_map.HasField("default_mode"):
        source.config_map.default_mode = _DEFAULT_MODE
    if source.HasField("downward_api"):
        if not source.downward_api.HasField("default_mode"):
            source.downward_api.default_mode = _DEFAULT_MODE
        _downward_items(source.downward_api.items)
    if source.HasField("projected"):
        if not source.projected.HasField("default_mode"):
            source.projected.default_mode = _DEFAULT_MODE
        for projection in source.projected.sources:
            if projection.HasField("service_account_token"):
                token = projection.service_account_token
                if not token.HasField("expiration_seconds"):
                    token.expiration_seconds = 3600
            if projection.HasField("downward_api"):
                _downward_items(projection.downward_api.items)
    if source.HasField("host_path") and not source.host_path.HasField("type"):
        source.host_path.type = ""
    if source.HasField("image"):
        source.image.pull_policy = source.image.pull_policy or pull_policy(source.image.reference)
    if source.HasField("iscsi"):
        source.iscsi.iscsi_interface = source.iscsi.iscsi_interface or "default"
    if source.HasField("rbd"):
        source.rbd.pool = source.rbd.pool or "rbd"
        source.rbd.user = source.rbd.user or "admin"
        source.rbd.keyring = source.rbd.keyring or "/etc/ceph/keyring"
    if source.HasField("azure_disk"):
        disk = source.azure_disk
        if not disk.HasField("caching_mode"):
            disk.caching_mode = "ReadWrite"
        if not disk.HasField("kind"):
            disk.kind = "Shared"
        if not disk.HasField("fs_type"):
            disk.fs_type = "ext4"
        if not disk.HasField("read_only"):
            disk.read_only = False
    if source.HasField("scale_io"):
        source.scale_io.storage_mode = source.scale_io.storage_mode or "ThinProvisioned"
        source.scale_io.fs_type = source.scale_io.fs_type or "xfs"
    if source.HasField("ephemeral") and source.ephemeral.HasField("volume_claim_template"):
        claim = source.ephemeral.volume_claim_template.spec
        if not claim.HasField("volume_mode"):
            claim.volume_mode = "Filesystem"


def _downward_items(items: Any) -> None:
    for item in items:
        if item.HasField("field_ref"):
            item.field_ref.api_version = item.field_ref.api_version or "v1"
