"""Flags that several commands share, spelled as kubectl spells them."""

from __future__ import annotations

from typing import Annotated

import typer

Namespace = Annotated[
    str, typer.Option("--namespace", "-n", help="Namespace; the context's (or default) when not given.")
]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="All namespaces.")]
Selector = Annotated[str, typer.Option("--selector", "-l", help="Label selector: a=b,c in (x,y),!d")]
FieldSelector = Annotated[str, typer.Option("--field-selector", help="Field selector: status.phase=Running")]
Output = Annotated[
    str,
    typer.Option("--output", "-o", help="json, yaml, name, wide, jsonpath=TEMPLATE or custom-columns=HEADER:PATH,..."),
]
Filename = Annotated[
    list[str], typer.Option("--filename", "-f", help="File, directory, URL or - for standard input; may be repeated.")
]
Recursive = Annotated[bool, typer.Option("--recursive", "-R", help="Directories with their subdirectories.")]
DryRun = Annotated[str, typer.Option("--dry-run", help="none, client (send nothing) or server (change nothing).")]
FieldManager = Annotated[str, typer.Option("--field-manager", help="Who is recorded as the owner of the fields.")]
Container = Annotated[str, typer.Option("--container", "-c", help="Container; the first one when not given.")]
Timeout = Annotated[str, typer.Option("--timeout", help="How long to wait: 30s, 5m; 0 means for ever.")]
Config = Annotated[
    str, typer.Option("--config", "--kubeconfig", envvar="WHERRY_CONFIG", help="Client configuration (a kubeconfig).")
]
ContextName = Annotated[str, typer.Option("--context", help="Context of the configuration to use.")]
Server = Annotated[str, typer.Option("--server", "-s", help="Address of the control plane, instead of the context's.")]
