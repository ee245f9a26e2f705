"""The text of a CEL expression to its tree: tokens, precedence, literals. Pure; called by `program.compile`.

The grammar is that of the CEL specification with optional access (`a.?b`, `a[?b]`, `[?a]`, `{?k: v}`) and quoted field names.
Macros stay calls here: `check` knows them. Depth and length are bounded, since whoever writes a definition writes these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

MAX_DEPTH = 120
MAX_CHARS = 100_000


class CompileError(Exception):
    """What is wrong with an expression, as CEL words it: `ERROR: <input>:1:6: undefined field 'x'` and the place."""

    def __init__(self, source: str, position: int, message: str) -> None:
        line_start = source.rfind("\n", 0, position) + 1
        line_end = source.find("\n", position)
        line = source[line_start : line_end if line_end >= 0 else len(source)]
        number, column = source.count("\n", 0, position) + 1, position - line_start
        self.short = message
        super().__init__(f"ERROR: <input>:{number}:{column + 1}: {message}\n | {line}\n | {'.' * column}^")


class Uint(int):
    """An unsigned integer; a plain int is a signed one."""


@dataclass(slots=True, eq=False)
class Node:
    position: int


@dataclass(slots=True, eq=False)
class Literal(Node):
    value: Any


@dataclass(slots=True, eq=False)
class Ident(Node):
    name: str


@dataclass(slots=True, eq=False)
class Select(Node):
    operand: Node
    field: str
    optional: bool = False


@dataclass(slots=True, eq=False)
class Call(Node):
    """`target` is None for a global function. Operators are calls of `_+_` and the like, as in CEL's own trees."""

    function: str
    target: Node | None
    args: list[Node]


@dataclass(slots=True, eq=False)
class ListNode(Node):
    items: list[Node]
    optional: list[bool]


@dataclass(slots=True, eq=False)
class MapNode(Node):
    entries: list[tuple[Node, Node, bool]]


@dataclass(slots=True, eq=False)
class Struct(Node):
    """`Name{field: value}`: a value of a type that the caller has declared."""

    name: str
    entries: list[tuple[str, Node, bool]]


class Token(NamedTuple):
    kind: str
    text: str
    position: int


_TOKENS = re.compile(
    r"""(?P<space>[\t\n\f\r ]+|//[^\n]*)
    |(?P<float>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+(?:[eE][+-]?\d+)?)
    |(?P<int>0[xX][0-9a-fA-F]+[uU]?|\d+[uU]?)
    |(?P<string>(?:[bB][rR]?|[rR][bB]?)?(?:\"\"\"|'''|\"|'))
    |(?P<ident>[_a-zA-Z][_a-zA-Z0-9]*)
    |(?P<quoted>`[a-zA-Z0-9_.\-/ ]+`)
    |(?P<op>&&|\|\||==|!=|<=|>=|[<>!?:.,()\[\]{}+\-*/%])""",
    re.VERBOSE | re.ASCII,
)
_RESERVED = frozenset((
    "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package", "namespace",
    "return", "var", "void", "while",
))  # fmt: skip
_RELATIONS = {"<": "_<_", "<=": "_<=_", ">": "_>_", ">=": "_>=_", "==": "_==_", "!=": "_!=_", "in": "@in"}
_SUMS = {"+": "_+_", "-": "_-_"}
_PRODUCTS = {"*": "_*_", "/": "_/_", "%": "_%_"}
_ESCAPES = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "?": "?", '"': '"', "'": "'",
    "`": "`",
}  # fmt: skip


def parse(source: str) -> Node:
    """Raises CompileError."""
    if len(source) > MAX_CHARS:
        raise CompileError("", 0, f"expression code point size exceeds limit: size: {len(source)}, limit {MAX_CHARS}")
    return _Parser(source).whole()


def _tokens(source: str) -> Iterator[Token]:
    at = 0
    while at < len(source):
        match = _TOKENS.match(source, at)
        if match is None:
            raise CompileError(source, at, f"Syntax error: token recognition error at: {source[at]!r}")
        kind = str(match.lastgroup)
        if kind == "string":
            end = _string_end(source, match.group(), match.end(), at)
            yield Token("string", source[at:end], at)
            at = end
            continue
        if kind != "space":
            yield Token(kind, match.group(), at)
        at = match.end()
    yield Token("end", "<EOF>", len(source))


