"""Malformed manifests, one by one, through the real command line to a real server: what a person reads, exit code 1, and
nothing of the bad document (or of anything beside it) on the server."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

Wherry = Callable[..., "subprocess.CompletedProcess[str]"]


def deployment(**parts: str) -> str:
    """A good Deployment, with one part replaced by a bad one."""
    container = parts.get("container", "- {name: c, image: web:1}")
    return dedent(
        f"""\
        apiVersion: {parts.get("api_version", "apps/v1")}
        kind: {parts.get("kind", "Deployment")}
        metadata:
          {parts.get("metadata", "name: bad")}
        spec:
          replicas: {parts.get("replicas", "1")}
          {parts.get("spec", "minReadySeconds: 0")}
          selector: {{matchLabels: {{app: bad}}}}
          template:
            metadata: {{labels: {{app: {parts.get("label", "bad")}}}}}
            spec:
              {parts.get("pod", "terminationGracePeriodSeconds: 5")}
              containers:
                {container}
        """
    )


GOOD = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good}\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12)
)

CASES: list[tuple[str, str | bytes, list[str]]] = [
    ("wrong type", deployment(replicas="three"), ["spec.replicas", "expected an integer", "three"]),
    (
        "unknown field", deployment(container="- {name: c, imge: web:1}"),
        ["spec.template.spec.containers[0].imge: unknown field", 'did you mean "image"?'],
    ),
    ("missing name", deployment(metadata="labels: {a: b}"), ["metadata.name"]),
    (
        "bad quantity", deployment(container="- {name: c, image: w, resources: {requests: {cpu: lots}}}"),
        ["resources.requests", "lots"],
    ),
    (
        "duplicate port name",
        deployment(container="- {name: c, image: w, ports: [{name: p, containerPort: 1}, {name: p, containerPort: 2}]}"),
        ["ports[1].name", "Duplicate value"],
    ),
    ("two documents, one bad", GOOD + "---\n" + deployment(replicas="three"), ["document 2", "spec.replicas"]),
    ("not YAML", "{a: [", ["not YAML"]),
    ("10 MB of nesting", "apiVersion: v1\nkind: ConfigMap\ndata: " + "[" * 10_000_000, ["nest"]),
    ("missing kind", "apiVersion: v1\nmetadata: {name: bad}\n", ["kind", "missing"]),
    ("missing apiVersion", "kind: Pod\nmetadata: {name: bad}\n", ["apiVersion", "missing"]),
    ("unknown kind", deployment(kind="Deploymnt"), ["Deploymnt", 'did you mean "Deployment"?']),
    ("unknown group", deployment(api_version="app/v9"), ["app/v9"]),
    ("selector does not fit", deployment(label="other"), ["spec.template.metadata.labels", "selector"]),
    ("no containers", deployment(container="[]"), ["spec.template.spec.containers", "Required value"]),
    ("no image", deployment(container="- {name: c}"), ["containers[0].image", "Required value"]),
    ("invalid name", deployment(metadata="name: Bad_Name"), ["metadata.name", "Bad_Name", "lowercase RFC 1123"]),
    ("bad label", deployment(metadata="{name: bad, labels: {a: 'b c'}}"), ["metadata.labels", "b c"]),
    (
        "duplicate container", deployment(container="[{name: c, image: a}, {name: c, image: b}]"),
        ["containers[1].name", "Duplicate value"],
    ),
    (
        "mount of no volume", deployment(container="- {name: c, image: w, volumeMounts: [{name: v, mountPath: /v}]}"),
        ["volumeMounts[0].name", "Not found"],
    ),
    ("restart policy", deployment(pod="restartPolicy: Sometimes"), ["restartPolicy", "Sometimes", "Always"]),
    (
        "port out of range", deployment(container="- {name: c, image: w, ports: [{containerPort: 70000}]}"),
        ["containerPort", "70000", "65535"],
    ),
    ("negative replicas", deployment(replicas="-1"), ["spec.replicas", "-1", "greater than or equal to 0"]),
    (
        "request over limit",
        deployment(container="- {name: c, image: w, resources: {requests: {cpu: 2}, limits: {cpu: 1}}}"),
        ["resources.requests", "must be less than or equal to cpu limit"],
    ),
    ("duplicate key", GOOD + "data: {a: b}\ndata: {c: d}\n", ["data", "duplicate"]),
    ("tab for indentation", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n\tname: bad\n", [":4: not YAML"]),
    ("bomb of aliases", BOMB, ["alias"]),
    ("not UTF-8", b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: \xff\xfe}\n", ["UTF-8"]),
    ("empty file", "", ["no objects"]),
    ("a list, not an object", "- a\n- b\n", ["expected an object"]),
    ("probe without handler", deployment(container="- {name: c, image: w, livenessProbe: {periodSeconds: 3}}"),
     ["livenessProbe"]),
    (
        "value and valueFrom",
        deployment(container="- {name: c, image: w, env: [{name: A, value: x, "
                             "valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}"),
        ["env[0].valueFrom", "may not be specified when `value` is not empty"],
    ),
    ("bad base64", "apiVersion: v1\nkind: Secret\nmetadata: {name: bad}\ndata: {a: '!!'}\n", ["data", "base64"]),
    (
        "no room to roll", deployment(spec="strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0}}"),
        ["maxUnavailable", "may not be 0 when `maxSurge` is 0"],
    ),
    ("namespace that is not there", deployment(metadata="{name: bad, namespace: nowhere}"), ['namespaces "nowhere" not found']),
]  # fmt: skip


@pytest.mark.parametrize(("manifest", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_clear_error_and_nothing_applied(
    wherry: Wherry, tmp_path: Path, manifest: str | bytes, words: list[str]
) -> None:
    file = tmp_path / "manifest.yaml"
    file.write_bytes(manifest if isinstance(manifest, bytes) else manifest.encode())
    result = wherry("apply", "-f", str(file))
    told = result.stderr + result.stdout
    assert result.returncode == 1, told
    for word in words:
        assert word in told
    assert "Traceback" not in told
    assert len(told) < 5000, "an error must be short enough to read"
    left = wherry("get", "deploy,cm,secret,pods", "-o", "name", "--ignore-not-found").stdout.split()
    assert left == ["configmap/kube-root-ca.crt"]
