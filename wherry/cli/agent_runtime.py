"""The runtime of `wherry agent`: its private containerd, somebody else's, Docker or the hollow one; and how a node is taken away.
Called by `wherry.cli.agent`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from wherry.cli import agent_flags as flags

if TYPE_CHECKING:
    from kubelet.runtime.base import Runtime
    from kubelet.runtime.docker import DockerRuntime
    from kubelet.runtime.docker_ground import BridgeGround
    from wherry.api.context import Env

log = logging.getLogger("wherry.agent")


async def start(arguments: argparse.Namespace, env: Env) -> tuple[Runtime, list[asyncio.Task[None]]]:
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

    make_directory(arguments.run_dir)
    layout = Layout(data=arguments.data_dir, run=arguments.run_dir)
    foreign = arguments.cni_conf_dir
    options = ContainerdOptions(
        layout, cni_conf_dir=foreign, cni_bin_dir=arguments.cni_bin_dir,
        registry_config_dir=str(arguments.registry_config_dir.absolute()), handlers=flags.handlers(arguments.runtime_handler),
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


def ground(runtime: Runtime) -> BridgeGround | None:
    if runtime.name != "docker":
        return None
    from kubelet.runtime.docker import DockerRuntime
    from kubelet.runtime.docker_ground import BridgeGround

    assert isinstance(runtime, DockerRuntime)
    return BridgeGround(runtime.node_container) if runtime.node_container is not None else None


async def _start_docker(arguments: argparse.Namespace, env: Env) -> Runtime:
    """With the images of the node's folder. Raises RuntimeFailure when the daemon does not answer."""
    from kubelet.runtime import archives

    runtime = _docker(arguments, env)
    try:
        log.info("Docker %s at %s", (await runtime.version())[1], runtime.socket)
        for path in archives.find(arguments.images or arguments.data_dir / "images"):
            if not await runtime.has_image_of(path):
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
    node = flags.node_name(arguments)
    if bridge := flags.docker_bridge(arguments):
        # Several clusters may share the daemon, and each has a node of this name.
        return DockerRuntime(env, host, bridge, bridge=bridge, files=arguments.data_dir / "resolvers")
    return DockerRuntime(env, host, node, cni=cni)


def make_directory(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


async def remove(arguments: argparse.Namespace) -> None:
    """From whatever state a running, killed or rebooted node is in. Raises RuntimeFailure, NetworkError or OSError."""
    import shutil

    from kubelet.cgroups import PodCgroups
    from kubelet.runtime import mounts
    from kubelet.runtime.containerd import Containerd, ContainerdOptions, Layout
    from wherry.cli.cluster import cgroups

    layout = Layout(data=arguments.data_dir, run=arguments.run_dir)
    if not layout.data.exists() and not layout.run.exists():
        raise ValueError(f"--data-dir: {layout.data} is no node's directory; there is nothing to remove")
    network = flags.node_network(arguments, "")
    pod_cidr = network.pod_cidr()
    if arguments.runtime == "docker":
        await _remove_docker(arguments)
    elif arguments.runtime_endpoint:
        await _remove_from_endpoint(arguments)
    else:
        await Containerd(ContainerdOptions(layout)).destroy()
    if arguments.runtime != "cri" or not arguments.runtime_endpoint:
        await network.remove(pod_cidr)  # else there is none of ours, and what has its names is another agent's
    cgroups.remove_empty(PodCgroups(arguments.cgroup_parent).pods_parent)
    cgroups.remove_empty(arguments.cgroup_parent or "kubepods")
    mounts.unmount_below(layout.run, layout.data)
    for directory in (layout.run, layout.data):
        shutil.rmtree(directory, ignore_errors=True)


async def _remove_from_endpoint(arguments: argparse.Namespace) -> None:
    """Somebody else's containerd stays, and so does what other nodes have in it. Raises RuntimeFailure when a pod is left."""
    from kubelet.inventory import Inventory
    from kubelet.runtime.cri import CriRuntime

    runtime = CriRuntime(arguments.runtime_endpoint)
    try:
        await Inventory(runtime, removed_name(arguments)).remove_all()
    finally:
        await runtime.close()


def removed_name(arguments: argparse.Namespace) -> str:
    """Of the node that leaves: unless it is said, the one that its certificate bears."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    from kubelet.identity import IdentityStore

    identity = None if arguments.node_name else IdentityStore(arguments.data_dir / "identity").load()
    if identity is None:
        return flags.node_name(arguments)
    names = x509.load_pem_x509_certificate(identity.certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value).removeprefix("system:node:")


async def _remove_docker(arguments: argparse.Namespace) -> None:
    from wherry.api.context import Env

    runtime = _docker(arguments, Env())
    try:
        for sandbox in await runtime.list_sandboxes():
            await runtime.remove_sandbox(sandbox.id)
    finally:
        await runtime.close()
