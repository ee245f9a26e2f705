"""Flags that several commands share, spelled as kubectl spells them."""

from __future__ import annotations

from typing import Annotated

import typer

from wherry.cli.completion import complete_dry_run, complete_namespaces, complete_output
from wherry.cli.resources import UsageError

Namespace = Annotated[
    str,
    typer.Option(
        "--namespace",
        "-n",
        help="Namespace; the context's (or default) when not given.",
        autocompletion=complete_namespaces,
    ),
]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="All namespaces.")]
Selector = Annotated[str, typer.Option("--selector", "-l", help="Label selector: a=b,c in (x,y),!d")]
FieldSelector = Annotated[str, typer.Option("--field-selector", help="Field selector: status.phase=Running")]
Output = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        help="json, yaml, name, wide, jsonpath=TEMPLATE or custom-columns=HEADER:PATH,...",
        autocompletion=complete_output,
    ),
]
Filename = Annotated[
    list[str], typer.Option("--filename", "-f", help="File, directory, URL or - for standard input; may be repeated.")
]
Recursive = Annotated[bool, typer.Option("--recursive", "-R", help="Directories with their subdirectories.")]
DryRun = Annotated[
    str,
    typer.Option(
        "--dry-run", help="none, client (send nothing) or server (change nothing).", autocompletion=complete_dry_run
    ),
]
FieldManager = Annotated[str, typer.Option("--field-manager", help="Who is recorded as the owner of the fields.")]
Container = Annotated[str, typer.Option("--container", "-c", help="Container; the first one when not given.")]
Timeout = Annotated[str, typer.Option("--timeout", help="How long to wait: 30s, 5m; 0 means for ever.")]
Config = Annotated[
    str, typer.Option("--config", "--kubeconfig", envvar="WHERRY_CONFIG", help="Client configuration (a kubeconfig).")
]
ContextName = Annotated[str, typer.Option("--context", help="Context of the configuration to use.")]
Server = Annotated[str, typer.Option("--server", "-s", help="Address of the control plane, instead of the context's.")]

# What is printed behind the line that tells what was done.
DRY_RUN_MARKS = {"none": "", "client": " (dry run)", "server": " (server dry run)"}


def check_dry_run(value: str) -> str:
    """The mark to print. Raises UsageError."""
    if value not in DRY_RUN_MARKS:
        raise UsageError(f'invalid dry-run value ({value}). Must be "none", "server", or "client".')
    return DRY_RUN_MARKS[value]
