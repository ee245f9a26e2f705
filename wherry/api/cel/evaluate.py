"""A typed expression as a Python function: each node becomes a closure over those below it. Called by `program`.

`Frame` holds the values of the variables and counts what the run costs, as CEL counts it: one for a name or a field, ten for a
list that is made, what its table entry says for a function. Who exceeds the limit is stopped. Errors on one side of && and || are
forgotten when the other side decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from wherry.api.cel.check import Loop, Typed
from wherry.api.cel.overloads import Overload, one
from wherry.api.cel.types import Type
from wherry.api.cel.values import NONE, BudgetExceeded, EvaluationError, Made, Optional, kind_of, size_of

LIST_COST, MAP_COST, STRUCT_COST = 10, 30, 40
Run = Callable[["Frame"], Any]


class Frame:
    """One run of one expression."""

    __slots__ = ("cost", "limit", "values")

    def __init__(self, values: list[Any], limit: float) -> None:
        self.values = values
        self.cost = 0
        self.limit = limit

    def spend(self, cost: int) -> None:
        self.cost += cost
        if self.cost > self.limit:
            raise BudgetExceeded


def build(node: Typed) -> Run:
    return _BUILDERS[node.op](node)


def _const(node: Typed) -> Run:
    value = node.data
    return lambda frame: value


def _var(node: Typed) -> Run:
    slot = node.data

    def run(frame: Frame) -> Any:
        frame.cost += 1
        return frame.values[slot]

    return run


def _missing(name: str) -> EvaluationError:
    return EvaluationError(f"no such key: {name}")


def _member(value: Any, name: str) -> Any:
    """A field that must be there."""
    if not isinstance(value, dict):
        raise EvaluationError("no such overload" if value is not None else f"no such key: {name}")
    if name not in value:
        raise _missing(name)
    return value[name]


def _select(node: Typed) -> Run:
    operand = build(node.args[0])
    name, convert = node.data

    def run(frame: Frame) -> Any:
        value = _member(operand(frame), name)
        frame.cost += 1
        return value if convert is None else convert(value)

    return run


def _select_optional(node: Typed) -> Run:
    operand = build(node.args[0])
    name, convert = node.data

    def run(frame: Frame) -> Any:
        value = operand(frame)
        frame.cost += 1
        if isinstance(value, Optional):
            if not value.present:
                return NONE
            value = value.value
        if not isinstance(value, dict):
            raise EvaluationError("no such overload")
        if name not in value:
            return NONE
        found = value[name] if convert is None else convert(value[name])
        return found if isinstance(found, Optional) else Optional(True, found)

    return run


def _has(node: Typed) -> Run:
    operand = build(node.args[0])
    name, _ = node.data

    def run(frame: Frame) -> Any:
        value = operand(frame)
        if isinstance(value, Optional):
            if not value.present:
                return False
            value = value.value
        if not isinstance(value, dict):
            raise EvaluationError("no such overload")
        return name in value

    return run


def matches(wanted: Type, value: Any) -> bool:
    """Whether a value that turned up at run time is of the type."""
    kind = wanted.kind
    if kind in ("dyn", "param"):
        return True
    found = kind_of(value)
    if kind == "opaque":
        return found == wanted.name
    return found == ("map" if kind == "object" else kind)


def _call(node: Typed) -> Run:
    name, overloads = node.data
    args = [build(arg) for arg in node.args]
    sure = len(overloads) == 1 and all(
        arg.type.kind not in ("dyn", "optional", "null")
        and not (arg.op in ("var", "select") and arg.type.kind == "param")
        for arg in node.args
    )
    if sure:
        return _direct(args, overloads[0])
    return _chosen(name, args, overloads)


def _direct(args: Sequence[Run], overload: Overload) -> Run:
    call, cost = overload.run, overload.cost
    if len(args) == 2:
        left, right = args

        def binary(frame: Frame) -> Any:
            a, b = left(frame), right(frame)
            frame.spend(1 if cost is one else cost((size_of(a), size_of(b))))
            return call(a, b)

        return binary

    def run(frame: Frame) -> Any:
        values = [arg(frame) for arg in args]
        frame.spend(1 if cost is one else cost([size_of(value) for value in values]))
        return call(*values)

    return run


def _chosen(name: str, args: Sequence[Run], overloads: Sequence[Overload]) -> Run:
    """The first function that takes these values."""

    def run(frame: Frame) -> Any:
        values = [arg(frame) for arg in args]
        for overload in overloads:
            if all(matches(param, value) for param, value in zip(overload.params, values, strict=True)):
                frame.spend(overload.cost([size_of(value) for value in values]))
                return overload.run(*values)
        raise EvaluationError("no such overload")

    return run


def _if(node: Typed) -> Run:
    test, yes, no = (build(arg) for arg in node.args)

    def run(frame: Frame) -> Any:
        found = test(frame)
        if found is True:
            return yes(frame)
        if found is False:
            return no(frame)
        raise EvaluationError("no such overload")

    return run


def _logic(decisive: bool) -> Callable[[Typed], Run]:
    """`decisive` settles it alone: True for ||, False for &&."""

    def builder(node: Typed) -> Run:
        left, right = (build(arg) for arg in node.args)

        def run(frame: Frame) -> Any:
            try:
                first = left(frame)
            except BudgetExceeded:
                raise
            except EvaluationError as error:
                if right(frame) is decisive:
                    return decisive
                raise error from None
            if first is decisive:
                return decisive
            second = right(frame)
            if first is not (not decisive) and second is not decisive:
                raise EvaluationError("no such overload")
            if type(second) is not bool:
                raise EvaluationError("no such overload")
            return second

        return run

    return builder


def _list(node: Typed) -> Run:
    items = list(zip((build(arg) for arg in node.args), node.data, strict=True))

    def run(frame: Frame) -> Any:
        frame.spend(LIST_COST)
        out = []
        for item, optional in items:
            value = item(frame)
            if not optional:
                out.append(value)
            elif _opened(value).present:
                out.append(value.value)
        return out

    return run


def _map(node: Typed) -> Run:
    args = [build(arg) for arg in node.args]
    entries = list(zip(args[::2], args[1::2], node.data, strict=True))

    def run(frame: Frame) -> Any:
        frame.spend(MAP_COST)
        out: dict[Any, Any] = {}
        for key, value, optional in entries:
            name, found = map_key(key(frame)), value(frame)
            if optional:
                if not _opened(found).present:
                    continue
                found = found.value
            if name in out:
                raise EvaluationError(f"insert failed: key {name} already exists")
            out[name] = found
        return out

    return run


def _struct(node: Typed) -> Run:
    type_name, names = node.data
    entries = [(name, build(arg), optional) for arg, (name, optional) in zip(node.args, names, strict=True)]

    def run(frame: Frame) -> Any:
        frame.spend(STRUCT_COST)
        out = Made()
        out.type_name = type_name
        for name, value, optional in entries:
            found = value(frame)
            if optional:
                if not _opened(found).present:
                    continue
                found = found.value
            out[name] = found
        return out

    return run


def map_key(value: Any) -> Any:
    if type(value) is float and value == int(value):
        return int(value)
    if kind_of(value) not in ("int", "uint", "bool", "string"):
        raise EvaluationError("unsupported key type")
    return value


def _opened(value: Any) -> Optional:
    if not isinstance(value, Optional):
        raise EvaluationError("no such overload")
    return value


def _bind(node: Typed) -> Run:
    value, body = (build(arg) for arg in node.args)
    slot = node.data

    def run(frame: Frame) -> Any:
        frame.values[slot] = value(frame)
        return body(frame)

    return run


def _optional_map(node: Typed) -> Run:
    target, body = (build(arg) for arg in node.args)
    slot, flat = node.data

    def run(frame: Frame) -> Any:
        found = _opened(target(frame))
        if not found.present:
            return NONE
        frame.values[slot] = found.value
        out = body(frame)
        return _opened(out) if flat else Optional(True, out)

    return run


# loops

STEP_COST = {"all": 3, "exists": 4, "one": 2, "map": 12, "filter": 12, "to_map": 3, "to_entries": 3}


def _loop(node: Typed) -> Run:
    loop: Loop = node.data
    over = build(node.args[0])
    rest = [build(arg) for arg in node.args[1:]]
    test = rest.pop(0) if loop.filtered else None
    body = rest.pop(0) if rest else None
    finish = _FINISH[loop.kind]
    step = STEP_COST[loop.kind]

    def items(frame: Frame) -> Any:
        """Sets the variables for each element in turn; gives the key (or index) and the element."""
        found = over(frame)
        values = frame.values
        if isinstance(found, list):
            pairs: Any = enumerate(found)
        elif isinstance(found, dict):
            pairs = found.items()
        else:
            raise EvaluationError("no such overload")
        keys = isinstance(found, dict)
        for key, item in list(pairs):
            frame.spend(step)
            if loop.second >= 0:
                values[loop.first], values[loop.second] = key, item
            else:
                item = key if keys else item
                values[loop.first] = item
            if test is not None:
                passed = test(frame)
                if passed is False:
                    continue
                if passed is not True:
                    raise EvaluationError("no such overload")
            yield key, item

    return lambda frame: finish(frame, items(frame), body)


def _all(frame: Frame, items: Any, body: Run) -> Any:
    return _quantified(frame, items, body, decisive=False)


def _exists(frame: Frame, items: Any, body: Run) -> Any:
    return _quantified(frame, items, body, decisive=True)


def _quantified(frame: Frame, items: Any, body: Run, *, decisive: bool) -> Any:
    failed: EvaluationError | None = None
    for _ in items:
        try:
            found = body(frame)
            if found is decisive:
                return decisive
            if type(found) is not bool:
                raise EvaluationError("no such overload")
        except BudgetExceeded:
            raise
        except EvaluationError as error:
            failed = error
    if failed is not None:
        raise failed
    return not decisive


def _one(frame: Frame, items: Any, body: Run) -> Any:
    count = 0
    for _ in items:
        found = body(frame)
        if type(found) is not bool:
            raise EvaluationError("no such overload")
        count += found
    return count == 1


def _mapped(frame: Frame, items: Any, body: Run) -> Any:
    return [body(frame) for _ in items]


def _filtered(frame: Frame, items: Any, body: Run) -> Any:
    return [item for _, item in items]


def _to_map(frame: Frame, items: Any, body: Run) -> Any:
    return {key: body(frame) for key, _ in items}


def _to_entries(frame: Frame, items: Any, body: Run) -> Any:
    out: dict[Any, Any] = {}
    for _ in items:
        entry = body(frame)
        if not isinstance(entry, dict):
            raise EvaluationError("no such overload")
        for key, value in entry.items():
            if key in out:
                raise EvaluationError(f"insert failed: key {key} already exists")
            out[key] = value
    return out


_FINISH: dict[str, Callable[..., Any]] = {
    "all": _all, "exists": _exists, "one": _one, "map": _mapped, "filter": _filtered, "to_map": _to_map,
    "to_entries": _to_entries,
}  # fmt: skip
_BUILDERS: dict[str, Callable[[Typed], Run]] = {
    "const": _const, "var": _var, "select": _select, "select?": _select_optional, "has": _has, "call": _call, "if": _if,
    "and": _logic(False), "or": _logic(True), "list": _list, "map": _map, "struct": _struct, "bind": _bind,
    "optMap": _optional_map, "loop": _loop,
}  # fmt: skip
