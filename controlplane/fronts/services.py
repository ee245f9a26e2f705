"""All servicers under their RPC names, with one way out for errors. The transports find their handlers here.

`handler(path)` gives a function over (request, call): an awaitable for unary methods, an async iterator for streaming ones,
which raises `APIError` and nothing else; a defect is logged with its traceback and leaves as InternalError.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

from controlplane.fronts.call import Call
from controlplane.registry.base import Identity
from controlplane.registry.conditions import Condition
from wherry.api.errors import APIError, InternalError, MethodNotAllowed, ServiceUnavailable
from wherry.client.methods import Method, method, methods_of

log = logging.getLogger(__name__)


class Services:
    """Built by `controlplane.server`; `add` each servicer before the first request."""

    def __init__(self) -> None:
        self._handlers: dict[str, Callable[[Any, Any], Any]] = {}
        self._names: list[str] = []
        self._closed = False

    @property
    def names(self) -> list[str]:
        """The full names of the services, in the order in which they were added."""
        return list(self._names)

    def add(self, service: str, servicer: object) -> None:
        """`servicer` has one async method (or async generator) per RPC, of the same name."""
        for rpc in methods_of(service):
            self._handlers[rpc.path] = _guarded(rpc, getattr(servicer, rpc.name))
        self._names.append(service)

    def close(self) -> None:
        """From now on callers in process are refused as if nobody listened (sockets are closed by their own server)."""
        self._closed = True

    def handler(self, path: str) -> Callable[[Any, Any], Any]:
        if self._closed:
            raise ServiceUnavailable("the server is not running")
        found = self._handlers.get(path)
        if found is not None:
            return found
        error = MethodNotAllowed(f"{path} is not served here")
        if method(path).server_streaming:
            return _refuse_stream(error)
        return _refuse(error)

    def call(self, *, identity: Identity, cause: str, timeout_s: float | None, metadata: Mapping[str, str]) -> Call:
        """For callers in process."""
        deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        return Call(identity=identity, cause=cause, deadline=deadline, metadata=metadata)

    def under(self, condition: Condition) -> ConditionedServices:
        """The same, for callers whose every write is made on that condition."""
        return ConditionedServices(self, condition)


class ConditionedServices:
    def __init__(self, services: Services, condition: Condition) -> None:
        self._services = services
        self._condition = condition

    def handler(self, path: str) -> Callable[[Any, Any], Any]:
        return self._services.handler(path)

    def call(self, *, identity: Identity, cause: str, timeout_s: float | None, metadata: Mapping[str, str]) -> Call:
        made = self._services.call(identity=identity, cause=cause, timeout_s=timeout_s, metadata=metadata)
        return replace(made, condition=self._condition)


def _guarded(rpc: Method, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    if rpc.server_streaming:

        async def stream(request: Any, call: Call) -> AsyncIterator[Any]:
            responses = function(request, call)
            try:
                async for response in responses:
                    yield response
            except APIError:
                raise
            except Exception as error:
                raise _defect(rpc, call, error) from error
            finally:
                await responses.aclose()

        return stream

    async def unary(request: Any, call: Call) -> Any:
        try:
            return await function(request, call)
        except APIError:
            raise
        except Exception as error:
            raise _defect(rpc, call, error) from error

    return unary


def _defect(rpc: Method, call: Call, error: Exception) -> InternalError:
    log.error("%s by %s failed", rpc.path, call.identity.user, exc_info=error)
    return InternalError(f"Internal error occurred: {type(error).__name__}: {error}")


def _refuse(error: APIError) -> Callable[[Any, Any], Any]:
    async def unary(request: Any, call: Any) -> Any:
        raise error

    return unary


def _refuse_stream(error: APIError) -> Callable[[Any, Any], Any]:
    async def stream(request: Any, call: Any) -> AsyncIterator[Any]:
        raise error
        yield

    return stream
