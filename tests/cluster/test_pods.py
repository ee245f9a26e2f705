"""What a pod's manifest asks for, on a real node: environment, volumes, cgroups, init containers, probes, hooks, failures in
Kubernetes' words, logs and sessions, and what becomes of it when parts of the node are killed. One cluster of one node; the pods
of all manifests start together, so that the tests mostly look.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kubelet.node import host_dns
from wherry.testing import kubectl
from wherry.testing.local import IMAGE, MAIN, LocalCluster, containers, deployment, is_ready, until
from wherry.testing.require import require_containerd, require_root
from wherry.testing.server import free_port

pytestmark = pytest.mark.timeout(200)

OBJECTS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {k1: v1, k2: "line1\\nline2"}
---
apiVersion: v1
kind: Secret
metadata: {name: secret}
stringData: {user: admin, pass: s3cret}
"""


# A real gRPC health server, of this very interpreter: the demo image has none. SIGUSR1 and SIGUSR2 change what it says.
HEALTH = """
import signal, grpc
from concurrent.futures import ThreadPoolExecutor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
servicer = health.HealthServicer()
server = grpc.server(ThreadPoolExecutor(4))
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
answer = health_pb2.HealthCheckResponse
signal.signal(signal.SIGUSR1, lambda *_: servicer.set("app", answer.NOT_SERVING))
signal.signal(signal.SIGUSR2, lambda *_: servicer.set("app", answer.SERVING))
servicer.set("app", answer.SERVING)
assert server.add_insecure_port("0.0.0.0:5000")
server.start()
server.wait_for_termination()
"""


def health_pod() -> str:
    container = {
        "name": "c", "image": IMAGE, "command": ["chroot", "/host", sys.executable, "-c", HEALTH],
        "volumeMounts": [{"name": "host", "mountPath": "/host", "readOnly": True}],
        "readinessProbe": {"grpc": {"port": 5000, "service": "app"}, "periodSeconds": 1, "timeoutSeconds": 10},
        "livenessProbe": {"grpc": {"port": 5000}, "initialDelaySeconds": 2, "periodSeconds": 2, "timeoutSeconds": 20},
        "startupProbe": {"grpc": {"port": 5000}, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 60},
    }  # fmt: skip
    volumes = [{"name": "host", "hostPath": {"path": "/"}}]
    spec = {"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": volumes}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "grpc"}, "spec": spec}) + "\n"


def pod(name: str, container: str, spec: str = "") -> str:
    """`container` and `spec` are the insides of flow mappings."""
    more = f"{spec}, " if spec else ""
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{set: features}}, annotations: {{note: hi}}}}\n"
        f"spec: {{terminationGracePeriodSeconds: 1, {more}containers: [{{name: c, image: '{IMAGE}', {container}}}]}}\n"
    )


def shell(script: str) -> str:
    return f"command: [sh, -c, '{script}']"


SLOW_SIDE = "sleep 4; echo side >> /d/o; touch /up; exec sleep 1000000"

NAMES = "hostname; cat /etc/hosts; echo resolv.conf; cat /etc/resolv.conf"

BOUND_BITS_S = 10_000_000
BOUND_BYTES = BOUND_BITS_S // 8  # what is let through at once
BOUNDS = "kubernetes.io/ingress-bandwidth: 10M, kubernetes.io/egress-bandwidth: 10M"
BOUNDED = 'nc -ll -p 9001 -e cat /dev/zero & exec nc -ll -p 9002 -e sh -c "cat > /dev/null; echo all"'

