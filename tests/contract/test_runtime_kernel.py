"""What every runtime that runs real processes promises of what they find: namespaces, limits, rights, signals, mounts, logs."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from kubelet.runtime.base import Mount, Resources, Runtime, SecurityContext
from wherry.testing.eventually import eventually
from wherry.testing.runtimes import REAL, RUNS, Behaviour, Maker

pytestmark = pytest.mark.parametrize("endpoint", REAL, indirect=True)


def limit(name: str, unified: str) -> str:
    """A cgroup's file, whichever version the machine has."""
    return f"cat /sys/fs/cgroup/{name} 2>/dev/null || cat /sys/fs/cgroup/{unified}"


MEMORY = limit("memory/memory.limit_in_bytes", "memory.max")
RIGHTS = "grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status"
CPU = (
    "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us 2>/dev/null"
    " || tr ' ' '\\n' < /sys/fs/cgroup/cpu.max"
)


async def test_limits_reach_the_kernel_and_change(runtime: Runtime, make: Maker) -> None:
    limits = Resources(
        cpu_shares=512,
        cpu_quota=20_000,
        cpu_period=100_000,
        memory_limit_bytes=64 << 20,
        oom_score_adj=900,
    )
    container = await make.container(await make.sandbox(), RUNS, resources=limits)
    assert await make.run(container, MEMORY) == [str(64 << 20)]
    assert await make.run(container, CPU) == ["20000", "100000"]
    assert await make.run(container, "cat /proc/1/oom_score_adj") == ["900"]
    await runtime.update_resources(
        container, Resources(cpu_shares=200, cpu_quota=30_000, cpu_period=100_000, memory_limit_bytes=32 << 20)
    )
    assert await make.run(container, MEMORY) == [str(32 << 20)]
    assert await make.run(container, CPU) == ["30000", "100000"]


async def test_too_much_memory_is_told_as_such(make: Maker) -> None:
    grows = Behaviour("x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done")
    limits = Resources(memory_limit_bytes=16 << 20, cpu_shares=100)
    status = await make.exited(await make.container(await make.sandbox(), grows, resources=limits))
    assert (status.reason, status.exit_code) == ("OOMKilled", 137)


async def test_a_pods_containers_share_its_namespaces(runtime: Runtime, make: Maker) -> None:
    sandbox = await make.sandbox(sysctls={"net.ipv4.ip_unprivileged_port_start": "80"})
    first, second = await make.container(sandbox, RUNS), await make.container(sandbox, RUNS)
    other = await make.container(await make.sandbox(), RUNS)
    ask = "for name in net ipc uts pid; do readlink /proc/self/ns/$name; done; hostname"
    found, beside, elsewhere = [await make.run(container, ask) for container in (first, second, other)]
    assert found[:2] == beside[:2]
    assert found[3] != beside[3], "processes are each container's own"
    assert not set(found[:4]) & set(elsewhere[:4])
    assert found[4] == beside[4] == sandbox[1].hostname
    (address,) = (await runtime.sandbox_status(sandbox[0])).ips
    assert any(f"inet {address}/" in line for line in await make.run(second, "ip -4 addr"))
    # One more, without root, serves a low port to the others.
    nobody = SecurityContext(run_as_user=65534)
    serves = Behaviour("exec httpd -f -p 127.0.0.1:80 -h /etc")
    await make.container(sandbox, serves, security=nobody)

    async def fetched() -> bool:
        get = "printf 'GET /group HTTP/1.0\\r\\n\\r\\n' | nc -w 3 127.0.0.1 80; true"
        return "nogroup:x:65534:" in await make.run(first, get)

    await eventually(fetched)


async def test_a_shared_process_namespace_is_reaped_by_pause(make: Maker) -> None:
    security = SecurityContext(share_process_namespace=True)
    sandbox = await make.sandbox(security=security)
    # The subshell's child outlives it and is adopted by the sandbox's first process.
    container = await make.container(sandbox, Behaviour("(sleep 0.1 &) ; sleep 1000"), security=security)
    beside = await make.container(sandbox, Behaviour("exec sleep 2000"), security=security)

    async def orphan_gone() -> list[str]:
        listed = await make.run(container, "ps -o pid,stat,args")
        return listed if not any("sleep 0.1" in line for line in listed) else []

    listed = await eventually(orphan_gone)
    assert any("pause" in line.split() or "/pause" in line for line in listed)
    assert any("sleep 2000" in line for line in listed), "the other container's"
    assert not any(" Z " in line for line in listed)
    # And what is to debug one container sees that one's, in a pod that shares none.
    apart = await make.sandbox()
    target = await make.container(apart, Behaviour("exec sleep 3000"))
    looks = await make.container(apart, RUNS, security=SecurityContext(processes_of=target))
    assert any("sleep 3000" in line for line in await make.run(looks, "ps -o args"))
    assert beside


