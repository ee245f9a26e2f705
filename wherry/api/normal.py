"""The one form of a message: what protobuf can tell apart and Kubernetes cannot is made the same.

Go writes structs by value even when they are empty, and a client that touches `message.spec.affinity` may send an empty one; in
JSON both are as if nothing was said. Quantities are written in their canonical form, and what has no JSON form (a time beyond the
year 9999) is refused. Called by the registry for objects that arrive as messages; what was decoded from JSON is in this form.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from wherry.api import jsontext, quantity, schema
from wherry.api.decode import same_when_empty
from wherry.api.errors import BadRequest

_MIN_SECONDS, _MAX_SECONDS = -62135596800, 253402300799  # the years 1 to 9999
_MICRO_TIME = "wherry.meta.v1.MicroTime"
_TIMES = ("wherry.meta.v1.Time", _MICRO_TIME)
_RAW = ("wherry.meta.runtime.RawExtension", "wherry.meta.v1.FieldsV1", "wherry.apiextensions.v1.JSON")
_QUANTITY = "wherry.meta.resource.Quantity"


def normalise(message: Message) -> None:
    """In place. Raises BadRequest, which names the field."""
    _walk(message, _plan(schema.descriptor_of(type(message))), "")


# (JSON name, how it repeats, whether empty is the same as absent, the type of its values), by field number
_ONE, _LIST, _MAP = 0, 1, 2
_Plan = dict[int, tuple[str, int, bool, Descriptor]]


@cache
def _plan(descriptor: Descriptor) -> _Plan:
    plan: _Plan = {}
    for field in descriptor.fields:
        if field.message_type is None:
            continue
        if schema.is_map(field):
            value = schema.map_value(field)
            if value.message_type is not None:
                plan[field.number] = (field.json_name, _MAP, False, schema.sub(value))
        elif field.is_repeated:
            plan[field.number] = (field.json_name, _LIST, False, schema.sub(field))
        else:
            kind = schema.sub(field).full_name
            drop = schema.rules(field).inline or kind in _TIMES or kind in _RAW or same_when_empty(field)
            plan[field.number] = (field.json_name, _ONE, drop, schema.sub(field))
    return plan


def _walk(message: Any, plan: _Plan, path: str) -> None:
    if not plan:
        return
    for field, value in message.ListFields():
        step = plan.get(field.number)
        if step is None:
            continue
        name, repeats, drop, descriptor = step
        if repeats == _ONE:
            if value.ByteSize() or not drop:
                _value(value, descriptor, path, name)
            if drop and (not value.ByteSize() or (descriptor.full_name == _QUANTITY and value.string == "0")):
                message.ClearField(field.name)
        elif repeats == _LIST:
            for index, item in enumerate(value):
                _value(item, descriptor, path, f"{name}[{index}]")
        else:
            for key in value:
                _value(value[key], descriptor, path, f"{name}[{key}]")


def _value(value: Any, descriptor: Descriptor, path: str, name: str) -> None:
    full = descriptor.full_name
    if full == _QUANTITY:
        try:
            written = quantity.canonical(value.string or "0")
        except ValueError as error:
            raise BadRequest(f'{path}{name}: bad quantity "{value.string[:60]}": {error}') from error
        if written != value.string:
            value.string = written
    elif full in _TIMES:
        if not _MIN_SECONDS <= value.seconds <= _MAX_SECONDS or not 0 <= value.nanos < 10**9:
            raise BadRequest(f"{path}{name}: {value.seconds} seconds and {value.nanos} nanoseconds are no time")
        shown = value.nanos // 1000 * 1000 if full == _MICRO_TIME else 0  # what JSON tells of it
        if value.nanos != shown:
            value.nanos = shown
    elif full in _RAW:
        try:
            jsontext.load(value.raw or b"null")
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"{path}{name}: no JSON: {error}") from error
    else:
        _walk(value, _plan(descriptor), f"{path}{name}.")