PODS = {
    "bounded": pod("bounded", shell(BOUNDED)).replace("note: hi", BOUNDS),
    "environment": pod(
        "environment",
        shell('env; echo "arg=$(A) pwd=$(pwd)"')
        + ", workingDir: /tmp, envFrom: [{prefix: CM_, configMapRef: {name: settings}}], "
        "env: [{name: A, value: x}, {name: B, value: $(A)-$(LATER)}, "
        "{name: LATER, valueFrom: {secretKeyRef: {name: secret, key: pass}}}, "
        "{name: NONE, valueFrom: {configMapKeyRef: {name: nowhere, key: k, optional: true}}}, "
        "{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, "
        "{name: NOTE, valueFrom: {fieldRef: {fieldPath: 'metadata.annotations[''note'']'}}}, "
        "{name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}], "
        "resources: {limits: {cpu: 250m, memory: 32Mi}}",
        "restartPolicy: Never",
    ),
    "volumes": pod(
        "volumes",
        shell(
            "df -k /mem | tail -1; cat /cm/k1 /sec/deep/user /proj/note /one; echo; echo kept > /disk/f; exec sleep 1000000"
        )
        + ", volumeMounts: [{name: mem, mountPath: /mem}, {name: cm, mountPath: /cm}, {name: sec, mountPath: /sec}, "
        "{name: proj, mountPath: /proj}, {name: cm, mountPath: /one, subPath: k2}, {name: disk, mountPath: /disk}]",
        "volumes: [{name: disk, emptyDir: {}}, {name: mem, emptyDir: {medium: Memory, sizeLimit: 5Mi}}, "
        "{name: cm, configMap: {name: settings}}, "
        "{name: sec, secret: {secretName: secret, items: [{key: user, path: deep/user, mode: 0400}]}}, "
        "{name: proj, projected: {sources: [{configMap: {name: settings}}, {downwardAPI: {items: "
        "[{path: note, fieldRef: {fieldPath: metadata.annotations}}]}}]}}]",
    ),
    "secure": pod(
        "secure",
        shell("id; touch /x; touch /e/f; ls -ln /e/f; grep CapBnd /proc/self/status; exec sleep 1000000")
        + ", securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, "
        "capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}, volumeMounts: [{name: e, mountPath: /e}]",
        "securityContext: {runAsUser: 1000, runAsGroup: 2000, fsGroup: 3000}, volumes: [{name: e, emptyDir: {}}]",
    ),
    "ordered": pod(
        "ordered",
        shell("echo app >> /d/o; exec sleep 1000000") + ", volumeMounts: [{name: d, mountPath: /d}]",
        "volumes: [{name: d, emptyDir: {}}], initContainers: ["
        f"{{name: first, image: '{IMAGE}', {shell('echo first >> /d/o')}, volumeMounts: [{{name: d, mountPath: /d}}]}}, "
        f"{{name: side, image: '{IMAGE}', restartPolicy: Always, {shell(SLOW_SIDE)}, "
        "volumeMounts: [{name: d, mountPath: /d}], startupProbe: {exec: {command: [cat, /up]}, periodSeconds: 1, "
        "timeoutSeconds: 20, failureThreshold: 30}}, "
        f"{{name: last, image: '{IMAGE}', {shell('echo last >> /d/o')}, volumeMounts: [{{name: d, mountPath: /d}}]}}]",
    ),
    "limited": pod(
        "limited",
        "command: [sleep, '1000000'], resources: {requests: {cpu: 100m, memory: 16Mi}, limits: {cpu: 300m, memory: 32Mi}}",
    ),
    "hostly": pod(
        "hostly",
        shell("hostname; exec httpd -f -p 18123"),
        "hostNetwork: true, hostPID: true, shareProcessNamespace: false",
    ),
    "named": pod(
        "named",
        shell(NAMES),
        "restartPolicy: Never, hostname: front, subdomain: club, hostAliases: [{ip: 192.0.2.7, hostnames: [db, db.example.com]}]",
    ),
    "dns-own": pod(
        "dns-own",
        shell(NAMES),
        "restartPolicy: Never, dnsPolicy: None, dnsConfig: {nameservers: [198.51.100.1, 198.51.100.2], "
        "searches: [a.example.com, b.example.com], options: [{name: ndots, value: '2'}, {name: edns0}]}",
    ),
    "dns-default": pod("dns-default", shell(NAMES), "restartPolicy: Never, dnsPolicy: Default"),
    "dns-host": pod(
        "dns-host",
        shell(NAMES),
        "restartPolicy: Never, hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet, "
        "hostAliases: [{ip: 192.0.2.8, hostnames: [mail]}], dnsConfig: {options: [{name: ndots, value: '3'}]}",
    ),
    "signalled": pod(
        "signalled",
        shell('trap "echo got usr1; exit 0" USR1; trap "echo got term; exit 1" TERM; while :; do sleep 0.1; done')
        + ", lifecycle: {stopSignal: SIGUSR1, preStop: {exec: {command: [sh, -c, echo pre-stop > /proc/1/fd/1]}}}",
        "os: {name: linux}, restartPolicy: Never",
    ),
    "stubborn": pod(
        "stubborn",
        "command: [sleep, '7654321'], lifecycle: {preStop: {exec: {command: [sleep, '1000']}}}",
        "",
    ).replace("terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 600"),
    "serving": pod(
        "serving",
        shell(
            "mkdir /w; head -c 5000000 /dev/zero > /w/big; nc -ll -p 9001 -e sleep 1000000 & "
            "exec httpd -f -p 127.0.0.1:8000 -h /w"
        )
        + ", livenessProbe: {exec: {command: [ls, /w/big]}, periodSeconds: 5, timeoutSeconds: 20}, tty: true, stdin: true",
    ),
    "flood": pod(
        "flood", shell("yes 0123456789012345678901234567890123456789 | head -n 750000; echo done; exec sleep 1000000")
    ),
    "grpc": health_pod(),
    # What fails, and how the pod says so
    "out-of-memory": pod(
        "out-of-memory",
        shell("x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done") + ", resources: {limits: {memory: 16Mi}}",
        "restartPolicy: Never",
    ),
    "crashing": pod("crashing", shell("echo last words > /dev/termination-log; exit 3")),
    "overdue": pod("overdue", shell('trap "exit 0" TERM; while :; do sleep 0.1; done'), "activeDeadlineSeconds: 2"),
    "too-big": pod("too-big", "command: [sleep, '1'], resources: {requests: {cpu: '640'}}", "nodeName: node-1"),
    "unhealthy": pod(
        "unhealthy", "command: [sleep, '1000000'], livenessProbe: {tcpSocket: {port: 9}, periodSeconds: 1}"
    ),
    "no-image": pod("no-image", "").replace(IMAGE, "localhost:1/none:1"),
    "never-pull": pod("never-pull", "imagePullPolicy: Never").replace(IMAGE, "example.com/none:1"),
    "bad-name": pod("bad-name", "").replace(IMAGE, "Bad//Name"),
    "no-config": pod("no-config", "envFrom: [{configMapRef: {name: nowhere}}]"),
    "root": pod("root", "command: [sleep, '1']", "securityContext: {runAsNonRoot: true}"),
    "no-command": pod("no-command", "command: [/no/such]"),
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    require_root()
    require_containerd()
    made = LocalCluster(nodes=1)
    try:
        made.up()
        made.apply(OBJECTS + "---\n" + "---\n".join(PODS.values()))
        yield made
    finally:
        made.down()


def get(cluster: LocalCluster, name: str) -> dict[str, Any]:
    found: dict[str, Any] = cluster.json("pod", name)
    return found


def container(cluster: LocalCluster, name: str) -> dict[str, Any]:
    return next(iter(get(cluster, name)["status"].get("containerStatuses", [])), {})


def ready(cluster: LocalCluster, name: str) -> dict[str, Any]:
    return until(lambda: found if is_ready(found := get(cluster, name)) else {})


def completed(cluster: LocalCluster, name: str) -> dict[str, Any]:
    return until(
        lambda: found if (found := get(cluster, name))["status"].get("phase") in ("Succeeded", "Failed") else {}
    )


def reasons(cluster: LocalCluster, name: str) -> set[str]:
    events = cluster.json("events")["items"]
    return {event["reason"] for event in events if event["involvedObject"]["name"] == name}


def test_environment(cluster: LocalCluster) -> None:
    found = completed(cluster, "environment")
    lines = cluster.ok("logs", "environment").splitlines()
    for line in ("A=x", "B=x-$(LATER)", "LATER=s3cret", "NOTE=hi", "CPU=250", "CM_k1=v1", "arg=x pwd=/tmp"):
        assert line in lines, lines
    assert f"IP={found['status']['podIP']}" in lines
    assert not any(line.startswith("NONE=") for line in lines)


def test_volumes(cluster: LocalCluster) -> None:
    ready(cluster, "volumes")
    text = cluster.ok("logs", "volumes")
    assert "5120" in text.splitlines()[0], "the size limit of the emptyDir in memory"
    assert "v1admin" in text
    assert 'note="hi"' in text
    assert text.endswith("line1\nline2\n")
    mounts = [line.split() for line in cluster.ok("exec", "volumes", "--", "cat", "/proc/mounts").splitlines()]
    assert {fields[2] for fields in mounts if fields[1] in ("/sec", "/proj")} == {"tmpfs"}, "a Secret got onto the disk"
    modes = cluster.ok("exec", "volumes", "--", "ls", "-lL", "/sec/deep/user", "/cm/k1").split()
    assert "-r--------" in modes
    assert "-rw-r--r--" in modes
    (status,) = get(cluster, "volumes")["status"]["containerStatuses"]
    told = {mount["mountPath"]: mount for mount in status["volumeMounts"]}
    assert told["/mem"] == {"name": "mem", "mountPath": "/mem"}
    assert set(told) >= {"/mem", "/cm", "/sec", "/proj", "/one", "/disk"}


def test_security(cluster: LocalCluster) -> None:
    ready(cluster, "secure")
    text = cluster.ok("logs", "secure")
    assert "uid=1000 gid=2000 groups=2000,3000" in text
    assert "Read-only file system" in text
    assert "1000     3000" in text, "the volume belongs to the fsGroup"
    assert "CapBnd:\t0000000000000400" in text


def test_init_containers_and_sidecars_start_in_order(cluster: LocalCluster) -> None:
    found = ready(cluster, "ordered")
    assert cluster.ok("exec", "ordered", "-c", "c", "--", "cat", "/d/o").split() == ["first", "side", "last", "app"]
    inits = found["status"]["initContainerStatuses"]
    assert [(entry["name"], entry["ready"], entry["started"]) for entry in inits] == [
        ("first", True, False), ("side", True, True), ("last", True, False)
    ]  # fmt: skip


def test_requests_and_limits_are_cgroup_values(cluster: LocalCluster) -> None:
    found = ready(cluster, "limited")
    requests, limits = {"cpu": "100m", "memory": "16Mi"}, {"cpu": "300m", "memory": "32Mi"}
    (status,) = found["status"]["containerStatuses"]
    assert status["resources"] == {"requests": requests, "limits": limits}
    assert status["allocatedResources"] == requests
    uid = found["metadata"]["uid"]
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        wanted = {"memory.max": str(32 << 20), "cpu.max": "30000 100000"}
    else:
        wanted = {"memory.limit_in_bytes": str(32 << 20), "cpu.cfs_quota_us": "30000", "cpu.shares": "102"}
    for name, value in wanted.items():
        files = [file for file in root.glob(f"**/pod{uid}/**/{name}")]
        # The pod's own, the container's and the pause container's, which has no limits.
        assert sum(file.read_text().strip() == value for file in files) == 2, (name, [f.read_text() for f in files])


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_bound_of_bandwidth_is_what_a_stream_gets(cluster: LocalCluster, direction: str) -> None:
    host = ready(cluster, "bounded")["status"]["podIP"]
    began = time.monotonic()
    with socket.create_connection((host, 9002 if direction == "ingress" else 9001), 60) as sock:
        sock.settimeout(60)
        if direction == "ingress":
            sock.sendall(bytes(2 * BOUND_BYTES))
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b"all\n"
        else:
            take(sock, 2 * BOUND_BYTES)
    took_s = time.monotonic() - began
    # Half of it was let through at once.
    assert 0.2 < BOUND_BYTES * 8 / took_s / BOUND_BITS_S < 3


def take(sock: socket.socket, count: int) -> None:
    while count:
        count -= len(received := sock.recv(min(count, 65536)))
        assert received, f"{count} bytes are missing"


def test_a_pod_on_the_hosts_network(cluster: LocalCluster) -> None:
    found = ready(cluster, "hostly")
    assert found["status"]["podIP"] == found["status"]["hostIP"]
    assert cluster.ok("logs", "hostly").strip() == socket.gethostname()
    with socket.create_connection((found["status"]["hostIP"], 18123), 5):
        pass


def names(cluster: LocalCluster, name: str) -> tuple[str, list[str], dict[str, list[str]]]:
    """A pod's hostname, the lines of its /etc/hosts, and the words of its resolv.conf by keyword."""
    completed(cluster, name)
    hosts, _, resolver = cluster.ok("logs", name).partition("resolv.conf\n")
    hostname, *lines = hosts.splitlines()
    words: dict[str, list[str]] = {}
    for line in resolver.splitlines():
        keyword, *rest = line.split() or [""]
        words.setdefault(keyword, []).extend(rest)
    return hostname, lines, words


CLUSTER_DOMAINS = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]


