"""Rules that several kinds share: numbers, ports, IP addresses, selectors, IntOrString."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from controlplane.registry import violations
from controlplane.registry.violations import Causes
from wherry.api import intstr, names
from wherry.pb import meta_intstr_pb2, meta_v1_pb2

MAX_INT32 = 2**31 - 1
IP_MESSAGE = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
CIDR_MESSAGE = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
_PERCENT = re.compile("[0-9]{1,18}%", re.ASCII)  # more digits no controller could reckon with
_PERCENT_MESSAGE = (
    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', "
    "regex used for validation is '[0-9]+%')"
)
SELECTOR_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def non_negative(value: int, path: str) -> Causes:
    return [] if value >= 0 else [violations.invalid(path, value, "must be greater than or equal to 0")]


def port_number(value: int, path: str) -> Causes:
    return [violations.invalid(path, value, message) for message in names.port_number(value)]


def port_or_name(port: meta_intstr_pb2.IntOrString, path: str) -> Causes:
    if port.type:
        return [violations.invalid(path, port.str_val, message) for message in names.port_name(port.str_val)]
    return port_number(port.int_val, path)


def in_range(value: int, low: int, high: int, path: str) -> Causes:
    if low <= value <= high:
        return []
    return [violations.invalid(path, value, f"must be between {low} and {high}, inclusive")]


def one_of(value: str, allowed: tuple[str, ...], path: str) -> Causes:
    return [] if value in allowed else [violations.unsupported(path, value, sorted(allowed))]


def ip_address(text: str, path: str) -> Causes:
    if re.match(r"0\d", text) or re.search(r"\.0\d", text):
        return [violations.invalid(path, text, "must not have leading 0s")]
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return [violations.invalid(path, text, IP_MESSAGE)]
    return []


def cidr(text: str, path: str) -> Causes:
    _, _, length = text.partition("/")
    try:
        # Python takes netmasks and leading zeros for lengths, too.
        if not (length.isascii() and length.isdigit()) or str(int(length[:9])) != length:
            raise ValueError
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return [violations.invalid(path, text, CIDR_MESSAGE)]
    return []


def label_selector(selector: meta_v1_pb2.LabelSelector, path: str) -> Causes:
    causes: Causes = []
    for key, value in sorted(selector.match_labels.items()):
        place = f"{path}.matchLabels"
        causes += (violations.invalid(place, key, message) for message in names.qualified_name(key))
        causes += (violations.invalid(place, value, message) for message in names.label_value(value))
    for index, expression in enumerate(selector.match_expressions):
        place = f"{path}.matchExpressions[{index}]"
        match expression.operator:
            case "In" | "NotIn":
                if not expression.values:
                    detail = "must be specified when `operator` is 'In' or 'NotIn'"
                    causes.append(violations.required(f"{place}.values", detail))
            case "Exists" | "DoesNotExist":
                if expression.values:
                    detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                    causes.append(violations.forbidden(f"{place}.values", detail))
            case other:
                causes.append(violations.invalid(f"{place}.operator", other, "not a valid selector operator"))
        causes += (
            violations.invalid(f"{place}.key", expression.key, message)
            for message in names.qualified_name(expression.key)
        )
        for number, value in enumerate(expression.values):
            causes += (
                violations.invalid(f"{place}.values[{number}]", value, message) for message in names.label_value(value)
            )
    return causes


def positive_int_or_percent(value: meta_intstr_pb2.IntOrString, path: str) -> Causes:
    if not value.type:
        return non_negative(value.int_val, path)
    if _PERCENT.fullmatch(value.str_val):
        return []
    return [violations.invalid(path, value.str_val, _PERCENT_MESSAGE)]


def at_most_whole(value: meta_intstr_pb2.IntOrString, path: str) -> Causes:
    """No more than 100 %."""
    if value.type and _PERCENT.fullmatch(value.str_val) and int(value.str_val[:-1]) > 100:
        return [violations.invalid(path, value.str_val, "must not be greater than 100%")]
    return []


def is_zero(value: meta_intstr_pb2.IntOrString) -> bool:
    try:
        return intstr.resolve(value, 100, round_up=True) == 0
    except ValueError:
        return False


def immutable(new: Any, old: Any, path: str) -> Causes:
    return [] if new == old else [violations.invalid(path, new, "field is immutable")]
