"""One command's connection: configuration, client, discovery, and what becomes of errors.

Every command is `run(work)`: `work` is a coroutine function that takes a `Session`. Errors of the API are printed in
kubectl's words on standard error and become exit code 1.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import typer

from wherry.api.context import Env
from wherry.api.errors import APIError, NotFound, Unreachable
from wherry.api.jsonpath import JSONPathError
from wherry.cli.resources import Catalogue, UsageError
from wherry.client.base import ClientAPI
from wherry.client.config import ClientConfig, ConfigError


@dataclass(slots=True)
class Globals:
    """The flags that every command has. `namespace` is the one that stood before the command's name."""

    config: str = ""
    context: str = ""
    server: str = ""
    namespace: str = ""


GLOBALS = Globals()


class Session:
    """Made by `run`; closed by it."""

    def __init__(self, client: ClientAPI, settings: ClientConfig) -> None:
        self.client = client
        self.env = Env()
        self.default_namespace = settings.namespace or "default"
        self.server = settings.server
        self.ca = settings.ca
        self._catalogue: Catalogue | None = None

    def namespace(self, flag: str, *, all_namespaces: bool = False) -> str:
        """The namespace that a command works in; "" for all."""
        return "" if all_namespaces else flag or self.default_namespace

    async def catalogue(self) -> Catalogue:
        if self._catalogue is None:
            response = await self.client.discover()
            self._catalogue = Catalogue(response.resources)
        return self._catalogue


def warn(message: str) -> None:
    print(f"Warning: {message}", file=sys.stderr)


def describe_error(error: APIError, server: str) -> str:
    """As kubectl prints it."""
    if isinstance(error, Unreachable):
        return (
            f"The connection to the server {server} failed: {error.message}\n"
            "Is the cluster running? `wherry status` tells; `wherry up` starts one on this machine."
        )
    if error.reason == "Invalid" and error.kind:
        subject = f"{error.kind}.{error.group}" if error.group else error.kind
        start = f'{subject} "{error.name}" is invalid:'
        message = error.message.removeprefix(start).strip() if error.message.startswith(start) else error.message
        if len(error.causes) > 1:
            lines = "\n".join(f"* {cause.field}: {cause.message}" for cause in error.causes)
            return f'The {error.kind} "{error.name}" is invalid:\n{lines}'
        return f'The {error.kind} "{error.name}" is invalid: {message}'
    return f"Error from server ({error.reason}): {error.message}"


def open_client() -> tuple[ClientAPI, ClientConfig]:
    """The client and what it was made from: the flags, the environment and the file."""
    from wherry.client.config import load_config
    from wherry.client.grpc import connect

    settings = renewed(load_config(GLOBALS.config or None, context=GLOBALS.context or None))
    if GLOBALS.server:
        settings = settings.with_server(GLOBALS.server)
    return connect(settings), settings


def renewed(settings: ClientConfig) -> ClientConfig:
    """With the newer certificate of a cluster on this machine, whose server keeps one for us, when that of the file nears its
    end. The file gets it too, where we may write it."""
    from wherry.client.validity import is_due

    if not settings.certificate or not is_due(settings.certificate, Env().now()):
        return settings
    from wherry.cli.cluster import layout
    from wherry.client.config import config_path, load_config, write_config

    try:
        cluster = layout.load(settings.context)
        kept = load_config(cluster.server_data / "admin.conf") if cluster is not None else settings
        if kept.ca != settings.ca or kept.certificate == settings.certificate:
            return settings
        settings = replace(settings, certificate=kept.certificate, key=kept.key)
        write_config(settings, config_path(GLOBALS.config or None), merge=True, current=False)
    except (OSError, ConfigError, layout.ClusterError):
        pass  # it is somebody else's, or cannot be written: what we have is used
    return settings


async def _with_session(work: Callable[[Session], Awaitable[int | None]]) -> int:
    client, settings = open_client()
    try:
        return await work(Session(client, settings)) or 0
    except APIError as error:
        print(describe_error(error, settings.server), file=sys.stderr)
        if isinstance(error, Unreachable) and (ended := expiry_note(settings)):
            print(ended, file=sys.stderr)
        return 1
    finally:
        await client.close()


def expiry_note(settings: ClientConfig) -> str:
    """A server closes the connection of a client whose certificate has expired, and cannot tell why."""
    from wherry.api.times import format_seconds
    from wherry.client.validity import validity

    try:
        _, end = validity(settings.certificate) if settings.certificate else (0.0, float("inf"))
    except ValueError:
        return ""
    if Env().now() < end:
        return ""
    when = format_seconds(int(end))
    return f"The client certificate of the configuration expired at {when}: copy the cluster's admin.conf again."


def run(work: Callable[[Session], Awaitable[int | None]]) -> None:
    """Runs `work` and ends the command with its exit code (None is 0). Raises typer.Exit."""
    guarded(lambda: asyncio.run(_with_session(work)))


def guarded(work: Callable[[], int | None]) -> None:
    """Turns a person's mistakes into `error: ...` and exit code 1, and Ctrl-C into 130. Raises typer.Exit."""
    try:
        code = work() or 0
    except (UsageError, JSONPathError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # The reader went away (`| head`): nothing more to say, and nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    raise typer.Exit(code)


async def try_get(client: ClientAPI, cls: type[Any], name: str, namespace: str) -> Any | None:
    """The object, or None when there is none."""
    try:
        return await client.get(cls, name, namespace)
    except NotFound:
        return None
