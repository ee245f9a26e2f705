"""How probes and hooks reach a pod over the network, from the node's own namespace. `Network` for real pods, `HollowReach` for
hollow ones. HTTP is spoken by hand: a client library would cost a quarter of the agent's memory for one GET."""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import urlsplit

from kubelet.runtime.hollow import HollowRuntime
from wherry.pb import core_v1_pb2

MAX_REDIRECTS = 10
HEADER_LIMIT = 64 * 1024
BODY_LIMIT = 10 * 1024


class HollowReach:
    """Every handler answers as the hollow container's behaviour says."""

    def __init__(self, runtime: HollowRuntime) -> None:
        self._runtime = runtime

    async def http(
        self, container_id: str, action: core_v1_pb2.HTTPGetAction, host: str, port: int, timeout_s: float
    ) -> tuple[bool, str]:
        ok = self._runtime.healthy(container_id)
        return ok, "ok" if ok else "HTTP probe failed with statuscode: 503"

    async def tcp(self, container_id: str, host: str, port: int, timeout_s: float) -> tuple[bool, str]:
        ok = self._runtime.healthy(container_id)
        return ok, "" if ok else f"dial tcp {host}:{port}: connect: connection refused"

    async def grpc(self, container_id: str, host: str, port: int, service: str, timeout_s: float) -> tuple[bool, str]:
        ok = self._runtime.healthy(container_id)
        return ok, "" if ok else 'service unhealthy (responded with "NOT_SERVING")'


class Network:
    """The caller bounds the time; each call closes what it opened, also when cancelled."""

    async def tcp(self, container_id: str, host: str, port: int, timeout_s: float) -> tuple[bool, str]:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            return False, _dial_error(host, port, error)
        writer.close()
        return True, ""

    async def http(
        self, container_id: str, action: core_v1_pb2.HTTPGetAction, host: str, port: int, timeout_s: float
    ) -> tuple[bool, str]:
        scheme = (action.scheme or "HTTP").lower()
        path = action.path if action.path.startswith("/") else f"/{action.path}"
        for _ in range(MAX_REDIRECTS):
            url = f"{scheme}://{_bracketed(host)}:{port}{path}"
            try:
                code, location, body = await _get(scheme, host, port, path, action)
            except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
                reason = _dial_error(host, port, error) if isinstance(error, OSError) else str(error)
                return False, f'Get "{url}": {reason}'
            if code not in (301, 302, 303, 307, 308) or not location:
                break
            target = urlsplit(location)
            if target.hostname not in (None, host):
                # A redirect elsewhere says that the container itself answers.
                return True, f"Probe terminated redirects, Response body: {body}"
            scheme = target.scheme or scheme
            if target.netloc:
                port = target.port or (443 if scheme == "https" else 80)
            path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        else:
            return False, f'Get "{path}": stopped after {MAX_REDIRECTS} redirects'
        if 200 <= code < 400:
            return True, body
        return False, f"HTTP probe failed with statuscode: {code}"

    async def grpc(self, container_id: str, host: str, port: int, service: str, timeout_s: float) -> tuple[bool, str]:
        import grpc
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        address = f"{_bracketed(host)}:{port}"
        # A channel of its own each time: a kept one would hide that the server went away and came back.
        async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                response = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    return False, f'timeout: failed to connect service "{address}" within {timeout_s:g}s'
                return False, f'error: health rpc probe failed: {error.details()} (service "{service}" at {address})'
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
        return status == "SERVING", "" if status == "SERVING" else f'service unhealthy (responded with "{status}")'


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _dial_error(host: str, port: int, error: Exception) -> str:
    words = {ConnectionRefusedError: "connection refused", ConnectionResetError: "connection reset by peer"}
    text = next((word for kind, word in words.items() if isinstance(error, kind)), str(error))
    return f"dial tcp {_bracketed(host)}:{port}: connect: {text}"


async def _get(scheme: str, host: str, port: int, path: str, action: core_v1_pb2.HTTPGetAction) -> tuple[int, str, str]:
    """(status code, Location, start of the body). Raises OSError or ValueError."""
    context: ssl.SSLContext | None = None
    if scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # probes do not verify certificates, as in Kubernetes
    headers = {"Host": f"{_bracketed(host)}:{port}", "User-Agent": "kube-probe/1.36", "Accept": "*/*"}
    for header in action.http_headers:
        # Later ones win over ours, whatever their spelling.
        headers = {name: value for name, value in headers.items() if name.lower() != header.name.lower()}
        headers[header.name] = header.value
    headers["Connection"] = "close"
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=HEADER_LIMIT)
    try:
        writer.write("\r\n".join(lines).encode())
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        protocol, _, rest = head[0].partition(" ")
        if not protocol.startswith("HTTP/") or not rest[:3].isdigit():
            raise ValueError(f"malformed HTTP response {head[0][:60]!r}")
        location = ""
        for line in head[1:]:
            name, _, value = line.partition(":")
            if name.lower() == "location":
                location = value.strip()
        body = await reader.read(BODY_LIMIT)
        return int(rest[:3]), location, body.decode("utf-8", "replace")
    finally:
        writer.close()
