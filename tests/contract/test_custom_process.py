"""Custom resources in a real server process: the command line knows them, and they are there right after a restart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wherry.testing.server import Server

DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, kind: Boat, shortNames: [bt]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns:
    - {name: Crew, type: integer, jsonPath: .spec.crew}
    - {name: Load, type: number, jsonPath: .spec.load}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {crew: {type: integer, default: 2}, load: {type: number}}
            x-kubernetes-validations: [{rule: self.crew > 0, message: nobody rows}]
"""
BOAT = "apiVersion: example.com/v1\nkind: Boat\nmetadata: {name: ann}\nspec: {crew: 3, load: 1.5}\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "data")
    server.start()
    yield server
    server.stop()


def said(server: Server, *words: str, stdin: str | None = None) -> str:
    done = server.run(*words, stdin=stdin)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.1)


def test_the_command_line_and_a_restart(server: Server) -> None:
    assert "created" in said(server, "apply", "-f", "-", stdin=DEFINITION)
    until(lambda: server.run("apply", "-f", "-", stdin=BOAT).returncode == 0)
    assert "unchanged" in said(server, "apply", "-f", "-", stdin=BOAT)
    assert "configured" in said(server, "apply", "-f", "-", stdin=BOAT.replace("crew: 3", "crew: 4"))
    assert said(server, "get", "bt").splitlines()[0].split() == ["NAME", "CREW", "LOAD"]
    assert said(server, "get", "boats").splitlines()[1].split() == ["ann", "4", "1.5"]
    refused = server.run("apply", "-f", "-", stdin=BOAT.replace("crew: 3", "crew: 0"))
    assert refused.returncode != 0
    assert "nobody rows" in refused.stderr
    assert "crew\t<integer>" in said(server, "explain", "boats.spec")
    assert 'field "cruw" does not exist in boats.spec' in server.run("explain", "boat.spec.cruw").stderr
    assert "labeled" in said(server, "label", "boat", "ann", "a=b")
    server.kill()
    server.start()
    # No waiting: whoever asks first must find them.
    spec = json.loads(said(server, "get", "boat", "ann", "-o", "json"))["spec"]
    assert spec == {"crew": 4, "load": 1.5}
    assert server.run("apply", "-f", "-", stdin=BOAT.replace("crew: 3", "crew: 0")).returncode != 0
    assert "deleted" in said(server, "delete", "boat", "ann")
    assert "deleted" in said(server, "delete", "crd", "boats.example.com")
    until(lambda: server.run("get", "boats").returncode != 0)
