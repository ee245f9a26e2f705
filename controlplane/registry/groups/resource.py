"""resource.k8s.io/v1: devices, and claims on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from controlplane.registry import violations
from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry
from controlplane.registry.strategy import Column
from controlplane.registry.tables.common import age_column, name_column
from controlplane.registry.validation import common
from controlplane.registry.violations import Causes
from wherry.api import names

_V1 = "resource.k8s.io/v1"
_IDLE = "no device is allocated for it"
_MODES = ("All", "ExactCount")
_EFFECTS = ("NoExecute", "NoSchedule", "None")


def _fill_devices(devices: Any) -> None:
    for request in devices.requests:
        wanted = [request.exactly] if request.HasField("exactly") else []
        for one in (*wanted, *request.first_available):
            one.allocation_mode = one.allocation_mode or "ExactCount"
            if one.allocation_mode == "ExactCount" and not one.count:
                one.count = 1
            for toleration in one.tolerations:
                toleration.operator = toleration.operator or "Equal"


def _check_devices(devices: Any, path: str) -> Causes:
    causes: Causes = []
    seen: set[str] = set()
    for index, request in enumerate(devices.requests):
        at = f"{path}.requests[{index}]"
        if not request.name:
            causes.append(violations.required(f"{at}.name"))
        else:
            causes += (
                violations.invalid(f"{at}.name", request.name, text) for text in names.dns1123_label(request.name)
            )
        if request.name in seen:
            causes.append(violations.duplicate(f"{at}.name", request.name))
        seen.add(request.name)
        exactly = request.HasField("exactly")
        if exactly and request.first_available:
            detail = "exactly one of `exactly` or `firstAvailable` must be specified"
            causes.append(violations.invalid(at, "", detail))
        elif exactly:
            causes += _check_request(request.exactly, f"{at}.exactly")
        elif not request.first_available:
            causes.append(violations.required(at, "exactly one of `exactly` or `firstAvailable` is required"))
        for number, one in enumerate(request.first_available):
            causes += _check_request(one, f"{at}.firstAvailable[{number}]")
    return causes


def _check_request(request: Any, path: str) -> Causes:
    causes: Causes = []
    if not request.device_class_name:
        causes.append(violations.required(f"{path}.deviceClassName"))
    if request.allocation_mode not in _MODES:
        causes.append(violations.unsupported(f"{path}.allocationMode", request.allocation_mode, _MODES))
    elif request.allocation_mode == "ExactCount" and request.count <= 0:
        causes.append(violations.invalid(f"{path}.count", request.count, "must be greater than zero"))
    elif request.allocation_mode == "All" and request.count:
        causes.append(
            violations.invalid(f"{path}.count", request.count, "must not be specified when allocationMode is 'All'")
        )
    return causes


def _compare_claim(obj: Any, old: Any) -> Causes:
    return common.immutable(obj.spec, old.spec, "spec")


def _check_taint_rule(obj: Any) -> Causes:
    taint = obj.spec.taint
    causes: Causes = []
    if not taint.key:
        causes.append(violations.required("spec.taint.key"))
    if not taint.effect:
        causes.append(violations.required("spec.taint.effect"))
    elif taint.effect not in _EFFECTS:
        causes.append(violations.unsupported("spec.taint.effect", taint.effect, _EFFECTS))
    return causes


def _check_slice(obj: Any) -> Causes:
    spec = obj.spec
    causes: Causes = []
    if not spec.driver:
        causes.append(violations.required("spec.driver"))
    if not spec.pool.name:
        causes.append(violations.required("spec.pool.name"))
    if spec.pool.resource_slice_count <= 0:
        value = spec.pool.resource_slice_count
        causes.append(violations.invalid("spec.pool.resourceSliceCount", value, "must be greater than zero"))
    return causes


def _state(obj: Any, now: float) -> str:
    states = []
    if obj.metadata.HasField("deletion_timestamp"):
        states.append("deleted")
    if obj.status.HasField("allocation"):
        states.append("allocated")
    if obj.status.reserved_for:
        states.append("reserved")
    return ",".join(states) or "pending"


_NAMED = (name_column(), age_column())
_CLAIMS = (name_column(), Column("State", _state), age_column())
_SLICES = (
    name_column(),
    Column("Node", lambda obj, now: str(obj.spec.node_name)),
    Column("Driver", lambda obj, now: str(obj.spec.driver)),
    Column("Pool", lambda obj, now: str(obj.spec.pool.name)),
    age_column(),
)


def kinds() -> Iterator[Served]:
    yield entry(_V1, "DeviceClass", columns=_NAMED, counted=("spec",), stored_only=_IDLE)
    yield entry(
        _V1, "DeviceTaintRule", columns=_NAMED, check=_check_taint_rule, counted=("spec",),
        stored_only="no device is tainted by it",
    )  # fmt: skip
    yield entry(
        _V1, "ResourceClaim", columns=_CLAIMS, fill=lambda obj: _fill_devices(obj.spec.devices),
        check=lambda obj: _check_devices(obj.spec.devices, "spec.devices"), compare=_compare_claim, stored_only=_IDLE,
    )  # fmt: skip
    yield entry(
        _V1, "ResourceClaimTemplate", columns=_NAMED, fill=lambda obj: _fill_devices(obj.spec.spec.devices),
        check=lambda obj: _check_devices(obj.spec.spec.devices, "spec.spec.devices"), compare=_compare_claim,
        stored_only=_IDLE,
    )  # fmt: skip
    yield entry(
        _V1, "ResourceSlice", columns=_SLICES, check=_check_slice, counted=("spec",),
        fields={
            "spec.driver": lambda obj: str(obj.spec.driver),
            "spec.nodeName": lambda obj: str(obj.spec.node_name),
        },
        stored_only=_IDLE,
    )  # fmt: skip