def test_names_of_a_pod(cluster: LocalCluster) -> None:
    hostname, hosts, words = names(cluster, "named")
    assert hostname == "front"
    assert hosts[0] == "# Kubernetes-managed hosts file."
    ip = get(cluster, "named")["status"]["podIP"]
    assert f"{ip}\tfront.club.default.svc.cluster.local\tfront" in hosts
    assert hosts[-2:] == ["# Entries added by HostAliases.", "192.0.2.7\tdb\tdb.example.com"]
    assert words["nameserver"] == ["10.96.0.10"]
    assert words["search"][:3] == CLUSTER_DOMAINS
    assert words["options"] == ["ndots:5"]


def test_resolvers_of_each_policy(cluster: LocalCluster) -> None:
    _, _, own = names(cluster, "dns-own")
    assert own["nameserver"] == ["198.51.100.1", "198.51.100.2"]
    assert own["search"] == ["a.example.com", "b.example.com"]
    assert own["options"] == ["ndots:2", "edns0"]
    _, _, default = names(cluster, "dns-default")
    node = host_dns()
    if node.servers:
        assert default["nameserver"] == list(node.servers)[:3]
        assert default.get("search", []) == list(node.searches)
    hostname, hosts, words = names(cluster, "dns-host")
    assert hostname == socket.gethostname()
    assert set(Path("/etc/hosts").read_text().splitlines()) <= set(hosts)
    assert hosts[-2:] == ["# Entries added by HostAliases.", "192.0.2.8\tmail"]
    assert words["nameserver"] == ["10.96.0.10"]
    assert words["search"][:3] == CLUSTER_DOMAINS
    assert words["options"] == ["ndots:3"]


