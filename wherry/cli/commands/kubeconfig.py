"""`wherry kubeconfig`: the cluster's configuration as kubectl and its family read it, printed or merged into a file of theirs.

The configuration of `wherry` itself names the gRPC port; kubectl needs that of the Kubernetes API over HTTPS.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from wherry.cli.session import GLOBALS, guarded
from wherry.client.config import ClientConfig, ConfigError, load_config, to_document, write_config

# From the port of gRPC to that of HTTPS, as `wherry server` chooses it.
PORT_OFFSET = 3
KUBECONFIG, DEFAULT_FILE = "KUBECONFIG", "~/.kube/config"

Merge = Annotated[
    bool,
    typer.Option("--merge", help=f"Add the context to ${KUBECONFIG} or {DEFAULT_FILE} and make it the current one."),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write to this file (mode 0600) instead of printing.")
]
HttpServer = Annotated[
    str,
    typer.Option("--http-server", help="HOST:PORT of the Kubernetes API; default: three ports above the cluster's."),
]


def kubeconfig(merge: Merge = False, output: Output = None, http_server: HttpServer = "") -> None:
    """Print a kubeconfig for kubectl, or merge it into yours."""
    guarded(lambda: _kubeconfig(merge, output, http_server))


def _kubeconfig(merge: bool, output: Path | None, http_server: str) -> int:
    import yaml

    settings = for_kubectl(load_config(GLOBALS.config or None, context=GLOBALS.context or None), http_server)
    if merge:
        target = output or merge_target(os.environ.get(KUBECONFIG, ""))
        write_config(settings, target, merge=True)
        print(f'context "{settings.context}" added to {target}, and current there')
    elif output is not None:
        write_config(settings, output)
    else:
        print(yaml.safe_dump(to_document(settings), sort_keys=False), end="")
    return 0


def for_kubectl(settings: ClientConfig, http_server: str = "") -> ClientConfig:
    """The same context at the address of the Kubernetes API. kubectl knows one server only: the first replica's."""
    if http_server:
        return settings.with_server(http_server)
    if not settings.endpoints:
        raise ConfigError("the configuration names no server")
    host, _, port = settings.endpoints[0].rpartition(":")
    return replace(settings, server=f"{host}:{int(port) + PORT_OFFSET}")


def merge_target(environment: str) -> Path:
    """The file that kubectl itself would change: the first of $KUBECONFIG."""
    first = next((part for part in environment.split(os.pathsep) if part), DEFAULT_FILE)
    return Path(first).expanduser()
