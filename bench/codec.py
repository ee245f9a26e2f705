"""The codec on a typical running pod: to and from JSON, in microseconds.

    python -m bench codec [--rounds R]

The floor is what the standard library's `json` alone takes for the same text (dumps and loads), without a schema, and the
binary form is shown beside it.
"""

from __future__ import annotations

import argparse
import json
import timeit
from collections.abc import Callable
from typing import Any

from bench._measure import closing
from wherry.api import codec
from wherry.pb import core_v1_pb2

LOOPS = 20  # short enough that some rounds of a busy machine go by undisturbed


def typical_pod() -> dict[str, Any]:
    """A pod of a Deployment as it stands in a cluster: one container with a probe, limits, two variables and a token."""
    when = "2026-01-02T03:04:05Z"
    condition = {"status": "True", "lastTransitionTime": when}
    not_ready = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
    token = "kube-api-access-x2x7k"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web-5d4f8c7b9-x2x7k",
            "generateName": "web-5d4f8c7b9-",
            "namespace": "default",
            "uid": "8c1f6a52-6f6b-4a3c-9c3e-0e8a4f1d2b3c",
            "resourceVersion": "12345",
            "creationTimestamp": when,
            "labels": {"app": "web", "pod-template-hash": "5d4f8c7b9"},
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": "web-5d4f8c7b9",
                    "uid": "1c1f6a52-6f6b-4a3c-9c3e-0e8a4f1d2b3c",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {
            "volumes": [
                {
                    "name": token,
                    "projected": {
                        "sources": [
                            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                        ],
                        "defaultMode": 420,
                    },
                }
            ],
            "containers": [
                {
                    "name": "web",
                    "image": "nginx:1.25",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "env": [
                        {"name": "A", "value": "1"},
                        {
                            "name": "POD_IP",
                            "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}},
                        },
                    ],
                    "resources": {
                        "limits": {"cpu": "500m", "memory": "256Mi"},
                        "requests": {"cpu": "100m", "memory": "128Mi"},
                    },
                    "volumeMounts": [{"name": token, "readOnly": True, "mountPath": "/var/run/secrets"}],
                    "livenessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "periodSeconds": 10},
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                    "imagePullPolicy": "IfNotPresent",
                }
            ],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default",
            "nodeName": "n1",
            "securityContext": {},
            "schedulerName": "default-scheduler",
            "tolerations": [{"key": f"node.kubernetes.io/{key}", **not_ready} for key in ("not-ready", "unreachable")],
            "priority": 0,
            "enableServiceLinks": True,
        },
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": kind, **condition} for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
            ],
            "hostIP": "10.0.0.1",
            "podIP": "10.1.0.5",
            "podIPs": [{"ip": "10.1.0.5"}],
            "startTime": when,
            "containerStatuses": [
                {
                    "name": "web",
                    "state": {"running": {"startedAt": when}},
                    "lastState": {},
                    "ready": True,
                    "restartCount": 0,
                    "image": "nginx:1.25",
                    "imageID": "sha256:abc",
                    "containerID": "containerd://abc",
                    "started": True,
                }
            ],
            "qosClass": "Burstable",
        },
    }


def microseconds(call: Callable[[], object], rounds: int) -> float:
    """The best round's time of one call: the machine is shared."""
    return min(timeit.repeat(call, number=LOOPS, repeat=rounds)) / LOOPS * 1e6


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench codec", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args(argv).rounds
    value = typical_pod()
    pod = codec.from_dict(value, core_v1_pb2.Pod)
    body = codec.to_json(pod)
    binary = pod.SerializeToString(deterministic=True)
    figures = {
        "to JSON": microseconds(lambda: codec.to_json(pod), rounds),
        "to plain values": microseconds(lambda: codec.to_dict(pod), rounds),
        "from JSON": microseconds(lambda: codec.from_json(body, core_v1_pb2.Pod), rounds),
        "from plain values": microseconds(lambda: codec.from_dict(value, core_v1_pb2.Pod), rounds),
        "json.dumps alone": microseconds(lambda: json.dumps(value), rounds),
        "json.loads alone": microseconds(lambda: json.loads(body), rounds),
        "to binary": microseconds(lambda: pod.SerializeToString(deterministic=True), rounds),
        "from binary": microseconds(lambda: core_v1_pb2.Pod.FromString(binary), rounds),
    }
    for name, figure in figures.items():
        print(f"  {name:<18} {figure:8.1f} us")
    both = figures["to JSON"] + figures["from JSON"]
    floor = figures["json.dumps alone"] + figures["json.loads alone"]
    closing("codec", both, "us there and back", floor, "json.dumps and json.loads without a schema")