WAITING = {
    "crashing": {"CrashLoopBackOff"},
    "no-image": {"ErrImagePull", "ImagePullBackOff"},
    "never-pull": {"ErrImageNeverPull"},
    "bad-name": {"InvalidImageName"},
    "no-config": {"CreateContainerConfigError"},
    "root": {"CreateContainerConfigError"},
    "no-command": {"RunContainerError", "CrashLoopBackOff"},
}


@pytest.mark.parametrize(("name", "expected"), WAITING.items(), ids=WAITING)
def test_what_cannot_run_says_why(cluster: LocalCluster, name: str, expected: set[str]) -> None:
    until(lambda: container(cluster, name).get("state", {}).get("waiting", {}).get("reason") in expected)


def test_last_words(cluster: LocalCluster) -> None:
    last = until(lambda: container(cluster, "crashing").get("lastState", {}).get("terminated", {}))
    assert (last["exitCode"], last["message"], last["reason"]) == (3, "last words\n", "Error")
    refused = until(lambda: container(cluster, "no-command").get("lastState", {}).get("terminated", {}))
    assert refused["reason"] == "StartError"
    assert "/no/such" in refused["message"]


def test_pods_that_end_badly(cluster: LocalCluster) -> None:
    completed(cluster, "out-of-memory")
    # The agent may hear of the cause after the end.
    until(lambda: container(cluster, "out-of-memory")["state"]["terminated"]["reason"] == "OOMKilled")
    assert completed(cluster, "overdue")["status"]["reason"] == "DeadlineExceeded"
    assert "DeadlineExceeded" in reasons(cluster, "overdue")
    refused = completed(cluster, "too-big")["status"]
    assert refused["reason"] == "OutOfcpu"
    assert "requested: 640000" in refused["message"]


