"""The codec: messages to and from plain values, JSON and YAML, strictly, in the JSON forms of Kubernetes.

First step of the data path: the CLI, both fronts, the agent's static pods and every test decode and encode here, and
nowhere else. The work is in `encode` and `decode` (compiled per descriptor), `jsonforms` (special forms), `jsontext` and
`yamltext` (text); defaults and validation are the registry's.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message

from wherry.api import jsonforms, jsontext, kinds, schema, yamlout, yamltext
from wherry.api.decode import decoder
from wherry.api.encode import encoder
from wherry.api.problems import DecodeError, FieldProblem, Problems, nearest, placed, show
from wherry.pb import resources_pb2

__all__ = [
    "DecodeError", "Document", "FieldProblem", "decode_manifest", "from_dict", "from_json", "from_yaml",
    "message_class", "read_manifest", "to_dict", "to_json", "to_yaml",
]  # fmt: skip

M = TypeVar("M", bound=Message)
_SPACE = re.compile(r"\s*")


def to_dict(message: Message) -> dict[str, Any]:
    """The message as its JSON object, with apiVersion and kind first where its class has them."""
    value: dict[str, Any] = encoder(schema.descriptor_of(type(message)))(message)
    meta = schema.type_meta(type(message))
    if meta is None:
        return value
    return {"apiVersion": meta[0], "kind": meta[1], **value}


def to_json(message: Message) -> bytes:
    return jsonforms.dump(to_dict(message))


def to_yaml(message: Message) -> str:
    """Block style, keys sorted as kubectl prints them; one document without a separator."""
    return yamlout.dump(to_dict(message))


def from_dict(
    value: Any,
    cls: type[M],
    *,
    strict: bool = True,
    warnings: list[str] | None = None,
    duplicates: tuple[str, ...] | list[str] = (),
) -> M:
    """A message of `cls` from a plain value. Raises DecodeError with every problem in it.

    `strict` refuses unknown and duplicate fields; otherwise they are dropped, and named in `warnings` in Kubernetes' words.
    `duplicates` are paths that the text reader found. apiVersion and kind may be absent; where they stand they must fit.
    """
    problems = Problems(strict=strict)
    for path in duplicates:
        problems.duplicate(path)
    message = _from_value(value, cls, problems)
    if warnings is not None:
        warnings.extend(problems.warnings)
    return message


def _from_value(value: Any, cls: type[M], problems: Problems) -> M:
    meta = schema.type_meta(cls)
    if type(value) is dict:
        for key, expected in zip(("apiVersion", "kind"), meta or (), strict=False):
            found = value.get(key)
            if found is not None and found != expected:
                problems.add(key, f'expected "{expected}", got {show(found)}')
    arguments = decoder(schema.descriptor_of(cls))(value, None, problems)
    kind = meta[1] if meta else schema.descriptor_of(cls).name
    if problems.found:
        raise DecodeError(problems.found, kind=kind, omitted=problems.omitted)
    try:
        return cls(**arguments)
    except UnicodeEncodeError:  # from a plain value that no reader of ours has cleaned
        return cls(**decoder(schema.descriptor_of(cls))(jsontext.clean(value), None, problems))


def from_json(data: bytes | str, cls: type[M], *, strict: bool = True, warnings: list[str] | None = None) -> M:
    value, duplicates = jsontext.parse(data)
    return from_dict(value, cls, strict=strict, warnings=warnings, duplicates=duplicates)


def from_yaml(data: bytes | str, cls: type[M], *, strict: bool = True, warnings: list[str] | None = None) -> M:
    """One YAML document."""
    parsed = yamltext.parse(jsontext.text_of(data))
    return from_dict(parsed.value, cls, strict=strict, warnings=warnings, duplicates=parsed.duplicates)


def message_class(api_version: str, kind: str) -> type[Message] | None:
    """The class of a body. A group that is not ours may be one of custom resources: those are `Unstructured`. None for
    an unknown kind of a group version that we know, where it can only be a mistake."""
    found = schema.find_class(api_version, kind)
    if found is not None or kinds.kinds_of(api_version):
        return found
    return resources_pb2.Unstructured if "/" in api_version else None


@dataclass(frozen=True, slots=True)
class Document:
    """One object of a manifest. `index` is its document's number in the file and `line` where that begins, both from 1.
    `value` is what stands in the file (for a three-way merge, which must tell zero from absent)."""

    index: int
    line: int
    value: dict[str, Any]
    message: Message


def decode_manifest(data: bytes | str, source: str = "") -> list[Message]:
    """Every object of a YAML or JSON stream, items of a `List` one by one. Raises DecodeError with all problems of all
    documents, each with its document and line."""
    return [document.message for document in read_manifest(data, source)]


def read_manifest(
    data: bytes | str, source: str = "", *, strict: bool = True, warnings: list[str] | None = None
) -> list[Document]:
    text = jsontext.text_of(data, source)
    documents: list[Document] = []
    problems: list[FieldProblem] = []
    omitted = 0
    for index, (line, chunk) in enumerate(_documents(text), 1):
        found: list[str] = []
        try:
            documents.extend(_document(chunk, index, line, strict, found))
        except DecodeError as error:
            problems.extend(_with_lines(error.problems, chunk, index, line))
            omitted += error.omitted
        if warnings is not None:
            warnings.extend(found)
    if problems:
        raise DecodeError(problems, source=source, omitted=omitted)
    return documents


def _documents(text: str) -> list[tuple[int, str]]:
    """JSON objects may follow each other without a separator; YAML documents are cut at `---`."""
    if text.lstrip()[:1] == "{":
        jsontext.check_depth(text)
        decode = json.JSONDecoder().raw_decode
        chunks: list[tuple[int, str]] = []
        position, line = len(text) - len(text.lstrip()), 1
        line += text.count("\n", 0, position)
        try:
            while position < len(text):
                end = decode(text, position)[1]
                chunks.append((line, text[position:end]))
                following = end + len(_SPACE.match(text, end)[0])  # type: ignore[index]  # it matches the empty string
                line += text.count("\n", position, following)
                position = following
            return chunks
        except (ValueError, RecursionError):
            pass  # a flow mapping of YAML, or neither
    return list(yamltext.split(text))


def _parse(chunk: str) -> tuple[Any, list[str]]:
    if chunk.startswith("{"):
        try:
            return jsontext.parse(chunk)
        except DecodeError as error:
            try:
                parsed = yamltext.parse(chunk)
            except DecodeError:
                if chunk[1:].lstrip()[:1] in ('"', "}"):
                    raise error from None  # meant as JSON
                raise
            return parsed.value, parsed.duplicates
    parsed = yamltext.parse(chunk)
    return parsed.value, parsed.duplicates


def _document(chunk: str, index: int, line: int, strict: bool, warnings: list[str]) -> list[Document]:
    value, duplicates = _parse(chunk)
    if value is None:
        return []
    if type(value) is not dict:
        message = f"expected an object with apiVersion and kind, got {show(value)}"
        raise DecodeError([FieldProblem("", message, "type")])
    items = value.get("items")
    kind = value.get("kind")
    if type(kind) is str and kind.endswith("List") and type(items) is list:
        listed = (str(value.get("apiVersion", "")), kind.removesuffix("List"))
        bodies = [(f"items[{number}]", _item(item, *listed)) for number, item in enumerate(items)]
    else:
        bodies = [("", value)]
    documents: list[Document] = []
    problems = [FieldProblem(path, "duplicate field", "duplicate") for path in duplicates] if strict else []
    if not strict:
        warnings.extend(f'duplicate field "{path}"' for path in duplicates)
    omitted = 0
    for prefix, body in bodies:
        try:
            documents.append(Document(index, line, body, _object(body, strict, warnings)))
        except DecodeError as error:
            problems.extend(
                FieldProblem(_prefixed(prefix, problem.path), problem.message, problem.code)
                for problem in error.problems
            )
            omitted += error.omitted
    if problems:
        raise DecodeError(problems, omitted=omitted)
    return documents


def _item(item: Any, api_version: str, kind: str) -> Any:
    """Items of a typed list do not say their kind; those of a plain `List` must."""
    if kind and type(item) is dict:
        return {"apiVersion": api_version, "kind": kind, **item}
    return item


def _prefixed(prefix: str, path: str) -> str:
    return f"{prefix}.{path}" if prefix and path and not path.startswith("[") else prefix + path


def _object(value: Any, strict: bool, warnings: list[str]) -> Message:
    if type(value) is not dict:
        raise DecodeError([FieldProblem("", f"expected an object, got {show(value)}", "type")])
    problems = []
    for key, example in (("apiVersion", "apps/v1"), ("kind", "Deployment")):
        found = value.get(key)
        if not found:
            problems.append(FieldProblem(key, f'missing: name it, such as "{example}"'))
        elif type(found) is not str:
            problems.append(FieldProblem(key, f"expected a string, got {show(found)}", "type"))
    if problems:
        raise DecodeError(problems)
    api_version, kind = value["apiVersion"], value["kind"]
    cls = message_class(api_version, kind)
    if cls is None:
        raise DecodeError([_unknown_kind(api_version, kind)])
    return from_dict(value, cls, strict=strict, warnings=warnings)


def _unknown_kind(api_version: str, kind: str) -> FieldProblem:
    known = kinds.kinds_of(api_version)
    if known:
        hint = nearest(kind, known)
        return FieldProblem(
            "kind", f'no kind "{kind}" in version "{api_version}"' + (f' (did you mean "{hint}"?)' if hint else "")
        )
    hint = nearest(api_version, kinds.MODULES)
    return FieldProblem("apiVersion", f'no version "{api_version}"' + (f' (did you mean "{hint}"?)' if hint else ""))


def _with_lines(problems: list[FieldProblem], chunk: str, index: int, line: int) -> list[FieldProblem]:
    """Problems with their place in the file. JSON is read as YAML for this, which it is but for odd cases."""
    lines: dict[str, int] = {}
    try:
        lines = yamltext.parse(chunk, with_lines=True).lines
    except DecodeError:
        pass
    return [
        placed(problem, document=index, line=line - 1 + (problem.line or _line_of(problem.path, lines)))
        for problem in problems
    ]


def _line_of(path: str, lines: dict[str, int]) -> int:
    """The line of the path, or of the nearest thing around it that is written down."""
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get(path, 1)
