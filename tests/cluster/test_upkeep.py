"""What a running cluster does for itself, on one real node: certificates renew while containers, watches and sessions go on."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubelet.identity import IdentityStore
from wherry.client.config import load_config
from wherry.testing.local import MAIN, LocalCluster, containers, deployment, is_ready, until
from wherry.testing.require import require_containerd, require_root

pytestmark = pytest.mark.timeout(300)

LIFETIME_S = 24


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    require_root()
    require_containerd()
    made = LocalCluster(nodes=1)
    try:
        made.up()
        yield made
    finally:
        made.down()


def serving_serial(cluster: LocalCluster) -> int:
    host, _, port = cluster.description.server_address.rpartition(":")
    return serial(ssl.get_server_certificate((host, int(port))).encode())


def serial(pem: bytes) -> int:
    from cryptography import x509

    return x509.load_pem_x509_certificate(pem).serial_number


def test_certificates_renew_and_nothing_is_lost(cluster: LocalCluster, tmp_path: Path) -> None:
    """Of the server, the node, the administrator's file and the user's: each gets a new serial. Meanwhile a log is followed
    and a watch goes on, the node is never anything but Ready, and no container restarts."""
    node = cluster.description.node(1)
    cluster.apply(deployment("steady", 2, "n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done"))
    until(lambda: len(pods := cluster.pods("app=steady")) == 2 and all(map(is_ready, pods)))
    # From long lives to short ones: the node joins again, as a new one would.
    node.token_file.write_text(cluster.ok("token", "create").strip())
    shutil.rmtree(node.data / "identity")
    cluster.restart_server("--certificate-lifetime", f"{LIFETIME_S}s")
    cluster.restart_agent(1)
    cluster.up()
    store = IdentityStore(node.data / "identity")
    until(lambda: store.load() is not None)
    admin = cluster.description.server_data / "admin.conf"

    def serials() -> dict[str, int]:
        identity = store.load()
        assert identity is not None
        return {
            "server": serving_serial(cluster),
            "node": serial(identity.certificate),
            "administrator": serial(load_config(admin).certificate),
            "user": serial(load_config(cluster.config).certificate),
        }

    def ready_since() -> str:
        conditions = cluster.json("node", "node-1")["status"]["conditions"]
        (ready,) = [item for item in conditions if item["type"] == "Ready"]
        assert ready["status"] == "True", ready
        return str(ready["lastTransitionTime"])

    pods = cluster.pods("app=steady")
    before, since = containers(pods), until(ready_since)
    first = serials()
    with (tmp_path / "log").open("wb") as log, (tmp_path / "watch").open("wb") as watched:
        following = [*MAIN, "logs", "-f", "--tail=1", pods[0]["metadata"]["name"]]
        watching = [*MAIN, "get", "configmaps", "-w", "-o", "name"]
        follow = subprocess.Popen(following, stdout=log, env=cluster.environment)
        watch = subprocess.Popen(watching, stdout=watched, env=cluster.environment)
        try:
            until(lambda: (tmp_path / "log").stat().st_size)
            # The user's file follows when a command finds it due.
            until(
                lambda: ready_since() == since and not first.items() & serials().items(),
                timeout_s=4 * LIFETIME_S,
                pause_s=1.0,
            )
            seen = (tmp_path / "log").stat().st_size
            until(lambda: (tmp_path / "log").stat().st_size > seen)
            cluster.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: late}\n")
            until(lambda: b"configmap/late" in (tmp_path / "watch").read_bytes())
            assert follow.poll() is None
            assert watch.poll() is None
        finally:
            for process in (follow, watch):
                process.terminate()
                process.wait(15)
    numbers = [int(line) for line in (tmp_path / "log").read_text().splitlines()[:-1]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "a line is twice there, or left out"
    assert containers(cluster.pods("app=steady")) == before
    assert {restarts for _, restarts in before.values()} == {0}
    assert ready_since() == since, "the node was not Ready all the time"
    events = cluster.json("events")["items"]
    assert not [event for event in events if event["reason"] == "NodeNotReady"], json.dumps(events)
