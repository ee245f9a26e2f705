"""`wherry server` killed with -9 in the middle of 1,000 creates: what was acknowledged is there, and watches go on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.api.context import Env
from wherry.api.errors import AlreadyExists, APIError
from wherry.client.base import Selection
from wherry.client.client import Client
from wherry.client.config import load_config
from wherry.client.grpc import connect
from wherry.client.informer import Informer
from wherry.pb import core_v1_pb2
from wherry.testing.server import free_port

CREATES = 1000
IN_FLIGHT = 32
ConfigMap = core_v1_pb2.ConfigMap


class Process:
    """A server over a data directory, on a fixed port, started as often as needed."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.address = f"127.0.0.1:{free_port()}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        reader, writer = os.pipe()
        argv = [sys.executable, "-m", "wherry.cli.main", "server", "--data-dir", str(self.data_dir)]
        with open(self.data_dir.with_suffix(".log"), "ab") as log:
            self.process = subprocess.Popen(
                [*argv, "--listen", self.address, "--ready-fd", str(writer)], stderr=log, pass_fds=[writer]
            )
        os.close(writer)
        with os.fdopen(reader) as ready:
            assert ready.read().strip() == self.address, self.data_dir.with_suffix(".log").read_text()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def client(self) -> Client:
        return connect(load_config(self.data_dir / "admin.conf"), timeout_s=10)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path / "data")
    made.start()
    yield made
    made.kill()


def config_map(number: int) -> core_v1_pb2.ConfigMap:
    made = ConfigMap(data={"number": str(number)})
    made.metadata.name = f"c{number}"
    made.metadata.namespace = "default"
    return made


async def create_all(client: Client, acknowledged: dict[int, str]) -> None:
    """Creates them all, however often the server goes away in between; notes each acknowledged uid."""
    todo = iter(range(CREATES))

    async def worker() -> None:
        for number in todo:
            while True:
                try:
                    acknowledged[number] = (await client.create(config_map(number))).metadata.uid
                    break
                except AlreadyExists:
                    break  # an attempt whose answer was lost had been written
                except APIError:
                    await asyncio.sleep(0.02)

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))


async def test_kill_9_in_the_middle_of_creates_loses_nothing_acknowledged(server: Process) -> None:
    client, watching = server.client(), server.client()
    informer = Informer(watching, ConfigMap, Env(), selection=Selection("default", field_selector=""))
    seen: list[str] = []
    enough = asyncio.Event()

    def handler(old: object, new: core_v1_pb2.ConfigMap | None) -> None:
        if old is None and new is not None and "number" in new.data:
            seen.append(new.metadata.name)
            if len(seen) == CREATES:
                enough.set()

    informer.add_handler(handler)
    following = asyncio.create_task(informer.run())
    await informer.wait_synced()
    acknowledged: dict[int, str] = {}
    creating = asyncio.create_task(create_all(client, acknowledged))
    for share in (0.3, 0.6):
        while len(acknowledged) < CREATES * share:  # noqa: ASYNC110  the creates go on by themselves
            await asyncio.sleep(0.005)
        assert not creating.done()
        before = dict(acknowledged)
        server.kill()
        server.start()
        there = {item.metadata.name: item.metadata.uid for item in (await server_list(server)).items}
        assert {f"c{number}": uid for number, uid in before.items()}.items() <= there.items()
    await creating
    await asyncio.wait_for(enough.wait(), 20)
    assert sorted(seen, key=lambda name: int(name[1:])) == [f"c{number}" for number in range(CREATES)]
    informer.check_invariants()
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    await client.close()
    await watching.close()


async def server_list(server: Process):  # type: ignore[no-untyped-def]
    client = server.client()
    try:
        return await client.list(ConfigMap, Selection("default"))
    finally:
        await client.close()


def test_sigterm_ends_it_in_order(server: Process) -> None:
    assert server.process is not None
    server.process.terminate()
    assert server.process.wait(10) == 0


def test_a_taken_port_is_said_and_ends_it(server: Process, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "wherry.cli.main", "server", "--data-dir", str(tmp_path / "other")]
    done = subprocess.run([*argv, "--listen", server.address], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert f"can't listen on {server.address}: Address already in use" in done.stderr
    assert "add_port" not in done.stderr, "gRPC's own lines say it too"
