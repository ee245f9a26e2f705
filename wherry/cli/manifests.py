"""Manifests from files, directories, URLs and standard input, decoded strictly before anything is sent.

Called by every command with `-f`. All problems of all files are gathered and raised together as `UsageError`, so a person
sees them at once and nothing is half applied.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from wherry.api import codec
from wherry.cli.resources import UsageError

EXTENSIONS = (".yaml", ".yml", ".json")
MAX_BYTES = 64 * 1024 * 1024
URL_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Item:
    """One object of a manifest: as it stands in the file (`value`) and as a message."""

    api_version: str
    kind: str
    name: str
    namespace: str
    value: dict[str, Any]
    message: Message
    source: str


def read_manifests(
    places: Sequence[str], *, recursive: bool = False, strict: bool = True, warnings: list[str] | None = None
) -> list[Item]:
    """Raises UsageError that lists every problem, each with its file, document and line."""
    items: list[Item] = []
    problems: list[str] = []
    for place in places:
        for source, data in _sources(place, recursive):
            try:
                documents = codec.read_manifest(data, source, strict=strict, warnings=warnings)
            except codec.DecodeError as error:
                problems.append(str(error))
                continue
            for document in documents:
                message: Any = document.message
                metadata = message.metadata
                if not metadata.name and not metadata.generate_name:
                    place_in = f"document {document.index}: " if document.index > 1 else ""
                    problems.append(
                        f"{source}:{document.line}: {place_in}metadata.name: missing: every object needs a name"
                    )
                    continue
                items.append(
                    Item(
                        str(document.value["apiVersion"]), str(document.value["kind"]), metadata.name,
                        metadata.namespace, document.value, message, source,
                    )
                )  # fmt: skip
    if problems:
        raise UsageError("\n".join(problems))
    if not items:
        raise UsageError(f"no objects passed: {', '.join(places)} holds no manifest")
    return items


def _sources(place: str, recursive: bool) -> Iterator[tuple[str, bytes]]:
    """(name for messages, content) of each file that `place` means."""
    if place == "-":
        yield "standard input", _limited(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input")
    elif place.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(place, timeout=URL_TIMEOUT_S) as response:
                yield place, _limited(response.read(MAX_BYTES + 1), place)
        except (urllib.error.URLError, OSError) as error:
            raise UsageError(f"unable to read URL {place!r}: {getattr(error, 'reason', error)}") from error
    else:
        path = Path(place)
        if path.is_dir():
            pattern = "**/*" if recursive else "*"
            files = sorted(file for file in path.glob(pattern) if file.suffix in EXTENSIONS and file.is_file())
            if not files:
                raise UsageError(f"the directory {place!r} holds no file that ends in {', '.join(EXTENSIONS)}")
        else:
            files = [path]
        for file in files:
            try:
                with file.open("rb") as opened:
                    yield str(file), _limited(opened.read(MAX_BYTES + 1), str(file))
            except OSError as error:
                raise UsageError(f"the path {str(file)!r} cannot be read: {error.strerror}") from error


def _limited(data: bytes, source: str) -> bytes:
    if len(data) > MAX_BYTES:
        raise UsageError(f"{source}: larger than {MAX_BYTES // 1024 // 1024} MiB: split the manifest")
    return data
