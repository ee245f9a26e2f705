"""A steady stream of HTTP requests at a Service, for tests and benchmarks: each on a connection of its own, at a fixed rate, so
that whatever the Service does wrong for a moment shows. Run as a program inside a node's network namespace, or in a pod:

    python -m wherry.testing.load HOST PORT REQUESTS_PER_S [SECONDS]

It goes on until SIGTERM (or so many seconds have passed, a minute by default), then prints its counts as JSON. Sockets without
streams: a request costs about a fifth of a millisecond, so that a small machine has something left for who is to answer.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections import Counter

REQUEST_TIMEOUT_S = 10.0
LIMIT_S = 60.0


async def request(address: tuple[str, int]) -> str:
    """ "ok", or what went wrong."""
    loop = asyncio.get_running_loop()
    answer = b""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                await loop.sock_connect(sock, address)
                await loop.sock_sendall(sock, b"GET / HTTP/1.0\r\n\r\n")
                while received := await loop.sock_recv(sock, 65536):
                    answer += received
        except (OSError, TimeoutError) as error:
            return f"{type(error).__name__}: {error}"
    return "ok" if answer.startswith(b"HTTP/1.") and b" 200 " in answer[:15] else f"answer {answer[:40]!r}"


async def load(host: str, port: int, per_s: float, limit_s: float = LIMIT_S) -> Counter[str]:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    address = (await loop.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_STREAM))[0][4]
    results: Counter[str] = Counter()
    under_way: set[asyncio.Task[str]] = set()

    def done(task: asyncio.Task[str]) -> None:
        under_way.discard(task)
        results[task.result()] += 1

    began = loop.time()
    number = 0
    while not stop.is_set() and loop.time() < began + limit_s:
        task = loop.create_task(request((str(address[0]), port)))
        under_way.add(task)
        task.add_done_callback(done)
        number += 1
        # When the machine is slow, requests are late, and not all at once afterwards.
        await asyncio.sleep(max(began + number / per_s - loop.time(), 0.2 / per_s))
    await asyncio.gather(*under_way)
    return results


def main() -> None:
    host, port, per_s, *limit_s = sys.argv[1:]
    print(json.dumps(asyncio.run(load(host, int(port), float(per_s), *map(float, limit_s)))))


if __name__ == "__main__":
    main()
