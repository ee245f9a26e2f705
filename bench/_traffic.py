"""What `bench.network` runs inside the network namespaces of pods: `python -m bench._traffic WHAT ...`. Plain sockets:
the figures are those of the way and not of a client's cleverness.

serve PORT                     TCP: a connection that begins with b"S" is drained, one with b"E" echoed; prints "ready"
throughput HOST PORT SECONDS   prints Gbit/s
latency HOST PORT ROUNDS       prints the median round trip of one byte, in microseconds
connect HOST PORT SECONDS      tries until a connection stands; prints when that was (time.monotonic)
dns HOST PORT NAME SECONDS     prints answers per second, 64 questions in flight
echo HOST PORT                 UDP; prints "ready"
"""

from __future__ import annotations

import socket
import statistics
import struct
import sys
import threading
import time

CHUNK = 256 << 10


def serve(port: str) -> None:
    listener = socket.create_server(("0.0.0.0", int(port)), backlog=64)
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve_one, args=(connection,), daemon=True).start()


def _serve_one(connection: socket.socket) -> None:
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        kind = connection.recv(1)
        buffer = bytearray(CHUNK)
        while received := connection.recv_into(buffer):
            if kind == b"E":
                connection.sendall(memoryview(buffer)[:received])


def throughput(host: str, port: str, seconds: str) -> None:
    data = bytes(CHUNK)
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(b"S")
        for _ in range(50):
            sock.sendall(data)  # past the slow start
        began, sent = time.perf_counter(), 0
        while time.perf_counter() - began < float(seconds):
            sock.sendall(data)
            sent += CHUNK
        print(sent * 8 / (time.perf_counter() - began) / 1e9)


def latency(host: str, port: str, rounds: str) -> None:
    figures = []
    with socket.create_connection((host, int(port))) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(b"E")
        for _ in range(int(rounds)):
            began = time.perf_counter()
            sock.send(b"x")
            sock.recv(1)
            figures.append(time.perf_counter() - began)
    print(statistics.median(figures) * 1e6)


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
    what = {
        "serve": serve, "throughput": throughput, "latency": latency, "connect": connect, "dns": dns, "echo": echo,
    }  # fmt: skip
    what[sys.argv[1]](*sys.argv[2:])