async def test_security_context_is_enforced(make: Maker) -> None:
    sandbox = await make.sandbox()
    security = SecurityContext(
        run_as_user=1234, run_as_group=2345, supplemental_groups=(77,), readonly_rootfs=True,
        allow_privilege_escalation=False, drop_capabilities=("ALL",),
    )  # fmt: skip
    container = await make.container(sandbox, RUNS, security=security)
    script = f"id -u; id -g; id -G; touch /tmp/x 2>/dev/null || echo readonly; {RIGHTS}"
    lines = await make.run(container, script)
    assert lines[:2] == ["1234", "2345"]
    assert "77" in lines[2].split()
    assert lines[3:] == ["readonly", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
    hidden = await make.run(container, "wc -c < /proc/timer_list; ls /sys/firmware | wc -l")
    assert [line.strip() for line in hidden] == ["0", "0"]
    some = SecurityContext(drop_capabilities=("ALL",), add_capabilities=("NET_ADMIN",), seccomp_profile="unconfined")
    container = await make.container(sandbox, RUNS, security=some)
    lines = await make.run(container, RIGHTS)
    assert lines == [f"CapBnd:\t{1 << 12:016x}", "NoNewPrivs:\t0", "Seccomp:\t0"]


async def test_a_chosen_stop_signal_takes_the_place_of_the_images(runtime: Runtime, make: Maker) -> None:
    sandbox = await make.sandbox()
    traps = Behaviour("trap 'exit 7' USR1; trap 'exit 8' TERM; echo up; while :; do sleep 0.1; done")
    obedient, deaf, unknown = [await make.container(sandbox, traps) for _ in range(3)]
    for container in (obedient, deaf, unknown):
        await make.says(container, " up")
    await asyncio.gather(
        runtime.stop_container(obedient, 20, "SIGUSR1"),
        runtime.stop_container(deaf, 1, "SIGWINCH"),
        runtime.stop_container(unknown, 20, "SIGNONSENSE"),
    )
    codes = [(await runtime.container_status(container)).exit_code for container in (obedient, deaf, unknown)]
    assert codes == [7, 128 + signal.SIGKILL, 8]


async def test_mounts_are_bound_as_they_were_asked_for(make: Maker, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "file").write_text("of a volume\n")
    mounts = (
        Mount(str(tmp_path / "own"), "/own"),
        Mount(str(tmp_path / "own"), "/kept", readonly=True),
        Mount(str(tmp_path / "file"), "/etc/one-file", readonly=True),
    )
    container = await make.container(await make.sandbox(), RUNS, mounts=mounts)
    script = "echo hello > /own/x; cat /kept/x; touch /kept/y 2>/dev/null || echo readonly; cat /etc/one-file"
    assert await make.run(container, script) == ["hello", "readonly", "of a volume"]
    assert (tmp_path / "own" / "x").read_text() == "hello\n"


async def test_logs_are_lines_in_cris_format_and_go_on_after_rotation(runtime: Runtime, make: Maker) -> None:
    sandbox = await make.sandbox()
    does = Behaviour("echo one; echo two >&2; printf three; exec sleep 1")
    ends, ticks = await make.container(sandbox, does), await make.container(
        sandbox, Behaviour("while :; do echo tick; sleep 0.02; done")
    )  # fmt: skip
    path = Path((await runtime.container_status(ticks)).log_path)
    rotated = path.with_suffix(".1")
    await make.says(ticks, "tick")
    await asyncio.to_thread(path.rename, rotated)
    await runtime.reopen_log(ticks)
    await make.says(ticks, "tick")
    assert "tick" in await asyncio.to_thread(rotated.read_text)
    await make.exited(ends)
    await make.says(ends, "three")
    parts = [line.split(" ", 3)[1:] for line in (await make.log_of(ends)).splitlines()]
    assert sorted(parts) == [["stderr", "F", "two"], ["stdout", "F", "one"], ["stdout", "P", "three"]]
