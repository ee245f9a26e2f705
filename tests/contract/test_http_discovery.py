"""Discovery is complete: every group version, resource and subresource of the tables of facts about Kubernetes, with its verbs,
names and kind, in the plain documents and in the aggregated one; and nothing that is not there.

tests/contract/test_http_recordings.py compares what is served with the recorded documents; here what is missing fails too.
"""

from __future__ import annotations

import csv
from typing import Any

import pytest

from wherry.testing import recorded_exceptions as exceptions
from wherry.testing import recordings
from wherry.testing.https import Caller, Https
from wherry.testing.require import strict

FACTS = recordings.GOLDEN.parent
pytestmark = pytest.mark.skipif(
    not FACTS.is_dir() and not strict(), reason="no facts about Kubernetes beside the checkout"
)
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
# By group version and name (`pods`, `pods/status`): what discovery says of it.
Found = dict[tuple[str, str], dict[str, Any]]


def rows(name: str) -> list[dict[str, str]]:
    with (FACTS / name).open() as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def split(text: str) -> list[str]:
    return sorted(text.split(",")) if text else []


def facts() -> Found:
    found: Found = {}
    namespaced = {}
    for row in rows("resources.tsv"):
        namespaced[row["group_version"], row["plural"]] = row["namespaced"] == "true"
        found[row["api_version"], row["plural"]] = {
            "kind": f"{row['api_version']} {row['kind']}", "singular": row["singular"],
            "namespaced": row["namespaced"] == "true", "verbs": split(row["verbs"]), "short": split(row["short_names"]),
            "categories": split(row["categories"]),
        }  # fmt: skip
    for row in rows("subresources.tsv"):
        version = row["group_version"].removeprefix("core/")
        found[version, f"{row['plural']}/{row['subresource']}"] = {
            "kind": f"{row['kind_api_version']} {row['kind']}", "verbs": split(row["verbs"]),
            "namespaced": namespaced[row["group_version"], row["plural"]],
        }  # fmt: skip
    return found


def plain(document: dict[str, Any]) -> Found:
    version = document["groupVersion"]
    found: Found = {}
    for each in document["resources"]:
        group_version = "/".join(part for part in (each.get("group", ""), each.get("version", "")) if part) or version
        said = {
            "kind": f"{group_version} {each['kind']}", "verbs": sorted(each["verbs"]), "namespaced": each["namespaced"],
        }  # fmt: skip
        if "/" not in each["name"]:
            said |= {
                "singular": each["singularName"], "short": sorted(each.get("shortNames", ())),
                "categories": sorted(each.get("categories", ())),
            }  # fmt: skip
        found[version, each["name"]] = said
    return found


def aggregated(document: dict[str, Any]) -> Found:
    found: Found = {}
    for group in document["items"]:
        for version in group["versions"]:
            name = "/".join(part for part in (group["metadata"].get("name", ""), version["version"]) if part)

            def kind(said: dict[str, Any], name: str = name) -> str:
                given = "/".join(
                    part for part in (said["responseKind"]["group"], said["responseKind"]["version"]) if part
                )
                return f"{given or name} {said['responseKind']['kind']}"

            for each in version["resources"]:
                namespaced = each["scope"] == "Namespaced"
                found[name, each["resource"]] = {
                    "kind": kind(each), "singular": each["singularResource"], "namespaced": namespaced,
                    "verbs": sorted(each["verbs"]), "short": sorted(each.get("shortNames", ())),
                    "categories": sorted(each.get("categories", ())),
                }  # fmt: skip
                for below in each.get("subresources", ()):
                    found[name, f"{each['resource']}/{below['subresource']}"] = {
                        "kind": kind(below), "verbs": sorted(below["verbs"]), "namespaced": namespaced,
                    }  # fmt: skip
    return found


