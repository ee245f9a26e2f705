"""Manifests for simulated clusters, as text, so that they take the whole way that a user's take."""

from __future__ import annotations

from typing import Any

import yaml


def deployment(
    name: str, *, replicas: int = 3, namespace: str = "default", image: str = "example.com/app:1", surge: int | str = "25%",
    unavailable: int | str = "25%", strategy: str = "RollingUpdate", ready_after_s: int = 0, min_ready_s: int = 0,
    deadline_s: int = 600, history: int = 10, cpu: str = "100m", grace_s: int = 2,
) -> str:  # fmt: skip
    """One container whose readiness probe succeeds `ready_after_s` after its start."""
    container: dict[str, Any] = {"name": "c", "image": image, "resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}}
    annotations = {}
    if ready_after_s:
        container["readinessProbe"] = {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1}
        annotations["hollow.wherry.dev/c"] = f"ready-after={ready_after_s}"
    spec: dict[str, Any] = {
        "replicas": replicas,
        "minReadySeconds": min_ready_s,
        "progressDeadlineSeconds": deadline_s,
        "revisionHistoryLimit": history,
        "selector": {"matchLabels": {"app": name}},
        "strategy": {"type": strategy},
        "template": {
            "metadata": {"labels": {"app": name}, "annotations": annotations},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": grace_s},
        },
    }
    if strategy == "RollingUpdate":
        spec["strategy"]["rollingUpdate"] = {"maxSurge": surge, "maxUnavailable": unavailable}
    return yaml_of("apps/v1", "Deployment", name, namespace, spec=spec)


def yaml_of(api_version: str, kind: str, name: str, namespace: str = "", **parts: Any) -> str:
    metadata: dict[str, Any] = {"name": name, **parts.pop("metadata", {})}
    if namespace:
        metadata["namespace"] = namespace
    text: str = yaml.safe_dump({"apiVersion": api_version, "kind": kind, "metadata": metadata, **parts})
    return "---\n" + text
