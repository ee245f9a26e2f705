"""A steady stream of HTTP requests at a Service, for tests and benchmarks: each on a connection of its own, at a fixed rate, so
that whatever the Service does wrong for a moment shows. Run as a program inside a node's network namespace:

    python -m wherry.testing.load HOST PORT REQUESTS_PER_S

It goes on until SIGTERM (or a minute has passed), then prints its counts as JSON.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter

REQUEST_TIMEOUT_S = 10.0
LIMIT_S = 60.0


async def request(host: str, port: int) -> str:
    """ "ok", or what went wrong."""
    writer = None
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            answer = await reader.read()
    except (OSError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        if writer is not None:
            writer.close()
    return "ok" if answer.startswith(b"HTTP/1.") and b" 200 " in answer[:15] else f"answer {answer[:40]!r}"


async def load(host: str, port: int, per_s: float) -> Counter[str]:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    results: Counter[str] = Counter()
    under_way: set[asyncio.Task[str]] = set()

    def done(task: asyncio.Task[str]) -> None:
        under_way.discard(task)
        results[task.result()] += 1

    began = loop.time()
    number = 0
    while not stop.is_set() and loop.time() < began + LIMIT_S:
        task = loop.create_task(request(host, port))
        under_way.add(task)
        task.add_done_callback(done)
        number += 1
        # When the machine is slow, requests are late, and not all at once afterwards.
        await asyncio.sleep(max(began + number / per_s - loop.time(), 0.2 / per_s))
    await asyncio.gather(*under_way)
    return results


def main() -> None:
    host, port, per_s = sys.argv[1:]
    print(json.dumps(asyncio.run(load(host, int(port), float(per_s)))))


if __name__ == "__main__":
    main()