def differences(wanted: Found, got: Found) -> list[str]:
    """What is not as the tables say, and not excused."""
    wrong = {key: f"not served; wanted {wanted[key]}" for key in wanted.keys() - got.keys()}
    wrong |= {key: f"served, and not in Kubernetes: {got[key]}" for key in got.keys() - wanted.keys()}
    wrong |= {
        key: f"{got[key]} instead of {wanted[key]}" for key in wanted.keys() & got.keys() if wanted[key] != got[key]
    }
    unused = exceptions.SERVED.keys() - wrong.keys()
    return [f"{' '.join(key)}: {text}" for key, text in sorted(wrong.items()) if key not in exceptions.SERVED] + [
        f"{' '.join(key)}: listed as an exception, and yet as in Kubernetes" for key in sorted(unused)
    ]


async def test_plain_discovery_is_complete(admin: Caller) -> None:
    groups = (await admin.ask("GET", "/apis")).json["groups"]
    versions = [version["groupVersion"] for group in groups for version in group["versions"]]
    got: Found = {}
    for path in ("/api/v1", *(f"/apis/{version}" for version in versions)):
        answer = await admin.ask("GET", path)
        assert answer.status == 200, path
        got |= plain(answer.json)
    wrong = differences(facts(), got)
    assert not wrong, "\n".join(wrong)


async def test_aggregated_discovery_is_complete(admin: Caller) -> None:
    got: Found = {}
    for path in ("/api", "/apis"):
        got |= aggregated((await admin.ask("GET", path, Accept=AGGREGATED)).json)
    wrong = differences(facts(), got)
    assert not wrong, "\n".join(wrong)


async def test_discovery_is_for_those_who_say_who_they_are(front: Https) -> None:
    """Any name will do; health and the version are for everybody."""
    public = ("/healthz", "/livez", "/readyz", "/version")
    discovery = ("/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/openapi/v2", "/openapi/v3")
    async with front.caller("") as nobody, front.caller("somebody", ()) as somebody:
        for path in (*public, *discovery):
            answers = [(await caller.ask("GET", path)).status for caller in (somebody, nobody)]
            assert answers == [200, 200 if path in public else 403], path


async def test_what_discovery_names_answers(admin: Caller) -> None:
    """Lists are lists of the kind; below an object that is not there the object is what is missing, and not the path."""
    namespaced = {(row["group_version"], row["plural"]): row["namespaced"] == "true" for row in rows("resources.tsv")}

    def path(row: dict[str, str], *rest: str) -> str:
        version = row["group_version"]
        root = f"/api/{version.removeprefix('core/')}" if version.startswith("core/") else f"/apis/{version}"
        within = ["namespaces", "default"] if namespaced[version, row["plural"]] and rest else []
        return "/".join((root, *within, row["plural"], *rest))

    wrong = []
    for row in rows("resources.tsv"):
        if "list" in row["verbs"].split(","):
            answer = await admin.ask("GET", path(row))
            if answer.status != 200 or answer.json["kind"] != f"{row['kind']}List":
                wrong.append(f"{path(row)}: {answer.status} {answer.text[:200]}")
    for row in rows("subresources.tsv"):
        where = path(row, "nope", row["subresource"])
        for verb, method in (("get", "GET"), ("update", "PUT"), ("create", "POST")):
            if verb not in row["verbs"].split(","):
                continue
            body = {"apiVersion": row["kind_api_version"], "kind": row["kind"], "metadata": {"name": "nope"}}
            if row["kind"] == "Binding":
                body["target"] = {"name": "n"}
            answer = await admin.ask(method, where, None if verb == "get" else body)
            session = answer.json["message"] == "Upgrade request required"
            found = (
                ""
                if session or answer.json.get("details", {}).get("name") == "nope"
                else f"{answer.status} {answer.text}"
            )
            if bool(found) != ((method, f"{row['plural']}/{row['subresource']}") in exceptions.REFUSED):
                wrong.append(f"{method} {where}: {found or 'listed as an exception, and yet answered'}")
    assert not wrong, "\n".join(wrong)
