"""Starting: from the start of the control plane's process to the first acknowledged write, and to the first node Ready.

    python -m bench startup [--runs N]

A new cluster every time: empty data, so the CA and all certificates are made too. The network namespace of the one node and the
bridge are there already, as they are on a machine of its own. The agent is started, with a token from the new control plane, as
soon as the first write is acknowledged, and brings its own containerd up from nothing. The client's libraries are loaded before.
The floor is a Python process that imports the same packages and exits. Medians.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import time

from bench._measure import SCHEMA, SERVER_IMPORTS, closing, import_seconds
from kubelet.runtime.containerd import Containerd, ContainerdOptions
from kubelet.runtime.processes import ProcessRef
from wherry.api.context import Env
from wherry.cli.cluster import launch
from wherry.cli.cluster.layout import Cluster
from wherry.client import config
from wherry.client.client import Client
from wherry.client.grpc import connect
from wherry.client.tokens import create_token
from wherry.pb import core_v1_pb2
from wherry.testing.local import LocalCluster

TIMEOUT_S = 60.0


async def one_start(cluster: Cluster) -> tuple[float, float]:
    """Seconds to the first write, and to the node's readiness."""
    node = cluster.node(1)
    cluster.server_data.mkdir(parents=True)
    node.data.mkdir(parents=True, mode=0o700)
    started = time.perf_counter()
    await asyncio.to_thread(start_server, cluster)
    client = connect(config.load_config(cluster.server_data / "admin.conf"))
    try:
        written = core_v1_pb2.ConfigMap(data={"first": "write"})
        written.metadata.name, written.metadata.namespace = "bench", "default"
        await client.create(written)
        first_write = time.perf_counter() - started
        token = await create_token(client, Env(), ttl_s=TIMEOUT_S)
        config.write_private(node.token_file, token.encode())
        launch.start(launch.agent_argv(cluster, node), node.log, node.pid_file)
        async with asyncio.timeout(TIMEOUT_S):
            await node_ready(client)
        return first_write, time.perf_counter() - started
    finally:
        await client.close()


def start_server(cluster: Cluster) -> None:
    """Returns when it says that it is ready."""
    reading, writing = os.pipe()
    with cluster.server_log.open("ab") as log, os.fdopen(reading, "rb") as ready:
        process = subprocess.Popen(
            [*launch.server_argv(cluster), "--ready-fd", str(writing)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(writing,), env=launch.environment(),
            start_new_session=True,
        )  # fmt: skip
        os.close(writing)
        reference = ProcessRef.of(process.pid)
        assert reference is not None
        reference.write(cluster.server_pid_file)
        assert ready.readline(), f"the server has ended; see {cluster.server_log}"


async def node_ready(client: Client) -> None:
    listed = await client.list(core_v1_pb2.Node)
    async for batch in client.watch(core_v1_pb2.Node, resource_version=listed.resource_version):
        for event in batch.events:
            if any(entry.type == "Ready" and entry.status == "True" for entry in event.object.status.conditions):
                return


async def clear(cluster: Cluster) -> None:
    """Ends the processes and removes what they kept."""
    node = cluster.node(1)
    processes = [
        process for process in (launch.running_agent(node), launch.running_server(cluster)) if process is not None
    ]
    launch.stop(processes)
    await Containerd(ContainerdOptions(node.containerd)).destroy()
    for folder in (node.data, node.run, cluster.server_data):
        shutil.rmtree(folder, ignore_errors=True)


async def measure(cluster: Cluster, runs: int) -> list[tuple[float, float]]:
    figures = []
    for _ in range(runs):
        await clear(cluster)
        figures.append(await one_start(cluster))
    return figures


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench startup", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args(argv)
    local = LocalCluster(1, "b")
    try:
        local.up()
        figures = asyncio.run(measure(local.description, arguments.runs))
    finally:
        local.down()
    floor = import_seconds(f"{SERVER_IMPORTS}, {SCHEMA}", arguments.runs)
    write, ready = (statistics.median(column) for column in zip(*figures, strict=True))
    print(f"first node Ready after {ready:.3f} s; worst of {len(figures)}: write {max(f[0] for f in figures):.3f} s, "
          f"Ready {max(f[1] for f in figures):.3f} s")  # fmt: skip
    closing("startup", write, "s to the first acknowledged write", floor, f"a process that only imports, {floor:.3f} s")
