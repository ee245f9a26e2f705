"""`logs`, `exec`, `attach`, `port-forward`: bytes between a person's terminal and a container."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated, Any

import typer

from wherry.api import labels
from wherry.api.errors import APIError
from wherry.api.times import parse_duration, parse_rfc3339
from wherry.cli.commands.get import list_all
from wherry.cli.completion import complete_words
from wherry.cli.options import Container, Namespace, Selector
from wherry.cli.resources import UsageError
from wherry.cli.session import Session, describe_error, run
from wherry.client.base import BidiStream, Selection
from wherry.pb import core_v1_pb2, meta_v1_pb2, pods_pb2

CHUNK = 32 * 1024


async def find_pods(session: Session, words: Sequence[str], selector: str, namespace: str) -> list[core_v1_pb2.Pod]:
    """The pods that `web`, `pod/web`, `deploy/web`, `svc/web` or a label selector mean."""
    if selector:
        if words:
            raise UsageError("only a selector (-l) or a POD name is allowed")
        pods, _ = await list_all(session.client, core_v1_pb2.Pod, Selection(namespace, label_selector=selector))
        return pods
    if not words:
        raise UsageError("expected POD or TYPE/NAME, for example: web or deploy/web")
    target = (await session.catalogue()).one(words[:1], default="pods")
    if target.resource.kind == "Pod":
        return [await session.client.get(core_v1_pb2.Pod, target.name, namespace)]
    from wherry.cli.resources import message_class

    owner: Any = await session.client.get(message_class(target.resource), target.name, namespace)
    chosen = getattr(owner.spec, "selector", None)
    if chosen is None:
        raise UsageError(f"{target.resource.singular} {target.name!r} has no pods; name a pod, deployment or service")
    if isinstance(chosen, meta_v1_pb2.LabelSelector):
        text = str(labels.from_message(chosen))
    else:
        text = ",".join(f"{key}={value}" for key, value in sorted(chosen.items()))
    if not text:
        raise UsageError(f"{target.resource.singular} {target.name!r} has no selector, so its pods are not known")
    pods, _ = await list_all(session.client, core_v1_pb2.Pod, Selection(namespace, label_selector=text))
    if not pods:
        raise UsageError(f"no pods found for {target.resource.singular} {target.name!r} (selector {text})")
    # A ready pod first, then the youngest: what a person who wants to look at it means.
    pods.sort(key=lambda pod: (not is_ready(pod), -pod.metadata.creation_timestamp.seconds, pod.metadata.name))
    return pods


def is_ready(pod: core_v1_pb2.Pod) -> bool:
    return any(condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions)


def default_container(pod: core_v1_pb2.Pod) -> str:
    name = pod.metadata.annotations.get("kubectl.kubernetes.io/default-container", "")
    return name or (pod.spec.containers[0].name if pod.spec.containers else "")


def container_names(pod: core_v1_pb2.Pod) -> list[str]:
    return [container.name for container in (*pod.spec.init_containers, *pod.spec.containers)]


def logs(
    words: Annotated[
        list[str], typer.Argument(metavar="[POD | TYPE/NAME] [CONTAINER]", autocompletion=complete_words)
    ] = [],  # noqa: B006
    namespace: Namespace = "",
    selector: Selector = "",
    container: Container = "",
    all_containers: Annotated[bool, typer.Option("--all-containers", help="Of every container of the pod.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the log grows.")] = False,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="Of the container before its last restart.")
    ] = False,
    tail: Annotated[int, typer.Option("--tail", help="Only so many of the last lines; -1 for all.")] = -1,
    since: Annotated[str, typer.Option("--since", help="Only newer than this: 5s, 2m, 3h")] = "",
    since_time: Annotated[str, typer.Option("--since-time", help="Only after this time (RFC 3339).")] = "",
    timestamps: Annotated[bool, typer.Option("--timestamps", help="Each line with its time.")] = False,
    limit_bytes: Annotated[int, typer.Option("--limit-bytes", help="No more than so many bytes.")] = 0,
    prefix: Annotated[bool, typer.Option("--prefix", help="Each line with its pod and container.")] = False,
) -> None:
    """Print the logs of a container."""

    async def work(session: Session) -> int:
        if since and since_time:
            raise UsageError("only one of --since and --since-time may be used")
        options = core_v1_pb2.PodLogOptions(follow=follow, previous=previous, timestamps=timestamps)
        lines = 10 if selector and tail == -1 else tail
        if lines >= 0:
            options.tail_lines = lines
        if since:
            options.since_seconds = max(1, round(seconds_of(since, "--since")))
        if since_time:
            try:
                options.since_time.seconds, options.since_time.nanos = parse_rfc3339(since_time)
            except ValueError as error:
                raise UsageError(f"--since-time {since_time!r}: {error}") from error
        if limit_bytes:
            options.limit_bytes = limit_bytes
        scope = session.namespace(namespace)
        pods = await find_pods(session, words, selector, scope)
        if not selector:
            if len(pods) > 1:
                print(f"Found {len(pods)} pods, using pod/{pods[0].metadata.name}", file=sys.stderr)
            pods = pods[:1]
        elif not pods:
            print(f"No resources found in {scope} namespace.", file=sys.stderr)
            return 0
        named = container or (words[1] if len(words) > 1 else "")
        sources: list[tuple[str, str]] = []
        for pod in pods:
            if all_containers:
                names = container_names(pod)
            else:
                names = [named or default_container(pod)]
                if not named and not selector and len(pod.spec.containers) > 1:
                    print(_defaulted(pod, names[0]), file=sys.stderr)
            sources.extend((pod.metadata.name, name) for name in names)
        if follow and len(sources) > 5 and selector:
            raise UsageError(
                f"you are attempting to follow {len(sources)} log streams, but maximum allowed concurrency is 5"
            )
        results = await asyncio.gather(
            *(_copy_log(session, name, scope, part, options, prefix) for name, part in sources)
        ) if follow else [await _copy_log(session, name, scope, part, options, prefix) for name, part in sources]  # fmt: skip
        return max(results, default=0)

    run(work)


async def _copy_log(
    session: Session, name: str, namespace: str, container: str, options: core_v1_pb2.PodLogOptions, prefix: bool
) -> int:
    wanted = core_v1_pb2.PodLogOptions()
    wanted.CopyFrom(options)
    wanted.container = container
    mark = f"[pod/{name}/{container}] ".encode() if prefix else b""
    at_start = True
    try:
        async with contextlib.aclosing(session.client.logs(name, namespace, wanted)) as stream:  # type: ignore[type-var]
            async for data in stream:
                if mark:
                    pieces = []
                    for line in data.splitlines(keepends=True):
                        pieces.append((mark if at_start else b"") + line)
                        at_start = line.endswith(b"\n")
                    data = b"".join(pieces)
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
    except APIError as error:
        print(describe_error(error, session.server), file=sys.stderr)
        return 1
    return 0


def seconds_of(text: str, flag: str) -> float:
    """A Go duration (`1m30s`) or plain seconds."""
    try:
        return float(text) if text.replace(".", "", 1).isdigit() else parse_duration(text) / 1e9
    except ValueError as error:
        raise UsageError(f"{flag} {text!r}: {error}; write it as 30s, 5m or 1h30m") from error


def exec_(
    context: typer.Context,
    pod: Annotated[str, typer.Argument(metavar="POD | TYPE/NAME", autocompletion=complete_words)],
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND [ARGS...]")],
    namespace: Namespace = "",
    container: Container = "",
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Pass standard input on.")] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="Standard input is a terminal.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the command's own output.")] = False,
) -> None:
    """Run a command in a container."""

    async def work(session: Session) -> int:
        scope = session.namespace(namespace)
        chosen = (await find_pods(session, [pod], "", scope))[0]
        start = _start(session, chosen, container, quiet=quiet)
        start.kind = pods_pb2.StreamStart.EXEC
        start.command.extend(command)
        return await _interact(session, session.client.exec(_with_streams(start, stdin, tty)), stdin, start.tty)

    run(work)


def attach(
    pod: Annotated[str, typer.Argument(metavar="POD | TYPE/NAME", autocompletion=complete_words)],
    namespace: Namespace = "",
    container: Container = "",
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Pass standard input on.")] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="Standard input is a terminal.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the container's own output.")] = False,
) -> None:
    """Join the running process of a container."""

    async def work(session: Session) -> int:
        scope = session.namespace(namespace)
        chosen = (await find_pods(session, [pod], "", scope))[0]
        start = _start(session, chosen, container, quiet=quiet)
        start.kind = pods_pb2.StreamStart.ATTACH
        has_tty = any(item.name == start.container and item.tty for item in chosen.spec.containers)
        if tty and not has_tty:
            print(f"Unable to use a TTY - container {start.container} did not allocate one", file=sys.stderr)
        return await _interact(
            session, session.client.attach(_with_streams(start, stdin, tty and has_tty)), stdin, start.tty
        )

    run(work)


def _start(session: Session, pod: core_v1_pb2.Pod, container: str, *, quiet: bool) -> pods_pb2.StreamStart:
    name = container or default_container(pod)
    if not container and len(pod.spec.containers) > 1 and not quiet:
        print(_defaulted(pod, name), file=sys.stderr)
    return pods_pb2.StreamStart(namespace=pod.metadata.namespace, name=pod.metadata.name, container=name)


def _defaulted(pod: core_v1_pb2.Pod, name: str) -> str:
    spec = pod.spec
    names = [container.name for container in spec.containers]
    names += [f"{container.ephemeral_container_common.name} (ephem)" for container in spec.ephemeral_containers]
    names += [f"{container.name} (init)" for container in spec.init_containers]
    return f'Defaulted container "{name}" out of: {", ".join(names)}'


def _with_streams(start: pods_pb2.StreamStart, stdin: bool, tty: bool) -> pods_pb2.StreamStart:
    if tty and not sys.stdin.isatty():
        print("Unable to use a TTY - input is not a terminal or the right kind of file", file=sys.stderr)
        tty = False
    start.stdin, start.stdout, start.stderr, start.tty = stdin, True, not tty, tty
    return start


@contextlib.contextmanager
def raw_terminal(active: bool) -> Iterator[None]:
    """The person's terminal passes every key on; restored whatever happens."""
    if not active:
        yield
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    saved = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, saved)


