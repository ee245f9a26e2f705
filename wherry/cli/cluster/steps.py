"""Steps of `wherry up` that are the same whatever the nodes are made of. Each looks at what there is and does what is missing.
Called by `up` (containerd) and `dockerup`."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from kubelet.ingress import process as haproxy
from kubelet.runtime.processes import ProcessRef, tail
from wherry.api.context import Env
from wherry.cli.cluster import api, launch
from wherry.cli.cluster.layout import Cluster, ClusterError
from wherry.cli.cluster.progress import Progress, Step
from wherry.client import config
from wherry.client.base import ClientAPI
from wherry.client.tokens import create_token

SERVER_TIMEOUT_S = 60.0
NODE_TIMEOUT_S = 90.0
POLL_S = 0.05
# An agent that starts uses it within seconds; one that is started again has its certificate.
TOKEN_TTL_S = 600.0
TAIL_LINES = 25


def check_system() -> None:
    if platform.system() != "Linux":
        raise ClusterError(
            f"nodes need Linux, this is {platform.system()}: use `wherry server` here and agents elsewhere"
        )


@contextmanager
def whole_or_nothing(progress: Progress, existed: bool, take_down: Callable[[], object]) -> Iterator[None]:
    """What fails or is broken off in the block leaves no cluster behind, unless there was one before."""
    try:
        yield
    except BaseException:
        if not existed:
            progress.say("taking the half-made cluster down again")
            take_down()
        raise


def build_images(cluster: Cluster, progress: Progress, builders: Mapping[str, Callable[[], bytes]]) -> dict[str, Path]:
    """Reference -> file. Built anew when busybox was updated, say: the same input gives the same bytes. `builders`: by reference,
    WHERRY/NAME:TAG."""
    names = {reference: reference.rpartition("/")[2].partition(":")[0] for reference in builders}
    with progress.step(f"images: {', '.join(sorted(names.values()))}") as step:
        archives = {}
        changed = False
        for reference, build in builders.items():
            path = cluster.data / "images" / f"{names[reference]}.tar"
            content = build()
            if not path.exists() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_suffix(".tmp")
                temporary.write_bytes(content)
                temporary.replace(path)
                changed = True
            archives[reference] = path
        if not changed:
            step.unchanged("built before")
    return archives


async def ensure_server(cluster: Cluster, step: Step) -> None:
    process = launch.running_server(cluster)
    if process is not None and await api.healthy(cluster):
        step.unchanged("runs")
        return
    if process is not None:
        process.terminate(launch.STOP_TIMEOUT_S)  # it lives but does not answer
    cluster.server_data.mkdir(parents=True, exist_ok=True)
    process = launch.start(launch.server_argv(cluster), cluster.server_log, cluster.server_pid_file)
    await until(partial(api.healthy, cluster), process, cluster.server_log, "the control plane", SERVER_TIMEOUT_S)
    step.done(f"pid {process.pid}")


async def join_token(cluster: Cluster) -> str:
    async with api.client(cluster) as connected:
        return await create_token(connected, Env(), ttl_s=TOKEN_TTL_S, description="wherry up")


async def until(
    check: Callable[[], Awaitable[bool]], process: ProcessRef, log: Path, what: str, timeout_s: float
) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not await check():
        if not process.alive():
            raise ClusterError(
                f"{what} did not start: its process has ended; the end of {log}:\n{tail(log, TAIL_LINES)}"
            )
        if loop.time() > deadline:
            raise ClusterError(
                f"{what} does not answer after {timeout_s:g} s; the end of {log}:\n{tail(log, TAIL_LINES)}"
            )
        await asyncio.sleep(POLL_S)


async def wait_nodes(cluster: Cluster, connected: ClientAPI, step: Step) -> bool:
    """True when there was anything to wait for. Raises ClusterError that says which node is not Ready and why."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + NODE_TIMEOUT_S
    waited = False
    while True:
        rows = {row.name: row for row in await api.nodes(connected)}
        unready = [node for node in cluster.nodes if node.name not in rows or not rows[node.name].ready]
        if not unready:
            return waited
        waited = True
        step.update(f"{cluster.node_count - len(unready)} of {cluster.node_count}")
        dead = next((node for node in unready if launch.running_agent(node) is None), None)
        if dead is not None or loop.time() > deadline:
            node = dead or unready[0]
            why = rows[node.name].why if node.name in rows else "has not joined"
            state = "its agent has ended" if dead else f"not Ready after {NODE_TIMEOUT_S:g} s: {why}"
            raise ClusterError(f"{node.name}: {state}; the end of {node.log}:\n{tail(node.log, TAIL_LINES)}")
        await asyncio.sleep(POLL_S)


def write_client_config(cluster: Cluster, progress: Progress) -> None:
    path = config.config_path()
    with progress.step(f"client configuration in {path}") as step:
        settings = api.credentials(cluster)
        if settings is None:
            raise ClusterError(f"{cluster.server_data / 'admin.conf'} has gone")
        settings = replace(
            settings.with_server(cluster.server_address), context=cluster.name, cluster=cluster.name, user=cluster.name
        )
        try:
            if config.load_config(path) == settings:
                step.unchanged("up to date")
                return
        except config.ConfigError:
            pass  # there is none yet, or it names no context
        config.write_config(settings, path, merge=True)


def ensure_ingress(cluster: Cluster, progress: Progress) -> None:
    """If there is to be one. Started, not waited for: it mends itself, and nothing here depends on it."""
    if not cluster.ingress:
        running = [found for found in (launch.running_ingress(cluster), haproxy.running(cluster.ingress_data)) if found]
        if running:
            with progress.step("stop the ingress") as step:
                launch.stop(running)
                step.done(f"pid {', '.join(str(found.pid) for found in running)}")
        return
    with progress.step(f"ingress at {cluster.ingress_address}, ports 80 and 443") as step:
        if launch.running_ingress(cluster) is not None:
            step.unchanged("runs")
            return
        process = launch.start(launch.ingress_argv(cluster), cluster.ingress_log, cluster.ingress_pid_file)
        step.done(f"pid {process.pid}")
