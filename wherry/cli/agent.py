"""`wherry agent`: a node's agent as a process of its own. Called by `wherry.cli.main` before the command line's libraries
would be imported, since this process stays and its memory counts.

It joins the cluster (once), starts or adopts its private containerd (unless told of another runtime), and runs
`kubelet.agent`. At SIGTERM it ends and leaves containerd and every container running.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kubelet.identity import Identity, IdentityStore
    from kubelet.network.node import NodeNetwork
    from kubelet.options import AgentOptions
    from kubelet.runtime.base import Runtime
    from kubelet.runtime.docker import DockerRuntime
    from kubelet.runtime.docker_node import BridgeGround
    from wherry.api.context import Env
    from wherry.client.base import Transport
    from wherry.pb.core_v1_pb2 import Taint

log = logging.getLogger("wherry.agent")

DEFAULT_DATA_DIR = Path("/var/lib/wherry-agent")
DEFAULT_RUN_DIR = Path("/run/wherry-agent")
DEFAULT_REGISTRY_CONFIG = Path("/etc/containerd/certs.d")
CA_ROUNDS = 30
# A token may carry the hash of the CA's public key behind it, so that one string is enough to join.
_TOKEN = re.compile(r"([a-z0-9]{6}\.[a-z0-9]{16})(?:[.:@](?:sha256:)?([0-9a-f]{64}))?")


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
            asyncio.run(_remove(arguments))
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
    data = _make_directory(arguments.data_dir)
    name = arguments.node_name or socket.gethostname().lower()
    options = _options(arguments, name)
    # Containerd first: it takes longest, and joining goes on beside it.
    starting = loop.create_task(_start_runtime(arguments, env))
    store = IdentityStore(data / "identity")
    joining = loop.create_task(_identity(arguments, env, store, name))
    ending = loop.create_task(stop.wait())
    try:
        started = asyncio.gather(starting, joining)
        await asyncio.wait((started, ending), return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            started.cancel()
            await asyncio.gather(starting, joining, started, return_exceptions=True)
            return
        (runtime, tasks), identity = await started
        transport = RenewingTransport(_connector(arguments), identity)
        if (ground := _ground(runtime)) is not None:
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


def _make_directory(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def _read_token(text: str) -> str:
    return Path(text[1:]).read_text().strip() if text.startswith("@") else text


def _options(arguments: argparse.Namespace, name: str) -> AgentOptions:
    from kubelet import eviction, imagegc
    from kubelet.options import AgentOptions

    hollow = arguments.runtime == "hollow"
    network: NodeNetwork | None = None
    address = arguments.node_ip or own_address(arguments.server)
    if arguments.runtime == "docker":
        own_network = arguments.docker_network == "cni"
    else:
        own_network = not hollow and not arguments.runtime_endpoint
    if own_network and arguments.cni_conf_dir is None:
        network = _network(arguments, address)
    capacity = pairs([arguments.capacity], "--capacity")
    try:
        hard = eviction.parse(eviction.DEFAULT_HARD if arguments.eviction_hard is None else arguments.eviction_hard)
    except ValueError as error:
        raise ValueError(f"--eviction-hard: {error}") from error
    transition_s = _seconds(arguments.eviction_pressure_transition_period, "--eviction-pressure-transition-period")
    return AgentOptions(
        node_name=name,
        root=None if hollow else arguments.data_dir,
        ips=(address,),
        labels=pairs(arguments.labels, "--labels"),
        taints=taints(arguments.taints),
        capacity=capacity,
        cgroup_parent=arguments.cgroup_parent,
        simultaneous_starts=arguments.simultaneous_starts or _starts(capacity),
        eviction_hard=hard,
        pressure_transition_s=transition_s,
        image_gc=imagegc.Thresholds(
            arguments.image_gc_high_threshold / 100,
            arguments.image_gc_low_threshold / 100,
            _seconds(arguments.minimum_image_ttl_duration, "--minimum-image-ttl-duration"),
        ),
        network=network,
        shapes=arguments.runtime != "docker" or own_network,
        traffic=own_network or _docker_bridge(arguments) != "",
        pod_cgroups=arguments.runtime != "docker" or os.geteuid() == 0,
    )


def _docker_bridge(arguments: argparse.Namespace) -> str:
    """The Docker network that is the node's own; "" when it has none."""
    named = arguments.runtime == "docker" and arguments.docker_network not in ("cni", "bridge")
    return str(arguments.docker_network) if named else ""


