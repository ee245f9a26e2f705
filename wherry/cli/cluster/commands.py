"""The words `wherry up`, `down`, `status` and `image load` as typer commands: options in, exit code out. Registered by
`wherry.cli.app`; the work is in the modules beside this one, imported when a command runs."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from wherry.cli.cluster.layout import Cluster

Name = Annotated[str, typer.Option("--name", help="The cluster's name; several can run side by side on one machine.")]
DEFAULT_NAME = "wherry"

image = typer.Typer(no_args_is_help=True, help="Images on the local nodes.")


def up(
    nodes: Annotated[
        int | None,
        typer.Option(
            "--nodes", "-n", min=1, max=200, show_default="2", help="How many nodes; with Docker there is one."
        ),
    ] = None,
    runtime: Annotated[
        str,
        typer.Option(
            "--runtime",
            show_default="containerd",
            help="containerd: nodes of their own, each with a containerd; needs root. docker: one node on this machine's Docker, "
            "without root.",
        ),
    ] = "",
    docker_host: Annotated[
        str,
        typer.Option(
            "--docker-host", help="Of --runtime docker: unix:///PATH ($DOCKER_HOST, or unix:///var/run/docker.sock)."
        ),
    ] = "",
    data_dir: Annotated[
        str,
        typer.Option(
            "--data-dir",
            help="Where the cluster keeps its data (/var/lib/wherry/NAME; without root ~/.local/share/wherry/NAME).",
        ),
    ] = "",
    ingress: Annotated[
        bool | None,
        typer.Option(
            "--ingress/--no-ingress",
            show_default="yes; with Docker if haproxy is installed",
            help="Serve Ingresses with haproxy on this machine.",
        ),
    ] = None,
    registry_config_dir: Annotated[
        str,
        typer.Option(
            "--registry-config-dir",
            help="HOST/hosts.toml files of registries: mirrors, CAs, plain HTTP (/etc/containerd/certs.d).",
        ),
    ] = "",
    name: Name = DEFAULT_NAME,
) -> None:
    """Start a cluster on this machine, or finish and mend the one that is there."""
    registries = os.path.abspath(registry_config_dir) if registry_config_dir else None

    async def work() -> int:
        from wherry.cli.cluster import layout
        from wherry.cli.cluster import up as module
        from wherry.cli.cluster.layout import ClusterError
        from wherry.cli.cluster.progress import Progress

        progress = Progress()
        place = Path(data_dir) if data_dir else None
        with layout.locked(layout.check_name(name)):
            known = layout.load(name)
            if runtime_of(known, name, runtime) == layout.DOCKER:
                refuse_with_docker(nodes, registry_config_dir)
                from wherry.cli.cluster import dockerup

                await dockerup.up(name, place, docker_host, progress, ingress)
            else:
                if docker_host:
                    raise ClusterError("--docker-host is of --runtime docker only")
                module.check_machine()
                count = nodes or (known.node_count if known else module.DEFAULT_NODES)
                settings = module.Settings(ingress=ingress, registry_config_dir=registries)
                await module.up(name, count, place, progress, settings)
        progress.say()
        if progress.changes:
            progress.say("The cluster is up. Try: wherry get pods -o wide, wherry status, wherry down.")
        else:
            progress.say("The cluster was up already: nothing was changed.")
        return 0

    _run(work)


def runtime_of(known: Cluster | None, name: str, asked: str) -> str:
    """What the cluster's nodes are to be made of. Raises ClusterError."""
    from wherry.cli.cluster import layout

    if asked not in ("", layout.CONTAINERD, layout.DOCKER):
        raise layout.ClusterError(f'--runtime "{asked}": want {layout.CONTAINERD} or {layout.DOCKER}')
    if known is not None and asked not in ("", known.runtime):
        raise layout.ClusterError(
            f'cluster "{name}" is on {known.runtime}, not on {asked}: `wherry down` first, or choose another --name'
        )
    return known.runtime if known is not None else asked or layout.CONTAINERD


