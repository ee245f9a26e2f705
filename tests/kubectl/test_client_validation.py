"""kubectl's own validation, by the OpenAPI documents: what it does with a server that does not say that it checks fields itself.

Ours does say so; a proxy in between hides it. What kubectl then finds wrong, or not, it has from our documents alone.
"""

from __future__ import annotations

import http.client
import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from wherry.testing.kubectl import OLDEST, TIMEOUT_S, WEB, Kubectl, versions

pytestmark = pytest.mark.timeout(180)
ROOT = Path(__file__).parents[2]
# Of the same length, so that the documents in protobuf stay what they are.
HIDDEN, SHOWN = b"fieldValidation", b"fieldValidatiox"


class Hiding(http.server.BaseHTTPRequestHandler):
    """Passes requests on; without `fieldValidation` in the OpenAPI documents. `writes` are the others than GET."""

    upstream: tuple[str, int]
    writes: list[str]

    def _pass_on(self) -> None:
        if self.command != "GET":
            self.writes.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: self.headers[name] for name in ("Accept", "Content-Type") if name in self.headers}
        connection = http.client.HTTPConnection(*self.upstream, timeout=TIMEOUT_S)
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if self.path.startswith("/openapi/"):
            assert len(HIDDEN) == len(SHOWN)
            content = content.replace(HIDDEN, SHOWN)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _pass_on

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@contextmanager
def hidden(kubectl: Kubectl, directory: Path) -> Iterator[tuple[Kubectl, list[str]]]:
    """The same kubectl through such a proxy, and what was written through it."""
    with kubectl.going("proxy", "--port=0") as proxy:
        assert proxy.stdout is not None
        found = re.search(r"127\.0\.0\.1:(\d+)", proxy.stdout.readline())
        assert found
        writes: list[str] = []
        handler = type("Handler", (Hiding,), {"upstream": ("127.0.0.1", int(found[1])), "writes": writes})
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                config = {
                    "apiVersion": "v1", "kind": "Config", "current-context": "c",
                    "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": ""}}],
                }  # fmt: skip
                file = directory / "hidden"
                file.write_text(yaml.safe_dump(config))
                yield Kubectl(kubectl.binary, file, directory / "home", kubectl.namespace), writes
            finally:
                server.shutdown()
                thread.join()


def mistakes() -> dict[str, str]:
    """What is wrong, by what kubectl says of it."""
    one = WEB.partition("---")[0]
    return {
        r'unknown field "replica" in \S*DeploymentSpec': one.replace("replicas:", "replica:"),
        r'unknown field "protocoll" in \S*ContainerPort': one.replace("containerPort: 80", "containerPort: 80, protocoll: TCP"),
        r'invalid type for \S*ContainerPort.containerPort: got "string", expected "integer"': one.replace(
            "containerPort: 80", "containerPort: x"
        ),
        r'invalid type for \S*PodSpec.containers: got "map", expected "array"': one.replace(
            "- name: web", "  a: b"
        ),
        r'missing required field "selector" in \S*DeploymentSpec': one.replace("selector: {matchLabels: {app: web}}", ""),
        r'missing required field "containerPort" in \S*ContainerPort': one.replace(", containerPort: 80", ""),
    }  # fmt: skip


@versions(OLDEST)
def test_the_schema_is_enough_for_kubectls_own_validation(kubectl: Kubectl, tmp_path: Path) -> None:
    every = yaml.safe_load((ROOT / "tests" / "kubectl" / "every.yaml").read_text())
    for obj in every.values():
        obj.setdefault("metadata", {}).setdefault("name", "one")
    manifest = tmp_path / "every.yaml"
    manifest.write_text(yaml.safe_dump_all(every.values()))
    with hidden(kubectl, tmp_path) as (alone, writes):
        for said, text in mistakes().items():
            refused = alone.fails("create", "--validate=strict", "-f", "-", stdin=text)
            assert "error validating data" in refused
            assert re.search(said, refused), refused
        assert writes == [], "it was the server that found them"
        # What is right passes: one of every kind, and WEB, which is made.
        checked = alone("create", "--validate=strict", "--dry-run=client", "-f", str(manifest))
        assert checked.count("created (dry run)") == len(every)
        assert writes == []
        assert alone("apply", "--validate=strict", "-f", "-", stdin=WEB).count(" created\n") == 3
        assert len(writes) == 3
