"""A steady stream of HTTP requests at a Service or an Ingress, for tests: at a fixed rate whatever the answers do (open loop), so
that whatever is wrong for a moment shows. Run as a program inside a node's network namespace, or in a pod:

    python -m wherry.testing.load HOST PORT REQUESTS_PER_S [--seconds S] [--kept SHARE] [--site NAME]

Each request has a connection of its own, but a share of them (`--kept 0.5`) goes over connections that are kept between requests,
as browsers and proxies do; `--site` is the Host header. It goes on until SIGTERM (or so many seconds have passed, a minute by
default), then prints a `Report` as JSON. Sockets without streams: a request costs about a fifth of a millisecond, so that a
small machine has something left for who is to answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
from collections import Counter, deque
from dataclasses import dataclass, field

REQUEST_TIMEOUT_S = 10.0
LIMIT_S = 60.0
BEGAN = "began"  # the first line that is printed: from then on SIGTERM ends it with a report
END_OF_HEADERS = b"\r\n\r\n"


@dataclass(slots=True)
class Report:
    """`answers`: "ok", or what went wrong -> how often. `kept`: those over a connection that had served before."""

    answers: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    elapsed_s: float = 0.0

    def add(self, other: Report) -> None:
        """Of a client that ran at the same time."""
        self.answers.update(other.answers)
        self.kept += other.kept
        self.elapsed_s = max(self.elapsed_s, other.elapsed_s)

    def dump(self) -> str:
        return json.dumps({"answers": self.answers, "kept": self.kept, "elapsed_s": self.elapsed_s})

    @property
    def per_s(self) -> float:
        return self.answers.total() / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def lost(self) -> dict[str, int]:
        return {said: count for said, count in self.answers.items() if said != "ok"}

    def __str__(self) -> str:
        said = f"{self.answers['ok']} answered ({self.kept} on kept connections)"
        return f"{said} at {self.per_s:.0f} requests/s, lost: {self.lost}"


def report(said: str) -> Report:
    """Of what the program has printed."""
    found = json.loads(said.splitlines()[-1])
    return Report(Counter(found["answers"]), found["kept"], found["elapsed_s"])


class Clients:
    """Those of one run. `_idle`: connections that wait for their next request, the longest waiting first."""

    def __init__(self, address: tuple[str, int], site: str) -> None:
        self._address = address
        self._close = f"GET / HTTP/1.0\r\nHost: {site}\r\n\r\n".encode()
        self._keep = f"GET / HTTP/1.1\r\nHost: {site}\r\n\r\n".encode()
        self._idle: deque[socket.socket] = deque()
        self.report = Report()

    async def once(self) -> None:
        """On a connection of its own."""
        with _tcp() as sock:
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    await asyncio.get_running_loop().sock_connect(sock, self._address)
                    said, _ = await _exchange(sock, self._close)
            except (OSError, TimeoutError) as error:
                said = f"{type(error).__name__}: {error}"
        self.report.answers[said] += 1

    async def again(self) -> None:
        """On one that is there, if one is. Nothing is sent twice: who closes one on which a request comes has lost it."""
        served = bool(self._idle)
        sock = self._idle.popleft() if served else _tcp()
        keep = False
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                if not served:
                    await asyncio.get_running_loop().sock_connect(sock, self._address)
                said, keep = await _exchange(sock, self._keep)
        except (OSError, TimeoutError) as error:
            said = f"{type(error).__name__} on a {'kept' if served else 'new'} connection: {error}"
        finally:
            if keep:
                self._idle.append(sock)
            else:
                sock.close()
        self.report.answers[said] += 1
        self.report.kept += served

    def close(self) -> None:
        while self._idle:
            self._idle.popleft().close()


def _tcp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


async def _exchange(sock: socket.socket, request: bytes) -> tuple[str, bool]:
    """What was answered, and whether the connection may be used again: only where the answer tells its length, and no end."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, request)
    answer = b""
    missing: int | None = None  # unknown: until the connection ends
    while missing is None or missing > 0:
        received = await loop.sock_recv(sock, 65536)
        if not received:
            break
        headers_end = answer.find(END_OF_HEADERS)
        answer += received
        if missing is not None:
            missing -= len(received)
        elif headers_end < 0 and (headers_end := answer.find(END_OF_HEADERS)) >= 0:
            length = _header(answer[:headers_end], b"content-length")
            if length.isdigit():
                missing = int(length) - (len(answer) - headers_end - len(END_OF_HEADERS))
    if (
        not (answer.startswith(b"HTTP/1.") and b" 200 " in answer[:15] and END_OF_HEADERS in answer)
        or (missing or 0) > 0
    ):
        return f"answer {answer[:40]!r}", False
    says_close = _header(answer[: answer.find(END_OF_HEADERS)], b"connection").lower() == b"close"
    return "ok", missing == 0 and answer.startswith(b"HTTP/1.1") and not says_close


def _header(headers: bytes, name: bytes) -> bytes:
    for line in headers.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return b""


async def load(
    host: str, port: int, per_s: float, *, limit_s: float = LIMIT_S, kept: float = 0.0, site: str = ""
) -> Report:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    print(BEGAN, flush=True)
    found = (await loop.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_STREAM))[0][4]
    clients = Clients((str(found[0]), port), site or host)
    under_way: set[asyncio.Task[None]] = set()

    def done(task: asyncio.Task[None]) -> None:
        under_way.discard(task)
        if error := task.exception():  # not the server's fault, and not to be overlooked
            clients.report.answers[repr(error)] += 1

    began = loop.time()
    number, keeping = 0, 0.0
    while not stop.is_set() and loop.time() < began + limit_s:
        keeping += kept
        keep = keeping >= 1
        keeping -= keep
        task = loop.create_task(clients.again() if keep else clients.once())
        under_way.add(task)
        task.add_done_callback(done)
        number += 1
        # When the machine is slow, requests are late, and not all at once afterwards.
        await asyncio.sleep(max(began + number / per_s - loop.time(), 0.2 / per_s))
    clients.report.elapsed_s = loop.time() - began
    await asyncio.gather(*under_way)
    clients.close()
    return clients.report


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("per_s", type=float)
    parser.add_argument("--seconds", type=float, default=LIMIT_S)
    parser.add_argument("--kept", type=float, default=0.0)
    parser.add_argument("--site", default="")
    given = parser.parse_args()
    found = load(given.host, given.port, given.per_s, limit_s=given.seconds, kept=given.kept, site=given.site)
    print(asyncio.run(found).dump())


if __name__ == "__main__":
    main()