def refuse_with_docker(nodes: int | None, registry_config_dir: str) -> None:
    """Raises ClusterError for what there is with containerd only."""
    from wherry.cli.cluster.layout import ClusterError

    if nodes is not None and nodes != 1:
        raise ClusterError(
            f"--nodes {nodes}: with --runtime docker there is one node, Docker's own machine. Several need root and containerd: "
            f"`sudo wherry up --nodes {nodes}`"
        )
    if registry_config_dir:
        raise ClusterError("--registry-config-dir is containerd's: Docker has /etc/docker/certs.d and daemon.json")


def down(
    name: Name = DEFAULT_NAME,
    keep_data: Annotated[bool, typer.Option("--keep-data", help="Keep the store and the nodes' images.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Every cluster on this machine.")] = False,
) -> None:
    """Stop the cluster on this machine and remove every trace of it."""

    async def work() -> int:
        from wherry.cli.cluster import dockerdown, layout
        from wherry.cli.cluster import down as module
        from wherry.cli.cluster.progress import Progress

        progress = Progress()
        for each in module.names() if all_ else [layout.check_name(name)]:
            if all_:
                progress.say(f"cluster {each}:")
            with layout.locked(each):
                cluster = dockerdown.find(each)
                if cluster is not None:
                    removed = dockerdown.down(cluster, progress, keep_data=keep_data)
                else:
                    module.check_root(each)
                    removed = module.down(each, progress, keep_data=keep_data)
            if not removed:
                progress.say("Nothing was there.")
        return 0

    _run(work)


def status(
    name: Annotated[str, typer.Option("--name", help="One cluster; all of this machine when not given.")] = "",
    output: Annotated[str, typer.Option("--output", "-o", help="json, or nothing for people.")] = "",
) -> None:
    """Show the clusters on this machine: control plane, nodes, agents, paths, memory."""

    async def work() -> int:
        from wherry.cli.cluster import layout
        from wherry.cli.cluster import status as module
        from wherry.cli.cluster.layout import ClusterError

        if output not in ("", "json"):
            raise ClusterError(f'--output "{output}": want json')
        found = await module.statuses([name] if name else layout.known())
        if output == "json":
            print(json.dumps([item.document() for item in found], indent=2))
        elif not found:
            print(
                f'no cluster "{name}" on this machine' if name else "no cluster on this machine; `wherry up` starts one"
            )
        for item in found if output == "" else ():
            print("\n".join(module.lines(item)))
        return 0 if found and all(item.well for item in found) else 1

    _run(work)


@image.command("load")
def load(
    files: Annotated[list[str], typer.Argument(help="Image files: docker-archive or OCI layout, as tar.")],
    name: Name = DEFAULT_NAME,
) -> None:
    """Put images from files on every node of the local cluster."""

    async def work() -> int:
        from kubelet.runtime.base import RuntimeFailure
        from wherry.cli.cluster import images, layout
        from wherry.cli.cluster.dockerhost import load_into_docker
        from wherry.cli.cluster.layout import ClusterError

        cluster = layout.load(name)
        if cluster is None:
            raise ClusterError(f'no cluster "{name}" on this machine; `wherry up` starts one')
        failed = False
        for file in files:
            for node in cluster.nodes:
                try:
                    if cluster.runtime == layout.DOCKER:
                        loaded = await asyncio.to_thread(load_into_docker, cluster, Path(file))
                    else:
                        loaded = await asyncio.to_thread(images.load, node.containerd.socket, Path(file))
                except (images.ImageError, RuntimeFailure) as error:
                    print(f"error: {node.name}: {error}", file=sys.stderr)
                    failed = True
                else:
                    print(f"{node.name}: {', '.join(loaded) or file}")
        return 1 if failed else 0

    _run(work)


def _run(work: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Runs the command; what a person can act on becomes `error: ...` and exit code 1. Raises typer.Exit."""
    from kubelet.network import NetworkError
    from kubelet.runtime.base import RuntimeFailure
    from wherry.api.errors import APIError
    from wherry.cli.cluster.images import ImageError
    from wherry.cli.cluster.layout import ClusterError

    # Marks and other people's messages may be beyond the terminal's encoding.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = asyncio.run(work())
    except BrokenPipeError:
        # The reader went away (`| head`): nothing more to say, and nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (ClusterError, ImageError, NetworkError, RuntimeFailure, APIError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code)
