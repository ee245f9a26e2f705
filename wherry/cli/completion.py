"""What the shell offers at Tab beside commands and flags: kinds, names of objects, namespaces, containers, contexts.

Asked of the cluster within a moment; when it does not answer, nothing is offered, and nothing is printed into a person's line.
The `complete_*` functions are named where arguments and options are declared: `wherry.cli.options`, `wherry.cli.commands`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from wherry.cli.resources import Catalogue, UsageError, message_class
from wherry.cli.session import GLOBALS, guarded, open_client
from wherry.client.base import ClientAPI, Selection

TIMEOUT_S = 2.0
LIMIT = 500
# Commands whose first word is a pod's name when it holds no slash.
POD_COMMANDS = ("logs", "exec", "attach", "port-forward")
NODE_COMMANDS = ("cordon", "uncordon", "drain")


SHELLS = ("bash", "zsh", "fish")


def completion(shell: Annotated[str, typer.Argument(metavar="bash | zsh | fish")]) -> None:
    """Print the script that makes a shell complete: source <(wherry completion bash)"""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # used there, not exported

    def work() -> int:
        if shell not in SHELLS:
            raise UsageError(f'"{shell}": wanted {", ".join(SHELLS)}')
        print(get_completion_script(prog_name="wherry", complete_var="_WHERRY_COMPLETE", shell=shell))
        return 0

    guarded(work)


def beginning_with(words: Sequence[str], incomplete: str) -> list[str]:
    return sorted({word for word in words if word.startswith(incomplete)})


def kind_words(catalogue: Catalogue) -> list[str]:
    return [resource.plural for resource in catalogue.resources] + [
        name for resource in catalogue.resources for name in resource.short_names
    ]


async def words_for(
    client: ClientAPI, command: str, before: Sequence[str], incomplete: str, namespace: str
) -> list[str]:
    """What fits at this place of the command line; `before` are the arguments that stand there already."""
    catalogue = Catalogue((await client.discover()).resources)

    async def names(kind: str) -> list[str]:
        resource = catalogue.find(kind)
        place = namespace if resource.namespaced else ""
        cls: type[Any] = message_class(resource)
        page = await client.list(cls, Selection(place), limit=LIMIT)
        return [item.metadata.name for item in page.items]

    kind, slash, _ = incomplete.partition("/")
    if slash:
        return [f"{kind}/{name}" for name in await names(kind)]
    if command in NODE_COMMANDS:
        return [name for name in await names("nodes") if name not in before]
    if command in POD_COMMANDS:
        return [] if before else await names("pods")
    if not before:
        # `get po,s`: the last kind of the list is the one being typed.
        done, comma, _ = incomplete.rpartition(",")
        return [f"{done}{comma}{word}" for word in kind_words(catalogue)]
    if "/" in before[0]:
        return []
    return [name for name in await names(before[0]) if name not in before]


def _ask(work: Callable[[ClientAPI, str], Any]) -> list[str]:
    async def ask() -> list[str]:
        client, settings = open_client()
        try:
            return list(await asyncio.wait_for(work(client, settings.namespace or "default"), TIMEOUT_S))
        finally:
            await client.close()

    try:
        return asyncio.run(ask())
    except Exception:  # whatever is wrong: a person who presses Tab is not helped by a message
        return []


def complete_words(context: typer.Context, incomplete: str) -> list[str]:
    before: list[str] = []
    for value in context.params.values():
        if isinstance(value, list | tuple):
            before.extend(str(word) for word in value)
    chosen = context.params.get("namespace") or GLOBALS.namespace
    words = _ask(
        lambda client, namespace: words_for(client, context.info_name or "", before, incomplete, chosen or namespace)
    )
    return beginning_with(words, incomplete)


def complete_namespaces(context: typer.Context, incomplete: str) -> list[str]:
    async def work(client: ClientAPI, _: str) -> list[str]:
        from wherry.pb.core_v1_pb2 import Namespace

        page = await client.list(Namespace, Selection(), limit=LIMIT)
        return [item.metadata.name for item in page.items]

    return beginning_with(_ask(work), incomplete)


def complete_output(context: typer.Context, incomplete: str) -> list[str]:
    return beginning_with(["json", "yaml", "name", "wide", "jsonpath=", "custom-columns="], incomplete)


def complete_dry_run(context: typer.Context, incomplete: str) -> list[str]:
    return beginning_with(["none", "client", "server"], incomplete)
