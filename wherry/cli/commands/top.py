"""`top`: what nodes and pods use, as the agents tell it (metrics.k8s.io)."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any

import typer

from wherry.api import quantity
from wherry.cli.commands.get import list_all
from wherry.cli.completion import complete_words
from wherry.cli.options import AllNamespaces, Namespace, Selector
from wherry.cli.output import layout
from wherry.cli.resources import UsageError
from wherry.cli.session import Session, run
from wherry.client.base import Selection

SORTS = ("", "cpu", "memory")


def cores(amount: Decimal) -> str:
    """Millicores, rounded up so that nothing that runs shows as nothing."""
    return f"{-(-int(amount * 10**9) // 10**6)}m"


def mebibytes(amount: Decimal) -> str:
    return f"{int(amount) >> 20}Mi"


def share(used: Decimal, whole: Decimal) -> str:
    return f"{int(used * 100 / whole)}%" if whole else "<unknown>"


def usage_of(usage: Any) -> tuple[Decimal, Decimal]:
    """CPU and memory."""
    found = [quantity.amount(usage[name]) if name in usage else Decimal(0) for name in ("cpu", "memory")]
    return found[0], found[1]


def _order(rows: list[tuple[Decimal, Decimal, list[str]]], sort_by: str) -> list[list[str]]:
    if sort_by not in SORTS:
        raise UsageError(f'--sort-by: "{sort_by}": wanted cpu or memory')
    if sort_by:
        rows.sort(key=lambda row: row[0 if sort_by == "cpu" else 1], reverse=True)
    return [row[2] for row in rows]


def node_rows(nodes: Sequence[Any], metrics: Sequence[Any], sort_by: str) -> list[list[str]]:
    """A row for each node; one whose agent does not answer is shown as unknown."""
    found = {item.metadata.name: usage_of(item.usage) for item in metrics}
    rows = []
    unknown = []
    for node in nodes:
        name = node.metadata.name
        if name not in found:
            unknown.append([name, *["<unknown>"] * 4])
            continue
        cpu, memory = found[name]
        whole_cpu, whole_memory = usage_of(node.status.allocatable)
        shown = [name, cores(cpu), share(cpu, whole_cpu), mebibytes(memory), share(memory, whole_memory)]
        rows.append((cpu, memory, shown))
    return [*_order(rows, sort_by), *unknown]


def pod_rows(metrics: Sequence[Any], *, by_container: bool, with_namespace: bool, sort_by: str) -> list[list[str]]:
    rows = []
    for item in metrics:
        place = [item.metadata.namespace] if with_namespace else []
        parts = [(container.name, usage_of(container.usage)) for container in item.containers]
        if not by_container:
            parts = [("", (sum((u[0] for _, u in parts), Decimal(0)), sum((u[1] for _, u in parts), Decimal(0))))]
        for name, (cpu, memory) in parts:
            words = [*place, item.metadata.name, *([name] if by_container else []), cores(cpu), mebibytes(memory)]
            rows.append((cpu, memory, words))
    return _order(rows, sort_by)


def _print(header: list[str], rows: list[list[str]]) -> None:
    for line in layout([*([header] if header else []), *rows]):
        print(line)


SortBy = Annotated[str, typer.Option("--sort-by", help="cpu or memory.")]
NoHeaders = Annotated[bool, typer.Option("--no-headers", help="Only the rows.")]
Name = Annotated[str, typer.Argument(metavar="[NAME]", autocompletion=complete_words)]

app = typer.Typer(help="What nodes or pods use: CPU and memory.", no_args_is_help=True)


@app.command("node")
@app.command("nodes", hidden=True)
@app.command("no", hidden=True)
def top_node(name: Name = "", selector: Selector = "", sort_by: SortBy = "", no_headers: NoHeaders = False) -> None:
    """CPU and memory of nodes."""
    from wherry.pb import core_v1_pb2, metrics_v1beta1_pb2

    async def work(session: Session) -> None:
        if name:
            nodes = [await session.client.get(core_v1_pb2.Node, name)]
            metrics = [await session.client.get(metrics_v1beta1_pb2.NodeMetrics, name)]
        else:
            chosen = Selection(label_selector=selector)
            nodes, _ = await list_all(session.client, core_v1_pb2.Node, chosen)
            metrics, _ = await list_all(session.client, metrics_v1beta1_pb2.NodeMetrics, chosen)
        header = ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"]
        _print([] if no_headers else header, node_rows(nodes, metrics, sort_by))

    run(work)


@app.command("pod")
@app.command("pods", hidden=True)
@app.command("po", hidden=True)
def top_pod(
    name: Name = "",
    selector: Selector = "",
    namespace: Namespace = "",
    all_namespaces: AllNamespaces = False,
    containers: Annotated[bool, typer.Option("--containers", help="Each container on its own.")] = False,
    sort_by: SortBy = "",
    no_headers: NoHeaders = False,
) -> None:
    """CPU and memory of pods."""
    from wherry.pb import metrics_v1beta1_pb2

    async def work(session: Session) -> None:
        place = session.namespace(namespace, all_namespaces=all_namespaces)
        if name:
            metrics = [await session.client.get(metrics_v1beta1_pb2.PodMetrics, name, place)]
        else:
            chosen = Selection(place, selector)
            metrics, _ = await list_all(session.client, metrics_v1beta1_pb2.PodMetrics, chosen)
        header = [
            *(["NAMESPACE"] if all_namespaces else []), "POD" if containers else "NAME",
            *(["NAME"] if containers else []), "CPU(cores)", "MEMORY(bytes)",
        ]  # fmt: skip
        rows = pod_rows(metrics, by_container=containers, with_namespace=all_namespaces, sort_by=sort_by)
        if not rows:
            raise UsageError(
                f'no figures of pods in namespace "{place}"; nothing runs there' if place else "no figures of pods"
            )
        _print([] if no_headers else header, rows)

    run(work)