def _seconds(text: str, flag: str) -> float:
    from wherry.api.times import parse_duration

    try:
        return parse_duration(text) / 1e9
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from error


def _network(arguments: argparse.Namespace, address: str) -> NodeNetwork:
    from kubelet.network.node import NodeNetwork, NodeNetworkOptions
    from kubelet.runtime.containerd import Layout

    layout = Layout(data=arguments.data_dir, run=arguments.run_dir)
    return NodeNetwork(
        NodeNetworkOptions(
            conf_dir=layout.cni_conf_dir, ipam_dir=layout.ipam_dir, netns_dir=layout.netns_dir, network=arguments.network,
            cluster_cidr=arguments.cluster_cidr, address=address,
        )
    )  # fmt: skip


async def _remove(arguments: argparse.Namespace) -> None:
    """From whatever state a running, killed or rebooted node is in. Raises RuntimeFailure, NetworkError or OSError."""
    import shutil

    from kubelet.cgroups import PodCgroups
    from kubelet.runtime import mounts
    from kubelet.runtime.cleanup import remove_all_sandboxes
    from kubelet.runtime.containerd import Containerd, ContainerdOptions, Layout
    from wherry.cli.cluster import cgroups

    layout = Layout(data=arguments.data_dir, run=arguments.run_dir)
    if not layout.data.exists() and not layout.run.exists():
        raise ValueError(f"--data-dir: {layout.data} is no node's directory; there is nothing to remove")
    network = _network(arguments, "")
    pod_cidr = network.pod_cidr()
    if arguments.runtime == "docker":
        await _remove_docker(arguments)
    elif arguments.runtime_endpoint:
        # Somebody else's containerd stays; what is in its namespace for CRI is the node's, as it is for a running agent.
        await remove_all_sandboxes(arguments.runtime_endpoint)
    else:
        await Containerd(ContainerdOptions(layout)).destroy()
    await network.remove(pod_cidr)
    cgroups.remove_empty(PodCgroups(arguments.cgroup_parent).pods_parent)
    cgroups.remove_empty(arguments.cgroup_parent or "kubepods")
    mounts.unmount_below(layout.run, layout.data)
    for directory in (layout.run, layout.data):
        shutil.rmtree(directory, ignore_errors=True)


async def _remove_docker(arguments: argparse.Namespace) -> None:
    from wherry.api.context import Env

    runtime = _docker(arguments, Env())
    try:
        for sandbox in await runtime.list_sandboxes():
            await runtime.remove_sandbox(sandbox.id)
    finally:
        await runtime.close()


def _starts(capacity: Mapping[str, str]) -> int:
    """Starting is CPU work: with eight per CPU 30 pods ran soonest. At least four, so that a few that hang do not
    keep the node from starting others."""
    from wherry.api import quantity

    cpus = quantity.milli(capacity["cpu"]) / 1000 if "cpu" in capacity else len(os.sched_getaffinity(0))
    return min(max(int(8 * cpus), 4), 16)


def _handlers(given: Sequence[str]) -> dict[str, str]:
    """Raises ValueError, naming the flag."""
    found = {}
    for text in given:
        name, equals, runtime = text.partition("=")
        known_form = runtime.startswith(("/", "io.containerd."))
        if not equals or not known_form or not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
            raise ValueError(
                f'--runtime-handler: "{text}"; wanted NAME=RUNTIME, the name as in a RuntimeClass, the runtime as the path of a '
                "binary or as io.containerd.NAME.VERSION"
            )
        found[name] = runtime
    return found


