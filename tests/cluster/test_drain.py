"""Pods that end lose no request: they leave the endpoints, the nodes say so, then they get their signal. (What runs on each
change is the same with 1,000 requests a second on the compose cluster.)
"""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from wherry.testing.load import Report, report
from wherry.testing.local import LocalCluster, deployment, is_ready, until
from wherry.testing.require import require_containerd, require_root

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]

REQUESTS_PER_S = 200
# At its signal it takes no more connections, and ends what it has begun: as a good server does.
SERVER = (
    "mkdir /tmp/w; hostname > /tmp/w/index.html; "
    "trap 'kill $server; sleep 0.5; exit 0' TERM; httpd -f -p 8080 -h /tmp/w & server=$!; wait"
)
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: steady}
spec:
  selector: {app: steady}
  ports: [{port: 80, targetPort: 8080}]
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    require_root()
    require_containerd()
    made = LocalCluster(prefix="d")
    try:
        made.up()
        probe = "readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}"
        made.apply(deployment("steady", 3, SERVER, extra=probe) + "---" + SERVICE)
        until(lambda: len([pod for pod in made.pods("app=steady") if is_ready(pod)]) == 3)
        yield made
    finally:
        made.down()


class Load:
    """From a node, as its pods would: through the cluster's address."""

    def __init__(self, cluster: LocalCluster) -> None:
        address = cluster.json("service", "steady")["spec"]["clusterIP"]
        command = [sys.executable, "-m", "wherry.testing.load", address, "80", str(REQUESTS_PER_S)]
        netns = cluster.description.node(1).netns_path
        self._process = subprocess.Popen(
            ["nsenter", f"--net={netns}", "--", *command], stdout=subprocess.PIPE, text=True
        )

    def results(self) -> Report:
        self._process.terminate()
        told, _ = self._process.communicate(timeout=60)
        return report(told)


def test_a_rolling_update_loses_no_request(cluster: LocalCluster) -> None:
    before = {pod["metadata"]["name"] for pod in cluster.pods("app=steady")}
    load = Load(cluster)
    cluster.ok("rollout", "restart", "deployment/steady")

    def replaced() -> bool:
        pods = cluster.json("pods", "-l", "app=steady")["items"]
        return len(pods) == 3 and all(is_ready(pod) and pod["metadata"]["name"] not in before for pod in pods)

    until(replaced)
    found = load.results()
    print(found)
    assert found.lost == {}
    # Much less would show nothing.
    assert found.per_s > REQUESTS_PER_S / 4


def test_a_node_that_is_away_delays_the_end_of_a_pod_and_no_more(cluster: LocalCluster) -> None:
    victim = next(pod for pod in cluster.pods("app=steady") if pod["spec"]["nodeName"] == "node-1")
    cluster.cable(2, connected=False)
    try:
        cluster.ok("delete", "pod", victim["metadata"]["name"], "--wait=false")
        uid = victim["metadata"]["uid"]
        until(lambda: all(pod["metadata"]["uid"] != uid for pod in cluster.json("pods")["items"]))
    finally:
        cluster.cable(2, connected=True)
