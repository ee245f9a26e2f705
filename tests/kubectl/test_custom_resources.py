"""The real kubectl with a definition and its objects: what a person who installs an operator types, and reads."""

from __future__ import annotations

import json
import re
import time

import pytest

from wherry.testing.kubectl import NEWEST, OLDEST, Kubectl, versions

pytestmark = pytest.mark.timeout(180)

DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.GROUP}
spec:
  group: GROUP
  scope: Namespaced
  names: {plural: boats, kind: Boat, shortNames: [bt], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.crew, statusReplicasPath: .status.crew, labelSelectorPath: .status.selector}
    additionalPrinterColumns:
    - {name: Crew, type: integer, jsonPath: .spec.crew, description: How many row}
    - {name: Ready, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status'}
    - {name: Cargo, type: string, jsonPath: .spec.cargo, priority: 1}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    selectableFields: [{jsonPath: .spec.color}]
    schema:
      openAPIV3Schema:
        type: object
        description: A light boat that carries cargo.
        required: [spec]
        properties:
          spec:
            type: object
            properties:
              crew: {type: integer, minimum: 0, default: 2, description: How many row.}
              color: {type: string, enum: [red, blue], default: red}
              cargo: {type: string, maxLength: 20}
              oars:
                type: array
                maxItems: 10
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [side]
                items: {type: object, required: [side], properties: {side: {type: string}, length: {type: integer}}}
            x-kubernetes-validations:
            - rule: "!has(self.oars) || self.oars.size() <= self.crew"
              messageExpression: "'%d oars for a crew of %d'.format([self.oars.size(), self.crew])"
              fieldPath: .oars
          status:
            type: object
            x-kubernetes-preserve-unknown-fields: true
"""
BOAT = """
apiVersion: GROUP/v1
kind: Boat
metadata: {name: NAME}
spec: {crew: 3, cargo: coal, oars: [{side: left}, {side: right, length: 4}]}
"""


@pytest.fixture
def group(kubectl: Kubectl) -> str:
    return f"{kubectl.namespace}.example"


def made(kubectl: Kubectl, group: str) -> None:
    assert "created" in kubectl("apply", "-f", "-", stdin=DEFINITION.replace("GROUP", group))
    kubectl("wait", "--for=condition=Established", f"crd/boats.{group}", "--timeout=30s")


@versions(NEWEST, OLDEST)
def test_a_definition_and_its_objects(kubectl: Kubectl, group: str) -> None:
    made(kubectl, group)
    boat = BOAT.replace("GROUP", group).replace("NAME", "ann")
    assert kubectl("apply", "-f", "-", stdin=boat) == f"boat.{group}/ann created\n"
    assert kubectl("apply", "-f", "-", stdin=boat) == f"boat.{group}/ann unchanged\n"
    resources = kubectl("api-resources", f"--api-group={group}", "--cached=false")
    assert re.search(rf"boats +bt +{re.escape(group)}/v1 +true +Boat", resources)
    lines = kubectl("get", f"boats.{group}").splitlines()
    assert lines[0].split() == ["NAME", "CREW", "READY", "AGE"]
    assert lines[1].split()[:2] == ["ann", "3"]
    assert "coal" in kubectl("get", f"boats.{group}", "-o", "wide")
    assert "crew" in kubectl("describe", f"boat.{group}", "ann").lower()
    assert kubectl("get", f"boats.{group}", "-o", "name") == f"boat.{group}/ann\n"

    refused = kubectl.fails("apply", "-f", "-", stdin=boat.replace("crew: 3", "crew: 1"))
    assert "spec.oars: Invalid value: 2 oars for a crew of 1" in refused
    refused = kubectl.fails("apply", "-f", "-", stdin=boat.replace("cargo: coal", "cargoes: coal"))
    assert 'unknown field "spec.cargoes"' in refused

    patch = json.dumps({"spec": {"cargo": "salt"}})
    kubectl("patch", f"boat.{group}", "ann", "--type=merge", "-p", patch)
    operations = json.dumps([{"op": "replace", "path": "/spec/crew", "value": 5}])
    kubectl("patch", f"boat.{group}", "ann", "--type=json", "-p", operations)
    spec = json.loads(kubectl("get", f"boat.{group}", "ann", "-o", "json"))["spec"]
    assert (spec["cargo"], spec["crew"], spec["color"]) == ("salt", 5, "red")
    assert "strategic" in kubectl.fails("patch", f"boat.{group}", "ann", "-p", patch)  # which it sends unasked
    assert kubectl("scale", f"boat.{group}/ann", "--replicas=4") == f"boat.{group}/ann scaled\n"
    assert kubectl("get", f"boat.{group}", "ann", "-o", "jsonpath={.spec.crew}") == "4"
    kubectl("label", f"boat.{group}", "ann", "class=a")
    assert "ann" in kubectl("get", f"boats.{group}", "-l", "class=a")
    assert "ann" in kubectl("get", f"boats.{group}", "--field-selector", "spec.color=red")
    assert kubectl("get", f"boats.{group}", "--field-selector", "spec.color=blue", "-o", "name") == ""
    kubectl("delete", f"boat.{group}", "ann")
    assert kubectl("get", f"boats.{group}", "-o", "name") == ""


@versions(NEWEST)
def test_explain_and_validation_from_the_schema(kubectl: Kubectl, group: str) -> None:
    made(kubectl, group)
    version = (f"--api-version={group}/v1",)
    text = eventually(lambda: kubectl.run("explain", "boats.spec.crew", *version).stdout, "How many row")
    assert re.search(r"crew\s+<integer>", text)
    tree = kubectl("explain", "boats", "--recursive", *version)
    assert re.search(r"oars\s+<\[\]Object>", tree)
    assert re.search(r"length\s+<integer>", tree)


@versions(NEWEST)
def test_apply_on_the_server_merges_lists_by_their_keys(kubectl: Kubectl, group: str) -> None:
    made(kubectl, group)
    boat = BOAT.replace("GROUP", group).replace("NAME", "bea")
    assert "serverside-applied" in kubectl("apply", "--server-side", "-f", "-", stdin=boat)
    other = f"""
apiVersion: {group}/v1
kind: Boat
metadata: {{name: bea}}
spec: {{oars: [{{side: stern}}]}}
"""
    kubectl("apply", "--server-side", "--field-manager=other", "-f", "-", stdin=other)
    sides = kubectl("get", f"boat.{group}", "bea", "-o", "jsonpath={.spec.oars[*].side}").split()
    assert sides == ["left", "right", "stern"]
    refused = kubectl.fails(
        "apply", "--server-side", "--field-manager=other", "-f", "-", stdin=boat.replace("crew: 3", "crew: 4")
    )
    assert ".spec.crew" in refused
    assert "conflict" in refused


@versions(NEWEST)
def test_deleting_a_definition_deletes_its_objects(kubectl: Kubectl, group: str) -> None:
    made(kubectl, group)
    for name in ("ann", "bea"):
        kubectl("apply", "-f", "-", stdin=BOAT.replace("GROUP", group).replace("NAME", name))
    kubectl("delete", f"crd/boats.{group}", "--wait", "--timeout=60s")
    assert "doesn't have a resource type" in kubectl.fails("get", f"boats.{group}")
    made(kubectl, group)
    assert kubectl("get", f"boats.{group}", "-o", "name") == ""


def eventually(ask: object, wanted: str) -> str:
    """kubectl keeps what it has discovered for a while."""
    for _ in range(50):
        text = str(ask())  # type: ignore[operator]
        if wanted in text:
            return text
        time.sleep(0.2)
    raise AssertionError(f"{wanted!r} does not come: {text}")
