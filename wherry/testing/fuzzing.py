"""What the tests that fuzz the HTTPS front share: a server process with one kept connection, valid objects to spoil, and the
check that an answer is one. For tests/contract/test_http_fuzz*.
"""

from __future__ import annotations

import copy
import http.client
import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from wherry.client.config import load_config
from wherry.testing.server import Server, free_port

# The same ones each time, so that they hold up nobody by surprise; asked for more, others each time.
MORE = int(os.environ.get("WHERRY_FUZZ_EXAMPLES", "0"))
PROTOBUF = "application/vnd.kubernetes.protobuf"
JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
MEBI = 1024 * 1024


def fuzzing(examples: int) -> settings:
    return settings(
        max_examples=MORE or examples, derandomize=not MORE, database=None, deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.large_base_example,
            HealthCheck.data_too_large,
        ],
    )  # fmt: skip


class Front:
    """A server, and one kept connection to its HTTPS port, as the administrator."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.server = Server(directory / "data", "--http-listen", f"127.0.0.1:{self.port}")
        self.server.start()
        config = load_config(self.server.config)
        self.context = ssl.create_default_context(cadata=config.ca.decode())
        pair = directory / "pair.pem"
        pair.write_bytes(config.certificate + config.key)
        self.context.load_cert_chain(pair)
        self._connection: http.client.HTTPSConnection | None = None

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context, timeout=60)

    def ask(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json", **headers: str
    ) -> tuple[int, bytes]:
        for attempt in (0, 1):
            connection = self._connection = self._connection or self.connect()
            try:
                connection.request(method, path, body, {"Content-Type": content_type, **headers})
                response = connection.getresponse()
                return response.status, response.read()
            except (ConnectionError, http.client.HTTPException):
                self.close()  # an answer to a body that was not read ends the connection
                if attempt:
                    raise
        raise AssertionError("not reached")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def raw(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), 60)
        return self.context.wrap_socket(plain, server_hostname="127.0.0.1")

    def stop(self) -> None:
        self.close()
        self.server.stop()

    @property
    def rss_mib(self) -> float:
        assert self.server.process is not None
        pages = int(Path(f"/proc/{self.server.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MEBI


class Prober:
    """Asks for /livez over and over, as whoever looks after the process does: the loop that answers is not stuck. In a block."""

    def __init__(self, front: Front) -> None:
        self.answers = 0
        self.failures: list[str] = []
        self._front = front
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Prober:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        connection = self._front.connect()
        while not self._ended.is_set():
            try:
                connection.request("GET", "/livez")
                response = connection.getresponse()
                text = response.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
            else:
                self.answers += 1
                if response.status != 200:
                    self.failures.append(f"{response.status} {text[:200]!r}")
            self._ended.wait(0.01)
        connection.close()


@contextmanager
def looked_after(front: Front) -> Iterator[None]:
    """Nothing in the block may hold up the loop or leave a traceback in the server's log."""
    with Prober(front) as prober:
        yield
    assert not prober.failures, prober.failures[:5]
    assert prober.answers
    log = front.server.log.read_text()
    assert "Traceback" not in log, log[-5000:]


# Keys that mean something somewhere, so that changes reach deep.
_WORDS = """
apiVersion kind metadata name namespace generateName labels annotations finalizers ownerReferences uid resourceVersion
    creationTimestamp deletionTimestamp deletionGracePeriodSeconds managedFields generation spec status replicas selector
    matchLabels matchExpressions key operator values template containers initContainers image ports containerPort protocol env
    value valueFrom resources limits requests cpu memory volumes volumeMounts mountPath emptyDir sizeLimit configMap secret
    projected sources hostPath strategy type rollingUpdate maxSurge maxUnavailable port targetPort nodePort clusterIP data
    binaryData immutable stringData livenessProbe httpGet exec command periodSeconds securityContext affinity tolerations
    $patch $retainKeys $setElementOrder/containers $deleteFromPrimitiveList/finalizers op path from
"""
KEYS = st.sampled_from(_WORDS.split())
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 1e308, 0.5, "", "a", "None", "0", "1Gi", "-1", "1e400", "9" * 400,
     "\x00", "é\ud7ff", "../..", "a" * 300, "2020-01-01T00:00:00Z", "9999-99-99T99:99:99Z", "replace", "delete", "merge",
     "50%", "-5%", "%", [], {}, [None], [[]], {"": None}]
)  # fmt: skip
VALUES = st.recursive(
    ODD.map(copy.deepcopy) | st.integers() | st.text(max_size=12) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += places(item, (*path, index))
    return found


@st.composite
def spoiled(draw: st.DrawFn, seeds: st.SearchStrategy[Any], keys: st.SearchStrategy[str] = KEYS) -> Any:
    """Something valid of which a few places are something else."""
    value = json.loads(json.dumps(draw(seeds)))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(value)))
        new = copy.deepcopy(draw(VALUES))
        if not path:
            if isinstance(value, dict):
                value[draw(keys)] = new
            continue
        target = value
        for step in path[:-1]:
            target = target[step]
        if isinstance(target, dict) and draw(st.booleans()):
            target[draw(keys)] = new
        elif isinstance(target, list) and draw(st.booleans()):
            target.append(new)
        else:
            target[path[-1]] = new
    return value


POINTERS = st.one_of(
    st.lists(KEYS | st.sampled_from(["0", "-", "00", "-1", "1e3", "~0", "~1", "~2", ""]), max_size=5).map(
        lambda steps: "".join(f"/{step}" for step in steps)
    ),
    st.text(max_size=8),
)
OPERATIONS = st.lists(
    st.fixed_dictionaries(
        {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "nope"])},
        optional={"path": POINTERS, "from": POINTERS, "value": VALUES},
    )
    | VALUES,
    max_size=5,
)


def fine(status: int, text: bytes, *about: Any) -> None:
    """An answer, and if it is a refusal a Status that says why."""
    assert status < 500, (status, text[:2000], about)
    if status >= 400:
        answer = json.loads(text)
        assert answer["kind"] == "Status", (text[:500], about)
        assert answer["code"] == status
        assert answer["message"]


# valid objects


CONTAINER = {"name": "c", "image": "i:1", "ports": [{"containerPort": 80}], "env": [{"name": "A", "value": "1"}]}
PODS = "/api/v1/namespaces/default/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
SERVICES = "/api/v1/namespaces/default/services"


def a_pod(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"a": "b"}}, "spec": {"containers": [CONTAINER]}}


def a_deployment(name: str) -> dict[str, Any]:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [CONTAINER]}}
    spec = {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    return {"metadata": {"name": name}, "spec": spec}


def a_config_map(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": {"k": "v"}, "binaryData": {"b": "AAAA"}}


def a_service(name: str) -> dict[str, Any]:
    ports = [{"name": "a", "port": 80, "targetPort": "http"}, {"name": "b", "port": 81, "targetPort": 8081}]
    return {"metadata": {"name": name}, "spec": {"selector": {"a": "b"}, "ports": ports}}


SEEDS = {PODS: a_pod, DEPLOYMENTS: a_deployment, CONFIG_MAPS: a_config_map, SERVICES: a_service}