def _terminal_size() -> pods_pb2.TerminalSize:
    size = os.get_terminal_size(sys.stdin.fileno())
    return pods_pb2.TerminalSize(width=size.columns, height=size.lines)


async def read_input() -> AsyncIterator[bytes]:
    """Standard input in pieces until its end, without blocking the loop (a file cannot be polled, so: a thread)."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes] = asyncio.Queue(maxsize=16)

    def pump() -> None:
        descriptor = sys.stdin.fileno()
        while True:
            try:
                data = os.read(descriptor, CHUNK)
            except OSError:
                data = b""
            try:
                asyncio.run_coroutine_threadsafe(pieces.put(data), loop).result()
            except (RuntimeError, asyncio.CancelledError):
                return
            if not data:
                return

    import threading

    # A daemon: a read that waits for a key must not keep the command from ending.
    threading.Thread(target=pump, name="stdin", daemon=True).start()
    while data := await pieces.get():
        yield data


async def _interact(session: Session, stream: BidiStream, stdin: bool, tty: bool) -> int:
    loop = asyncio.get_running_loop()
    result: meta_v1_pb2.Status | None = None

    async def send_input() -> None:
        async for data in read_input():
            await stream.send(pods_pb2.StreamFrame(stdin=data))
        await stream.send(pods_pb2.StreamFrame(stdin_closed=True))

    def resized() -> None:
        resizes.put_nowait(_terminal_size())

    resizes: asyncio.Queue[pods_pb2.TerminalSize] = asyncio.Queue()

    async def send_sizes() -> None:
        while True:
            await stream.send(pods_pb2.StreamFrame(resize=await resizes.get()))

    tasks = []
    with raw_terminal(tty):
        try:
            if stdin:
                tasks.append(asyncio.create_task(send_input()))
            if tty:
                resized()
                loop.add_signal_handler(signal.SIGWINCH, resized)
                tasks.append(asyncio.create_task(send_sizes()))
            async for frame in stream:
                which = frame.WhichOneof("frame")
                if which == "stdout":
                    _write(sys.stdout, frame.stdout)
                elif which == "stderr":
                    _write(sys.stderr, frame.stderr)
                elif which == "result":
                    result = frame.result
                    break
        finally:
            if tty:
                loop.remove_signal_handler(signal.SIGWINCH)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await stream.cancel()
    if result is None or result.status == "Success":
        return 0
    return exit_code(result)


def _write(file: Any, data: bytes) -> None:
    file.buffer.write(data)
    file.buffer.flush()


def exit_code(status: meta_v1_pb2.Status) -> int:
    """The command's exit code from a NonZeroExitCode status; any other failure is printed and 1."""
    if status.reason == "NonZeroExitCode":
        for cause in status.details.causes:
            if cause.reason == "ExitCode":
                print(f"command terminated with exit code {cause.message}", file=sys.stderr)
                return int(cause.message) if cause.message.isdigit() else 1
    print(f"error: {status.message}", file=sys.stderr)
    return 1
