"""Probes and lifecycle hooks of a container. Called by `containers`."""

from __future__ import annotations

import re
from typing import Any

from controlplane.registry import violations
from controlplane.registry.validation import common
from controlplane.registry.violations import Causes

_HEADER = re.compile("[-A-Za-z0-9]+", re.ASCII)
_HEADER_MESSAGE = (
    "a valid HTTP header must consist of alphanumeric characters or '-' "
    "(e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')"
)


def check(container: Any, path: str, grace_s: int) -> Causes:
    causes: Causes = []
    if container.HasField("lifecycle"):
        for field, json_name in (("post_start", "postStart"), ("pre_stop", "preStop")):
            if container.lifecycle.HasField(field):
                causes += _handler(
                    getattr(container.lifecycle, field), f"{path}.lifecycle.{json_name}", grace_s, hook=True
                )
    for field, json_name in (
        ("liveness_probe", "livenessProbe"), ("readiness_probe", "readinessProbe"), ("startup_probe", "startupProbe"),
    ):  # fmt: skip
        if not container.HasField(field):
            continue
        probe, place = getattr(container, field), f"{path}.{json_name}"
        causes += _probe(probe, place)
        if field != "readiness_probe" and probe.success_threshold != 1:
            causes.append(violations.invalid(f"{place}.successThreshold", probe.success_threshold, "must be 1"))
        if field == "readiness_probe" and probe.HasField("termination_grace_period_seconds"):
            value = probe.termination_grace_period_seconds
            detail = "must not be set for readinessProbes"
            causes.append(violations.invalid(f"{place}.terminationGracePeriodSeconds", value, detail))
    return causes


def _probe(probe: Any, path: str) -> Causes:
    causes = _handler(probe.handler, path, 0, hook=False)
    for field, json_name in (
        ("initial_delay_seconds", "initialDelaySeconds"), ("timeout_seconds", "timeoutSeconds"),
        ("period_seconds", "periodSeconds"), ("success_threshold", "successThreshold"),
        ("failure_threshold", "failureThreshold"),
    ):  # fmt: skip
        causes += common.non_negative(getattr(probe, field), f"{path}.{json_name}")
    if probe.HasField("termination_grace_period_seconds") and probe.termination_grace_period_seconds <= 0:
        value = probe.termination_grace_period_seconds
        causes.append(violations.invalid(f"{path}.terminationGracePeriodSeconds", value, "must be greater than 0"))
    return causes


def _handler(handler: Any, path: str, grace_s: int, *, hook: bool) -> Causes:
    fields = [field for field, _ in handler.ListFields()]
    if not fields:
        return [violations.required(path, "must specify a handler type")]
    causes: Causes = []
    for number, field in enumerate(fields):
        place = f"{path}.{field.json_name}"
        if number:
            causes.append(violations.forbidden(place, "may not specify more than 1 handler type"))
            continue
        value = getattr(handler, field.name)
        match field.name:
            case "exec":
                if not value.command:
                    causes.append(violations.required(f"{place}.command"))
            case "http_get":
                causes += _http(value, place)
            case "tcp_socket":
                causes += common.port_or_name(value.port, f"{place}.port")
            case "grpc":
                causes += common.port_number(value.port, f"{place}.port")
            case "sleep":
                if value.seconds < 0 or value.seconds > grace_s:
                    detail = f"must be non-negative and less than terminationGracePeriodSeconds ({grace_s})"
                    causes.append(violations.invalid(place, value.seconds, detail))
    return causes


def _http(action: Any, path: str) -> Causes:
    causes: Causes = []
    if not action.path:
        causes.append(violations.required(f"{path}.path"))
    causes += common.port_or_name(action.port, f"{path}.port")
    if action.scheme not in ("HTTP", "HTTPS"):
        causes.append(violations.unsupported(f"{path}.scheme", action.scheme, ("HTTP", "HTTPS")))
    for header in action.http_headers:
        if not _HEADER.fullmatch(header.name):
            causes.append(violations.invalid(f"{path}.httpHeaders", header.name, _HEADER_MESSAGE))
    return causes
