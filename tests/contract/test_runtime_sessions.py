"""What every runtime promises: sessions with a container, by exec, attach and port-forward."""

from __future__ import annotations

import asyncio
import os

import pytest

from kubelet.runtime.base import ContainerState, Runtime, RuntimeFailure
from wherry.testing.eventually import eventually
from wherry.testing.runtimes import REAL, RUNS, SUCCEEDS, Behaviour, Maker, collect

REPEATS = Behaviour('while read -r line; do echo "$line"; done; exit 4')


async def test_exec_gives_output_and_exit_code(runtime: Runtime, make: Maker) -> None:
    container = await make.container(await make.sandbox(), RUNS)
    said = await runtime.exec_sync(container, ["echo", "hello"], 10)
    assert (said.stdout, said.exit_code) == (b"hello\n", 0)
    assert (await runtime.exec_sync(container, ["sh", "-c", "exit 4"], 10)).exit_code == 4
    with pytest.raises(TimeoutError, match=r"within 0\.3 s"):
        await runtime.exec_sync(container, ["sleep", "100"], 0.3)


async def test_exec_session_echoes_until_end_of_input(runtime: Runtime, make: Maker) -> None:
    container = await make.container(await make.sandbox(), RUNS)
    stream = await runtime.exec(container, ["cat"], stdin=True, stdout=True, stderr=True, tty=False)
    await stream.send(b"one ")
    await stream.send(b"two")
    await stream.send_eof()
    assert await collect(stream) == (b"one two", b"")
    assert await stream.wait() == 0
    await stream.close()


async def test_exec_with_a_terminal_takes_its_size(runtime: Runtime, make: Maker) -> None:
    container = await make.container(await make.sandbox(), RUNS)
    stream = await runtime.exec(container, ["sh"], stdin=True, stdout=True, stderr=True, tty=True)
    said = bytearray()

    async def read() -> None:
        async for _, piece in stream.output():
            said.extend(piece)

    reading = asyncio.create_task(read())

    async def has_size() -> bool:
        # The size goes another way than what is typed, so the shell may be faster: ask until it is there.
        await stream.resize(132, 43)
        await stream.send(b"stty size\n")
        await asyncio.sleep(0.05)
        return b"43 132" in said

    await eventually(has_size)
    await stream.send(b"exit 5\n")
    await reading
    assert await stream.wait() == 5
    await stream.close()


async def test_no_session_with_an_ended_container(runtime: Runtime, make: Maker) -> None:
    container = await make.container(await make.sandbox(), SUCCEEDS)
    await make.exited(container)
    with pytest.raises(RuntimeFailure):
        await runtime.exec_sync(container, ["true"], 5)
    with pytest.raises(RuntimeFailure):
        await runtime.attach(container, stdin=False, stdout=True, stderr=True, tty=False)


async def test_who_is_attached_types_and_hears(runtime: Runtime, make: Maker) -> None:
    container = await make.container(await make.sandbox(), REPEATS, stdin=True, stdin_once=True)
    stream = await runtime.attach(container, stdin=True, stdout=True, stderr=True, tty=False)
    await stream.send(b"one\n")
    await stream.send(b"two\n")
    await stream.send_eof()
    assert (await collect(stream))[0] == b"one\ntwo\n"
    assert await stream.wait() == 0
    await stream.close()


@pytest.mark.parametrize("endpoint", REAL, indirect=True)
async def test_the_end_of_the_one_input_ends_the_container_that_reads_it(runtime: Runtime, make: Maker) -> None:
    """And without stdinOnce the next one who attaches goes on, with a terminal of any size."""
    sandbox = await make.sandbox()
    once = await make.container(sandbox, REPEATS, stdin=True, stdin_once=True)
    often = await make.container(
        sandbox, Behaviour("while :; do read -r x; echo $x; stty size; done"), stdin=True, tty=True
    )
    stream = await runtime.attach(once, stdin=True, stdout=True, stderr=True, tty=False)
    await stream.send_eof()
    assert await collect(stream) == (b"", b"")
    assert await stream.wait() == 0
    await stream.close()
    assert (await make.exited(once)).exit_code == 4
    for word, size in ((b"first", (90, 30)), (b"second", (91, 31))):
        stream = await runtime.attach(often, stdin=True, stdout=True, stderr=False, tty=True)
        await stream.resize(*size)
        told = b""
        await stream.send(word + b"\n")
        async with asyncio.timeout(20):
            async for _, piece in stream.output():
                told += piece
                if told.count(word) >= 2 and b"%d %d" % (size[1], size[0]) in told:
                    break
                if told.count(b"\n") > 2:  # it was faster than the size
                    told = word
                    await stream.send(word + b"\n")
        await stream.close()
    assert (await runtime.container_status(often)).state is ContainerState.RUNNING


@pytest.mark.parametrize("endpoint", REAL, indirect=True)
async def test_exec_carries_much_both_ways_and_tells_errors_apart(runtime: Runtime, make: Maker) -> None:
    container = await make.container(await make.sandbox(), RUNS)
    result = await runtime.exec_sync(container, ["sh", "-c", "echo out; echo err >&2; exit 3"], 10)
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 3)
    data = os.urandom(3 << 20)
    script = "cat; echo done >&2; exit 9"
    stream = await runtime.exec(container, ["sh", "-c", script], stdin=True, stdout=True, stderr=True, tty=False)

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


@pytest.mark.parametrize("endpoint", REAL, indirect=True)
async def test_a_session_that_cannot_begin_or_is_closed_fails(runtime: Runtime, make: Maker) -> None:
    container = await make.container(await make.sandbox(), RUNS)
    for tty in (False, True):
        stream = await runtime.exec(container, ["no-such-program"], stdin=False, stdout=True, stderr=True, tty=tty)
        assert await collect(stream) == (b"", b"")
        with pytest.raises(RuntimeFailure, match=r"no-such-program.*not found"):
            await stream.wait()
        await stream.close()
    with pytest.raises(RuntimeFailure, match=r"no-such-program.*not found"):
        await runtime.exec_sync(container, ["no-such-program"], 20)
    stream = await runtime.exec(container, ["sleep", "1000"], stdin=False, stdout=True, stderr=True, tty=False)
    waiting = asyncio.create_task(stream.wait())
    await asyncio.sleep(0)
    await stream.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        await waiting


@pytest.mark.parametrize("endpoint", REAL, indirect=True)
async def test_a_port_of_the_pods_localhost_is_reached(runtime: Runtime, make: Maker) -> None:
    sandbox = await make.sandbox()
    await make.container(sandbox, Behaviour("exec httpd -f -p 127.0.0.1:8080 -h /etc"))
    stream = await make.port(sandbox[0], 8080)
    await stream.send(b"GET /group HTTP/1.0\r\n\r\n")
    out, _ = await collect(stream)
    assert out.startswith(b"HTTP/1.1 200")
    assert out.endswith(b"nogroup:x:65534:\n")
    assert await stream.wait() == 0
    await stream.close()
    with pytest.raises(RuntimeFailure, match=r"failed to connect to localhost:9 inside the pod: .*connection refused"):
        await runtime.port_forward(sandbox[0], 9)
