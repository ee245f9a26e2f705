"""From a parsed expression to a typed one: names are resolved, macros become loops, calls know which functions they may be. Pure.

What does not fit is a CompileError at its place, so that a rule with a mistake is refused when it is written and not when it
runs. A value of unknown type (dyn) fits everywhere; then the function is chosen when the expression runs. Called by `program`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wherry.api.cel import types
from wherry.api.cel.overloads import Functions, Overload
from wherry.api.cel.syntax import Call, CompileError, Ident, ListNode, Literal, MapNode, Node, Select, Struct, Uint
from wherry.api.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DYN,
    INT,
    NULL,
    STRING,
    UINT,
    Type,
    bind,
    fits,
    join,
    list_of,
    map_of,
    optional_of,
)
from wherry.api.cel.values import TypeValue, parse_duration, parse_timestamp

_TYPE_NAMES = {
    "bool": BOOL, "int": INT, "uint": UINT, "double": DOUBLE, "string": STRING, "bytes": BYTES, "list": list_of(DYN),
    "map": map_of(DYN, DYN), "null_type": NULL, "type": types.TYPE,
}  # fmt: skip
_QUALIFIED_TYPES = {
    "google.protobuf.Timestamp": types.TIMESTAMP, "google.protobuf.Duration": types.DURATION,
    "net.IP": types.opaque("net.IP"), "net.CIDR": types.opaque("net.CIDR"), "kubernetes.URL": types.opaque("kubernetes.URL"),
    "kubernetes.Quantity": types.opaque("kubernetes.Quantity"),
}  # fmt: skip
_KEYS = ("int", "uint", "bool", "string", "dyn", "param")
_QUANTIFIERS = {"all": "all", "exists": "exists", "exists_one": "one", "existsOne": "one"}
_TRANSFORMS = {"transformList": "map", "transformMap": "to_map", "transformMapEntry": "to_entries"}


@dataclass(slots=True, eq=False)
class Typed:
    """A node with its type. `op` says what `evaluate` does with `args`; `data` is what it needs besides.

    const: data is the value. var: the slot. select, select? and has: the name in the data. call: the overloads and the function's
    name. if, and, or, list, map, loop, bind: see `evaluate`."""

    op: str
    type: Type
    position: int
    args: list[Typed] = field(default_factory=list)
    data: Any = None


@dataclass(frozen=True, slots=True)
class Loop:
    """A comprehension: `first` and `second` are the slots of its variables (second: -1 for none). The args of its node are the
    range and then, in this order, those of `filter`, `key` and `body` that there are."""

    kind: str
    first: int
    second: int
    filtered: bool = False


# The type of what `Name{...}` makes; None for a name that there is not.
Structs = Callable[[str], Type | None]


class Checker:
    def __init__(
        self, source: str, functions: Functions, variables: Mapping[str, Type], structs: Structs | None = None
    ) -> None:
        self._source = source
        self._structs = structs
        self._functions = functions
        self._scope: dict[str, tuple[int, Type]] = {
            name: (slot, found) for slot, (name, found) in enumerate(variables.items())
        }
        self.slots = len(self._scope)
        self.used: set[str] = set()
        self._shadowed: set[str] = set()

    def error(self, node: Node, message: str) -> CompileError:
        return CompileError(self._source, node.position, message)

    def check(self, node: Node) -> Typed:
        if isinstance(node, Literal):
            return Typed("const", _type_of(node.value), node.position, data=node.value)
        if isinstance(node, Ident):
            return self._ident(node)
        if isinstance(node, Select):
            return self._select(node)
        if isinstance(node, ListNode):
            return self._list(node)
        if isinstance(node, MapNode):
            return self._map(node)
        if isinstance(node, Struct):
            return self._struct(node)
        assert isinstance(node, Call)
        macro = self._macro(node)
        return macro if macro is not None else self._call(node)

    # names

    def _ident(self, node: Ident) -> Typed:
        found = self._scope.get(node.name)
        if found is not None:
            if node.name not in self._shadowed:
                self.used.add(node.name)
            return Typed("var", found[1], node.position, data=found[0])
        if node.name in _TYPE_NAMES:
            return Typed("const", Type("type", (_TYPE_NAMES[node.name],)), node.position, data=TypeValue(node.name))
        raise self.error(node, f"undeclared reference to '{node.name}' (in container '')")

    def _select(self, node: Select) -> Typed:
        name = _qualified(node)
        if name in _QUALIFIED_TYPES and name.partition(".")[0] not in self._scope:
            return Typed("const", Type("type", (_QUALIFIED_TYPES[name],)), node.position, data=TypeValue(name))
        operand = self.check(node.operand)
        found, data = self._field(node, operand.type, node.field)
        optional = node.optional or operand.type.kind == "optional"
        if optional and found.kind != "optional":
            found = optional_of(found)
        return Typed("select?" if optional else "select", found, node.position, [operand], data)

    def _field(self, node: Node, of: Type, name: str) -> tuple[Type, tuple[str, Any]]:
        """The type of a field, its name in the data, and how its plain value is converted."""
        if of.kind == "optional":
            return self._field(node, of.params[0], name)
        if of.kind == "dyn":
            return DYN, (name, None)
        if of.kind == "map" and of.params[0].kind in ("string", "dyn"):
            return of.params[1], (name, None)
        if of.kind == "object":
            fields = of.fields() if of.fields is not None else {}
            found = fields.get(name)
            if found is None:
                raise self.error(node, f"undefined field '{name}'")
            return found, (of.data_names.get(name, name), found.convert)
        raise self.error(node, f"type '{of}' does not support field selection")

    # literals

    def _list(self, node: ListNode, *, mixed: bool = False) -> Typed:
        items: list[Typed] = []
        found: Type | None = DYN if mixed else None
        for item, optional in zip(node.items, node.optional, strict=True):
            typed = self.check(item)
            kind = self._inside(item, typed.type) if optional else typed.type
            found = self._same(item, found, kind)
            items.append(typed)
        return Typed("list", list_of(found or DYN, len(items)), node.position, items, tuple(node.optional))

    def _map(self, node: MapNode) -> Typed:
        args: list[Typed] = []
        keys: Type | None = None
        values: Type | None = None
        for key, value, optional in node.entries:
            typed_key, typed_value = self.check(key), self.check(value)
            if typed_key.type.kind not in _KEYS:
                raise self.error(key, f"unsupported map key type: {typed_key.type}")
            keys = self._same(key, keys, typed_key.type)
            values = self._same(value, values, self._inside(value, typed_value.type) if optional else typed_value.type)
            args += (typed_key, typed_value)
        found = map_of(keys or DYN, values or DYN, len(node.entries))
        return Typed("map", found, node.position, args, tuple(optional for _, _, optional in node.entries))

    def _struct(self, node: Struct) -> Typed:
        made = self._structs(node.name) if self._structs is not None else None
        if made is None:
            raise self.error(node, f"undeclared reference to '{node.name}' (in container '')")
        args: list[Typed] = []
        for name, value, optional in node.entries:
            wanted, _ = self._field(value, made, name)
            typed = self.check(value)
            given = self._inside(value, typed.type) if optional else typed.type
            if not fits(wanted, given, {}):
                raise self.error(value, f"expected type of field '{name}' is '{wanted}' but provided type is '{given}'")
            args.append(typed)
        names = tuple((name, optional) for name, _, optional in node.entries)
        return Typed("struct", made, node.position, args, (node.name, names))

    def _inside(self, node: Node, found: Type) -> Type:
        if found.kind == "dyn":
            return DYN
        if found.kind != "optional":
            raise self.error(node, f"expected type 'optional_type' but found '{found}'")
        return found.params[0]

    def _same(self, node: Node, before: Type | None, now: Type) -> Type:
        if before is None:
            return now
        joined = join(before, now)
        if joined is None:
            raise self.error(node, f"expected type '{before}' but found '{now}'")
        return joined

    # calls

    def _call(self, node: Call) -> Typed:
        name = node.function
        if name == "_?_:_":
            return self._conditional(node)
        if name in ("_&&_", "_||_"):
            args = [self._expect(arg, BOOL, name, node) for arg in node.args]
            return Typed("and" if name == "_&&_" else "or", BOOL, node.position, args)
        target, namespace = node.target, ""
        if target is not None:
            namespace = _qualified(target)
            full = f"{namespace}.{name}"
            if (
                namespace
                and namespace.partition(".")[0] not in self._scope
                and self._functions.find(full, member=False)
            ):
                name, target = full, None
        args = [self.check(target)] if target is not None else []
        for arg in node.args:
            # A format takes values of any types in one list; elsewhere a mixed list is a mistake.
            mixed = name == "format" and isinstance(arg, ListNode)
            args.append(self._list(arg, mixed=True) if mixed and isinstance(arg, ListNode) else self.check(arg))
        return self._overload(node, name, args, member=target is not None)

    def _overload(self, node: Node, name: str, args: list[Typed], *, member: bool) -> Typed:
        known = self._functions.find(name, member=member)
        if not known:
            if not self._functions.knows(name):
                raise self.error(node, f"undeclared reference to '{name}' (in container '')")
            raise self.error(node, self._no_overload(name, args, member))
        chosen: list[Overload] = []
        result: Type | None = None
        for overload in known:
            bound: types.Bindings = {}
            if len(overload.params) == len(args) and all(
                fits(param, arg.type, bound) for param, arg in zip(overload.params, args, strict=True)
            ):
                chosen.append(overload)
                given = bind(overload.result, bound)
                result = given if result is None or (str(result) == str(given)) else DYN
        if result is None:
            raise self.error(node, self._no_overload(name, args, member))
        self._check_literals(node, name, args)
        return Typed("call", result, node.position, args, (name, tuple(chosen)))

    def _no_overload(self, name: str, args: Sequence[Typed], member: bool) -> str:
        shown = [str(arg.type) for arg in args]
        called = f"{shown[0]}.({', '.join(shown[1:])})" if member else f"({', '.join(shown)})"
        return f"found no matching overload for '{name}' applied to '{called}'"

    def _check_literals(self, node: Node, name: str, args: list[Typed]) -> None:
        """A constant that could never be read is a mistake now, and not later."""
        last = args[-1] if args else None
        if last is None or last.op != "const" or not isinstance(last.data, str):
            return
        try:
            if name in ("matches", "find", "findAll") and len(args) == 2:
                from wherry.api.cel import regex

                regex.compiled(last.data)
            elif name == "duration":
                parse_duration(last.data)
            elif name == "timestamp":
                parse_timestamp(last.data)
        except Exception as error:
            what = "matches" if name in ("matches", "find", "findAll") else name
            raise CompileError(self._source, last.position, f"invalid {what} argument: {error}") from error

    def _conditional(self, node: Call) -> Typed:
        test = self._expect(node.args[0], BOOL, "_?_:_", node)
        yes, no = self.check(node.args[1]), self.check(node.args[2])
        joined = join(yes.type, no.type)
        if joined is None:
            applied = f"({test.type}, {yes.type}, {no.type})"
            raise self.error(node, f"found no matching overload for '_?_:_' applied to '{applied}'")
        return Typed("if", joined, node.position, [test, yes, no])

    def _expect(self, arg: Node, wanted: Type, function: str, node: Node) -> Typed:
        typed = self.check(arg)
        if typed.type.kind not in (wanted.kind, "dyn"):
            raise self.error(arg, f"expected type '{wanted}' but found '{typed.type}'")
        return typed

    # macros

    def _macro(self, node: Call) -> Typed | None:
        name, args, target = node.function, node.args, node.target
        if target is None:
            return self._has(node) if name == "has" and len(args) == 1 else None
        if _qualified(target) == "cel" and name == "bind" and len(args) == 3:
            return self._bind(node)
        if name in ("optMap", "optFlatMap") and len(args) == 2:
            return self._optional_map(node)
        two = len(args) >= 3 and isinstance(args[1], Ident)
        if name in _QUANTIFIERS and len(args) in (2, 3):
            if len(args) == 3 and not two:
                raise self.error(args[1], "argument must be a simple name")
            return self._loop(node, _QUANTIFIERS[name], args[-1], names=args[:-1])
        if name == "map" and len(args) in (2, 3):
            return self._loop(node, "map", args[-1], names=args[:1], test=args[1] if len(args) == 3 else None)
        if name == "filter" and len(args) == 2:
            return self._loop(node, "filter", None, names=args[:1], test=args[1])
        if name in _TRANSFORMS and len(args) in (3, 4):
            test = args[2] if len(args) == 4 else None
            return self._loop(node, _TRANSFORMS[name], args[-1], names=args[:2], test=test)
        return None

    def _has(self, node: Call) -> Typed:
        arg = node.args[0]
        if not isinstance(arg, Select) or arg.optional:
            raise self.error(arg, "invalid argument to has() macro")
        operand = self.check(arg.operand)
        _, data = self._field(arg, operand.type, arg.field)
        return Typed("has", BOOL, node.position, [operand], data)

    def _bind(self, node: Call) -> Typed:
        value = self.check(node.args[1])
        with _Scope(self, node.args[0], value.type) as slot:
            body = self.check(node.args[2])
        return Typed("bind", body.type, node.position, [value, body], slot)

    def _optional_map(self, node: Call) -> Typed:
        assert node.target is not None
        target = self.check(node.target)
        inner = self._inside(node.target, target.type)
        with _Scope(self, node.args[0], inner) as slot:
            body = self.check(node.args[1])
        flat = node.function == "optFlatMap"
        found = body.type if flat else optional_of(body.type)
        if flat and found.kind not in ("optional", "dyn"):
            raise self.error(node.args[1], f"expected type 'optional_type' but found '{found}'")
        return Typed("optMap", found, node.position, [target, body], (slot, flat))

    def _loop(
        self, node: Call, kind: str, body: Node | None, *, names: Sequence[Node], test: Node | None = None
    ) -> Typed:
        assert node.target is not None
        over = self.check(node.target)
        items, limit = over.type, over.type.max_size
        if items.kind == "list":
            first, second = (items.params[0], None) if len(names) == 1 else (INT, items.params[0])
        elif items.kind == "map":
            first, second = items.params[0], items.params[1] if len(names) == 2 else None
        elif items.kind == "dyn":
            first, second = DYN, DYN if len(names) == 2 else None
        else:
            raise self.error(
                node.target,
                f"expression of type '{items}' cannot be range of a comprehension (must be list, map, or dynamic)",
            )
        args, scopes = [over], [_Scope(self, names[0], first)]
        if second is not None:
            scopes.append(_Scope(self, names[1], second))
        slots = [scope.__enter__() for scope in scopes]
        if test is not None:
            args.append(self._expect(test, BOOL, kind, node))
        found: Type = BOOL
        if kind == "to_entries":
            assert body is not None
            entries = self.check(body)
            args.append(entries)
            found = entries.type if entries.type.kind == "map" else map_of(DYN, DYN)
        elif kind in ("map", "to_map"):
            assert body is not None
            typed = self.check(body)
            args.append(typed)
            key = INT if items.kind == "list" else first
            found = list_of(typed.type, limit) if kind == "map" else map_of(key, typed.type, limit)
        elif kind == "filter":
            found = list_of(first, limit)
        else:
            assert body is not None
            args.append(self._expect(body, BOOL, kind, node))
        for scope in reversed(scopes):
            scope.__exit__()
        loop = Loop(kind, slots[0], slots[1] if len(slots) > 1 else -1, test is not None)
        return Typed("loop", found, node.position, args, loop)


class _Scope:
    """A variable of a macro, seen inside it alone."""

    def __init__(self, checker: Checker, name: Node, found: Type) -> None:
        if not isinstance(name, Ident):
            raise checker.error(name, "argument must be a simple name")
        self._checker, self._name, self._type = checker, name.name, found
        self._before: tuple[int, Type] | None = None

    def __enter__(self) -> int:
        scope = self._checker._scope
        self._before = scope.get(self._name)
        self._shadowing = self._name not in self._checker._shadowed
        slot = self._checker.slots
        self._checker.slots += 1
        scope[self._name] = (slot, self._type)
        self._checker._shadowed.add(self._name)
        return slot

    def __exit__(self, *_: object) -> None:
        scope = self._checker._scope
        if self._before is None:
            del scope[self._name]
        else:
            scope[self._name] = self._before
        if self._shadowing:
            self._checker._shadowed.discard(self._name)


def _qualified(node: Node) -> str:
    if isinstance(node, Ident):
        return node.name
    if isinstance(node, Select) and not node.optional:
        inner = _qualified(node.operand)
        return f"{inner}.{node.field}" if inner else ""
    return ""


def _type_of(value: Any) -> Type:
    if value is None:
        return NULL
    if isinstance(value, str | bytes):
        return (STRING if isinstance(value, str) else BYTES).sized(len(value))
    return {bool: BOOL, int: INT, Uint: UINT, float: DOUBLE}[type(value)]