async def _start_runtime(arguments: argparse.Namespace, env: Env) -> tuple[Runtime, list[asyncio.Task[None]]]:
    """The runtime, and what has to run beside it."""
    if arguments.runtime == "hollow":
        from kubelet.runtime.hollow import HollowRuntime

        return HollowRuntime(env), []
    if arguments.runtime == "docker":
        return await _start_docker(arguments, env), []
    from kubelet.runtime.cri import CriRuntime

    if arguments.runtime_endpoint:
        return CriRuntime(arguments.runtime_endpoint), []
    from kubelet.runtime import archives
    from kubelet.runtime.containerd import (
        HOST_PORTS_HANDLER,
        Containerd,
        ContainerdOptions,
        Layout,
        choose_snapshotter,
    )
    from kubelet.volumes.manager import keep_payloads_in_memory
    from wherry.api.supervise import keep_running

    _make_directory(arguments.run_dir)
    layout = Layout(data=arguments.data_dir, run=arguments.run_dir)
    foreign = arguments.cni_conf_dir
    options = ContainerdOptions(
        layout, cni_conf_dir=foreign, cni_bin_dir=arguments.cni_bin_dir,
        registry_config_dir=str(arguments.registry_config_dir.absolute()), handlers=_handlers(arguments.runtime_handler),
    )  # fmt: skip
    containerd = Containerd(options)
    await containerd.start()
    keep_payloads_in_memory(arguments.data_dir)
    folder = arguments.images or arguments.data_dir / "images"
    await archives.preload(layout.socket, folder, snapshotter=choose_snapshotter(layout.root))
    supervisor = asyncio.get_running_loop().create_task(
        keep_running("containerd", containerd.supervise), name="containerd"
    )
    handler = "" if foreign is not None else HOST_PORTS_HANDLER
    return CriRuntime(containerd.endpoint, host_ports_handler=handler), [supervisor]


def _ground(runtime: Runtime) -> BridgeGround | None:
    if runtime.name != "docker":
        return None
    from kubelet.runtime.docker import DockerRuntime
    from kubelet.runtime.docker_node import BridgeGround

    assert isinstance(runtime, DockerRuntime)
    return BridgeGround(runtime.node_container) if runtime.node_container is not None else None


async def _start_docker(arguments: argparse.Namespace, env: Env) -> Runtime:
    """With the images of the node's folder. Raises RuntimeFailure when the daemon does not answer."""
    from kubelet.runtime import archives

    runtime = _docker(arguments, env)
    try:
        log.info("Docker %s at %s", (await runtime.version())[1], runtime.socket)
        known = {image.id for image in await runtime.list_images()}
        for path in archives.find(arguments.images or arguments.data_dir / "images"):
            if archives.archive_id(path) not in known:
                await runtime.load_image(await asyncio.to_thread(path.read_bytes))
                log.info("loaded %s", path)
    except BaseException:
        await runtime.close()
        raise
    return runtime


def _docker(arguments: argparse.Namespace, env: Env) -> DockerRuntime:
    from kubelet.network.cni_exec import Plugins
    from kubelet.runtime.containerd import CNI_BIN_DIRS, Layout
    from kubelet.runtime.docker import DEFAULT_SOCKET, DockerRuntime

    host = arguments.docker_host or f"unix://{DEFAULT_SOCKET}"
    if not host.startswith("unix://"):
        raise ValueError(f'--docker-host: "{host}": wanted unix:///PATH, a daemon of this machine')
    cni = None
    if arguments.docker_network == "cni":
        if os.geteuid() != 0:
            raise ValueError("--docker-network: cni needs root; bridge does without")
        layout = Layout(data=arguments.data_dir, run=arguments.run_dir)
        own = (str(arguments.cni_bin_dir),) if arguments.cni_bin_dir else ()
        conf_dir = arguments.cni_conf_dir or layout.cni_conf_dir
        cni = Plugins(conf_dir, (*own, *CNI_BIN_DIRS), arguments.data_dir / "cni" / "results")
    node = arguments.node_name or socket.gethostname().lower()
    if bridge := _docker_bridge(arguments):
        # Several clusters may share the daemon, and each has a node of this name.
        return DockerRuntime(env, host, bridge, bridge=bridge, files=arguments.data_dir / "resolvers")
    return DockerRuntime(env, host, node, cni=cni)


