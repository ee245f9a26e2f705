"""Manifests: YAML as kubectl reads it, several documents, lists, places of errors, bombs, and writing YAML."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.api import codec, yamlout, yamltext
from wherry.pb import apps_v1_pb2, core_v1_pb2

# As kubectl converts them (checked with `kubectl label --local`).
SCALARS: dict[str, Any] = {
    "yes": True, "y": True, "on": True, "Yes": True, "TRUE": True, "no": False, "n": False, "Off": False, "0o17": 15,
    "017": 15, "0x1F": 31, "0b11": 3, "2020-01-01": "2020-01-01", "2020-01-01T00:00:00Z": "2020-01-01T00:00:00Z",
    "1_000": 1000, ".5": 0.5, "1e3": 1000, "12:30:45": "12:30:45", "~": None, "null": None, "Null": None, "+12": 12,
    "1.": 1, "08": 8, "=": "=", "0.1e-3": 0.0001, "-0": 0, "+.5": 0.5, "1e400": "1e400", "-5": -5, "yEs": "yEs",
    "1.2.3": "1.2.3", "-": None, "0x": "0x", "1_": 1, "é": "é",
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_plain_scalars(text: str, value: object) -> None:
    found = yamltext.parse(f"a: {text}").value["a"] if text != "-" else None
    assert found == value
    assert type(found) is type(value)


def test_keys_become_strings() -> None:
    assert yamltext.parse("1: a\ntrue: b\n1.5: c\nno: d\n'x': e").value == {
        "1": "a", "true": "b", "1.5": "c", "false": "d", "x": "e",
    }  # fmt: skip


def test_tags_quotes_and_blocks() -> None:
    text = "a: !!str 1\nb: '1'\nc: \"\\u00e9\"\nd: |\n  x\n  y\ne: !!int '3'\nf: !!binary aGk=\ng: ! 5"
    assert yamltext.parse(text).value == {"a": "1", "b": "1", "c": "é", "d": "x\ny\n", "e": 3, "f": "hi", "g": "5"}


def test_anchors_and_merge_keys() -> None:
    text = "base: &b {x: 1, w: 2}\none: {<<: *b, x: 9}\ntwo:\n  <<: [*b, {z: 3}]\nlist: [*b]"
    assert yamltext.parse(text).value == {
        "base": {"x": 1, "w": 2}, "one": {"x": 9, "w": 2}, "two": {"x": 1, "w": 2, "z": 3}, "list": [{"x": 1, "w": 2}],
    }  # fmt: skip


BAD: dict[str, tuple[str, str]] = {
    "syntax": ("a: [1", "not YAML"),
    "tab": ("a:\n\tb: 1", "not YAML"),
    "duplicate": ("a: 1\nb: 2\na: 3", "a: duplicate field"),
    "no anchor": ("a: *x", 'not YAML: found undefined alias|unknown anchor "x"'),
    "inside itself": ("a: &x [*x]", 'the alias "\\*x" stands inside what it refers to'),
    "object as key": ("{a: 1}: 2", "a list or an object as a key"),
    "tag": ("a: !Ref x", "unsupported tag !Ref"),
    "bad int": ("a: !!int x", 'cannot read "x" as !!int'),
    "deep": ("[" * 300, "nested more than 200 levels deep"),
    "very deep": ("[" * 10_000_000, "nested more than 200 levels deep"),
    "deep blocks": ("".join(f"{' ' * number}a:\n" for number in range(300)), "nested more than 200 levels deep"),
    "billion laughs": (
        "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)),
        "aliases add up to more than 100000 values",
    ),
    "deep by aliases": (
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 300)),
        "nested more than 200 levels deep",
    ),
    "infinity": ("apiVersion: x.io/v1\nkind: A\nspec: {a: .inf}", "a number that JSON cannot write"),
    "text": ("just text", "expected an object with apiVersion and kind, got \"just text\""),
    "list": ("- a", "expected an object with apiVersion and kind, got a list"),
    "no kind": ("apiVersion: v1", "kind: missing"),
    "unknown kind": ("apiVersion: v1\nkind: Pood", 'kind: no kind "Pood" in version "v1" \\(did you mean "Pod"\\?\\)'),
    "unknown version": ("apiVersion: v3\nkind: Pod", 'apiVersion: no version "v3"'),
    "kind is a number": ("apiVersion: v1\nkind: 5", "kind: expected a string, got 5"),
    "control character": ("a: \x01", "not YAML"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD.keys())
@pytest.mark.timeout(10)
def test_bad_manifests(text: str, message: str) -> None:
    with pytest.raises(codec.DecodeError, match=message):
        codec.decode_manifest(text, "f.yaml")


MANIFEST = """\
# a comment
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: one
---
# nothing here
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: two
spec:
  replicas: three
  selector: {}
  template:
    spec:
      containers:
      - name: a
        imge: x
