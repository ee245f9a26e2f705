"""Calls to a Docker daemon: the `docker` SDK, which blocks, in a pool of threads of its own. Used by `kubelet.runtime.docker`.

What goes on for long (logs, events, exec, attach) does not hold a thread: `kubelet.runtime.docker_streams` speaks to the socket.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from kubelet.runtime.base import RuntimeFailure, RuntimeNotFound

T = TypeVar("T")

THREADS = 8
# A pull may take half an hour: it must not keep the others from stopping a container.
PULL_THREADS = 3
CALL_TIMEOUT_S = 60
PULL_TIMEOUT_S = 1800


class Engine:
    """`client` and `pulling` are low-level SDK clients; both know the daemon's own API version. Made by the first call."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self._client: Any = None
        self._pulling: Any = None
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="docker")
        self._pull_pool = ThreadPoolExecutor(PULL_THREADS, thread_name_prefix="docker-pull")

    async def call(self, name: str, *args: Any, reason: str = "", **options: Any) -> Any:
        """A method of the SDK's APIClient by its name. Raises RuntimeFailure, RuntimeNotFound."""
        return await self._run(self._pool, lambda: getattr(self._connected(), name)(*args, **options), reason)

    async def pull(self, work: Callable[[Any], T]) -> T:
        """Something slow, with a client that has time for it."""
        return await self._run(self._pull_pool, lambda: work(self._connected_for_pulls()), "ErrImagePull")

    async def close(self) -> None:
        for pool in (self._pool, self._pull_pool):
            pool.shutdown(wait=False, cancel_futures=True)
        for client in (self._client, self._pulling):
            if client is not None:
                client.close()

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T], reason: str) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, functools.partial(translated, work, reason))
        except RuntimeError as error:  # the pool has been shut down
            raise RuntimeFailure(f"the Docker runtime is closed: {error}") from error

    def _connected(self) -> Any:
        if self._client is None:
            self._client = connect(self.socket, CALL_TIMEOUT_S)
        return self._client

    def _connected_for_pulls(self) -> Any:
        if self._pulling is None:
            self._pulling = connect(self.socket, PULL_TIMEOUT_S)
        return self._pulling


def connect(socket: str, timeout_s: int) -> Any:
    """The SDK's low-level client, which blocks. Raises what `translated` translates."""
    import docker

    return docker.APIClient(base_url=f"unix://{socket}", version="auto", timeout=timeout_s, num_pools=THREADS)


def translated(work: Callable[[], T], reason: str = "") -> T:
    """Raises RuntimeFailure, RuntimeNotFound for what the SDK raises."""
    import requests
    from docker import errors

    try:
        return work()
    except errors.ImageNotFound as error:
        raise RuntimeNotFound(_words(error)) from error
    except errors.NotFound as error:
        raise RuntimeNotFound(_words(error)) from error
    except errors.APIError as error:
        client_error = error.response is not None and error.response.status_code in (400, 422)
        raise RuntimeFailure(_words(error), reason=reason, retryable=not client_error) from error
    except errors.DockerException as error:
        raise RuntimeFailure(str(error), reason=reason) from error
    except (requests.RequestException, OSError) as error:
        raise RuntimeFailure(f"the Docker daemon does not answer: {error}", reason=reason) from error


def _words(error: Any) -> str:
    return str(error.explanation or error)