def _connector(arguments: argparse.Namespace) -> Callable[[Identity], Transport]:
    from kubelet.link import CONNECT
    from wherry.client.grpc import TLS, GrpcTransport

    endpoints = [endpoint.strip() for endpoint in arguments.server.split(",")]

    def connect(identity: Identity) -> Transport:
        tls = TLS(identity.ca, identity.certificate, identity.key)
        return GrpcTransport(endpoints, tls, follow=CONNECT)

    return connect


async def _identity(arguments: argparse.Namespace, env: Env, store: IdentityStore, name: str) -> Identity:
    """The stored one while it is valid; else joins."""
    from kubelet.clock import certificate_problem
    from kubelet.identity import IdentityError, fetch_ca, join_with_patience
    from wherry.client.grpc import TLS, GrpcTransport

    known = store.load()
    if known is not None and env.now() < known.not_after:
        return known
    why = "this node has not joined a cluster yet"
    if known is not None:
        why = certificate_problem(known.not_before, known.not_after, env.now())
        log.warning("%s", why)
    token = _read_token(arguments.token)
    if not token:
        raise IdentityError(f"{why}: --token is needed (`wherry token create` makes one)")
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise IdentityError(
            '--token: wanted "id.secret", 6 and 16 characters of a-z and 0-9, maybe with ".sha256:HEX" behind'
        )
    addresses = _join_addresses(arguments)
    wanted_hash = arguments.ca_hash or match.group(2) or ""
    if arguments.ca is not None:
        ca = arguments.ca.read_bytes()
    elif wanted_hash:
        ca = await _patient_ca(addresses, wanted_hash, fetch_ca)
    elif known is not None:
        ca = known.ca
    else:
        raise IdentityError(
            "--ca or --ca-hash is needed to join: else this node could not tell the cluster from an impostor"
        )
    endpoints = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses]
    transport = GrpcTransport(endpoints, TLS(ca))
    try:
        identity = await join_with_patience(transport, name, match.group(1), ca)
    finally:
        await transport.close()
    store.save(identity)
    return identity


def _join_addresses(arguments: argparse.Namespace) -> list[tuple[str, int]]:
    """Where to join: at any of the replicas."""
    if arguments.join_server:
        return [split_address(text.strip(), "--join-server") for text in arguments.join_server.split(",")]
    servers = [split_address(text.strip(), "--server") for text in arguments.server.split(",")]
    return [(host, port + 1) for host, port in servers]


async def _patient_ca(addresses: Sequence[tuple[str, int]], wanted: str, fetch: Any) -> bytes:
    """From the first that answers. A control plane that is still starting refuses connections for a while."""
    from kubelet.identity import IdentityError

    delay_s = 0.1
    for host, port in itertools.chain.from_iterable(itertools.repeat(addresses, CA_ROUNDS)):
        try:
            return bytes(await fetch(host, port, wanted))
        except IdentityError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            log.warning("%s", error)
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, 3.0)
    return bytes(await fetch(*addresses[0], wanted))


def split_address(text: str, flag: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ValueError(f'{flag}: "{text}" is no address; wanted HOST:PORT')
    return host.strip("[]"), int(port)


def own_address(server: str) -> str:
    """The address from which the control plane is reached. Nothing is sent."""
    host, port = split_address(server.split(",")[0], "--server")
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        try:
            probe.connect(address)
        except OSError as error:
            raise OSError(f"no way to the control plane at {server}: {error.strerror or error}") from error
        return str(probe.getsockname()[0])


def pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in ",".join(texts).split(","):
        if not part.strip():
            continue
        key, equals, value = part.strip().partition("=")
        if not equals or not key:
            raise ValueError(f'{flag}: "{part}"; wanted KEY=VALUE')
        found[key] = value
    return found


def taints(texts: Sequence[str]) -> list[Taint]:
    from wherry.pb.core_v1_pb2 import Taint

    found = []
    for part in ",".join(texts).split(","):
        if not part.strip():
            continue
        rest, colon, effect = part.strip().rpartition(":")
        key, _, value = rest.partition("=")
        if not colon or effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
            raise ValueError(f'--taints: "{part}"; wanted KEY=VALUE:NoSchedule, :PreferNoSchedule or :NoExecute')
        found.append(Taint(key=key, value=value, effect=effect))
    return found
