"""Definitions and custom resources answer as a real API server did: every recording that speaks of widgets, over HTTP.

Compared by meaning: status code, message, causes, warnings, and the objects without what differs from run to run.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from wherry.testing import recorded_exceptions as exceptions
from wherry.testing import recordings
from wherry.testing.https import Answer, Caller, Https

pytestmark = pytest.mark.skipif(
    not recordings.GOLDEN.is_dir() and not os.environ.get("CI"),
    reason="no recordings of an API server beside the checkout",
)

WIDGETS = "/apis/golden.example/v1/namespaces/golden/widgets"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
Recorded = dict[str, Any]
VARYING = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "continue", "remainingItemCount")


def recorded(file: str) -> list[Recorded]:
    if not recordings.GOLDEN.is_dir():
        return []
    found = [json.loads(line) for line in (recordings.GOLDEN / f"{file}.jsonl").read_text().splitlines()]
    return [each for each in found if _concerns(each)]


def _concerns(record: Recorded) -> bool:
    path = (record.get("request") or {}).get("path", "")
    return "golden.example" in path or path.startswith(DEFINITIONS)


def definition() -> Any:
    """The one that the recordings were made with."""
    stored = next(each for each in recorded("defaults") if each["name"] == "CRD as stored, established")
    body = stored["response"]["body"]
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": body["metadata"]["name"]}, "spec": body["spec"]}  # fmt: skip


async def established(caller: Caller, name: str = "widgets.golden.example") -> None:
    async with asyncio.timeout(30):
        while True:
            found = (await caller.ask("GET", f"{DEFINITIONS}/{name}")).json
            conditions = found.get("status", {}).get("conditions") or []
            if any(each["type"] == "Established" and each["status"] == "True" for each in conditions):
                return
            await asyncio.sleep(0.02)


@pytest.fixture
async def caller(front: Https) -> AsyncIterator[Caller]:
    async with front.caller() as caller:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "golden"}}
        assert (await caller.ask("POST", "/api/v1/namespaces", namespace)).status == 201
        assert (await caller.ask("POST", DEFINITIONS, definition())).status == 201
        await established(caller)
        yield caller


async def replay(caller: Caller, record: Recorded) -> Answer:
    request = record["request"]
    headers = {"Accept": request["accept"]} if request.get("accept") else {}
    return await caller.ask(
        request["method"], request["path"], request.get("body"), content_type=request.get("contentType") or "application/json",
        **headers,
    )  # fmt: skip


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in VARYING}
    return [plain(item) for item in value] if isinstance(value, list) else value


def differences(record: Recorded, answer: Answer) -> list[str]:
    wanted = record["response"]
    found = []
    code = wanted["status"] if wanted["status"] != 500 else 400  # a body that does not fit is the client's mistake
    if answer.status != code:
        found.append(f"status {answer.status}, not {code}: {answer.text[:600]}")
    if sorted(answer.warnings) != sorted(wanted["warnings"] or []):
        found.append(f"warnings {answer.warnings}, not {wanted['warnings']}")
    body = wanted["body"]
    if not isinstance(body, dict):
        return found if answer.text == body else [*found, f"{answer.text!r}, not {body!r}"]
    ours = answer.json
    if body["kind"] == "Status" and answer.status == code:
        causes = [
            [cause["field"], cause["reason"], cause["message"]] for cause in body.get("details", {}).get("causes") or []
        ]
        own = [
            [cause["field"], cause["reason"], cause["message"]] for cause in ours.get("details", {}).get("causes") or []
        ]
        if own != causes:
            found.append(f"causes {own}\nnot {causes}")
        message = body["message"].replace("(/ap;", "(golden/ap;")  # we know the namespace
        if ours["message"] != message and not causes:
            found.append(f"message {ours['message']!r}, not {message!r}")
    elif answer.status == code and plain(ours) != plain(body):
        found.append(f"{plain(ours)}\nnot {plain(body)}")
    return found


def report(found: dict[str, list[str]]) -> str:
    return "\n\n".join(f"{name}\n" + "\n".join(lines) for name, lines in found.items())


async def compare(caller: Caller, records: list[Recorded]) -> None:
    wrong: dict[str, list[str]] = {}
    excused = set()
    for record in records:
        found = differences(record, await replay(caller, record))
        reason = next((prefix for prefix in exceptions.CUSTOM if record["name"].startswith(prefix)), None)
        if found and reason is None:
            wrong[record["name"]] = found
        if not found and reason is not None:
            excused.add(record["name"])
    assert not wrong, report(wrong)
    assert not excused, f"no longer exceptions: {excused}"
    assert records


async def test_defaults(caller: Caller) -> None:
    await compare(caller, [each for each in recorded("defaults") if each["name"] != "CRD as stored, established"])


async def test_a_definition_as_stored(caller: Caller) -> None:
    record = next(each for each in recorded("defaults") if each["name"] == "CRD as stored, established")
    answer = (await replay(caller, record)).json
    wanted = record["response"]["body"]
    for condition in (*answer["status"]["conditions"], *wanted["status"]["conditions"]):
        condition.pop("lastTransitionTime")
    assert plain(answer) == plain(wanted)


async def test_validation(caller: Caller) -> None:
    created = {"apiVersion": "golden.example/v1", "kind": "Widget", "metadata": {"name": "upd"}, "spec": {"size": 3}}
    records = [each for each in recorded("validation") if each["name"] != "create existing custom resource"]
    assert (await caller.ask("POST", WIDGETS, created)).status == 201
    for record in records:
        body = record["request"].get("body")
        if record["name"] == "update Widget: transition rule fails":
            body["metadata"] = {
                "name": "upd",
                "resourceVersion": (await caller.ask("GET", f"{WIDGETS}/upd")).json["metadata"]["resourceVersion"],
            }
        elif record["name"] == "update Widget: no resourceVersion":
            body["metadata"] = {"name": "upd"}
    await compare(caller, records)


async def test_patches(caller: Caller) -> None:
    created = {"apiVersion": "golden.example/v1", "kind": "Widget", "metadata": {"name": "pt"}, "spec": {"size": 3}}
    assert (await caller.ask("POST", WIDGETS, created)).status == 201
    await compare(caller, recorded("patch"))


async def test_apply(caller: Caller) -> None:
    await compare(caller, recorded("apply"))


async def test_watches_and_what_is_too_old(front: Https, caller: Caller) -> None:
    """Of widgets all that is recorded; of config maps what our own history can answer: there it is another cluster's."""
    for name in ("ap", "pt", "upd"):
        body = {"apiVersion": "golden.example/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": 3}}
        assert (await caller.ask("POST", WIDGETS, body)).status == 201
    store = front.plane._store
    await store.compact(await store.revision())
    found = {}
    for file in ("watch", "expired"):
        for number, record in enumerate(records_of(file), 1):
            if "/widgets" not in record["request"]["path"]:
                continue
            answer = await replay(caller, {**record, "request": {**record["request"], "path": shorter(record)}})
            if "events" not in record:
                found[file, number] = "; ".join(differences(record, answer))
                continue
            got = [_event(json.loads(line)) for line in answer.text.splitlines()]
            wanted = [_event(event) for event in record["events"]]
            got = got[: len(wanted)]  # a last bookmark may come with the end
            found[file, number] = "" if got == wanted else f"{got}, not {wanted}"
    assert len(found) == 4
    assert not any(found.values()), found


def records_of(file: str) -> list[Recorded]:
    return [json.loads(line) for line in (recordings.GOLDEN / f"{file}.jsonl").read_text().splitlines()]


def shorter(record: Recorded) -> str:
    return str(record["request"]["path"]).replace("timeoutSeconds=2", "timeoutSeconds=1")


def _event(event: Recorded) -> tuple[Any, ...]:
    obj = event["object"]
    if event["type"] == "ERROR":
        # In brackets is how far the history of that cluster goes back.
        return "ERROR", obj["code"], obj["reason"], obj["message"].partition(" (")[0]
    meta = obj["metadata"]
    return event["type"], obj["apiVersion"], obj["kind"], meta.get("name"), meta.get("annotations")