def _string_end(source: str, opening: str, start: int, begin: int) -> int:
    quote = opening.lstrip("bBrR")
    raw = "r" in opening.lower()[: len(opening) - len(quote)]
    at = start
    while at < len(source):
        if source.startswith(quote, at):
            return at + len(quote)
        if source[at] == "\\" and not raw:
            at += 1
        elif source[at] in "\r\n" and len(quote) == 1:
            break
        at += 1
    raise CompileError(source, begin, f"Syntax error: token recognition error at: '{source[begin : begin + 20]}'")


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = list(_tokens(source))
        self._at = 0
        self._depth = 0

    def whole(self) -> Node:
        found = self._expr()
        if self._peek().kind != "end":
            raise self._unexpected()
        return found

    # tokens

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _is(self, text: str) -> bool:
        token = self._tokens[self._at]
        return token.text == text and token.kind in ("op", "ident")

    def _take(self) -> Token:
        token = self._tokens[self._at]
        if token.kind != "end":
            self._at += 1
        return token

    def _accept(self, text: str) -> Token | None:
        return self._take() if self._is(text) else None

    def _expect(self, text: str) -> Token:
        if not self._is(text):
            raise self._unexpected(f"expecting '{text}'")
        return self._take()

    def _unexpected(self, wanted: str = "") -> CompileError:
        token = self._peek()
        more = f" {wanted}" if wanted else ""
        return CompileError(self._source, token.position, f"Syntax error: mismatched input '{token.text}'{more}")

    # precedence, from the loosest

    def _expr(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise CompileError(self._source, self._peek().position, f"expression recursion limit exceeded: {MAX_DEPTH}")
        found = self._or()
        question = self._accept("?")
        if question:
            yes = self._or()
            self._expect(":")
            found = Call(question.position, "_?_:_", None, [found, yes, self._expr()])
        self._depth -= 1
        return found

    def _or(self) -> Node:
        return self._balanced("||", "_||_", self._and)

    def _and(self) -> Node:
        return self._balanced("&&", "_&&_", self._relation)

    def _balanced(self, operator: str, function: str, inner: Any) -> Node:
        """A long chain as a balanced tree: its depth is that of its logarithm."""
        terms, places = [inner()], []
        while (token := self._accept(operator)) is not None:
            places.append(token.position)
            terms.append(inner())

        def build(low: int, high: int) -> Node:
            if low == high:
                found: Node = terms[low]
                return found
            middle = (low + high + 1) // 2
            return Call(places[middle - 1], function, None, [build(low, middle - 1), build(middle, high)])

        return build(0, len(terms) - 1)

    def _relation(self) -> Node:
        return self._left(_RELATIONS, self._sum)

    def _sum(self) -> Node:
        return self._left(_SUMS, self._product)

    def _product(self) -> Node:
        return self._left(_PRODUCTS, self._unary)

    def _left(self, operators: dict[str, str], inner: Any) -> Node:
        found: Node = inner()
        length = 0
        while self._peek().kind in ("op", "ident") and self._peek().text in operators:
            token = self._take()
            length += 1
            if length > MAX_DEPTH:
                raise CompileError(self._source, token.position, f"expression recursion limit exceeded: {MAX_DEPTH}")
            found = Call(token.position, operators[token.text], None, [found, inner()])
        return found

    def _unary(self) -> Node:
        signs: list[Token] = []
        while self._peek().kind == "op" and self._peek().text in "!-":
            signs.append(self._take())
        if len(signs) > MAX_DEPTH:
            raise CompileError(self._source, signs[0].position, f"expression recursion limit exceeded: {MAX_DEPTH}")
        if signs and signs[-1].text == "-" and self._peek().kind in ("int", "float"):
            minus = signs.pop()
            token = self._take()
            found = self._member(Literal(minus.position, self._number(token, negative=True)))
        else:
            found = self._member(self._primary())
        for sign in reversed(signs):
            found = Call(sign.position, "!_" if sign.text == "!" else "-_", None, [found])
        return found

    def _member(self, found: Node) -> Node:
        links = 0
        while True:
            links += 1
            if links > MAX_DEPTH:
                raise CompileError(
                    self._source, self._peek().position, f"expression recursion limit exceeded: {MAX_DEPTH}"
                )
            if dot := self._accept("."):
                optional = self._accept("?") is not None
                name = self._take()
                if name.kind == "quoted":
                    found = Select(dot.position, found, name.text[1:-1], optional)
                    continue
                if name.kind != "ident" or name.text in ("in", "true", "false", "null"):
                    self._at -= 1
                    raise self._unexpected("expecting a field name")
                if not optional and self._is("("):
                    place = self._take().position
                    found = Call(place, name.text, found, self._arguments(")"))
                else:
                    found = Select(dot.position, found, name.text, optional)
            elif bracket := self._accept("["):
                optional = self._accept("?") is not None
                index = self._expr()
                self._expect("]")
                found = Call(bracket.position, "_[?_]" if optional else "_[_]", None, [found, index])
            elif self._is("{") and (name_of := _dotted(found)):
                found = Struct(self._take().position, name_of, self._fields())
            else:
                return found

    def _arguments(self, closing: str) -> list[Node]:
        found: list[Node] = []
        while not self._is(closing):
            found.append(self._expr())
            if not self._accept(","):
                break
        self._expect(closing)
        return found

    def _primary(self) -> Node:
        token = self._take()
        place = token.position
        if token.kind in ("int", "float"):
            return Literal(place, self._number(token, negative=False))
        if token.kind == "string":
            return Literal(place, self._string(token))
        if token.kind == "ident":
            if token.text in ("true", "false"):
                return Literal(place, token.text == "true")
            if token.text == "null":
                return Literal(place, None)
            if token.text in _RESERVED or token.text == "in":
                raise CompileError(self._source, place, f"Syntax error: reserved identifier: {token.text}")
            return self._named(token)
        if token.text == ".":
            return self._named(self._take())
        if token.text == "(":
            found = self._expr()
            self._expect(")")
            return found
        if token.text == "[":
            return self._list(place)
        if token.text == "{":
            return self._map(place)
        if token.kind != "end":
            self._at -= 1
        raise self._unexpected("expecting an expression")

    def _named(self, token: Token) -> Node:
        if token.kind != "ident":
            self._at -= token.kind != "end"
            raise self._unexpected("expecting a name")
        if self._is("("):
            place = self._take().position
            return Call(place, token.text, None, self._arguments(")"))
        return Ident(token.position, token.text)

    def _list(self, place: int) -> Node:
        items: list[Node] = []
        optional: list[bool] = []
        while not self._is("]"):
            optional.append(self._accept("?") is not None)
            items.append(self._expr())
            if not self._accept(","):
                break
        self._expect("]")
        return ListNode(place, items, optional)

    def _map(self, place: int) -> Node:
        entries: list[tuple[Node, Node, bool]] = []
        while not self._is("}"):
            optional = self._accept("?") is not None
            key = self._expr()
            self._expect(":")
            entries.append((key, self._expr(), optional))
            if not self._accept(","):
                break
        self._expect("}")
        return MapNode(place, entries)

    def _fields(self) -> list[tuple[str, Node, bool]]:
        entries: list[tuple[str, Node, bool]] = []
        while not self._is("}"):
            optional = self._accept("?") is not None
            name = self._take()
            if name.kind not in ("ident", "quoted"):
                self._at -= name.kind != "end"
                raise self._unexpected("expecting a field name")
            self._expect(":")
            entries.append((name.text[1:-1] if name.kind == "quoted" else name.text, self._expr(), optional))
            if not self._accept(","):
                break
        self._expect("}")
        return entries

    # literals

    def _number(self, token: Token, *, negative: bool) -> Any:
        text = token.text
        if token.kind == "float":
            return -float(text) if negative else float(text)
        unsigned = text[-1] in "uU"
        digits = text.rstrip("uU")
        number = int(digits, 16 if digits[:2].lower() == "0x" else 10) if len(digits) <= 40 else 1 << 80
        number = -number if negative else number
        if unsigned:
            if negative or number >= 1 << 64:
                raise CompileError(self._source, token.position, "invalid uint literal")
            return Uint(number)
        if not -(1 << 63) <= number < 1 << 63:
            raise CompileError(self._source, token.position, "invalid int literal")
        return number

    def _string(self, token: Token) -> Any:
        text = token.text
        body = text.lstrip("bBrR")
        prefix = text[: len(text) - len(body)].lower()
        width = 3 if len(body) >= 6 and body[:3] in ('"""', "'''") else 1
        body = body[width:-width]
        if "r" in prefix:
            return body.encode() if "b" in prefix else body
        return self._unescape(body, token.position, "b" in prefix)

    def _unescape(self, body: str, position: int, as_bytes: bool) -> Any:
        out: list[str] = []
        raw = bytearray()
        at = 0

        def put(code: int, *, byte: bool) -> None:
            if as_bytes:
                raw.extend(bytes((code,)) if byte else chr(code).encode())
            else:
                out.append(chr(code))

        while at < len(body):
            char = body[at]
            if char != "\\":
                put(ord(char), byte=False) if ord(char) < 0xD800 or ord(char) > 0xDFFF else None
                at += 1
                continue
            code = body[at + 1 : at + 2]
            at += 2
            if code in _ESCAPES:
                put(ord(_ESCAPES[code]), byte=False)
                continue
            length, base = {"x": (2, 16), "X": (2, 16), "u": (4, 16), "U": (8, 16)}.get(code, (3, 8))
            start = at - 1 if base == 8 else at
            digits = body[start : start + length]
            try:
                number = int(digits, base) if re.fullmatch(r"[0-9a-fA-F]+", digits) and len(digits) == length else -1
            except ValueError:
                number = -1
            short = base == 8 or length == 2
            if number < 0 or number > (255 if short else 0x10FFFF) or 0xD800 <= number <= 0xDFFF:
                raise CompileError(self._source, position, "invalid escape sequence in string literal")
            put(number, byte=short and as_bytes)
            at = start + length
        return bytes(raw) if as_bytes else "".join(out)


def _dotted(node: Node) -> str:
    """`a.b.C` of a chain of names; "" for anything else."""
    if isinstance(node, Ident):
        return node.name
    if isinstance(node, Select) and not node.optional:
        inner = _dotted(node.operand)
        return f"{inner}.{node.field}" if inner else ""
    return ""
