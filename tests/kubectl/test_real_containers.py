"""kubectl against real containers: what a hollow node cannot show."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from wherry.testing.kubectl import NEWEST, OLDEST, ContainersCluster, Kubectl, versions
from wherry.testing.local import IMAGE, LocalCluster, until

pytestmark = [pytest.mark.timeout(300), pytest.mark.containers_only]
POD = f"""
apiVersion: v1
kind: Pod
metadata: {{name: two, labels: {{app: two}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: talker
    image: {IMAGE}
    command: [sh, -c, "echo one; echo two; exec sleep 777777"]
  - name: reader
    image: {IMAGE}
    stdin: true
    command: [sh, -c, "while read line; do echo got $line; done; exec sleep 888888"]
"""


@pytest.fixture
def local(cluster: ContainersCluster) -> LocalCluster:
    return cluster.local


@pytest.fixture
def two(kubectl: Kubectl) -> Kubectl:
    """A pod of two containers, of which one reads what it is told."""
    kubectl("apply", "-f", "-", stdin=POD)
    kubectl("wait", "--for=condition=Ready", "pod/two", "--timeout=60s")
    return kubectl


@versions(NEWEST, OLDEST)
def test_logs_and_attach(two: Kubectl) -> None:
    assert two("logs", "two", "-c", "talker") == "one\ntwo\n"
    assert two("logs", "two", "-c", "talker", "--tail=1") == "two\n"
    assert re.match(r"\d{4}-\d\d-\d\dT\S+ one\n", two("logs", "two", "-c", "talker", "--timestamps"))
    assert two("logs", "-l", "app=two", "--all-containers", "--prefix").splitlines()[0] == "[pod/two/talker] one"
    # What is typed is heard by the container, and what it says by whoever is attached and by whoever follows the log.
    typing = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": two.environment}
    attach = two.command("attach", "-i", "-q", "two", "-c", "reader")
    with two.going("logs", "-f", "two", "-c", "reader") as following, subprocess.Popen(attach, **typing) as attached:
        assert attached.stdin is not None
        assert attached.stdout is not None
        assert following.stdout is not None
        try:
            attached.stdin.write("a line\n")
            attached.stdin.flush()
            assert attached.stdout.readline() == "got a line\n"
            assert following.stdout.readline() == "got a line\n"
        finally:
            attached.kill()


@versions(NEWEST)
def test_a_crash_and_its_log(kubectl: Kubectl) -> None:
    kubectl("run", "crash", f"--image={IMAGE}", "--command", "--", "sh", "-c", "echo last words; exit 3")
    until(lambda: "last words" in kubectl.run("logs", "crash", "--previous").stdout)
    described = kubectl("describe", "pod", "crash")
    assert re.search(r"Exit Code: +3", described)


@versions(NEWEST, OLDEST)
def test_cp_both_ways(two: Kubectl, tmp_path: Path) -> None:
    folder = tmp_path / "sent"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_text("there and back\n")
    (folder / "big").write_bytes(bytes(range(256)) * 4096)
    two("cp", str(folder), "two:/tmp/taken", "-c", "talker")
    assert two("exec", "two", "-c", "talker", "--", "cat", "/tmp/taken/deep/file") == "there and back\n"
    two("cp", f"{two.namespace}/two:/tmp/taken", str(tmp_path / "back"), "-c", "talker")
    assert (tmp_path / "back" / "deep" / "file").read_text() == "there and back\n"
    assert (tmp_path / "back" / "big").read_bytes() == (folder / "big").read_bytes()
    # Whether kubectl hears that there is no such file before it is done is its own race.
    two.run("cp", "two:/nope", str(tmp_path / "nope"), "-c", "talker")
    assert not (tmp_path / "nope").exists()


@versions(NEWEST, OLDEST)
def test_debug(two: Kubectl) -> None:
    """A container that is added to a running pod sees the processes of the one it looks into; a copy is another pod."""
    # It waits for a line, so that it does not end before kubectl has attached; its input stays open until it has been read.
    words = (
        "debug",
        "-i",
        "two",
        f"--image={IMAGE}",
        "--target=talker",
        "-c",
        "look",
        "--",
        "sh",
        "-c",
        "read x; ps; echo end",
    )
    typing = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": two.environment}
    seen = []
    with subprocess.Popen(two.command(*words), **typing) as looking:
        assert looking.stdin is not None
        assert looking.stdout is not None
        try:
            looking.stdin.write("go\n")
            looking.stdin.flush()
            for line in looking.stdout:
                seen.append(line.strip())
                if seen[-1] == "end":
                    break
        finally:
            looking.kill()
    assert any("sleep 777777" in line for line in seen), seen
    assert not any("sleep 888888" in line for line in seen), seen
    state = "{.status.ephemeralContainerStatuses[0].state.terminated.exitCode}"
    until(lambda: two("get", "pod", "two", "-o", f"jsonpath={state}") == "0")
    assert "Ephemeral Containers:" in two("describe", "pod", "two")
    two(
        "debug", "two", "--copy-to=copy", f"--image={IMAGE}", "-c", "extra", "--share-processes", "--", "sleep", "55555"
    )  # fmt: skip
    two("wait", "--for=condition=Ready", "pod/copy", "--timeout=60s")
    assert "sleep 777777" in two("exec", "copy", "-c", "extra", "--", "ps")


@versions(NEWEST)
def test_debug_of_a_node(two: Kubectl, local: LocalCluster) -> None:
    node = two("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    two("debug", f"node/{node}", f"--image={IMAGE}", "--profile=general", "--", "ls", "/host/etc/hostname")
    (pod,) = [name for name in two("get", "pods", "-o", "name").split() if "node-debugger" in name]
    two("wait", "--for=jsonpath={.status.phase}=Succeeded", pod, "--timeout=60s")
    assert two("logs", pod) == "/host/etc/hostname\n"


@versions(NEWEST)
def test_people_at_terminals(kubectl: Kubectl) -> None:
    """Interrupts, sizes and exit codes of exec, attach, run and debug."""
    command = ("--image=" + IMAGE, "--restart=Never", "--", "sh")
    kubectl("run", "shell", "-it", "--attach=false", *command)
    kubectl("wait", "--for=condition=Ready", "pod/shell", "--timeout=60s")
    with kubectl.on_terminal("exec", "-it", "shell", "--", "sh") as terminal:
        terminal.until(r"# ", typing="\r")
        terminal.type("echo started; sleep 1000\r")
        terminal.until(r"\r\nstarted\r\n")
        terminal.until(r"\^C(?s:.*)# ", typing="\x03")
        terminal.type("echo status=$?\r")
        terminal.until(r"status=130\r\n")
        terminal.type("\x04")
        assert terminal.end() == 0
    with kubectl.on_terminal("exec", "-it", "shell", "--", "sh", "-c", "echo started; exec sleep 1000") as terminal:
        terminal.until(r"started\r\n")
        terminal.type("\x03")
        assert terminal.end() == 130
        assert "command terminated with exit code 130" in terminal.seen
    with kubectl.on_terminal("debug", "-it", "shell", "--image=" + IMAGE, "--target=shell", "--", "sh") as terminal:
        terminal.until(r"# ", typing="\r")
        terminal.type("ps\r")
        terminal.until(r"1 root +sh\r\n")  # the container's own, seen from the one that was added
        terminal.type("exit\r")
        assert terminal.end() == 0
    with kubectl.on_terminal("attach", "-it", "shell") as terminal:
        terminal.until(r"# ", typing="\r")
        terminal.resize(91, 31)
        terminal.until(r"\r\n31 91\r\n", typing="stty size\r")
        terminal.type("exit 5\r")
        terminal.end()
    until(lambda: kubectl("get", "pod", "shell", "-o", "jsonpath={..terminated.exitCode}") != "")
    with kubectl.on_terminal("run", "once", "-it", "--rm", *command) as terminal:
        terminal.until(r"# ", typing="\r")
        terminal.type("echo a$((1+1))b\r")
        terminal.until(r"a2b\r\n")
        terminal.type("exit 3\r")
        assert terminal.end() == 3
        assert 'pod "once" deleted' in terminal.seen
    assert "not found" in kubectl.fails("get", "pod", "once")


@versions(NEWEST)
def test_port_forward_to_a_pod_a_service_and_nowhere(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=WEB)
    kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
    for target, port in (("pod/web", "8080"), ("service/web", "http")):
        with kubectl.going("port-forward", target, f":{port}", "--address=127.0.0.1") as forwarding:
            assert forwarding.stdout is not None
            found = re.search(r"127\.0\.0\.1:(\d+) -> 8080", forwarding.stdout.readline())
            assert found
            with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/sub/x", timeout=60) as page:
                assert page.read() == b"deep\n"
    with kubectl.going("port-forward", "pod/web", ":9", "--address=127.0.0.1") as forwarding:
        assert forwarding.stdout is not None
        found = re.search(r"127\.0\.0\.1:(\d+) -> 9", forwarding.stdout.readline())
        assert found
        with socket.create_connection(("127.0.0.1", int(found[1])), timeout=60) as connection:
            assert connection.recv(1) == b""
        said = forwarding.stdout.read()
        refused = "failed to connect to localhost:9 inside the pod: dial tcp 127.0.0.1:9: connect: connection refused"
        assert f"an error occurred forwarding {found[1]} -> 9: {refused}" in said
        assert "error: lost connection to pod" in said
    assert "does not have a service port 99" in kubectl.fails("port-forward", "service/web", ":99")


@versions(NEWEST)
def test_a_rollout_that_does_not_get_on(kubectl: Kubectl) -> None:
    kubectl("create", "deployment", "slow", f"--image={IMAGE}", "--", "sleep", "1000")
    kubectl("patch", "deployment", "slow", "-p", '{"spec": {"progressDeadlineSeconds": 2, "minReadySeconds": 1}}')
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/slow", "--timeout=60s")
    kubectl("set", "image", "deployment/slow", "demo=wherry.local/none:1")
    stuck = kubectl.run("rollout", "status", "deployment/slow", "--timeout=60s")
    assert stuck.returncode == 1
    assert 'error: deployment "slow" exceeded its progress deadline' in stuck.stderr
    described = kubectl("describe", "deployment", "slow")
    assert re.search(r"Progressing +False +ProgressDeadlineExceeded", described)
    assert re.search(r"NewReplicaSet: +slow-\w+ \(1/1 replicas created\)", described)
    bad = kubectl(
        "get", "pods", "-l", "app=slow", "-o", "jsonpath={range .items[*]}{.metadata.name} {..image} {'\\n'}{end}"
    )
    name = next(line.split()[0] for line in bad.splitlines() if "none" in line)
    assert re.search(
        "is waiting to start: (trying and failing to pull image|image can't be pulled)", kubectl.fails("logs", name)
    )
    assert "Image:\twherry.local/none:1" in kubectl("rollout", "history", "deployment/slow", "--revision=2")
    assert kubectl("rollout", "undo", "deployment/slow") == "deployment.apps/slow rolled back\n"
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/slow", "--timeout=60s")


@versions(NEWEST)
def test_top_of_what_works_hard(kubectl: Kubectl, local: LocalCluster) -> None:
    kubectl("run", "busy", f"--image={IMAGE}", "--command", "--", "sh", "-c", "while true; do :; done")
    kubectl("wait", "--for=condition=Ready", "pod/busy", "--timeout=60s")

    def millicores() -> int:
        found = re.search(r"busy +(\d+)m +\d+Mi", kubectl.run("top", "pod", "busy").stdout)
        return int(found.group(1)) if found else 0

    until(lambda: millicores() > 20)
    kubectl("delete", "pod", "busy", "--now")
    assert re.search(r"\d+m +\d+% +\d+Mi +\d+%", kubectl("top", "node"))
    assert re.search(r"\d+m +\d+% +\d+Mi +\d+%", local.ok("top", "node"))
    node = kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    summary = json.loads(kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/stats/summary"))
    assert summary["node"]["cpu"]["usageCoreNanoSeconds"] > 0
    assert summary["node"]["fs"]["capacityBytes"] > summary["node"]["fs"]["availableBytes"] > 0


WEB = f"""
apiVersion: v1
kind: Pod
metadata: {{name: web, labels: {{app: web}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: httpd
    image: {IMAGE}
    command: [sh, -c, "mkdir -p /tmp/www/sub; echo '<a href=\\"/sub/x\\">' >/tmp/www/index.html; echo deep >/tmp/www/sub/x;
      exec httpd -f -p 8080 -h /tmp/www"]
    ports: [{{containerPort: 8080}}]
    readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
---
apiVersion: v1
kind: Service
metadata: {{name: nowhere}}
spec:
  selector: {{app: nowhere}}
  ports: [{{port: 80}}]
"""


@versions(NEWEST)
def test_web_pages_of_pods_and_services(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=WEB)
    kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
    below = f"/api/v1/namespaces/{kubectl.namespace}"
    assert kubectl("get", "--raw", f"{below}/pods/web/proxy/sub/x") == "deep\n"
    until(lambda: kubectl.run("get", "--raw", f"{below}/services/web:http/proxy/sub/x").stdout == "deep\n")
    refused = kubectl.fails("get", "--raw", f"{below}/pods/web:9/proxy/")
    assert re.search(r"error trying to reach service: dial tcp [\d.]+:9: connect: connection refused", refused)
    no_tls = kubectl.fails("get", "--raw", f"{below}/pods/https:web:8080/proxy/")
    assert "error trying to reach service: " in no_tls  # how httpd ends what it does not understand is its own race
    assert 'no endpoints available for service "nowhere"' in kubectl.fails(
        "get", "--raw", f"{below}/services/nowhere/proxy/"
    )
    # What a person does with a browser.
    with kubectl.going("proxy", "--port=0") as proxy:
        assert proxy.stdout is not None
        found = re.search(r"127\.0\.0\.1:\d+", proxy.stdout.readline())
        assert found
        with urllib.request.urlopen(f"http://{found[0]}{below}/services/web:80/proxy/", timeout=60) as page:
            assert page.read().decode() == f'<a href="{below}/services/web:80/proxy/sub/x">\n'


CLASSES = f"""
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {{name: ordinary}}
handler: runc
overhead: {{podFixed: {{cpu: 10m}}}}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {{name: missing}}
handler: missing
---
apiVersion: v1
kind: Pod
metadata: {{name: ordinary}}
spec: {{runtimeClassName: ordinary, restartPolicy: Never, containers: [{{name: c, image: {IMAGE}, command: ["true"]}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: missing}}
spec: {{runtimeClassName: missing, containers: [{{name: c, image: {IMAGE}}}]}}
"""


@versions(NEWEST)
def test_runtime_classes_choose_the_runtime(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CLASSES)
    kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/ordinary", "--timeout=60s")
    assert kubectl("get", "pod", "ordinary", "-o", "jsonpath={.spec.overhead.cpu}") == "10m"
    until(lambda: 'no runtime for "missing" is configured' in kubectl("get", "events", "-o", "jsonpath={..message}"))
    kubectl("delete", "runtimeclass", "ordinary", "missing")


SIZED = f"""
apiVersion: v1
kind: Pod
metadata: {{name: sized}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: {IMAGE}
    command: [sleep, "999999"]
    resources: {{requests: {{cpu: 50m, memory: 16Mi}}, limits: {{cpu: 100m, memory: 32Mi}}}}
    resizePolicy: [{{resourceName: memory, restartPolicy: RestartContainer}}]
"""
# Of cgroup v1 and of v2.
QUOTA = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d ' ' -f 1 /sys/fs/cgroup/cpu.max"


@versions(NEWEST, since=32)
def test_a_pod_gets_more_while_it_runs(kubectl: Kubectl) -> None:
    """kubectl knows the subresource `resize` since 1.32."""
    kubectl("apply", "-f", "-", stdin=SIZED)
    kubectl("wait", "--for=condition=Ready", "pod/sized", "--timeout=60s")

    def resize(**resources: dict[str, str]) -> subprocess.CompletedProcess[str]:
        change = {"spec": {"containers": [{"name": "c", "resources": resources}]}}
        return kubectl.run("patch", "pod", "sized", "--subresource=resize", "-p", json.dumps(change))

    def status() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(kubectl("get", "pod", "sized", "-o", "json"))["status"]
        return found

    def applied(name: str) -> str:
        return str(status()["containerStatuses"][0].get("resources", {}).get("limits", {}).get(name))

    assert kubectl("exec", "sized", "--", "sh", "-c", QUOTA) == "10000\n"
    assert "patched" in resize(requests={"cpu": "60m"}, limits={"cpu": "200m"}).stdout
    until(lambda: applied("cpu") == "200m")
    assert kubectl("exec", "sized", "--", "sh", "-c", QUOTA) == "20000\n"
    assert status()["containerStatuses"][0]["restartCount"] == 0
    # Its policy wants a new container for memory.
    assert "patched" in resize(limits={"memory": "64Mi"}).stdout
    until(lambda: applied("memory") == "64Mi" and status()["containerStatuses"][0]["restartCount"] == 1)
    assert "resource limits cannot be removed" in resize(limits={"cpu": None}).stderr  # type: ignore[dict-item]
    assert "patched" in resize(requests={"cpu": "900"}, limits={"cpu": "900"}).stdout

    def pending() -> str:
        return "".join(item.get("message", "") for item in status()["conditions"] if item["type"] == "PodResizePending")

    until(lambda: re.match(r"Node didn't have enough capacity: cpu, requested: 900000, capacity: \d+$", pending()))