def test_a_failed_liveness_probe_restarts(cluster: LocalCluster) -> None:
    until(lambda: container(cluster, "unhealthy").get("restartCount", 0) > 0)
    assert {"Unhealthy", "Killing"} <= reasons(cluster, "unhealthy")


def test_a_log_of_thirty_megabytes_is_rotated_and_read_whole(cluster: LocalCluster) -> None:
    until(lambda: cluster.wherry("logs", "flood", "--tail", "1").stdout == "done\n", 120)  # no log yet is an error
    (folder,) = cluster.description.node(1).data.glob("logs/default_flood_*/c")
    until(lambda: (folder / "0.log.1").exists())
    process = subprocess.run(
        [*MAIN, "logs", "flood"], capture_output=True, env=cluster.environment, timeout=150, check=True
    )
    assert process.stdout.count(b"\n") == 750_001
    assert len(process.stdout) == 750_000 * 41 + 5


def test_grpc_probes_ask_a_real_health_server(cluster: LocalCluster) -> None:
    ready(cluster, "grpc")
    cluster.ok("exec", "grpc", "--", "kill", "-USR1", "1")
    until(lambda: not is_ready(get(cluster, "grpc")))

    def told() -> list[str]:
        events = [item for item in cluster.json("events")["items"] if item["involvedObject"]["name"] == "grpc"]
        return [item["message"] for item in events if item["reason"] == "Unhealthy"]

    until(lambda: any('service unhealthy (responded with "NOT_SERVING")' in message for message in told()))
    cluster.ok("exec", "grpc", "--", "kill", "-USR2", "1")
    ready(cluster, "grpc")
    assert container(cluster, "grpc")["restartCount"] == 0, "the server as a whole was healthy"


