"""CEL: values, errors, types, costs. `cel-python` is the oracle for what it knows of the language."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.api.cel.program import compile
from wherry.api.cel.syntax import CompileError, Uint
from wherry.api.cel.types import BOOL, DYN, INT, STRING, Type, list_of, map_of, object_of
from wherry.api.cel.values import BudgetExceeded, Duration, EvaluationError

DATA: dict[str, Any] = {
    "a": [1, 2, 3],
    "b": "hello",
    "m": {"x": 1, "y": 2},
    "n": None,
    "f": 1.5,
    "t": True,
    "e": [],
    "s": ["b", "a"],
    "o": {"name": "web", "tags": ["x", "y"]},
}


def run(source: str, *, variables: dict[str, Type] | None = None, values: dict[str, Any] | None = None) -> Any:
    return compile(source, variables or {"self": DYN}).run(values or {"self": DATA}).value


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("1 + 2 * 3", 7),
        ("-7 / 2", -3),
        ("-7 % 3", -1),
        ("7u / 2u", Uint(3)),
        ("1.5 * 2.0", 3.0),
        ("1 - -1", 2),
        ("'a' + 'b'", "ab"),
        ("b'ab' + b'c'", b"abc"),
        ("[1] + [2]", [1, 2]),
        ("r'\\n'.size()", 2),
        ("'\\u00e9\\x41\\101'", "éAA"),
        ("'''a\nb'''", "a\nb"),
        ("0x1F", 31),
        ("1e3", 1000.0),
        ("'a' < 'b' ? 1 : 2", 1),
        ("!true || false", False),
        ("true || self.nope", True),
        ("self.nope || true", True),
        ("false && self.nope", False),
        ("self.nope && false", False),
        ("dyn(1) == 1.0", True),
        ("dyn(1) == true", False),
        ("dyn('1') == 1", False),
        ("null == self.n", True),
        ("1 in [1, 2]", True),
        ("'x' in self.m", True),
        ("'z' in self.m", False),
        ("1 in {1: 2}", True),
        ("self.a[0]", 1),
        ("self.m['x']", 1),
        ("self.m.y", 2),
        ("size(self.a) + self.b.size()", 8),
        ("has(self.b)", True),
        ("has(self.nope)", False),
        ("has(self.o.name) && !has(self.o.nope)", True),
        ("self.a.all(x, x > 0)", True),
        ("self.a.exists(x, x > 2)", True),
        ("self.a.exists_one(x, x > 2)", True),
        ("self.e.all(x, x)", True),
        ("self.a.map(x, x * x)", [1, 4, 9]),
        ("self.a.map(x, x > 1, x * x)", [4, 9]),
        ("self.a.filter(x, x % 2 == 1)", [1, 3]),
        ("self.m.all(k, k != 'z')", True),
        ("self.m.map(k, self.m[k])", [1, 2]),
        ("self.m.all(k, v, v > 0)", True),
        ("self.a.all(i, v, v == i + 1)", True),
        ("self.a.exists(x, x == 2 || self.nope)", True),
        ("self.a.transformList(i, v, i * v)", [0, 2, 6]),
        ("self.m.transformMap(k, v, v * 2)", {"x": 2, "y": 4}),
        ("self.m.transformMapEntry(k, v, {k + '2': v})", {"x2": 1, "y2": 2}),
        ("cel.bind(x, 3, x * x)", 9),
        ("int('42') + int(3.9) + int(timestamp('1970-01-01T00:00:09Z'))", 54),
        ("uint('3')", Uint(3)),
        ("double('1.5')", 1.5),
        ("string(1.0) + string(2) + string(true) + string(b'x')", "12truex"),
        ("bool('true')", True),
        ("string(duration('90s'))", "90s"),
        ("string(timestamp('2024-02-29T01:02:03.5Z'))", "2024-02-29T01:02:03.5Z"),
        ("type(1) == int && type('x') == string && type(null) == null_type", True),
        ("type([]) == list", True),
        ("duration('1h30m') - duration('30m')", Duration(3600 * 10**9)),
        ("duration('90m').getHours()", 1),
        ("timestamp('2024-02-29T23:30:00Z').getDate('Europe/Berlin')", 1),
        ("timestamp('2024-03-03T00:00:00Z').getDayOfWeek()", 0),
        ("timestamp('2024-01-01T00:00:00Z') + duration('24h') == timestamp('2024-01-02T00:00:00Z')", True),
        ("self.?nope.orValue('d')", "d"),
        ("self.?b.value()", "hello"),
        ("self.a[?7].hasValue()", False),
        ("self.?o.?name.orValue('')", "web"),
        ("self.?o.name.hasValue()", True),
        ("[?self.?b, ?self.?nope]", ["hello"]),
        ("optional.of(2).optMap(x, x + 1).value()", 3),
        ("optional.none().or(optional.of(1)).value()", 1),
        ("optional.ofNonZeroValue('').hasValue()", False),
        ("{?'k': self.?nope}", {}),
        ("'a,b,c'.split(',')", ["a", "b", "c"]),
        ("'a,b,c'.split(',', 2)", ["a", "b,c"]),
        ("['x','y'].join('-')", "x-y"),
        ("'hello'.charAt(1)", "e"),
        ("'hello'.indexOf('l')", 2),
        ("'hello'.lastIndexOf('l')", 3),
        ("'hello'.substring(1, 3)", "el"),
        ("' x '.trim()", "x"),
        ("'aXb'.lowerAscii() + 'aXb'.upperAscii()", "axbAXB"),
        ("'aaa'.replace('a', 'b', 2)", "bba"),
        ("'abc'.reverse()", "cba"),
        (
            "'%s is %d, %.2f, %x, %b, %e, %o'.format(['a', 3, 1.5, 255, 5, 1000.0, 8])",
            "a is 3, 1.50, ff, 101, 1.000000e+03, 10",
        ),
        ("'%s %s'.format([[1, 2], {'k': true}])", "[1, 2] {k: true}"),
        ("strings.quote('a\"b')", '"a\\"b"'),
        ("'abc123'.matches('[a-z]+[0-9]+')", True),
        ("'abc123'.find('[0-9]+')", "123"),
        ("'a1b2'.findAll('[0-9]')", ["1", "2"]),
        ("[3, 1, 2].min() + [3, 1].max() + [1, 2].sum()", 7),
        ("[1, 2].isSorted() && !self.s.isSorted()", True),
        ("[1, 2, 1].lastIndexOf(1)", 2),
        ("[3, 1, 2].sort()", [1, 2, 3]),
        ("[1, 1, 2].distinct()", [1, 2]),
        ("[1, 2, 3].slice(1, 2)", [2]),
        ("lists.range(3)", [0, 1, 2]),
        ("[[1], [2]].flatten()", [1, 2]),
        ("sets.contains([1, 2], [2])", True),
        ("sets.equivalent([1, 2], [2, 1, 1])", True),
        ("sets.intersects([1], [2])", False),
        ("url('https://u@h.example:8443/p%20q?a=1&a=2').getHost()", "h.example:8443"),
        ("url('https://[::1]:80/x').getHostname()", "::1"),
        ("url('/x?a=1&a=2').getQuery()", {"a": ["1", "2"]}),
        ("isURL('nope')", False),
        ("url('http://h/p%20q').getEscapedPath()", "/p%20q"),
        ("quantity('1.5Gi').add(quantity('512Mi')).asInteger()", 2 << 30),
        ("quantity('50k') == quantity('50000')", True),
        ("isQuantity('1x')", False),
        ("quantity('200M').compareTo(quantity('0.2G'))", 0),
        ("quantity('1.5').isInteger()", False),
        ("ip('::1').isLoopback() && ip('10.0.0.1').family() == 4", True),
        ("isIP('1.2.3')", False),
        ("isIP('::ffff:1.2.3.4')", False),
        ("ip.isCanonical('2001:DB8::1')", False),
        ("cidr('192.168.1.7/24').masked() == cidr('192.168.1.0/24')", True),
        ("cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && !cidr('10.0.0.0/8').containsIP('11.0.0.1')", True),
        ("semver('1.2.3-rc.1').isLessThan(semver('1.2.3')) && semver('1.10.0').compareTo(semver('1.9.0')) == 1", True),
        ("isSemver('v1.0') || !isSemver('v1.0', true)", False),
        ("format.dns1123Label().validate('ok').hasValue()", False),
        ("format.named('uuid').value().validate('x').value()[0]", "does not match the UUID format"),
        ("jsonpatch.escapeKey('a/b~c')", "a~1b~0c"),
        ("// a comment\n1", 1),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_values(source: str, expected: Any) -> None:
    found = run(source)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("9223372036854775807 + 1", "integer overflow"),
        ("1 / 0", "division by zero"),
        ("1 % 0", "modulus by zero"),
        ("0u - 1u", "unsigned integer overflow"),
        ("self.nope", "no such key: nope"),
        ("self.a[3]", "index out of bounds: 3"),
        ("self.m['z']", "no such key: z"),
        ("int('x')", "type conversion error from 'string' to 'int'"),
        ("self.b.x", "no such overload"),
        ("self.b > 1", "no such overload"),
        ("self.b && true", "no such overload"),
        ("optional.none().value()", "optional.none() dereference"),
        ("quantity(self.b)", "quantity parse error"),
        ("{self.b: 1, 'hello': 2}", "insert failed: key hello already exists"),
        ("self.a.all(x, x / 0 == 1)", "division by zero"),
        ("[].map(x, 1).min()", "min called on empty list"),
        ("'x'.substring(2)", "out of range"),
        ("timestamp('9999-12-31T23:59:59Z') + duration('24h')", "timestamp overflow"),
        ("'%d'.format(['x'])", "error during formatting"),
        ("self.b.matches(self.b + '(')", "error parsing regexp"),
    ],
    ids=lambda value: value,
)
def test_errors(source: str, message: str) -> None:
    with pytest.raises(EvaluationError, match=message.replace("(", "\\(").replace(")", "\\)")):
        run(source)


OBJECT = object_of(
    "object",
    {"replicas": INT, "name": STRING.sized(10), "tags": list_of(STRING.sized(5), 20), "m": map_of(STRING, INT, 5)},
)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("self.nope > 1", "ERROR: <input>:1:5: undefined field 'nope'\n | self.nope > 1\n | ....^"),
        ("self.replicas > 'a'", "found no matching overload for '_>_' applied to '(int, string)'"),
        ("self.name.size", "type 'string' does not support field selection"),
        ("nope", "undeclared reference to 'nope' (in container '')"),
        ("nope(1)", "undeclared reference to 'nope'"),
        ("self.replicas.startsWith('x')", "found no matching overload for 'startsWith' applied to 'int.(string)'"),
        ("[1, 'a']", "expected type 'int' but found 'string'"),
        ("true ? 1 : 'a'", "found no matching overload for '_?_:_'"),
        ("self.replicas && true", "expected type 'bool' but found 'int'"),
        ("self.replicas.all(x, true)", "cannot be range of a comprehension"),
        ("self.tags.all(x.y, true)", "argument must be a simple name"),
        ("has(self)", "invalid argument to has() macro"),
        ("1 +", "Syntax error"),
        ("'abc", "Syntax error"),
        ("a b", "Syntax error"),
        ("for", "reserved identifier"),
        ("99999999999999999999", "invalid int literal"),
        ("'\\q'", "invalid escape"),
        ("self.name.matches('(')", "invalid matches argument"),
        ("duration('x')", "invalid duration argument"),
        ("(" * 200, "recursion limit"),
        ("-" * 200 + "1", "recursion limit"),
        ("1" + "+1" * 200, "recursion limit"),
        ("self" + ".m" * 200, "recursion limit"),
        ("", "Syntax error"),
        ("self.m[1]", "found no matching overload for '_[_]'"),
        ("Foo{a: 1}", "undeclared reference to 'Foo'"),
        ("\x00", "token recognition"),
        ("{[1]: 2}", "unsupported map key type"),
        ("1 == 'a'", "found no matching overload for '_==_' applied to '(int, string)'"),
    ],
    ids=lambda value: value[:40],
)
def test_what_does_not_compile(source: str, message: str) -> None:
    with pytest.raises(CompileError) as caught:
        compile(source, {"self": OBJECT})
    assert message in str(caught.value)


def test_the_result_must_be_of_the_type_that_is_asked_for() -> None:
    with pytest.raises(CompileError, match="must evaluate to a bool"):
        compile("1", {}, result=BOOL)
    assert compile("self", {"self": DYN}, result=BOOL).type is DYN


def test_a_program_knows_which_variables_it_uses() -> None:
    program = compile("[1].all(self, self > 0) && oldSelf.x", {"self": DYN, "oldSelf": DYN})
    assert program.used == {"oldSelf"}
    assert program.run({"oldSelf": {"x": True}}).value is True


def test_costs_are_counted_and_limited() -> None:
    program = compile("self.all(x, self.all(y, x != y + 1000))", {"self": list_of(INT)})
    small = program.run({"self": list(range(10))}).cost
    large = program.run({"self": list(range(100))}).cost
    assert 50 < large / small < 150
    with pytest.raises(BudgetExceeded):
        program.run({"self": list(range(10_000))}, limit=1_000_000)
    assert (
        compile("'a'.contains('b')", {}).run({}).cost
        < compile("self.contains(self)", {"self": STRING}).run({"self": "x" * 9000}).cost
    )


@pytest.mark.parametrize(
    ("source", "bound"),
    [
        ("self.replicas > 1", 3),
        ("self.tags.all(t, t.size() < 3)", 200),
        ("self.tags.all(t, self.tags.exists(u, u == t))", 4000),
        ("self.name.matches('^a+$')", 20),
        ("self.tags.map(t, t + 'x').join(',').size() > 3", 600),
    ],
)
def test_an_estimate_is_never_less_than_what_a_run_costs(source: str, bound: int) -> None:
    program = compile(source, {"self": OBJECT})
    value = {"replicas": 3, "name": "n" * 10, "tags": ["t" * 5 for _ in range(20)], "m": {}}
    assert program.run({"self": value}).cost <= program.estimate() <= bound


def test_an_estimate_without_bounds_is_large() -> None:
    program = compile("self.all(x, self.all(y, x.contains(y)))", {"self": list_of(STRING)})
    assert program.estimate() > 10_000_000


_NUMBERS = st.integers(-(1 << 40), 1 << 40)
_ATOMS = st.one_of(
    st.integers(0, 50).map(str),
    st.sampled_from(["x", "y", "true", "false", "'a'", "'bc'", "[1, 2]", "[x, y]", "{'k': x}"]),
)


def _combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = ["+", "-", "*", "/", "%", "<", "<=", ">", ">=", "==", "!=", "&&", "||", "in"]
    return st.one_of(
        st.tuples(inner, st.sampled_from(operators), inner).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
        inner.map(lambda text: f"(!({text}))"),
        st.tuples(inner, inner, inner).map(lambda parts: f"({parts[0]} ? {parts[1]} : {parts[2]})"),
        inner.map(lambda text: f"size({text})"),
        inner.map(lambda text: f"[1, 2, 3].exists(i, i == {text})"),
        inner.map(lambda text: f"[1, 2, 3].map(i, {text})"),
    )


@settings(max_examples=150, deadline=None)
@given(st.recursive(_ATOMS, _combined, max_leaves=6), _NUMBERS, _NUMBERS)
def test_cel_python_agrees(source: str, x: int, y: int) -> None:
    """Where both compile and both give a value, it is the same; what we refuse by type, cel-python may still evaluate."""
    import celpy

    try:
        ours = compile(source, {"x": INT, "y": INT}).run({"x": x, "y": y}).value
    except (CompileError, EvaluationError):
        return
    limit = sys.getrecursionlimit()
    environment = celpy.Environment()
    sys.setrecursionlimit(limit)  # it raises it for everybody
    program = environment.program(environment.compile(source))
    try:
        theirs = program.evaluate({"x": celpy.celtypes.IntType(x), "y": celpy.celtypes.IntType(y)})
    except (celpy.CELEvalError, TypeError, ValueError):
        return  # it knows fewer comparisons between types than the language has
    assert _plain(theirs) == ours


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return {"BoolType": bool, "IntType": int, "StringType": str, "DoubleType": float}.get(
        type(value).__name__, lambda found: found
    )(value)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="self.abc()[]{}'\"\\+-*/%!&|?:,<>=019 \nin\u00e9", max_size=40))
def test_any_text_is_compiled_or_refused(source: str) -> None:
    try:
        program = compile(source, {"self": DYN, "a": OBJECT})
        program.estimate()
        program.run({"self": DATA, "a": {}})
    except (CompileError, EvaluationError):
        pass
