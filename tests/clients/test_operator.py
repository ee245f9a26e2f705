"""A kopf operator with a kind of its own: handlers, finalizers and status, through the death and the return of the API server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wherry.testing.kubectl import HollowCluster
from wherry.testing.local import until

pytestmark = [
    pytest.mark.timeout(200),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

OPERATOR = Path(__file__).parent / "operator" / "widgets.py"
FINALIZER = "widgets.example.com/cleanup"
SPEC = {
    "type": "object",
    "required": ["size"],
    "properties": {"size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "red"}},
}
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": SPEC,
                            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                        },
                    }
                },
            }
        ],
    },
}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[HollowCluster]:
    made = HollowCluster(tmp_path)
    made.server.flags = (*made.server.flags, "--no-scheduler")
    try:
        made.start()
        yield made
    finally:
        made.stop()


class Widgets:
    def __init__(self, kubeconfig: Path) -> None:
        from kubernetes import client, config

        api = config.new_client_from_config(str(kubeconfig))
        self.custom, self.core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self.definitions = client.ApiextensionsV1Api(api)
        self.missing = client.ApiException
        self._place = ("example.com", "v1", "default", "widgets")

    def define(self) -> None:
        self.definitions.create_custom_resource_definition(DEFINITION)
        until(self._established)

    def _established(self) -> bool:
        found = self.definitions.read_custom_resource_definition("widgets.example.com")
        return any(c.type == "Established" and c.status == "True" for c in found.status.conditions or ())

    def create(self, name: str, size: int) -> None:
        body = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": size}}
        self.custom.create_namespaced_custom_object(*self._place, body)

    def get(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self.custom.get_namespaced_custom_object(*self._place, name)
        except self.missing as error:
            if error.status != 404:
                raise
            return None
        return found

    def change(self, name: str, **spec: Any) -> None:
        self.custom.patch_namespaced_custom_object(*self._place, name, {"spec": spec})

    def delete(self, name: str) -> None:
        self.custom.delete_namespaced_custom_object(*self._place, name)

    def settings(self, name: str) -> str:
        try:
            return str(self.core.read_namespaced_config_map(f"{name}-settings", "default").data["size"])
        except self.missing as error:
            if error.status != 404:
                raise
            return ""

    def is_noted(self, name: str) -> bool:
        found = self.core.list_namespaced_config_map("default", field_selector=f"metadata.name={name}-is-gone")
        return bool(found.items)


def test_an_operator_through_a_restart(cluster: HollowCluster, tmp_path: Path) -> None:
    widgets = Widgets(cluster.kubeconfig)
    widgets.define()
    log = tmp_path / "operator.log"
    with log.open("wb") as out:
        operator = subprocess.Popen(
            [sys.executable, "-m", "kopf", "run", "--standalone", "--namespace", "default", str(OPERATOR)],
            env={
                **os.environ, "KUBECONFIG": str(cluster.kubeconfig), "HOME": str(tmp_path), "WIDGETS_FOLDER": str(tmp_path),
            },
            stdout=out, stderr=out, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        widgets.create("first", 1)
        until(lambda: widgets.settings("first") == "1")
        found = until(lambda: (item := widgets.get("first")) and item.get("status") and item)
        assert found["status"] == {"create": {"made": "first-settings"}}
        assert found["metadata"]["finalizers"] == [FINALIZER]
        assert found["spec"] == {"size": 1, "color": "red"}

        cluster.server.kill()
        cluster.server.start()
        widgets.change("first", size=2)
        until(lambda: widgets.settings("first") == "2", 90)
        resized = until(lambda: (widgets.get("first") or {}).get("status", {}).get("resized"))
        assert resized == "1 to 2"
        widgets.create("second", 7)
        until(lambda: widgets.settings("second") == "7")

        # And in the middle of a handler, which is there still when it is back.
        widgets.change("first", color="blue")
        until((tmp_path / "first-begun").exists)
        cluster.server.kill()
        (tmp_path / "first-may-go-on").touch()
        until((tmp_path / "first-failed").exists)
        cluster.server.start()
        painted = until(lambda: (widgets.get("first") or {}).get("status", {}).get("painted"), 90)
        assert painted == "blue"
        painted_settings = widgets.core.read_namespaced_config_map("first-settings", "default").data
        assert painted_settings == {"size": "2", "color": "blue"}

        widgets.delete("first")
        until(lambda: widgets.get("first") is None)
        assert widgets.is_noted("first"), "the handler ran before its finalizer went"
        until(lambda: not widgets.settings("first"), 90)  # its owner is gone, and the collector takes it too

        operator.terminate()
        operator.wait(30)
        widgets.delete("second")
        waiting = widgets.get("second")
        assert waiting is not None, "its finalizer keeps it while nobody is there to handle its end"
        assert waiting["metadata"]["deletionTimestamp"]
    except AssertionError as error:
        raise AssertionError(f"{error}\n{log.read_text()[-3000:]}") from error
    finally:
        operator.kill()
        operator.wait(30)
