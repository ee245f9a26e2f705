"""An operator as people write them with kopf: for each Widget a ConfigMap of its size, a status, and a note of its end.

Run by `kopf run` in tests/clients/test_operator.py, with no word about which cluster it is.
"""

from __future__ import annotations

from typing import Any

import kopf
from kubernetes import client, config


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    config.load_kube_config()
    settings.persistence.finalizer = "widgets.example.com/cleanup"
    settings.networking.error_backoffs = [1, 1, 1]
    settings.watching.server_timeout = 30
    # The default also posts events; they are written to the API like everything else.
    settings.posting.enabled = True


@kopf.on.create("example.com", "v1", "widgets")
def create(spec: kopf.Spec, name: str, namespace: str, **_: Any) -> dict[str, Any]:
    body = {"metadata": {"name": f"{name}-settings"}, "data": {"size": str(spec["size"])}}
    kopf.adopt(body)
    client.CoreV1Api().create_namespaced_config_map(namespace, body)
    return {"made": f"{name}-settings"}


@kopf.on.update("example.com", "v1", "widgets", field="spec.size")
def resize(old: int, new: int, name: str, namespace: str, patch: kopf.Patch, **_: Any) -> None:
    client.CoreV1Api().patch_namespaced_config_map(f"{name}-settings", namespace, {"data": {"size": str(new)}})
    patch.status["resized"] = f"{old} to {new}"


@kopf.on.delete("example.com", "v1", "widgets")
def delete(name: str, namespace: str, **_: Any) -> None:
    body = {"metadata": {"name": f"{name}-is-gone"}}
    client.CoreV1Api().create_namespaced_config_map(namespace, body)
