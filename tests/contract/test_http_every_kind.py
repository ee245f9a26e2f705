"""Every kind, over HTTP, one after the other: protobuf says the same as JSON, and what nothing acts on yet is told.

The objects: those of tests/kubectl, of every kind that can be listed, and the manifests of the corpus and of `manifests/`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.fronts.http.encoding import envelope
from wherry.api import codec, kinds
from wherry.api.context import Env
from wherry.pb import meta_runtime_pb2
from wherry.testing import recordings
from wherry.testing.https import Answer, Caller, https

ROOT = Path(__file__).parents[2]
PROTOBUF = "application/vnd.kubernetes.protobuf"
Object = dict[str, Any]


@pytest.fixture
async def admin() -> AsyncIterator[Caller]:
    async with https(Env()) as front, front.caller() as caller:
        yield caller


def every() -> list[Object]:
    """One of each kind, with a name."""
    found: dict[str, Object] = yaml.safe_load((ROOT / "tests" / "kubectl" / "every.yaml").read_text())
    for obj in found.values():
        obj.setdefault("metadata", {}).setdefault("name", "one")
    return list(found.values())


def corpus() -> list[Object]:
    """Of kinds that have protobuf, as people write them."""
    paths = sorted((*(ROOT / "tests" / "corpus" / "good").iterdir(), *(ROOT / "manifests").glob("*.yaml")))
    documents = [document for path in paths for document in codec.read_manifest(path.read_bytes(), path.name)]
    return [
        dict(document.value)
        for document in documents
        if known(document.value) and document.value["metadata"].get("name")
    ]


def known(obj: Mapping[str, Any]) -> bool:
    try:
        kinds.by_name(obj["apiVersion"], obj["kind"])
    except KeyError:
        return False
    return True


def path_of(obj: Object, name: str = "") -> str:
    kind = kinds.by_name(obj["apiVersion"], obj["kind"])
    root = f"/apis/{kind.api_version}" if kind.group else f"/api/{kind.version}"
    namespace = f"/namespaces/{obj['metadata'].get('namespace', 'default')}" if kind.namespaced else ""
    return f"{root}{namespace}/{kind.plural}" + (f"/{name}" if name else "")


def to_wire(obj: Object) -> bytes:
    message = codec.from_dict(obj, kinds.by_name(obj["apiVersion"], obj["kind"]).message)
    return envelope(obj["apiVersion"], obj["kind"], message.SerializeToString())


def from_wire(answer: Answer, obj: Object) -> Object:
    assert answer.headers["Content-Type"] == PROTOBUF
    unknown = meta_runtime_pb2.Unknown.FromString(answer.content[4:])
    assert (unknown.type_meta.api_version, unknown.type_meta.kind) == (obj["apiVersion"], obj["kind"])
    cls = kinds.by_name(obj["apiVersion"], obj["kind"]).message
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], **codec.to_dict(cls.FromString(unknown.raw))}


def said_to_be_stored_only() -> dict[tuple[str, str], str]:
    lines = (ROOT / "docs" / "stored-only.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]
    return {(version, kind): f'299 - "{kind} is stored, but {missing} yet"' for kind, version, missing in rows}


async def test_protobuf_there_and_back_and_a_warning_where_nothing_acts(admin: Caller) -> None:
    warned = said_to_be_stored_only()
    seen = set()
    for obj in every():
        where = f"{obj['apiVersion']} {obj['kind']}"
        dry = await admin.ask("POST", f"{path_of(obj)}?dryRun=All", obj)
        assert dry.status == 201, f"{where}: {dry.text}"
        made = await admin.ask("POST", path_of(obj), to_wire(obj), content_type=PROTOBUF, Accept=PROTOBUF)
        assert made.status == 201, f"{where}: {made.content!r}"
        key = obj["apiVersion"], obj["kind"]
        assert [text for text in made.warnings if "is stored, but" in text] == (
            [warned[key]] if key in warned else []
        ), where
        seen.add(key)
        path = path_of(obj, obj["metadata"]["name"])
        wire = await admin.ask("GET", path, Accept=PROTOBUF)
        text = await admin.ask("GET", path)
        assert from_wire(made, obj) == from_wire(wire, obj) == codec_form(text.json, obj), where
        same = [recordings.normal_object(form) for form in (codec_form(dry.json, obj), from_wire(made, obj))]
        assert same[0] == same[1], where
        again = await admin.ask("PUT", path, wire.content, content_type=PROTOBUF)
        assert again.status == 200, f"{where}: {again.text}"
        assert again.json["metadata"]["resourceVersion"] == text.json["metadata"]["resourceVersion"], (
            f"{where}: changed"
        )
    assert warned.keys() <= seen


def codec_form(obj: Object, like: Object) -> Object:
    """As our own reading of it says it again: without zero values that mean nothing."""
    message = codec.from_dict(obj, kinds.by_name(like["apiVersion"], like["kind"]).message)
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], **codec.to_dict(message)}


async def test_manifests_mean_the_same_in_protobuf(admin: Caller) -> None:
    """A dry run of each, both ways."""
    manifests = sorted(corpus(), key=lambda obj: obj["kind"] != "Namespace")
    namespaces = {"default", "kube-system"}
    refused = []
    for obj in manifests:
        namespace = obj["metadata"].get("namespace", "default")
        if namespace not in namespaces:
            namespaces.add(namespace)
            assert (await admin.ask("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})).status == 201
        where = f"{obj['apiVersion']} {obj['kind']} {obj['metadata']['name']}"
        path = f"{path_of(obj)}?dryRun=All"
        text = await admin.ask("POST", path, obj)
        wire = await admin.ask("POST", path, to_wire(obj), content_type=PROTOBUF, Accept=PROTOBUF)
        assert text.status == wire.status, f"{where}: {text.text} {wire.content!r}"
        if text.status == 422:  # with a request for a certificate that is none, for instance
            assert text.json["message"].encode() in wire.content
            refused.append(where)
            continue
        assert text.status == 201, text.text
        forms = [recordings.normal_object(form) for form in (codec_form(text.json, obj), from_wire(wire, obj))]
        assert forms[0] == forms[1], where
    assert len(manifests) > 40
    assert len(refused) <= 3, refused
