"""What a client wants to read (Accept) and what it sends (Content-Type). Pure; called by `handler`, `resources`, `discovery`.

An answer has an encoding (JSON, YAML, protobuf) and a form: the object itself, or what `as=` names, such as a Table.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache

from wherry.api.errors import APIError, UnsupportedMediaType

JSON = "application/json"
YAML = "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
ENCODINGS = (JSON, YAML, PROTOBUF)
TEXTS = (JSON, YAML)  # what custom resources have: no protobuf

TABLE = "Table"
METADATA = "PartialObjectMetadata"
METADATA_LIST = "PartialObjectMetadataList"
MAX_REMEMBERED = 512
_META_VERSIONS = ("v1", "v1beta1")

_STREAMS = (f"{JSON};stream=watch", f"{PROTOBUF};stream=watch")


class NotAcceptable(APIError):
    code, reason = 406, "NotAcceptable"


@dataclass(frozen=True, slots=True)
class Form:
    """`form` is "" for the object itself; `version` is that of meta.k8s.io (or of apidiscovery.k8s.io)."""

    encoding: str = JSON
    form: str = ""
    version: str = "v1"

    @property
    def content_type(self) -> str:
        return self.encoding


DEFAULT = Form()


@dataclass(frozen=True, slots=True)
class _Clause:
    kind: str
    parameters: dict[str, str] = field(default_factory=dict)
    quality: float = 1.0


def _clauses(accept: str) -> list[_Clause]:
    """In the order of preference."""
    found = []
    for text in accept.split(","):
        name, *rest = (part.strip() for part in text.split(";"))
        if not name:
            continue
        parameters = {}
        for item in rest:
            key, _, value = item.partition("=")
            parameters[key.strip().lower()] = value.strip().strip('"')
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 1.0
        found.append(_Clause(name.lower(), parameters, quality))
    return sorted((clause for clause in found if clause.quality > 0), key=lambda clause: -clause.quality)


def _encoding_of(clause: _Clause, offered: Collection[str]) -> str | None:
    if clause.kind in offered:
        return clause.kind
    if clause.kind in ("*/*", "application/*"):
        return JSON
    return None


def negotiate(accept: str, *, forms: Collection[str] = (), offered: Collection[str] = ENCODINGS) -> Form:
    """The first clause that can be served; raises NotAcceptable. `forms` are the values of `as=` that this endpoint knows."""
    if not accept:
        return DEFAULT
    if len(accept) > MAX_REMEMBERED:
        return _chosen(accept, tuple(forms), tuple(offered))
    return _remembered(accept, tuple(forms), tuple(offered))


def _chosen(accept: str, forms: tuple[str, ...], offered: tuple[str, ...]) -> Form:
    understood = False
    for clause in _clauses(accept):
        encoding = _encoding_of(clause, offered)
        if encoding is None:
            continue
        understood = True
        wanted = clause.parameters.get("as", "")
        if not wanted:
            return Form(encoding)
        version = clause.parameters.get("v", "")
        group = clause.parameters.get("g", "")
        known = wanted in forms and group == "meta.k8s.io" and version in _META_VERSIONS
        if known and not (wanted == TABLE and encoding == PROTOBUF):
            return Form(encoding, wanted, version)
    if understood:
        raise NotAcceptable(f"only the following media types are accepted: {', '.join(offered)}")
    representations = [*offered, *(stream for stream in _STREAMS if forms and stream.partition(";")[0] in offered)]
    raise NotAcceptable(f"406: Not Acceptable\n\nAvailable representations: {', '.join(representations)}")


_remembered = lru_cache(maxsize=256)(_chosen)  # a program asks in one way for all that it asks


def discovery_version(accept: str) -> str | None:
    """The version of aggregated discovery that the client wants; "" for the plain documents, None for neither."""
    if not accept:
        return ""
    for clause in _clauses(accept):
        if _encoding_of(clause, (JSON,)) is None:
            continue
        if clause.parameters.get("as") == "APIGroupDiscoveryList":
            if clause.parameters.get("g") == "apidiscovery.k8s.io" and clause.parameters.get("v") in ("v2", "v2beta1"):
                return clause.parameters["v"]
            continue
        if "as" not in clause.parameters:
            return ""
    return None


def body_type(content_type: str, offered: Collection[str] = ENCODINGS) -> str:
    """The encoding of a body. Raises UnsupportedMediaType."""
    kind = content_type.partition(";")[0].strip().lower() or JSON
    if kind not in offered:
        raise UnsupportedMediaType(
            "the body of the request was in an unknown format - accepted media types include: " + ", ".join(offered)
        )
    return kind
