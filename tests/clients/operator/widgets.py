"""An operator as people write them with kopf: for each Widget a ConfigMap of its size, a status, and a note of its end.

Run by `kopf run` in tests/clients/test_operator.py, with no word about which cluster it is.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import kopf
from kubernetes import client, config
from urllib3.exceptions import HTTPError


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


@kopf.on.update("example.com", "v1", "widgets", field="spec.color")
async def paint(new: str, name: str, namespace: str, patch: kopf.Patch, **_: Any) -> None:
    """Says that it has begun and waits until it may go on: the API goes meanwhile, and it tries until it is back."""
    folder = Path(os.environ["WIDGETS_FOLDER"])
    (folder / f"{name}-begun").touch()
    while not (folder / f"{name}-may-go-on").exists():  # noqa: ASYNC110 - another process says so
        await asyncio.sleep(0.05)
    while True:
        try:
            client.CoreV1Api().patch_namespaced_config_map(f"{name}-settings", namespace, {"data": {"color": new}})
            break
        except HTTPError:
            (folder / f"{name}-failed").touch()
            await asyncio.sleep(0.2)
    patch.status["painted"] = new


@kopf.on.delete("example.com", "v1", "widgets")
def delete(name: str, namespace: str, **_: Any) -> None:
    body = {"metadata": {"name": f"{name}-is-gone"}}
    client.CoreV1Api().create_namespaced_config_map(namespace, body)
