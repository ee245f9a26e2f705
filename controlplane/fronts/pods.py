"""The Pods servicer: binding and eviction through the registry, logs and sessions through the node link.

Called through `fronts.services`. What can be answered without the node (no such pod, not scheduled, which container) is answered
here, in Kubernetes' words; everything else comes from the agent and is passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from controlplane.auth.authorizer import Attributes, Authorizer
from controlplane.fronts.call import Call
from controlplane.fronts.commit import Commits
from controlplane.nodelink.sessions import Sessions, pump_client
from controlplane.registry import violations
from controlplane.registry.base import RegistryAPI
from wherry.api import kinds
from wherry.api.errors import APIError, BadRequest, InternalError
from wherry.api.tasks import stop
from wherry.client.status import from_status, to_status
from wherry.pb import core_v1_pb2, meta_v1_pb2, pods_pb2

MAX_BINDINGS = 5000
LINGER_S = 2.0

_SUBRESOURCES = {
    pods_pb2.StreamStart.EXEC: "exec",
    pods_pb2.StreamStart.ATTACH: "attach",
    pods_pb2.StreamStart.PORT_FORWARD: "portforward",
}


_OPTIONS = {
    pods_pb2.StreamStart.EXEC: "PodExecOptions",
    pods_pb2.StreamStart.ATTACH: "PodAttachOptions",
    pods_pb2.StreamStart.PORT_FORWARD: "PodPortForwardOptions",
}


class PodsServicer:
    def __init__(self, registry: RegistryAPI, authorizer: Authorizer, commits: Commits, sessions: Sessions) -> None:
        self._registry = registry
        self._authorizer = authorizer
        self._commits = commits
        self._sessions = sessions

    async def Bind(self, request: pods_pb2.BindRequest, call: Call) -> pods_pb2.BindResponse:
        await self._authorize(call, "create", request.namespace, request.name, "binding")
        results = await self._commits.run(self._registry.bind(call.context(), [request]))
        if results[0].error is not None:
            raise results[0].error
        return pods_pb2.BindResponse(resource_version=str(results[0].revision))

    async def BindBatch(self, request: pods_pb2.BindBatchRequest, call: Call) -> pods_pb2.BindBatchResponse:
        if len(request.bindings) > MAX_BINDINGS:
            raise BadRequest(f"bindings: {len(request.bindings)} in one batch; wanted at most {MAX_BINDINGS}")
        for namespace in sorted({binding.namespace for binding in request.bindings}):
            await self._authorize(call, "create", namespace, "", "binding")
        results = await self._commits.run(self._registry.bind(call.context(), list(request.bindings)))
        response = pods_pb2.BindBatchResponse()
        for result in results:
            added = response.results.add()
            if result.error is None:
                added.resource_version = str(result.revision)
            else:
                added.error.CopyFrom(to_status(_api_error(result.error)))
        return response

    async def Evict(self, request: pods_pb2.EvictRequest, call: Call) -> meta_v1_pb2.Status:
        metadata = request.eviction.metadata
        await self._authorize(call, "create", metadata.namespace, metadata.name, "eviction")
        return await self._commits.run(self._registry.evict(call.context(), request.eviction))

    async def Logs(self, request: pods_pb2.LogsRequest, call: Call) -> AsyncIterator[pods_pb2.LogChunk]:
        await self._authorize(call, "get", request.namespace, request.name, "log")
        pod = await self._pod(call, request.namespace, request.name)
        options = core_v1_pb2.PodLogOptions()
        options.CopyFrom(request.options)
        _check_log_options(request.name, options)
        options.container = choose_container(pod, options.container)
        if not pod.spec.node_name:
            return  # nothing can have been written; Kubernetes answers with an empty log too
        start = pods_pb2.StreamStart(
            kind=pods_pb2.StreamStart.LOGS,
            namespace=request.namespace,
            name=request.name,
            uid=pod.metadata.uid,
            container=options.container,
            log_options=options,
        )
        session = await self._sessions.open(pod.spec.node_name, start)
        try:
            async for frame in session.to_client:
                which = frame.WhichOneof("frame")
                if which == "stdout":
                    yield pods_pb2.LogChunk(data=frame.stdout)
                elif which == "result":
                    if frame.result.status == "Failure":
                        raise from_status(frame.result)
                    return
        finally:
            self._sessions.close(session)

    def Exec(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[pods_pb2.StreamFrame]:
        return self._session(requests, call, pods_pb2.StreamStart.EXEC)

    def Attach(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[pods_pb2.StreamFrame]:
        return self._session(requests, call, pods_pb2.StreamStart.ATTACH)

    def PortForward(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[pods_pb2.StreamFrame]:
        return self._session(requests, call, pods_pb2.StreamStart.PORT_FORWARD)

    async def _session(
        self, requests: AsyncIterator[Any], call: Call, kind: pods_pb2.StreamStart.Kind.ValueType
    ) -> AsyncIterator[pods_pb2.StreamFrame]:
        try:
            first = await anext(aiter(requests))
        except StopAsyncIteration:
            raise BadRequest("start: the stream ended before it; it is the first frame") from None
        if first.WhichOneof("frame") != "start":
            raise BadRequest(f"start: wanted as the first frame, got {first.WhichOneof('frame')}")
        start = pods_pb2.StreamStart()
        start.CopyFrom(first.start)
        start.kind = kind
        await self._authorize(call, "create", start.namespace, start.name, _SUBRESOURCES[kind])
        pod = await self._pod(call, start.namespace, start.name)
        if kind != pods_pb2.StreamStart.PORT_FORWARD:
            start.container = choose_container(pod, start.container)
            _check_streams(start, kind)
        options = _options(start, kind)
        await self._registry.admit_session(call.context(), start.namespace, start.name, _SUBRESOURCES[kind], options)
        if not pod.spec.node_name:
            raise BadRequest(f"pod {start.name} does not have a host assigned", kind="pods", name=start.name)
        start.uid = pod.metadata.uid
        session = await self._sessions.open(pod.spec.node_name, start)
        if call.opened is not None:
            call.opened.set()
        pump = asyncio.get_running_loop().create_task(
            pump_client(requests, session, stdin=start.stdin), name="session-from-client"
        )
        try:
            async for frame in session.to_client:
                yield frame
                if frame.WhichOneof("frame") == "result":
                    await _client_done(requests, pump)
                    return
        finally:
            self._sessions.close(session)
            await stop(pump)

    async def _authorize(self, call: Call, verb: str, namespace: str, name: str, subresource: str) -> None:
        attributes = Attributes(verb, "", "pods", subresource, namespace, name)
        await self._authorizer.check(call.identity, attributes)

    async def _pod(self, call: Call, namespace: str, name: str) -> core_v1_pb2.Pod:
        stored = await self._registry.get(call.context(), kinds.by_name("v1", "Pod"), namespace, name)
        pod: core_v1_pb2.Pod = stored.message()
        return pod


async def _client_done(requests: AsyncIterator[Any], pump: asyncio.Task[None]) -> None:
    """Until the client has ended its side too. A gRPC client whose write meets a call that is over takes the whole call for
    broken, and loses the frames that it has not read yet."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            await asyncio.wait((pump,))
            async for _ in requests:
                pass


