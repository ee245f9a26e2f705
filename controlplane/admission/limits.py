"""What one LimitRange does to a pod or a claim: defaults, and what is wrong in Kubernetes' words. Pure; called by
`limit_ranger`."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from wherry.api import quantity, resources

ANNOTATION = "kubernetes.io/limit-ranger"
_CLAIM = "PersistentVolumeClaim"

Amounts = Mapping[str, str]


def fill(limit_range: Any, pod: Any) -> None:
    """Gives each container the default limits and requests that it lacks, and says so in an annotation."""
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    for item in limit_range.spec.limits:
        if item.type == "Container":
            requests |= _texts(item.default_request)
            limits |= _texts(item.default)
    said: list[str] = []
    for containers, what in ((pod.spec.containers, "container"), (pod.spec.init_containers, "init container")):
        for container in containers:
            for amounts, defaults, name in (
                (container.resources.requests, requests, "request"),
                (container.resources.limits, limits, "limit"),
            ):
                added = sorted(set(defaults) - set(amounts))
                for resource in added:
                    amounts[resource].string = defaults[resource]
                if added:
                    said.append(f"{', '.join(added)} {name} for {what} {container.name}")
    if said:
        pod.metadata.annotations[ANNOTATION] = f"LimitRanger plugin set: {'; '.join(said)}"


def pod(limit_range: Any, obj: Any) -> list[str]:
    wrong: list[str] = []
    for item in limit_range.spec.limits:
        if item.type == "Container":
            for container in (*obj.spec.containers, *obj.spec.init_containers):
                wrong += _check(item, _texts(container.resources.requests), _texts(container.resources.limits))
        elif item.type == "Pod":
            wrong += _check(item, _sum(obj.spec, "requests"), _sum(obj.spec, "limits"))
    return wrong


def claim(limit_range: Any, obj: Any) -> list[str]:
    """A claim has no limits: the most that it may have is held against what it asks for."""
    wrong: list[str] = []
    requests = _texts(obj.spec.resources.requests)
    for item in limit_range.spec.limits:
        if item.type == _CLAIM:
            wrong += _low(item, requests, {})
            for name, most in sorted(_texts(item.max).items()):
                head = f"maximum {name} usage per {item.type} is {most}"
                if name not in requests:
                    wrong.append(f"{head}. No request is specified")
                elif quantity.compare(requests[name], most) > 0:
                    wrong.append(f"{head}, but request is {requests[name]}")
    return wrong


def _texts(amounts: Mapping[str, Any]) -> dict[str, str]:
    return {name: amounts[name].string for name in amounts}


def _check(item: Any, requests: Amounts, limits: Amounts) -> list[str]:
    return [*_low(item, requests, limits), *_high(item, requests, limits), *_ratio(item, requests, limits)]


def _low(item: Any, requests: Amounts, limits: Amounts) -> list[str]:
    wrong = []
    for name, least in sorted(_texts(item.min).items()):
        head = f"minimum {name} usage per {item.type} is {least}"
        if name not in requests:
            wrong.append(f"{head}. No request is specified")
        elif quantity.compare(requests[name], least) < 0:
            wrong.append(f"{head}, but request is {requests[name]}")
        elif name in limits and quantity.compare(limits[name], least) < 0:
            wrong.append(f"{head}, but limit is {limits[name]}")
    return wrong


def _high(item: Any, requests: Amounts, limits: Amounts) -> list[str]:
    wrong = []
    for name, most in sorted(_texts(item.max).items()):
        head = f"maximum {name} usage per {item.type} is {most}"
        if name not in limits:
            wrong.append(f"{head}. No limit is specified")
        elif quantity.compare(limits[name], most) > 0:
            wrong.append(f"{head}, but limit is {limits[name]}")
        elif name in requests and quantity.compare(requests[name], most) > 0:
            wrong.append(f"{head}, but request is {requests[name]}")
    return wrong


def _ratio(item: Any, requests: Amounts, limits: Amounts) -> list[str]:
    wrong = []
    for name, most in sorted(_texts(item.max_limit_request_ratio).items()):
        head = f"{name} max limit to request ratio per {item.type} is {most}"
        request, limit = quantity.amount(requests.get(name, "")), quantity.amount(limits.get(name, ""))
        if not request:
            wrong.append(f"{head}, but no request is specified or request is 0")
        elif not limit:
            wrong.append(f"{head}, but no limit is specified or limit is 0")
        elif limit / request > quantity.amount(most):
            wrong.append(f"{head}, but provided ratio is {limit / request:.6f}")
    return wrong


def _sum(spec: Any, what: str) -> dict[str, str]:
    """Of the pod. A limit that some container lacks is no limit of the whole."""
    sums = resources.exact_requests(spec) if what == "requests" else resources.exact_limits(spec)
    containers = [*spec.containers, *(c for c in spec.init_containers if resources.is_sidecar(c))]
    found: dict[str, str] = {}
    for name in sums:
        texts = [getattr(container.resources, what)[name].string for container in containers
                 if name in getattr(container.resources, what)]  # fmt: skip
        if len(texts) < len(containers) and name not in getattr(spec.resources, what):
            continue
        notation: quantity.Format = next(
            (quantity.parse(text).format for text in texts if quantity.amount(text) > Decimal(0)), "DecimalSI"
        )
        found[name] = quantity.format_amount(sums[name], notation)
    return found
