"""The node's parts that decide or translate without touching the machine; no root needed."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import struct
import subprocess
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from kubelet.network import cni, masquerade
from kubelet.node import host_dns
from kubelet.runtime import base, cri_events, cri_messages, pause, spdy
from kubelet.runtime.base import RuntimeFailure
from kubelet.runtime.exec_stream import exit_code
from kubelet.runtime.mounts import _unescape
from kubelet.runtime.processes import ProcessRef, spawn
from wherry.cli.cluster import hosts, images, layout, resolver
from wherry.pb import containerd_events_pb2 as events_pb
from wherry.pb import cri_runtime_pb2 as pb
from wherry.testing.require import require_binary

# -- sessions


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"status": "Success"}, 0),
        ({"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "137"}]}}, 137),
    ],
    ids=["success", "exit code"],
)
def test_exit_code_of_a_status(status: dict[str, Any], code: int) -> None:
    assert exit_code(json.dumps(status).encode()) == code


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (b"", "without an exit status"),
        (b'{"status": "Failure", "message": "no such container"}', "no such container"),
        (b"plain text", "plain text"),
    ],
    ids=["nothing", "another failure", "not JSON"],
)
def test_failed_session_says_why(status: bytes, message: str) -> None:
    with pytest.raises(RuntimeFailure, match=message):
        exit_code(status)


async def test_spdy_frames_are_read_as_written() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(spdy.data(7, b"abc") + spdy.data(9, b"", fin=True) + spdy.ping(b"\0\0\0\5"))
    reader.feed_data(struct.pack("!HHI", 0x8003, spdy.FrameType.RST_STREAM, 8) + struct.pack("!II", 7, 1))
    reader.feed_data(b"\0\0")
    reader.feed_eof()
    assert await spdy.read_frame(reader) == spdy.Data(7, b"abc", False)
    assert await spdy.read_frame(reader) == spdy.Data(9, b"", True)
    assert await spdy.read_frame(reader) == spdy.Control(spdy.FrameType.PING, 0, b"\0\0\0\5", False)
    reset = await spdy.read_frame(reader)
    assert isinstance(reset, spdy.Control)
    assert (reset.type, reset.stream_id) == (spdy.FrameType.RST_STREAM, 7)
    assert await spdy.read_frame(reader) is None  # cut off in the middle


def test_spdy_headers_share_one_compression_stream() -> None:
    encoder, inflate = spdy.Encoder(), zlib.decompressobj()
    for number, name in enumerate(("error", "stdin")):
        frame = encoder.syn_stream(2 * number + 1, {"streamType": name})
        version, type_, length = struct.unpack("!HHI", frame[:8])
        assert (version, type_, length) == (0x8003, spdy.FrameType.SYN_STREAM, len(frame) - 8)
        block = inflate.decompress(frame[18:])
        assert block == b"\0\0\0\1" + b"\0\0\0\x0astreamtype" + struct.pack("!I", len(name)) + name.encode()


# -- events and messages


def envelope(topic: str, payload: Any) -> events_pb.Envelope:
    message = events_pb.Envelope(topic=topic, namespace="k8s.io")
    message.event.value = payload.SerializeToString()
    return message


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (envelope("/tasks/exit", events_pb.TaskExit(container_id="c", id="c")), base.RuntimeEvent("exited", "c")),
        (envelope("/tasks/exit", events_pb.TaskExit(container_id="c", id="exec-1")), None),
        (envelope("/tasks/delete", events_pb.TaskDelete(container_id="c")), base.RuntimeEvent("deleted", "c")),
        (envelope("/tasks/delete", events_pb.TaskDelete(container_id="c", id="exec-1")), None),
        (envelope("/tasks/oom", events_pb.TaskEvent(container_id="c")), base.RuntimeEvent("oom", "c")),
        (envelope("/tasks/start", events_pb.TaskEvent(container_id="c")), base.RuntimeEvent("started", "c")),
        (envelope("/tasks/paused", events_pb.TaskEvent(container_id="c")), None),
    ],
    ids=["exit", "exit of an exec", "delete", "delete of an exec", "oom", "start", "paused"],
)
def test_events_are_decoded(given: events_pb.Envelope, want: base.RuntimeEvent | None) -> None:
    assert cri_events.decode(given) == want


@pytest.mark.parametrize(
    ("security", "want"),
    [
        (base.SecurityContext(), (pb.POD, pb.CONTAINER, pb.POD)),
        (base.SecurityContext(host_network=True, host_pid=True, host_ipc=True), (pb.NODE, pb.NODE, pb.NODE)),
        (base.SecurityContext(share_process_namespace=True), (pb.POD, pb.POD, pb.POD)),
    ],
    ids=["own", "host", "shared pid"],
)
def test_namespaces_follow_the_security_context(security: base.SecurityContext, want: tuple[int, int, int]) -> None:
    config = base.ContainerConfig("c", 0, "i", "i", security=security)
    options = cri_messages.container_config(config).linux.security_context.namespace_options
    assert (options.network, options.pid, options.ipc) == want


def test_user_zero_is_not_the_same_as_no_user() -> None:
    def security(user: int | None) -> pb.LinuxContainerSecurityContext:
        config = base.ContainerConfig("c", 0, "i", "i", security=base.SecurityContext(run_as_user=user))
        return cri_messages.container_config(config).linux.security_context

    assert security(0).HasField("run_as_user")
    assert not security(None).HasField("run_as_user")


def test_unknown_security_profile_is_refused() -> None:
    with pytest.raises(RuntimeFailure, match='security profile "strict": want') as refused:
        cri_messages.container_config(
            base.ContainerConfig("c", 0, "i", "i", security=base.SecurityContext(seccomp_profile="strict"))
        )
    assert not refused.value.retryable


# -- network


def test_cni_config_is_written_once(tmp_path: Path) -> None:
    document = cni.config("n", "10.1.2.0/24", tmp_path / "ipam", bridge="br0", mtu=1400)
    assert cni.write_config(tmp_path, document)
    assert not cni.write_config(tmp_path, document)
    assert json.loads((tmp_path / cni.CONFIG_NAME).read_text()) == document
    assert os.listdir(tmp_path) == [cni.CONFIG_NAME]


@pytest.mark.parametrize(("host_ports", "plugins"), [(False, ["bridge"]), (True, ["bridge", "portmap", "bandwidth"])])
def test_only_pods_with_host_ports_pay_for_them(tmp_path: Path, host_ports: bool, plugins: list[str]) -> None:
    document: Any = cni.config("n", "10.1.2.0/24", tmp_path, bridge="br0", host_ports=host_ports)
    assert [plugin["type"] for plugin in document["plugins"]] == plugins


@pytest.mark.parametrize(
    ("cidr", "bridge", "message"),
    [("10.1.2.0/30", "br0", "too small"), ("10.1.2.3/24", "br0", "host bits"), ("10.1.2.0/24", "x" * 16, "15 char")],
    ids=["small", "host bits", "long bridge"],
)
def test_bad_cni_input_is_refused(cidr: str, bridge: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cni.config("n", cidr, Path("/x"), bridge=bridge)


def test_leaked_addresses_are_released(tmp_path: Path) -> None:
    directory = tmp_path / "n"
    directory.mkdir()
    (directory / "10.1.2.3").write_text("alive\r\neth0")
    (directory / "10.1.2.4").write_text("dead\r\neth0")
    (directory / "last_reserved_ip.0").write_text("10.1.2.4")
    (directory / "lock").touch()
    assert cni.release_leaked(tmp_path, "n", {"alive"}) == ["10.1.2.4"]
    assert sorted(os.listdir(directory)) == ["10.1.2.3", "last_reserved_ip.0", "lock"]


def test_masquerading_spares_the_cluster() -> None:
    rules = masquerade.ruleset("t", "10.1.2.0/24", ("10.1.0.0/16",), "br0")
    assert (
        'ip saddr 10.1.2.0/24 ip daddr != { 10.1.0.0/16, 224.0.0.0/4, 255.255.255.255 } oifname != "br0" masquerade'
        in rules
    )


def test_first_free_network_is_chosen() -> None:
    assert hosts.choose_host_subnet([]) == "10.77.0.0/24"
    assert hosts.choose_host_subnet(["10.77.0.5/32", "10.77.1.0/24", "192.0.2.2/24"]) == "10.77.2.0/24"
    with pytest.raises(layout.ClusterError, match="every network of"):
        hosts.choose_cluster_cidr(["10.0.0.0/8"])


# -- images


def test_images_are_the_same_every_time() -> None:
    assert images.pause_archive() == images.pause_archive()


def test_docker_archive_holds_what_its_config_says() -> None:
    content = images.docker_archive("a:1", images.Layer(files={"x": (b"hello", 0o644)}), cmd=["/x"], user="5")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        config = json.load(archive.extractfile(manifest["Config"]))  # type: ignore[arg-type]
        layer = archive.extractfile(manifest["Layers"][0]).read()  # type: ignore[union-attr]
    assert manifest["RepoTags"] == ["a:1"]
    assert config["config"]["Cmd"] == ["/x"]
    assert config["config"]["User"] == "5"
    with tarfile.open(fileobj=io.BytesIO(layer)) as files:
        assert files.extractfile("x").read() == b"hello"  # type: ignore[union-attr]


def test_dynamic_busybox_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "busybox"
    binary.write_bytes(b"\x7fELF..../lib64/ld-linux-x86-64.so.2\0")
    with pytest.raises(images.ImageError, match="busybox-static"):
        images.demo_archive(binary)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("machine", pause.machines())
def test_pause_program_waits_and_ends_on_a_signal(tmp_path: Path, number: int, machine: str) -> None:
    path = tmp_path / "pause"
    path.write_bytes(pause.pause_program(machine))
    path.chmod(0o755)
    emulator = [] if machine == os.uname().machine else [require_binary(f"qemu-{machine}", "qemu-user")]
    with subprocess.Popen([*emulator, path]) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.send_signal(number)
        assert process.wait(10) == 0


@pytest.mark.parametrize("machine", pause.machines())
def test_pause_program_is_a_small_elf_file(machine: str) -> None:
    content = pause.pause_program(machine)
    assert content[:4] == b"\x7fELF"
    assert len(content) < 300


# -- processes


async def test_process_is_known_again_and_not_mistaken(tmp_path: Path) -> None:
    ref = spawn(["/bin/sh", "-c", "echo started; exec sleep 1000"], log=tmp_path / "log", env={"PATH": "/bin:/usr/bin"})
    try:
        ref.write(tmp_path / "pid")
        assert ProcessRef.read(tmp_path / "pid") == ref
        assert os.getsid(ref.pid) == ref.pid
        # The same number, started at another moment or before a reboot: somebody else.
        for stranger in (
            ProcessRef(ref.pid, ref.start_ticks - 1, ref.boot_id),
            ProcessRef(ref.pid, ref.start_ticks, "another boot"),
        ):
            assert not stranger.alive()
            assert not stranger.signal(signal.SIGKILL)
            stranger.write(tmp_path / "stale")
            assert ProcessRef.read(tmp_path / "stale") is None
        assert ref.alive()
    finally:
        waiting = asyncio.create_task(ref.wait())
        await asyncio.to_thread(ref.terminate, 5.0)
        await asyncio.wait_for(waiting, 5)
    assert not ref.alive()
    assert ProcessRef.read(tmp_path / "pid") is None


def test_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    ref = spawn(
        ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"], log=tmp_path / "log", env={"PATH": "/bin"}
    )
    assert ref.terminate(0.3)
    assert not ref.alive()
    assert not ref.terminate(0.3)


@pytest.mark.parametrize(
    ("text", "want"),
    [("/plain", "/plain"), (r"/a\040b", "/a b"), (r"/back\134slash", "/back\\slash")],
    ids=["plain", "space", "backslash"],
)
def test_mount_points_are_unescaped(text: str, want: str) -> None:
    assert _unescape(text) == want


# -- the description of a cluster


def test_description_survives_a_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "STATE_DIR", tmp_path)
    cluster = layout.Cluster("a", str(tmp_path / "a"), 3, 7443, "10.77.4.0/24", "10.130.0.0/16", "0")
    assert layout.load("a") is None
    cluster.save()
    assert layout.load("a") == cluster
    assert layout.known() == ["a"]
    assert [node.address for node in cluster.nodes] == ["10.77.4.2", "10.77.4.3", "10.77.4.4"]
    assert all(len(node.link) <= 15 for node in (cluster.node(layout.MAX_NODES), *cluster.nodes))


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"format": 99}', "format 99, this version reads 1"), ("{", "damaged"), ('{"format": 1}', "damaged")],
    ids=["newer", "cut off", "incomplete"],
)
def test_unreadable_description_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str
) -> None:
    monkeypatch.setattr(layout, "STATE_DIR", tmp_path)
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(layout.ClusterError, match=message):
        layout.load("a")


@pytest.mark.parametrize("name", ["", "A", "1a", "a-b", "toolongname", "a/b"])
def test_bad_cluster_names_are_refused(name: str) -> None:
    with pytest.raises(layout.ClusterError, match="want 1 to 8 small letters"):
        layout.check_name(name)


@pytest.mark.parametrize(
    ("own", "upstream", "want"),
    [
        ("nameserver 127.0.0.53\noptions edns0\n", "nameserver 192.0.2.1\n", {"127.0.0.53": "192.0.2.1"}),
        ("nameserver 192.0.2.9\n", "nameserver 192.0.2.1\n", {}),
        ("nameserver 127.0.0.53\n", "", {}),
        ("# nameserver 127.0.0.53\nnameserver ::1\n", "nameserver 192.0.2.1\n", {}),
    ],
    ids=["systemd-resolved", "a real server", "nobody to ask", "nothing for IPv4"],
)
def test_only_loopback_resolvers_are_redirected(own: str, upstream: str, want: dict[str, str]) -> None:
    assert resolver.redirects(own, upstream) == want


@pytest.mark.parametrize(
    ("own", "resolved", "servers"),
    [
        ("nameserver 192.0.2.53\n", "nameserver 192.0.2.54\n", ("192.0.2.53",)),
        ("nameserver 127.0.0.53\n", "nameserver 192.0.2.54\n", ("192.0.2.54",)),
        ("nameserver ::1\nnameserver 192.0.2.53\n", "", ("192.0.2.53",)),
        ("nameserver 127.0.0.53\n", None, ()),
    ],
    ids=["a real one", "a stub", "one of two", "a stub and nothing else"],
)
def test_pods_get_resolvers_that_they_can_reach(
    tmp_path: Path, own: str, resolved: str | None, servers: tuple[str, ...]
) -> None:
    first, second = tmp_path / "resolv.conf", tmp_path / "resolved.conf"
    first.write_text(own + "search example.com\n")
    if resolved is not None:
        second.write_text(resolved)
    assert host_dns((str(first), str(second))).servers == servers