...
---
{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "three"}}
"""


def test_errors_name_file_line_and_document() -> None:
    with pytest.raises(codec.DecodeError) as error:
        codec.decode_manifest(MANIFEST, "app.yaml")
    assert str(error.value).splitlines() == [
        'app.yaml:15: document 2: spec.replicas: expected an integer, got "three"',
        'app.yaml:21: document 2: spec.template.spec.containers[0].imge: unknown field (did you mean "image"?)',
    ]


def test_documents() -> None:
    good = MANIFEST.replace("three\n  sel", "3\n  sel").replace("imge", "image")
    documents = codec.read_manifest(good.encode())
    assert [(document.index, document.line) for document in documents] == [(1, 2), (2, 9), (3, 23)]
    assert [type(document.message) for document in documents] == [
        core_v1_pb2.ConfigMap, apps_v1_pb2.Deployment, core_v1_pb2.Pod,
    ]  # fmt: skip
    assert documents[1].value["spec"]["replicas"] == 3
    assert codec.decode_manifest(good.replace("\n", "\r\n")) == [document.message for document in documents]
    assert codec.decode_manifest("\ufeff" + good) == [document.message for document in documents]


def test_directives_belong_to_the_document_after_them() -> None:
    assert (
        len(codec.decode_manifest("%YAML 1.1\n---\napiVersion: v1\nkind: Pod\n---\napiVersion: v1\nkind: Node\n")) == 2
    )


@pytest.mark.parametrize("text", ["", "---\n---\n", "# only a comment", "null", "---\n...\n"])
def test_nothing_at_all(text: str) -> None:
    assert codec.decode_manifest(text) == []


def test_syntax_error_in_one_document_does_not_hide_problems_of_others() -> None:
    text = "a: [\n---\napiVersion: v1\nkind: Pod\nspec: {priority: x}\n"
    with pytest.raises(codec.DecodeError) as error:
        codec.decode_manifest(text, "f")
    assert [(problem.document, problem.line) for problem in error.value.problems] == [(1, 2), (2, 5)]


def test_lists_are_taken_apart() -> None:
    pod = "{apiVersion: v1, kind: Pod, metadata: {name: a}}"
    assert len(codec.decode_manifest(f"apiVersion: v1\nkind: List\nitems: [{pod}, {pod}]")) == 2
    (typed,) = codec.decode_manifest("apiVersion: v1\nkind: PodList\nitems: [{metadata: {name: a}}]")
    assert isinstance(typed, core_v1_pb2.Pod)
    with pytest.raises(codec.DecodeError) as error:
        codec.decode_manifest(f"apiVersion: v1\nkind: List\nitems:\n- {pod}\n- {{kind: Pod}}\n- 5\n", "f")
    assert [(problem.path, problem.line) for problem in error.value.problems] == [
        ("items[1].apiVersion", 5), ("items[2]", 6),
    ]  # fmt: skip


def test_json_streams() -> None:
    pod = '{"apiVersion": "v1",\n"kind": "Pod"}'
    documents = codec.read_manifest(f"{pod}\n{pod}{pod}")
    assert [(document.index, document.line) for document in documents] == [(1, 1), (2, 3), (3, 4)]
    with pytest.raises(codec.DecodeError, match=r"f:5: document 2: spec\.nope"):
        codec.decode_manifest(pod + '\n{"apiVersion": "v1",\n"kind": "Pod",\n"spec": {"nope": 1}}', "f")
    assert len(codec.decode_manifest("{apiVersion: v1, kind: Pod}")) == 1


def test_lax_reading_warns() -> None:
    warnings: list[str] = []
    codec.read_manifest("apiVersion: v1\nkind: Pod\nspec: {nope: 1}\nkind: Pod", strict=False, warnings=warnings)
    assert sorted(warnings) == ['duplicate field "kind"', 'unknown field "spec.nope"']


tricky = st.sampled_from([
    "yes", "017", "1e3", "2020-01-01", "", "~", "null", "a: b", "#x", "- a", "x\ny\n", " lead", "trail ", "\ttab", "=",
    "<<", "é🚣", "'q'", '"', "|", "1_000", "\x07", "a\n\n b", "0x1F", ":", "&a", "*a", "!t", "%d", "@", "`", "y", "\u2028",
])  # fmt: skip
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | tricky
    | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(tricky, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(tricky, plain, max_size=3))
def test_written_yaml_reads_back(value: Any) -> None:
    assert yamltext.parse(yamlout.dump(value)).value == value
