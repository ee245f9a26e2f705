"""The cri runtime against a real containerd: what the contract suite can't ask of every runtime (signals, cgroups, ports)."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from kubelet.runtime.base import (
    ContainerState,
    PortMapping,
    Resources,
    RuntimeFailure,
    RuntimeNotFound,
    SandboxState,
    SecurityContext,
)
from kubelet.runtime.cri import CriRuntime
from wherry.testing.eventually import eventually
from wherry.testing.server import free_port

pytestmark = [pytest.mark.root, pytest.mark.containerd]


async def ended(runtime: CriRuntime, container: str) -> Any:
    async def check() -> Any:
        status = await runtime.container_status(container)
        return status if status.state == ContainerState.EXITED else None

    return await eventually(check)


async def log_of(runtime: CriRuntime, container: str) -> str:
    path = Path((await runtime.container_status(container)).log_path)
    return await asyncio.to_thread(path.read_text)


async def collect(stream: Any) -> tuple[bytes, bytes]:
    out = {1: b"", 2: b""}
    async for number, piece in stream.output():
        out[number] += piece
    return out[1], out[2]


async def test_pod_runs_and_leaves_its_exit_code_and_log(runtime: CriRuntime, pods: Any) -> None:
    sandbox = await pods.sandbox(labels={"a": "b"})
    container = await pods.container(sandbox, "echo to stdout; echo to stderr >&2; exit 42")
    status = await ended(runtime, container)
    assert (status.exit_code, status.reason) == (42, "Error")
    assert status.sandbox_id == sandbox[0]
    assert status.created_at <= status.started_at <= status.finished_at
    log = await log_of(runtime, container)
    assert " stdout F to stdout\n" in log
    assert " stderr F to stderr\n" in log
    seen = await runtime.sandbox_status(sandbox[0])
    assert seen.state == SandboxState.READY
    assert len(seen.ips) == 1
    assert seen.labels == {"a": "b"}


async def test_stopping_and_removing_what_is_gone_succeeds(runtime: CriRuntime, pods: Any) -> None:
    sandbox = await pods.sandbox()
    container = await pods.container(sandbox, "sleep 1000")
    for _ in range(2):
        await runtime.stop_container(container, 0)
        await runtime.remove_container(container)
        await runtime.stop_sandbox(sandbox[0])
        await runtime.remove_sandbox(sandbox[0])
    with pytest.raises(RuntimeNotFound):
        await runtime.container_status(container)
    with pytest.raises(RuntimeNotFound):
        await runtime.sandbox_status(sandbox[0])


async def test_memory_limit_kills_with_reason_oomkilled(runtime: CriRuntime, pods: Any) -> None:
    sandbox = await pods.sandbox()
    container = await pods.container(
        sandbox,
        "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done",
        resources=Resources(memory_limit_bytes=16 << 20, cpu_shares=100),
    )
    status = await ended(runtime, container)
    assert (status.reason, status.exit_code) == ("OOMKilled", 137)


async def test_stop_signal_first_then_kill(runtime: CriRuntime, pods: Any) -> None:
    sandbox = await pods.sandbox()
    polite = await pods.container(sandbox, "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done")
    deaf = await pods.container(sandbox, "trap '' TERM; echo up; while :; do sleep 0.1; done")
    for container in (polite, deaf):

        async def is_up(container: str = container) -> bool:
            return " up" in await log_of(runtime, container)

        await eventually(is_up)
    await runtime.stop_container(polite, 20)
    await runtime.stop_container(deaf, 1)
    assert (await runtime.container_status(polite)).exit_code == 7
    assert (await runtime.container_status(deaf)).exit_code == 128 + signal.SIGKILL


async def test_a_chosen_stop_signal_takes_the_place_of_the_images(runtime: CriRuntime, pods: Any) -> None:
    sandbox = await pods.sandbox()
    traps = "trap 'exit 7' USR1; trap 'exit 8' TERM; echo up; while :; do sleep 0.1; done"
    obedient, deaf, unknown = [await pods.container(sandbox, traps) for _ in range(3)]
    for container in (obedient, deaf, unknown):

        async def is_up(container: str = container) -> bool:
            return " up" in await log_of(runtime, container)

        await eventually(is_up)
    await runtime.stop_container(obedient, 20, "SIGUSR1")
    await runtime.stop_container(deaf, 1, "SIGWINCH")
    await runtime.stop_container(unknown, 20, "SIGNONSENSE")
    codes = [(await runtime.container_status(container)).exit_code for container in (obedient, deaf, unknown)]
    assert codes == [7, 128 + signal.SIGKILL, 8]


async def test_exec_sync_gives_both_outputs_and_the_exit_code(runtime: CriRuntime, pods: Any) -> None:
    container = await pods.container(await pods.sandbox(), "sleep 1000")
    result = await runtime.exec_sync(container, ["sh", "-c", "echo out; echo err >&2; exit 3"], 10)
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 3)
    with pytest.raises(TimeoutError, match=r"within 0\.3 s"):
        await runtime.exec_sync(container, ["sleep", "100"], 0.3)


async def test_exec_passes_a_large_stdin_through_and_its_end(runtime: CriRuntime, pods: Any) -> None:
    container = await pods.container(await pods.sandbox(), "sleep 1000")
    data = os.urandom(3 << 20)
    stream = await runtime.exec(
        container, ["sh", "-c", "cat; echo done >&2; exit 9"], stdin=True, stdout=True, stderr=True, tty=False
    )

    async def feed() -> None:
        await stream.send(data)
        await stream.send_eof()

    feeding = asyncio.create_task(feed())
    out, err = await collect(stream)
    await feeding
    assert out == data
    assert err == b"done\n"
    assert await stream.wait() == 9
    await stream.close()


async def test_exec_with_a_terminal_takes_its_size(runtime: CriRuntime, pods: Any) -> None:
    container = await pods.container(await pods.sandbox(), "sleep 1000")
    stream = await runtime.exec(container, ["sh"], stdin=True, stdout=True, stderr=True, tty=True)
    await stream.resize(132, 43)
    # The size arrives on a stream of its own, so the shell may be faster: ask until it is there.
    await stream.send(b"until stty size | grep -q '43 132'; do sleep 0.05; done; tty; exit 5\n")
    out, err = await collect(stream)
    assert b"/dev/pts/" in out
    assert err == b""
    assert await stream.wait() == 5
    await stream.close()


async def test_exec_of_a_missing_program_fails(runtime: CriRuntime, pods: Any) -> None:
    container = await pods.container(await pods.sandbox(), "sleep 1000")
    stream = await runtime.exec(container, ["no-such-program"], stdin=False, stdout=True, stderr=True, tty=False)
    await collect(stream)
    with pytest.raises(RuntimeFailure, match="no-such-program"):
        await stream.wait()
    await stream.close()


async def test_closing_a_session_in_the_middle_ends_waiting(runtime: CriRuntime, pods: Any) -> None:
    container = await pods.container(await pods.sandbox(), "sleep 1000")
    stream = await runtime.exec(container, ["sleep", "1000"], stdin=False, stdout=True, stderr=True, tty=False)
    waiting = asyncio.create_task(stream.wait())
    await asyncio.sleep(0)
    await stream.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        await waiting


async def test_attach_sees_output_and_feeds_stdin(runtime: CriRuntime, pods: Any) -> None:
    container = await pods.container(
        await pods.sandbox(), 'while read line; do echo "got $line"; done; exit 4', stdin=True, stdin_once=True
    )
    stream = await runtime.attach(container, stdin=True, stdout=True, stderr=True, tty=False)
    await stream.send(b"one\ntwo\n")
    await stream.send_eof()
    out, _ = await collect(stream)
    assert out == b"got one\ngot two\n"
    assert await stream.wait() == 0
    await stream.close()
    assert (await ended(runtime, container)).exit_code == 4


async def test_port_forward_reaches_a_server_on_localhost(runtime: CriRuntime, pods: Any) -> None:
    sandbox = await pods.sandbox()
    container = await pods.container(sandbox, "httpd -f -p 127.0.0.1:8080 -h /etc")

    async def connect() -> Any:
        try:
            return await runtime.port_forward(sandbox[0], 8080)
        except RuntimeFailure:
            return None  # it does not listen yet

    stream = await eventually(connect)
    await stream.send(b"GET /group HTTP/1.0\r\n\r\n")
    out, _ = await collect(stream)
    assert out.startswith(b"HTTP/1.1 200")
    assert out.endswith(b"nogroup:x:65534:\n")
    assert await stream.wait() == 0
    await stream.close()
    with pytest.raises(RuntimeFailure, match="port 9 of the pod"):
        await runtime.port_forward(sandbox[0], 9)
    await runtime.stop_container(container, 0)


async def test_host_port_reaches_the_pod_until_it_goes(runtime: CriRuntime, pods: Any) -> None:
    port = free_port()
    sandbox = await pods.sandbox(port_mappings=(PortMapping(8080, port),))
    await pods.container(sandbox, "httpd -f -p 8080 -h /etc")

    async def fetch() -> bytes:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return b""  # it does not listen yet
        writer.write(b"GET /group HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer

    assert (await eventually(fetch)).startswith(b"HTTP/1.1 200")
    plain = await pods.sandbox()
    # One network: the two may not get the same address.
    assert (await runtime.sandbox_status(plain[0])).ips != (await runtime.sandbox_status(sandbox[0])).ips
    await runtime.stop_sandbox(sandbox[0])
    assert await fetch() == b""
    rules = await asyncio.create_subprocess_exec("iptables-save", "-t", "nat", stdout=asyncio.subprocess.PIPE)
    assert f"--dport {port} ".encode() not in (await rules.communicate())[0]


async def test_events_come_when_the_state_can_be_seen(runtime: CriRuntime, pods: Any) -> None:
    events = runtime.events()
    first = asyncio.create_task(anext(events))  # type: ignore[arg-type]  # subscribes
    sandbox = await pods.sandbox()
    async with asyncio.timeout(10):
        await first
    container = await pods.container(sandbox, "exit 1")
    async with asyncio.timeout(10):
        async for event in events:
            if event.kind == "exited" and event.container_id == container:
                break
    assert (await runtime.container_status(container)).state == ContainerState.EXITED
    await events.aclose()  # type: ignore[attr-defined]


async def test_security_context_is_enforced(runtime: CriRuntime, pods: Any) -> None:
    security = SecurityContext(
        run_as_user=1234,
        run_as_group=2345,
        supplemental_groups=(77,),
        readonly_rootfs=True,
        allow_privilege_escalation=False,
        drop_capabilities=("ALL",),
    )
    container = await pods.container(await pods.sandbox(), "sleep 1000", security=security)
    script = (
        "id -u; id -g; id -G; touch /tmp/x || echo readonly; grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status"
    )
    result = await runtime.exec_sync(container, ["sh", "-c", script], 10)
    lines = result.stdout.decode().split("\n")
    assert lines[:2] == ["1234", "2345"]
    assert "77" in lines[2].split()
    assert "readonly" in lines
    assert "CapBnd:\t0000000000000000" in lines
    assert "NoNewPrivs:\t1" in lines
    assert "Seccomp:\t2" in lines
    hidden = await runtime.exec_sync(container, ["sh", "-c", "wc -c < /proc/timer_list; ls /sys/firmware | wc -l"], 10)
    assert hidden.stdout.split() == [b"0", b"0"]


async def test_shared_process_namespace_is_reaped_by_pause(runtime: CriRuntime, pods: Any) -> None:
    security = SecurityContext(share_process_namespace=True)
    sandbox = await pods.sandbox(security=security)
    # The subshell's child outlives it and is adopted by the sandbox's first process.
    container = await pods.container(sandbox, "(sleep 0.1 &) ; sleep 1000", security=security)

    async def orphan_gone() -> str:
        listed = (await runtime.exec_sync(container, ["ps", "-o", "pid,stat,comm"], 10)).stdout.decode()
        return listed if listed.count("sleep") == 1 else ""

    listed = await eventually(orphan_gone)
    assert "pause" in listed
    assert " Z " not in listed


async def test_log_goes_on_in_a_new_file_after_rotation(runtime: CriRuntime, pods: Any) -> None:
    container = await pods.container(await pods.sandbox(), "while :; do echo tick; sleep 0.02; done")
    path = Path((await runtime.container_status(container)).log_path)
    rotated = path.with_suffix(".1")
    await asyncio.to_thread(path.rename, rotated)
    await runtime.reopen_log(container)

    async def fresh() -> bool:
        return "tick" in await log_of(runtime, container)

    await eventually(fresh)
    assert "tick" in await asyncio.to_thread(rotated.read_text)


async def test_limits_change_while_it_runs(runtime: CriRuntime, pods: Any) -> None:
    container = await pods.container(
        await pods.sandbox(), "sleep 1000", resources=Resources(memory_limit_bytes=64 << 20, cpu_shares=100)
    )
    await runtime.update_resources(container, Resources(memory_limit_bytes=32 << 20, cpu_shares=200))
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
    result = await runtime.exec_sync(container, ["sh", "-c", script], 10)
    assert result.stdout.split() == [str(32 << 20).encode()]


async def test_sysctls_are_set_in_the_pod(runtime: CriRuntime, pods: Any) -> None:
    sandbox = await pods.sandbox(sysctls={"net.ipv4.ip_unprivileged_port_start": "80"})
    user = SecurityContext(run_as_user=65534)
    await pods.container(sandbox, "httpd -f -p 80 -h /etc", security=user)  # a low port, without root

    async def connect() -> Any:
        try:
            return await runtime.port_forward(sandbox[0], 80)
        except RuntimeFailure:
            return None

    stream = await eventually(connect)
    await stream.close()


async def test_stats_and_images(runtime: CriRuntime, pods: Any) -> None:
    sandbox = await pods.sandbox()
    container = await pods.container(sandbox, "while :; do :; done")

    async def measured() -> Any:
        found = [item for item in await runtime.stats() if item.container_id == container]
        return found[0] if found and found[0].cpu_usage_core_ns > 0 else None

    stats = await eventually(measured)
    assert stats.sandbox_id == sandbox[0]
    assert stats.memory_working_set_bytes > 0
    image = await runtime.image_status("wherry.local/demo:1")
    assert image is not None
    assert image.tags == ("wherry.local/demo:1",)
    assert (await runtime.image_status("wherry.local/pause:1")).user == "65535"  # type: ignore[union-attr]
    assert await runtime.image_status("wherry.local/none:1") is None
    mount, used = await runtime.image_fs_bytes()
    assert mount.endswith("overlayfs")
    assert used >= 0


async def test_bad_images_are_told_apart(runtime: CriRuntime) -> None:
    with pytest.raises(RuntimeFailure) as malformed:
        await runtime.pull_image("UPPER/case::", None)
    assert (malformed.value.reason, malformed.value.retryable) == ("InvalidImageName", False)
    with pytest.raises(RuntimeFailure) as absent:
        await runtime.pull_image("127.0.0.1:9/none:1", None)
    assert (absent.value.reason, absent.value.retryable) == ("ErrImagePull", True)
