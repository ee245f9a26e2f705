"""The command line as one typer application: which words there are, and what each calls."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

import wherry
from wherry.cli.commands import (
    apply,
    change,
    describe,
    edit,
    get,
    keys,
    kubeconfig,
    nodes,
    portforward,
    rollout,
    store,
    streams,
    top,
)
from wherry.cli.completion import completion
from wherry.cli.options import Config, ContextName, Namespace, Server
from wherry.cli.session import GLOBALS
from wherry.cli.spelling import Command

app = typer.Typer(
    name="wherry",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Wherry: a cluster that runs real containers, takes Kubernetes manifests, and starts in a second.",
)

CLUSTER, OBJECTS, PODS, WORKLOADS, NODES = "Cluster", "Objects", "Pods", "Workloads", "Nodes"


def _version(asked: bool) -> None:
    if asked:
        print(f"wherry {wherry.__version__}")
        raise typer.Exit()


@app.callback()
def _globals(
    config: Config = "",
    context: ContextName = "",
    server: Server = "",
    namespace: Namespace = "",
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    GLOBALS.config, GLOBALS.context, GLOBALS.server, GLOBALS.namespace = config, context, server, namespace


def _add(panel: str, *commands: Callable[..., Any], name: str = "") -> None:
    for command in commands:
        word = name or command.__name__.replace("_", "-")
        app.command(word, cls=Command, rich_help_panel=panel)(command)


def _add_group(panel: str, name: str, group: typer.Typer) -> None:
    for command in group.registered_commands:
        command.cls = Command
    app.add_typer(group, name=name, rich_help_panel=panel)


def _run_process(argv_of: str) -> Callable[..., None]:
    """`server`, `agent` and `ingress` never get here (wherry.cli.main starts them); they stand in the help."""

    def command(context: typer.Context) -> None:
        from wherry.cli.main import main

        raise typer.Exit(main([argv_of, *context.args]))

    return command


def _build() -> None:
    from wherry.cli.cluster import commands as cluster

    _add(CLUSTER, cluster.up, cluster.down, cluster.status)
    _add_group(CLUSTER, "image", cluster.image)
    passing = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    app.command("server", rich_help_panel=CLUSTER, context_settings=passing, help="Run the control plane.")(
        _run_process("server")
    )
    app.command("agent", rich_help_panel=CLUSTER, context_settings=passing, help="Run a node's agent.")(
        _run_process("agent")
    )
    app.command("ingress", rich_help_panel=CLUSTER, context_settings=passing, help="Serve Ingresses on this host.")(
        _run_process("ingress")
    )
    _add_group(CLUSTER, "token", store.token)
    _add_group(CLUSTER, "keys", keys.keys)
    _add(CLUSTER, store.backup, store.restore, kubeconfig.kubeconfig)
    _add(CLUSTER, completion)

    _add(OBJECTS, apply.apply, apply.diff, get.get, describe.describe, change.delete, edit.edit)
    _add(OBJECTS, change.label, name="label")
    _add(OBJECTS, change.annotate, name="annotate")
    _add(OBJECTS, change.wait, get.events, get.api_resources, get.explain)
    _add(PODS, streams.logs, streams.attach, portforward.port_forward)
    _add(PODS, streams.exec_, name="exec")
    _add_group(WORKLOADS, "rollout", rollout.app)
    _add(WORKLOADS, rollout.scale)
    _add(NODES, nodes.cordon, nodes.uncordon, nodes.drain)
    _add_group(NODES, "top", top.app)


_build()


# Typer brings the option parser's exceptions along under a private name; this one is the root of those about usage.
_UsageError: Any = typer.BadParameter.__bases__[0]


def run(argv: Sequence[str]) -> int:
    """Runs one command line; returns its exit code."""
    try:
        code = app(args=list(argv), prog_name="wherry", standalone_mode=False)
    except SystemExit as exit_:
        code = exit_.code
    except _UsageError as error:
        # One line, as kubectl: it goes into logs and through pipes.
        context = error.ctx
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            return 2
        path = context.command_path if context is not None else " ".join(["wherry", *_command_words(argv)])
        print(f"error: {_plain(error.format_message())}\nSee '{path} --help' for usage.", file=sys.stderr)
        return 2
    except (typer.Abort, KeyboardInterrupt):
        return 130
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1


def _command_words(argv: Sequence[str]) -> list[str]:
    """The command's name, where the parser lost it on its way."""
    return [word for word in argv[:1] if not word.startswith("-")]


def _plain(message: str) -> str:
    return message[:1].lower() + message[1:].rstrip(".")
