"""Ends of connections inside network namespaces (of pods, of nodes), held by the test itself: what a program there would see,
without a program there. For tests of the pods' network with real containers.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from kubelet.runtime import netns
from wherry.cli.cluster.layout import Node

HERE = ""  # the namespace of the test

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM


def namespaces(nodes: Iterable[Node]) -> dict[str, str]:
    """Address of a pod -> path of its network namespace, of all pods on these nodes."""
    found: dict[str, str] = {}
    for node in nodes:
        found |= namespaces_in(node.containerd.netns_dir)
    return found


def namespaces_in(directory: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(directory.iterdir()):
        told = subprocess.run(["nsenter", f"--net={path}", "ip", "-j", "-4", "address"], capture_output=True, text=True)
        for link in json.loads(told.stdout or "[]"):
            found |= {item["local"]: str(path) for item in link.get("addr_info", ()) if link["ifname"] != "lo"}
    return found


def make_socket(place: str, kind: socket.SocketKind = TCP) -> socket.socket:
    """It stays in that namespace, wherever it is used."""

    async def make() -> socket.socket:
        return await netns.run_in(place, lambda: socket.socket(socket.AF_INET, kind))

    return asyncio.run(make())


class Witness:
    """Answers, over TCP and UDP, with its name and the address that it sees its client under. A context manager."""

    def __init__(self, name: str, place: str, port: int = 9000, address: str = "0.0.0.0") -> None:
        self.name = name
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        try:
            for kind, serve in ((TCP, self._accept), (UDP, self._receive)):
                sock = make_socket(place, kind)
                self._sockets.append(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((address, port))
                if kind == TCP:
                    sock.listen(64)
                self._threads.append(threading.Thread(target=serve, args=(sock,), daemon=True))
        except OSError:
            self.close()
            raise
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Witness:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def port(self, kind: socket.SocketKind) -> int:
        """For those who asked for any (0)."""
        return next(int(sock.getsockname()[1]) for sock in self._sockets if sock.type == kind)

    def close(self) -> None:
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # datagrams: nobody is connected, whoever waits is woken all the same
            sock.close()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(10)

    def _accept(self, sock: socket.socket) -> None:
        while True:
            try:
                connection, (client, *_) = sock.accept()
            except OSError:
                return
            with connection:
                connection.sendall(f"{self.name} {client}".encode())

    def _receive(self, sock: socket.socket) -> None:
        while True:
            try:
                data, sender = sock.recvfrom(64)
                if not data:
                    return
                sock.sendto(f"{self.name} {sender[0]}".encode(), sender)
            except OSError:
                return


REFUSED, SILENT = "refused", "silent"


def ask(place: str, host: str, port: int, kind: socket.SocketKind = TCP, *, timeout_s: float = 2.0) -> tuple[str, str]:
    """(who answered, which address it saw); (REFUSED, "") or (SILENT, "") when nobody did."""
    with make_socket(place, kind) as sock:
        return ask_by(sock, host, port, timeout_s=timeout_s)


def ask_by(sock: socket.socket, host: str, port: int, *, timeout_s: float = 2.0) -> tuple[str, str]:
    """Likewise, by a socket of the caller's; one for datagrams may be used again."""
    sock.settimeout(timeout_s)
    try:
        sock.connect((host, port))
        if sock.type == UDP:
            sock.send(b"?")
        name, _, client = sock.recv(64).decode().partition(" ")
    except ConnectionRefusedError:
        return REFUSED, ""
    except (TimeoutError, OSError):
        return SILENT, ""
    return name, client


def everybody(
    place: str, host: str, port: int, kind: socket.SocketKind = TCP, times: int = 30, **more: Any
) -> set[str]:
    """The names of all who answer, each time on a connection of its own."""
    return {ask(place, host, port, kind, **more)[0] for _ in range(times)}