def choose_container(pod: core_v1_pb2.Pod, name: str) -> str:
    """The named container, or the only one there is. Raises BadRequest."""
    containers = [container.name for container in pod.spec.containers]
    init = [container.name for container in pod.spec.init_containers]
    ephemeral = [container.ephemeral_container_common.name for container in pod.spec.ephemeral_containers]
    pod_name = pod.metadata.name
    if name:
        if name in (*containers, *init, *ephemeral):
            return name
        raise BadRequest(f"container {name} is not valid for pod {pod_name}")
    if len(containers) == 1:
        return containers[0]
    message = f"a container name must be specified for pod {pod_name}, choose one of: [{' '.join(containers)}]"
    if init:
        message += f" or one of the init containers: [{' '.join(init)}]"
    if ephemeral:
        message += f" or one of the ephemeral containers: [{' '.join(ephemeral)}]"
    raise BadRequest(message)


def _check_log_options(name: str, options: core_v1_pb2.PodLogOptions) -> None:
    """Raises Invalid in Kubernetes' words."""
    given: tuple[tuple[str, bool, int, int], ...] = (
        ("tailLines", options.HasField("tail_lines"), options.tail_lines, 0),
        ("limitBytes", options.HasField("limit_bytes"), options.limit_bytes, 1),
        ("sinceSeconds", options.HasField("since_seconds"), options.since_seconds, 1),
    )
    causes = []
    for field, is_set, value, least in given:
        if is_set and value < least:
            detail = "must be greater than 0" if least else "must be greater than or equal to 0"
            causes.append(violations.invalid(field, value, detail))
    if options.HasField("since_seconds") and options.HasField("since_time"):
        causes.append(violations.forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified"))
    if causes:
        raise violations.invalid_object("", "PodLogOptions", name, causes)


def _options(start: pods_pb2.StreamStart, kind: pods_pb2.StreamStart.Kind.ValueType) -> dict[str, Any]:
    """What the session asks for, as admission sees it."""
    found: dict[str, Any] = {"kind": _OPTIONS[kind], "apiVersion": "v1"}
    if kind == pods_pb2.StreamStart.PORT_FORWARD:
        return found
    found |= {name: True for name in ("stdin", "stdout", "stderr", "tty") if getattr(start, name)}
    found["container"] = start.container
    if kind == pods_pb2.StreamStart.EXEC:
        found["command"] = list(start.command)
    return found


def _check_streams(start: pods_pb2.StreamStart, kind: pods_pb2.StreamStart.Kind.ValueType) -> None:
    if not (start.stdin or start.stdout or start.stderr):
        raise BadRequest("you must specify at least 1 of stdin, stdout, stderr")
    if start.tty and start.stderr:
        raise BadRequest("tty and stderr cannot both be true")
    if kind == pods_pb2.StreamStart.EXEC and not start.command:
        raise BadRequest("you must specify at least 1 command for the container")


def _api_error(error: Exception) -> APIError:
    return error if isinstance(error, APIError) else InternalError(f"Internal error occurred: {error}")
