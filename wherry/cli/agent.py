"""`wherry agent`: a node's agent as a process of its own. Called by `wherry.cli.main` before the command line's libraries
would be imported, since this process stays and its memory counts.

It joins the cluster (once), starts or adopts its private containerd (unless told of another runtime), and runs
`kubelet.agent`. At SIGTERM it ends and leaves containerd and every container running.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from wherry.cli import agent_flags as flags
from wherry.cli import agent_join as membership
from wherry.cli import agent_runtime as runtimes

log = logging.getLogger("wherry.agent")

DEFAULT_DATA_DIR = Path("/var/lib/wherry-agent")
DEFAULT_RUN_DIR = Path("/run/wherry-agent")
DEFAULT_REGISTRY_CONFIG = Path("/etc/containerd/certs.d")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="wherry agent", description="Runs a node of the cluster on this machine.")
    add = result.add_argument
    add("--server", default="", metavar="HOST:PORT[,...]", help="the control plane")
    add(
        "--join-server",
        default="",
        metavar="HOST:PORT[,...]",
        help="where to join; default: the port above that of --server",
    )
    add("--token", default="", help="what `wherry token create` printed (first start only); it may come as @FILE")
    add("--ca", "--ca-file", dest="ca", type=Path, metavar="FILE", help="the cluster's CA certificate")
    add("--ca-hash", default="", metavar="sha256:HEX", help="hash of the CA's public key, in place of --ca")
    add("--node-name", default="", help="default: the host's name")
    add("--node-ip", default="", help="default: the address from which the control plane is reached")
    add("--data-dir", "--root-dir", dest="data_dir", type=Path, default=DEFAULT_DATA_DIR, help="default %(default)s")
    add(
        "--run-dir", type=Path, default=DEFAULT_RUN_DIR, help="sockets; does not outlive a reboot (default %(default)s)"
    )
    add(
        "--runtime", choices=("cri", "docker", "hollow"), default="cri",
        help="cri: containerd; docker: a Docker daemon; hollow: containers are only pretended",
    )  # fmt: skip
    add(
        "--docker-host", default=os.environ.get("DOCKER_HOST", ""), metavar="unix:///PATH",
        help="of --runtime docker; default: $DOCKER_HOST, or unix:///var/run/docker.sock",
    )  # fmt: skip
    add(
        "--docker-network", default="cni" if os.geteuid() == 0 else "bridge", metavar="cni|bridge|NETWORK",
        help="of --runtime docker; cni: the node's pod network, as with containerd; bridge: Docker's own, which needs no root "
        "and has neither Services nor cluster DNS; else a Docker network that `wherry up --runtime docker` made for this node "
        "(default here: %(default)s)",
    )  # fmt: skip
    add("--runtime-endpoint", default="", metavar="unix:///PATH", help="default: a private containerd, started here")
    add(
        "--images", type=Path, default=None, metavar="DIR",
        help="image files (docker-archive or OCI layout, .tar) that the private containerd gets; default: images in --data-dir",
    )  # fmt: skip
    add("--cgroup-parent", default="", help="cgroup above all pods of this node")
    add("--capacity", default="", metavar="cpu=2,memory=4Gi", help="default: the whole machine")
    add("--labels", action="append", default=[], metavar="KEY=VALUE[,...]", help="labels of the node")
    add(
        "--taints",
        action="append",
        default=[],
        metavar="KEY=VALUE:EFFECT[,...]",
        help="taints of the node at its first start",
    )
    add("--network", default="wherry", help="name of the pod network; nodes of one machine need different ones")
    add("--cluster-cidr", default="", help="addresses of all pods; default: what the control plane says")
    add(
        "--cni-conf-dir",
        type=Path,
        metavar="DIR",
        help="another CNI's configuration: it then makes the pods' network, and joins nodes; Services and DNS stay ours",
    )
    add(
        "--cni-bin-dir",
        type=Path,
        metavar="DIR",
        help="where its plugins are; default: where the distribution has them",
    )
    add(
        "--eviction-hard",
        default=None,
        metavar="memory.available<100Mi,...",
        help="what must stay free, as the kubelet's flag; \"\" evicts nothing (default: the kubelet's thresholds)",
    )
    add(
        "--eviction-pressure-transition-period",
        default="5m",
        metavar="DURATION",
        help="how long a pressure is reported after it has gone (default %(default)s)",
    )
    add(
        "--image-gc-high-threshold",
        type=int,
        default=85,
        metavar="PERCENT",
        help="unused images go when the disk is fuller than this (default %(default)s; 100 is never)",
    )
    add(
        "--image-gc-low-threshold",
        type=int,
        default=80,
        metavar="PERCENT",
        help="until it is no fuller than this (default %(default)s)",
    )
    add(
        "--minimum-image-ttl-duration",
        default="2m",
        metavar="DURATION",
        help="no image goes that was used within this (default %(default)s)",
    )
    add(
        "--registry-config-dir",
        type=Path,
        default=DEFAULT_REGISTRY_CONFIG,
        metavar="DIR",
        help="containerd's HOST/hosts.toml files: mirrors, CA certificates, plain HTTP (default %(default)s)",
    )
    add(
        "--runtime-handler",
        action="append",
        default=[],
        metavar="NAME=RUNTIME",
        help="another low-level runtime that a RuntimeClass can name as its handler: a binary that is used as runc is"
        " (crun=/usr/bin/crun), or the type of a shim of containerd (runsc=io.containerd.runsc.v1); may be repeated",
    )
    add(
        "--simultaneous-starts",
        type=int,
        default=0,
        metavar="N",
        help="sandboxes and containers; default: eight per CPU of the node, from 4 to 16",
    )
    add(
        "--remove",
        action="store_true",
        help="in place of running: end the node's containers and containerd, take its network away, delete its directories",
    )
    add("--log-level", default=os.environ.get("WHERRY_LOG", "info"), choices=("debug", "info", "warning", "error"))
    return result


def main(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(list(argv))
    logging.basicConfig(
        stream=sys.stderr, level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    from wherry.api import resident

    resident.bound_malloc()
    from kubelet.identity import IdentityError
    from kubelet.network import NetworkError
    from kubelet.runtime.archives import ImageError
    from kubelet.runtime.base import RuntimeFailure

    try:
        _use_fast_loop()
        if arguments.remove:
            asyncio.run(runtimes.remove(arguments))
            return 0
        if not arguments.server:
            raise ValueError("--server: wanted HOST:PORT of the control plane")
        asyncio.run(_run(arguments))
        return 0
    except (IdentityError, ImageError, RuntimeFailure, NetworkError, ValueError, OSError) as error:
        print(f"wherry agent: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _use_fast_loop() -> None:
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


async def _run(arguments: argparse.Namespace) -> None:
    from kubelet.agent import Agent
    from kubelet.identity import IdentityStore, RenewingTransport, keep_renewing
    from kubelet.outofmemory import OutOfMemory
    from wherry.api import resident
    from wherry.api.context import Env
    from wherry.api.supervise import keep_running

    env = Env()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    data = runtimes.make_directory(arguments.data_dir)
    name = flags.node_name(arguments)
    options = flags.options(arguments, name)
    # Containerd first: it takes longest, and joining goes on beside it.
    starting = loop.create_task(runtimes.start(arguments, env))
    store = IdentityStore(data / "identity")
    joining = loop.create_task(membership.identity(arguments, env, store, name))
    ending = loop.create_task(stop.wait())
    try:
        started = asyncio.gather(starting, joining)
        await asyncio.wait((started, ending), return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            started.cancel()
            await asyncio.gather(starting, joining, started, return_exceptions=True)
            return
        (runtime, tasks), identity = await started
        transport = RenewingTransport(membership.connector(arguments), identity)
        if (ground := runtimes.ground(runtime)) is not None:
            options.ground, options.sweep = ground, ground.sweep
        kernel_log = OutOfMemory()
        options.out_of_memory = kernel_log.killed
        agent = Agent(env, transport, runtime, options)
        log.info("node %s, control plane %s, cluster %s", name, arguments.server, identity.cluster_id)
        gc.freeze()
        tasks = [
            *tasks,
            loop.create_task(agent.run(), name="agent"),
            loop.create_task(keep_running("kernel-log", kernel_log.run), name="kernel-log"),
            loop.create_task(keep_running("memory", resident.give_back_while_idle), name="memory"),
            loop.create_task(
                keep_running("certificate", partial(keep_renewing, env, transport, store, name, agent.link.redial)),
                name="certificate",
            ),
        ]
        waiting: list[asyncio.Task[Any]] = [*tasks, ending]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in reversed(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await transport.close()
        await runtime.close()
        for finished in done - {ending}:
            finished.result()
    finally:
        ending.cancel()
