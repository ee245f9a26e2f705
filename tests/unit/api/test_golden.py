"""Every body that the recorded API server answered with decodes strictly and comes back as the same JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wherry.api import codec, jsonforms, schema, texts
from wherry.api.encode import encoder
from wherry.pb import resources_pb2

GOLDEN = Path(__file__).parents[4] / "shared" / "kubernetes-api" / "golden"
pytestmark = pytest.mark.skipif(
    not GOLDEN.is_dir() and not os.environ.get("CI"), reason="no recordings of an API server beside the checkout"
)

# Where the recordings (of 1.36) differ from the schema (of 1.37), or keep what Kubernetes itself canonicalises when it
# stores: path -> why.
EXPECTED = {
    "CSINode.status": "added in 1.37",
    "Pod.spec.containers[0].resources.requests.memory": "a dry run answers with the text as it was sent",
}


def bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(GOLDEN.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            found = [record.get("response", {}).get("body")]
            found += [event.get("object") for event in record.get("events") or [] if isinstance(event, dict)]
            for body in found:
                if isinstance(body, dict) and isinstance(body.get("kind"), str) and body.get("apiVersion"):
                    yield f"{path.stem}: {record['name']}", body


def differences(left: Any, right: Any, path: str) -> list[str]:
    if isinstance(left, dict) and isinstance(right, dict):
        return [
            line
            for key in sorted(left.keys() | right.keys())
            for line in differences(left.get(key, "<absent>"), right.get(key, "<absent>"), f"{path}.{key}")
        ]
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        return [
            line
            for index, (one, other) in enumerate(zip(left, right, strict=True))
            for line in differences(one, other, f"{path}[{index}]")
        ]
    return (
        [] if (type(left) is type(right) and left == right) or path in EXPECTED else [f"{path}: {left!r} -> {right!r}"]
    )


def test_recorded_bodies_come_back_the_same() -> None:
    checked, failures = 0, []
    for name, body in bodies():
        cls = codec.message_class(body["apiVersion"], body["kind"])
        if cls is None or (cls is resources_pb2.Unstructured and body["kind"].endswith(("List", "Table"))):
            continue
        try:
            message = codec.from_dict(body, cls)
        except codec.DecodeError as error:
            failures.append(f"{name}: {error}")
            continue
        failures += [f"{name}: {line}" for line in differences(body, codec.to_dict(message), body["kind"])]
        assert cls.FromString(message.SerializeToString()) == message, name
        assert codec.from_json(codec.to_json(message), cls) == message, name
        assert texts.dump(message) == jsonforms.dump(encoder(schema.descriptor_of(cls))(message)), name
        checked += 1
    assert not failures, "\n".join(failures[:20])
    assert checked > 1000
