"""`cordon`, `uncordon`, `drain`: taking a node out of service and back."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from wherry.api.errors import NotFound, TooManyRequests
from wherry.cli.commands.get import list_all
from wherry.cli.commands.streams import seconds_of
from wherry.cli.completion import complete_words
from wherry.cli.options import DryRun, Selector, Timeout, check_dry_run
from wherry.cli.resources import UsageError
from wherry.cli.session import Session, run
from wherry.client.base import DeleteOptions, Selection
from wherry.pb import core_v1_pb2

MIRROR = "kubernetes.io/config.mirror"

NodeNames = Annotated[list[str], typer.Argument(metavar="NODE...", autocompletion=complete_words)]


async def _nodes(session: Session, names: list[str], selector: str) -> list[core_v1_pb2.Node]:
    if bool(names) == bool(selector):
        raise UsageError("name the nodes, or select them with -l (one of the two)")
    if selector:
        nodes, _ = await list_all(session.client, core_v1_pb2.Node, Selection(label_selector=selector))
        return nodes
    names = [name.removeprefix("node/").removeprefix("nodes/") for name in names]
    return [await session.client.get(core_v1_pb2.Node, name) for name in names]


async def _set_schedulable(
    session: Session, node: core_v1_pb2.Node, *, schedulable: bool, dry_run: str = "none"
) -> None:
    mark = check_dry_run(dry_run)
    word = "uncordoned" if schedulable else "cordoned"
    if node.spec.unschedulable != schedulable:
        print(f"node/{node.metadata.name} already {word}{mark}")
        return
    patch = {"spec": {"unschedulable": None if schedulable else True}}
    if dry_run != "client":
        await session.client.patch(
            core_v1_pb2.Node, node.metadata.name, "", patch, dry_run=dry_run == "server", field_manager="wherry-cordon"
        )
    print(f"node/{node.metadata.name} {word}{mark}")


def cordon(nodes: NodeNames = [], selector: Selector = "", dry_run: DryRun = "none") -> None:  # noqa: B006
    """Let no new pods come to a node."""

    async def work(session: Session) -> None:
        for node in await _nodes(session, nodes, selector):
            await _set_schedulable(session, node, schedulable=False, dry_run=dry_run)

    run(work)


def uncordon(nodes: NodeNames = [], selector: Selector = "", dry_run: DryRun = "none") -> None:  # noqa: B006
    """Let pods come to a node again."""

    async def work(session: Session) -> None:
        for node in await _nodes(session, nodes, selector):
            await _set_schedulable(session, node, schedulable=True, dry_run=dry_run)

    run(work)


def refusal(
    pod: core_v1_pb2.Pod, *, force: bool, ignore_daemonsets: bool, delete_emptydir_data: bool
) -> tuple[str, bool]:
    """Why a drain must not evict this pod ("" when it may), and whether the pod is simply left where it is.

    The rules are those of kubectl drain: finished pods go, mirror pods stay, DaemonSet pods stay when that was asked for.
    """
    if MIRROR in pod.metadata.annotations:
        return "", True
    if pod.status.phase in ("Succeeded", "Failed") or pod.metadata.HasField("deletion_timestamp"):
        return "", False
    controllers = [owner for owner in pod.metadata.owner_references if owner.controller]
    if any(owner.kind == "DaemonSet" for owner in controllers):
        return (
            ("", True)
            if ignore_daemonsets
            else ("cannot delete DaemonSet-managed Pods (use --ignore-daemonsets)", False)
        )
    if not controllers and not force:
        return "cannot delete Pods that declare no controller (use --force)", False
    if any(volume.volume_source.HasField("empty_dir") for volume in pod.spec.volumes) and not delete_emptydir_data:
        return "cannot delete Pods with local storage (use --delete-emptydir-data)", False
    return "", False


def drain(
    nodes: NodeNames = [],  # noqa: B006
    selector: Selector = "",
    force: Annotated[bool, typer.Option("--force", help="Also pods that no controller will replace.")] = False,
    ignore_daemonsets: Annotated[bool, typer.Option("--ignore-daemonsets", help="Leave DaemonSet pods.")] = False,
    delete_emptydir_data: Annotated[
        bool, typer.Option("--delete-emptydir-data", help="Also pods with emptyDir volumes, whose data is lost.")
    ] = False,
    pod_selector: Annotated[str, typer.Option("--pod-selector", help="Only pods with these labels.")] = "",
    grace_period: Annotated[
        int, typer.Option("--grace-period", help="Seconds for each pod; -1 is the pod's own.")
    ] = -1,
    disable_eviction: Annotated[bool, typer.Option("--disable-eviction", help="Delete instead of evicting.")] = False,
    dry_run: DryRun = "none",
    timeout: Timeout = "0",
) -> None:
    """Empty a node: cordon it and evict its pods."""

    async def work(session: Session) -> int:
        mark = check_dry_run(dry_run)
        code = 0
        for node in await _nodes(session, nodes, selector):
            name = node.metadata.name
            await _set_schedulable(session, node, schedulable=False, dry_run=dry_run)
            pods, _ = await list_all(
                session.client, core_v1_pb2.Pod, Selection("", pod_selector, f"spec.nodeName={name}")
            )
            going, refused, staying = [], [], []
            for pod in pods:
                why, stays = refusal(
                    pod, force=force, ignore_daemonsets=ignore_daemonsets, delete_emptydir_data=delete_emptydir_data
                )
                label = f"{pod.metadata.namespace}/{pod.metadata.name}"
                if why:
                    refused.append(f"{why}: {label}")
                elif stays:
                    staying.append(label)
                else:
                    going.append(pod)
            if refused:
                print(f'error: unable to drain node "{name}": {"; ".join(refused)}', file=sys.stderr)
                code = 1
                continue
            if staying:
                print(f"Warning: ignoring DaemonSet-managed Pods: {', '.join(staying)}", file=sys.stderr)
            if mark:
                for pod in going:
                    print(f"evicting pod {pod.metadata.namespace}/{pod.metadata.name}{mark}")
                print(f"node/{name} drained{mark}")
                continue
            options = DeleteOptions(grace_period_s=grace_period if grace_period >= 0 else None)
            limit = seconds_of(timeout, "--timeout") or None
            try:
                await asyncio.wait_for(
                    asyncio.gather(*(_evict(session, pod, options, disable_eviction) for pod in going)), limit
                )
            except TimeoutError:
                print(f"error: drain did not complete within {timeout}; {name} stays cordoned", file=sys.stderr)
                code = 1
                continue
            print(f"node/{name} drained")
        return code

    run(work)


async def _evict(session: Session, pod: core_v1_pb2.Pod, options: DeleteOptions, delete: bool) -> None:
    """Asks until it is allowed (a disruption budget answers 429), then waits until this pod is gone."""
    name, namespace = pod.metadata.name, pod.metadata.namespace
    print(f"evicting pod {namespace}/{name}", flush=True)
    while True:
        try:
            if delete:
                await session.client.delete(core_v1_pb2.Pod, name, namespace, options)
            else:
                await session.client.evict(name, namespace, options)
            break
        except TooManyRequests as error:
            text = f'error when evicting pods/"{name}" -n "{namespace}" (will retry after 5s): {error}'
            print(text, file=sys.stderr, flush=True)
            await asyncio.sleep(5)
        except NotFound:
            return
    while True:
        try:
            current = await session.client.get(core_v1_pb2.Pod, name, namespace)
        except NotFound:
            break
        if current.metadata.uid != pod.metadata.uid:
            break
        await asyncio.sleep(0.5)
    print(f"pod/{name} evicted", flush=True)
