"""What `bench.network` runs inside the network namespaces of pods: `python -m bench._traffic WHAT ...`. Plain sockets:
the figures are those of the way and not of a client's cleverness.

serve PORT                     TCP: a connection that begins with b"R" takes blocks and confirms each, one with b"E" is echoed;
                               prints "ready"
ways throughput|latency ROUNDS CONGESTION {"NAME": ["NETNS", "HOST", "PORT"], ...}
                               each from its namespace, all in turns: prints {"NAME": [SECONDS, ...], ...} as JSON, for a block or
                               for a byte there and back; those of one place in the lists are of one round
connect HOST PORT SECONDS      tries until a connection stands; prints when that was (time.monotonic)
dns HOST PORT NAME SECONDS     prints answers per second, 64 questions in flight
echo HOST PORT                 UDP; prints "ready"
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

CHUNK = 256 << 10
BLOCK = 1 << 20
BLOCKS = 4
PINGS = 20
WARM_UP = 10  # rounds past the slow start
SERVERS = 1  # the place of their processor
CLONE_NEWNET = 0x40000000


def serve(port: str) -> None:
    listener = socket.create_server(("0.0.0.0", int(port)), backlog=64)
    _stay_on(SERVERS)
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve_one, args=(connection,), daemon=True).start()


def _serve_one(connection: socket.socket) -> None:
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        kind = connection.recv(1)
        buffer = bytearray(CHUNK)
        if kind == b"R":
            _take_blocks(connection, buffer)
        while received := connection.recv_into(buffer):
            connection.sendall(memoryview(buffer)[:received])


def _take_blocks(connection: socket.socket, buffer: bytearray) -> None:
    while head := connection.recv(8, socket.MSG_WAITALL):
        (left,) = struct.unpack("!Q", head)
        while left:
            received = connection.recv_into(buffer, min(left, len(buffer)))
            if not received:
                return
            left -= received
        connection.sendall(b".")


def ways(what: str, rounds: str, congestion: str, places: str) -> None:
    """One process that takes turns every few milliseconds, so that whatever else the machine does meets all ways alike."""
    measure = {"throughput": _send_block, "latency": _ping}[what]
    kind = {"throughput": b"R", "latency": b"E"}[what]
    found: dict[str, list[float]] = {}
    with ExitStack() as stack:
        socks = []
        for name, (netns, host, port) in json.loads(places).items():
            sock = stack.enter_context(_connect_from(netns, host, port))
            if congestion:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
            sock.sendall(kind)
            socks.append((sock, found.setdefault(name, [])))
        _stay_on(0 if what == "throughput" else SERVERS)
        for number in range(int(rounds) + WARM_UP):
            # Who comes first moves on from round to round: a pause that the scheduler owes us does not always hit the same.
            start = number % len(socks)
            for sock, times in socks[start:] + socks[:start]:
                times.append(measure(sock))
    print(json.dumps({name: times[WARM_UP:] for name, times in found.items()}))


def _stay_on(number: int) -> None:
    """Both ends on one processor, or on two: which of these the scheduler has chosen for a way would be most of the difference
    between two ways. So all streams have two, and all round trips the one, which takes no waking of the other."""
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[number % len(processors)]})


def _connect_from(netns: str, host: str, port: str) -> socket.socket:
    """A socket stays in the namespace where it was made."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(netns, "rb") as file:
        if libc.setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"{netns}: setns")
    sock = socket.create_connection((host, int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _send_block(sock: socket.socket) -> float:
    """Seconds until the other end says that it has a block: the fastest of a few."""
    data = bytes(CHUNK)
    fastest = float("inf")
    for _ in range(BLOCKS):
        began = time.perf_counter()
        sock.sendall(struct.pack("!Q", BLOCK))
        for _ in range(BLOCK // CHUNK):
            sock.sendall(data)
        sock.recv(1)
        fastest = min(fastest, time.perf_counter() - began)
    return fastest


def _ping(sock: socket.socket) -> float:
    """Seconds of the fastest of a few round trips."""
    fastest = float("inf")
    for _ in range(PINGS):
        began = time.perf_counter()
        sock.send(b"x")
        sock.recv(1)
        fastest = min(fastest, time.perf_counter() - began)
    return fastest


def connect(host: str, port: str, seconds: str) -> None:
    deadline = time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, int(port)), timeout=0.05) as sock:
                sock.sendall(b"Ex")
                if sock.recv(1) == b"x":
                    print(time.monotonic())
                    return
        except OSError:
            time.sleep(0.002)
    sys.exit(f"{host}:{port} was not answered within {seconds} s")


def dns(host: str, port: str, name: str, seconds: str) -> None:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    question = labels + b"\0" + struct.pack("!HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.connect((host, int(port)))
        number = answers = 0

        def ask() -> None:
            nonlocal number
            number = (number + 1) & 0xFFFF
            sock.send(struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + question)

        for _ in range(64):
            ask()
        began = time.perf_counter()
        while time.perf_counter() - began < float(seconds):
            try:
                sock.recv(4096)
            except TimeoutError:
                for _ in range(64):
                    ask()  # all were lost
                continue
            answers += 1
            ask()
        print(answers / (time.perf_counter() - began))


def echo(host: str, port: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, int(port)))
        print("ready", flush=True)
        while True:
            data, sender = sock.recvfrom(4096)
            sock.sendto(data, sender)


if __name__ == "__main__":
    work: dict[str, Callable[..., None]] = {
        "serve": serve, "ways": ways, "connect": connect, "dns": dns, "echo": echo,
    }  # fmt: skip
    work[sys.argv[1]](*sys.argv[2:])