def test_exec_carries_exit_codes_and_both_streams(cluster: LocalCluster) -> None:
    ready(cluster, "serving")
    result = cluster.wherry("exec", "-i", "serving", "--", "sh", "-c", "cat; echo oops >&2; exit 42", stdin="in")
    assert (result.returncode, result.stdout) == (42, "in")
    assert "oops" in result.stderr


def forwarders(cluster: LocalCluster, tmp_path: Path) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Commands that forward ports, with their environments: ours over gRPC, kubectl over SPDY and over a WebSocket."""
    # One address each, so that each port is one line of what they say.
    found = {"wherry": ([*MAIN, "port-forward", "--address=127.0.0.1"], cluster.environment)}
    versions = list(kubectl.binaries().values())
    if versions:
        config = tmp_path / "kubeconfig"
        cluster.ok("kubeconfig", "-o", str(config))
        environment = {**os.environ, "KUBECONFIG": str(config), "HOME": str(tmp_path)}
        for name, websockets in (("spdy", "false"), ("websocket", "true")):
            chosen = {**environment, "KUBECTL_PORT_FORWARD_WEBSOCKETS": websockets}
            found[name] = ([str(versions[-1]), "port-forward", "--address=127.0.0.1"], chosen)
    return found


@pytest.mark.parametrize("protocol", ["wherry", "spdy", "websocket"])
def test_a_stuck_connection_of_a_port_forward_holds_up_no_other(
    cluster: LocalCluster, tmp_path: Path, protocol: str
) -> None:
    """Three at a time fetch 5 MB from a listener on the pod's localhost, while the pod reads nothing of a fourth, and we
    nothing of a fifth."""
    ready(cluster, "serving")
    found = forwarders(cluster, tmp_path).get(protocol)
    if found is None:
        pytest.skip("there is no kubectl on this machine")
    command, environment = found
    serving, deaf = free_port(), free_port()
    words = [*command, "pod/serving", f"{serving}:8000", f"{deaf}:9001"]
    forward = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert forward.stdout is not None
        for _ in range(2):
            assert "Forwarding" in forward.stdout.readline()

        def fetch(_: int) -> int:
            with (
                socket.create_connection(("127.0.0.1", serving), 120) as connection,
                connection.makefile("rb") as answer,
            ):
                connection.sendall(b"GET /big HTTP/1.0\r\n\r\n")
                return len(answer.read().partition(b"\r\n\r\n")[2])

        unheard, unread = (socket.create_connection(("127.0.0.1", port), 5) for port in (deaf, serving))
        with unheard, unread:
            if protocol == "wherry":  # kubectl itself goes on reading for none when one is not read
                unread.sendall(b"GET /big HTTP/1.0\r\n\r\n")
            unheard.settimeout(1)
            with pytest.raises(TimeoutError):
                unheard.sendall(bytes(64 << 20))
            with ThreadPoolExecutor(3) as pool:
                assert list(pool.map(fetch, range(3))) == [5_000_000] * 3
    finally:
        forward.terminate()
        forward.communicate(timeout=10)


def test_the_hook_and_the_chosen_signal_come_before_the_end(cluster: LocalCluster) -> None:
    ready(cluster, "signalled")
    follow = subprocess.Popen(
        [*MAIN, "logs", "-f", "signalled"], env=cluster.environment, stdout=subprocess.PIPE, text=True
    )
    cluster.ok("delete", "pod", "signalled")
    out, _ = follow.communicate(timeout=30)
    assert out == "pre-stop\ngot usr1\n"


def test_a_pod_stuck_in_its_hook_can_be_forced_away(cluster: LocalCluster) -> None:
    ready(cluster, "stubborn")
    (process,) = pids_of("sleep", "7654321")
    cluster.ok("delete", "pod", "stubborn", "--no-wait")
    until(lambda: "Killing" in reasons(cluster, "stubborn"))
    cluster.ok("delete", "pod", "stubborn", "--force", "--grace-period=0")
    until(lambda: not Path(f"/proc/{process}").exists(), timeout_s=20)


def pids_of(*command: str) -> list[int]:
    wanted = "\0".join(command).encode() + b"\0"
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_bytes() == wanted:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_containerd_killed_restarts_no_container(cluster: LocalCluster) -> None:
    cluster.apply(deployment("steady", 2, "exec sleep 1000000"))
    until(lambda: len(pods := cluster.pods("app=steady")) == 2 and all(map(is_ready, pods)))
    before = containers(cluster.pods("app=steady"))
    (runtime,) = [pid for pid in pids_named("containerd") if cluster.name in command_of(pid)]
    os.kill(runtime, signal.SIGKILL)
    until(lambda: [pid for pid in pids_named("containerd") if cluster.name in command_of(pid) and pid != runtime])
    cluster.ok("scale", "deployment/steady", "--replicas", "3")
    until(lambda: len(pods := cluster.pods("app=steady")) == 3 and all(map(is_ready, pods)))
    after = containers(cluster.pods("app=steady"))
    assert {name: after[name] for name in before} == before


def test_everything_on_a_node_killed_comes_up_again(cluster: LocalCluster) -> None:
    """As after a loss of power, but for the mounts."""
    before = containers(cluster.pods("app=steady"))
    victims = [cluster.agent_pid(1)]
    own = [
        pid for name in ("containerd", "containerd-shim") for pid in pids_named(name) if cluster.name in command_of(pid)
    ]
    victims += [pid for pid in own if pid not in victims]
    children = [child for pid in own for child in children_of(pid)]
    for pid in [*victims, *children]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    cluster.up()

    def all_restarted() -> bool:
        pods = cluster.pods("app=steady")
        now = containers(pods)
        return all(map(is_ready, pods)) and all(now[name][1] == before[name][1] + 1 for name in before)

    until(all_restarted)
    addresses = [pod["status"]["podIP"] for pod in cluster.pods("app=steady")]
    assert len(set(addresses)) == len(addresses)


def pids_named(name: str) -> list[int]:
    """By the name of the program, which the kernel cuts off after 15 characters."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "comm").read_text().strip() == name[:15]:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def children_of(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
