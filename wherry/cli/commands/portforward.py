"""`port-forward`: local connections to a pod's ports, each a channel with windows of its own over one session."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from wherry.api.errors import APIError
from wherry.cli.commands.streams import CHUNK, find_pods
from wherry.cli.completion import complete_words
from wherry.cli.options import Namespace
from wherry.cli.resources import UsageError
from wherry.cli.session import Session, run
from wherry.client.base import BidiStream
from wherry.client.windows import Credit, Pipe, Window
from wherry.pb import core_v1_pb2, pods_pb2


def parse_ports(words: Sequence[str]) -> list[tuple[int, str]]:
    """`8080`, `8080:80`, `:80`, `8080:http` as (local port, 0 for any; remote port or its name)."""
    ports = []
    for word in words:
        local, colon, remote = word.partition(":")
        if not colon:
            remote = local
        try:
            number = int(local) if local else 0
        except ValueError:
            if colon:
                raise UsageError(f"{word!r}: the local port must be a number, for example 8080:http") from None
            number = 0
        if not remote or not 0 <= number <= 65535 or (remote.isdigit() and not 1 <= int(remote) <= 65535):
            raise UsageError(f"{word!r} is no port: write LOCAL:REMOTE, for example 8080:80, with ports up to 65535")
        ports.append((number, remote))
    return ports


def port_forward(
    target: Annotated[str, typer.Argument(metavar="POD | TYPE/NAME", autocompletion=complete_words)],
    ports: Annotated[list[str], typer.Argument(metavar="[LOCAL:]REMOTE...")],
    namespace: Namespace = "",
    address: Annotated[
        str, typer.Option("--address", help="Local addresses to listen on, comma separated.")
    ] = "localhost",
) -> None:
    """Forward local ports to a pod."""

    async def work(session: Session) -> int:
        scope = session.namespace(namespace)
        wanted = parse_ports(ports)
        pod = (await find_pods(session, [target], "", scope))[0]
        if pod.status.phase != "Running":
            raise UsageError(f"unable to forward port because pod is not running. Current status={pod.status.phase}")
        resolved = []
        for local, remote in wanted:
            number = await _remote_port(session, target, pod, remote, scope)
            resolved.append((local or (number if remote == ports[0] or not remote.isdigit() else 0), number))
        start = pods_pb2.StreamStart(
            kind=pods_pb2.StreamStart.PORT_FORWARD, namespace=scope, name=pod.metadata.name, windows=True
        )
        forward = Forwarder(session.client.port_forward(start))
        servers = []
        try:
            for local, number in resolved:
                for host in _addresses(address):
                    try:
                        server = await asyncio.start_server(forward.handler(number), host, local)
                    except OSError as error:
                        if host == "::1":
                            continue
                        raise UsageError(f"unable to listen on {host}:{local}: {error.strerror or error}") from error
                    servers.append(server)
                    bound = server.sockets[0].getsockname()
                    local = local or bound[1]  # any port, but the same at every address
                    shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
                    print(f"Forwarding from {shown}:{bound[1]} -> {number}", flush=True)
            await forward.run()
        finally:
            for server in servers:
                server.close()
            await forward.close()
        print("error: lost connection to pod", file=sys.stderr)
        return 1

    run(work)


def _addresses(text: str) -> list[str]:
    hosts: list[str] = []
    for word in text.split(","):
        hosts.extend(["127.0.0.1", "::1"] if word == "localhost" else [word])
    return hosts


async def _remote_port(session: Session, target: str, pod: core_v1_pb2.Pod, remote: str, namespace: str) -> int:
    """A pod's port number from a number or name; through a Service, its target port."""
    by_name = {port.name: port.container_port for item in pod.spec.containers for port in item.ports if port.name}
    kind, _, name = target.partition("/")
    if name and (await session.catalogue()).find(kind).kind == "Service":
        service = await session.client.get(core_v1_pb2.Service, name, namespace)
        for port in service.spec.ports:
            if remote in (port.name, str(port.port)):
                goal = port.target_port
                remote = goal.str_val if goal.type == 1 else str(goal.int_val or port.port)
                break
        else:
            raise UsageError(f"Service {name} does not have a service port {remote}")
    if remote.isdigit():
        return int(remote)
    if remote not in by_name:
        raise UsageError(f"Pod {pod.metadata.name!r} does not have a named port {remote!r}")
    return int(by_name[remote])


class _Local:
    """One local connection and its channel."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.window = Window()
        self.pipe = Pipe()
        self.ended = False  # at the pod's end


class Forwarder:
    """Local connections over one PortForward RPC: each is a channel, and one that is not read (here or in the pod) holds up
    no other. Owned by `port_forward`, which closes it."""

    def __init__(self, stream: BidiStream) -> None:
        self._stream = stream
        self._next = 1
        self._lock = asyncio.Lock()
        self._locals: dict[int, _Local] = {}

    def handler(self, port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            channel, self._next = self._next, self._next + 1
            local = self._locals[channel] = _Local(writer)
            print(f"Handling connection for {port}", flush=True)
            downloading = asyncio.ensure_future(self._download(channel, local))
            try:
                await self._send(start_port=port, channel=channel)
                while data := await reader.read(CHUNK):
                    await self._upload(channel, local, data)
                await self._send(channel_closed=True, channel=channel)
                await downloading
            except (OSError, APIError):
                pass
            finally:
                downloading.cancel()
                self._drop(channel)
                if not local.ended:
                    with contextlib.suppress(APIError):
                        await self._send(channel_error="the local connection is gone", channel=channel)

        return handle

    async def _upload(self, channel: int, local: _Local, data: bytes) -> None:
        while data:
            size = await local.window.take(len(data))
            await self._send(data=data[:size], channel=channel)
            data = data[size:]

    async def _download(self, channel: int, local: _Local) -> None:
        credit = Credit()
        try:
            while data := await local.pipe.get():
                local.writer.write(data)
                await local.writer.drain()
                if given := credit.taken(len(data)):
                    await self._send(credit=given, channel=channel)
        except (OSError, APIError):
            pass
        self._drop(channel)  # the pod has said all: the local reader ends as well

    async def _send(self, **fields: Any) -> None:
        async with self._lock:
            await self._stream.send(pods_pb2.StreamFrame(**fields))

    def _drop(self, channel: int) -> None:
        local = self._locals.pop(channel, None)
        if local is not None:
            local.pipe.close()
            local.window.give(1 << 40)  # whoever waits for it finds the connection closed
            local.writer.close()

    async def run(self) -> None:
        """Until the RPC ends."""
        async for frame in self._stream:
            which = frame.WhichOneof("frame")
            local = self._locals.get(frame.channel)
            if which == "result" and frame.result.status != "Success":
                print(f"error: {frame.result.message}", file=sys.stderr)
            elif which == "channel_error":
                print(f"error forwarding port: {frame.channel_error}", file=sys.stderr)
                if local is not None:
                    local.ended = True
                self._drop(frame.channel)
            elif local is None:
                continue
            elif which == "credit":
                local.window.give(frame.credit)
            elif which == "data":
                await local.pipe.put(frame.data)  # there is room: the agent minds the window
            elif which == "channel_closed":
                local.ended = True
                local.pipe.close()

    async def close(self) -> None:
        for channel in list(self._locals):
            self._drop(channel)
        with contextlib.suppress(APIError):
            await self._stream.cancel()
