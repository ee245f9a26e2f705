"""The served kinds that a cluster may well never use, a module per API group: `kinds()` yields what it serves.

The next kind is an entry here, plus its defaults, validation and columns. A module is imported when one of its kinds is asked for
(or all are, for discovery), since the schema behind it costs memory and time at start. Read by `registry.kinds`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping

from controlplane.registry.state import Served

# API group -> the module here that declares its kinds.
MODULES: Mapping[str, str] = {
    "": "core",
    "apps": "apps",
    "batch": "batch",
    "autoscaling": "autoscaling",
    "policy": "policy",
    "rbac.authorization.k8s.io": "rbac",
    "networking.k8s.io": "networking",
    "scheduling.k8s.io": "scheduling",
    "node.k8s.io": "node",
    "storage.k8s.io": "storage",
    "authentication.k8s.io": "authentication",
    "authorization.k8s.io": "authorization",
    "admissionregistration.k8s.io": "admissionregistration",
    "apiregistration.k8s.io": "apiregistration",
    "certificates.k8s.io": "certificates",
    "flowcontrol.apiserver.k8s.io": "flowcontrol",
    "resource.k8s.io": "resource",
    "storagemigration.k8s.io": "storagemigration",
    "metrics.k8s.io": "metrics",
    "apiextensions.k8s.io": "apiextensions",
}


def load(group: str) -> Iterable[Served]:
    module = importlib.import_module(f"{__name__}.{MODULES[group]}")
    found: Iterable[Served] = module.kinds()
    return found
