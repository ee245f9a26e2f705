"""`APIError` to `google.rpc.Status` and back: the one place where gRPC's codes meet Kubernetes' reasons.

The status' details hold one wherry.meta.v1.Status and, for Invalid, one google.rpc.BadRequest with a violation per field.
The server's half is called by `controlplane.fronts.grpc`, the client's by `wherry.client.grpc`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from wherry.api import errors
from wherry.api.errors import APIError
from wherry.client.status import from_status, to_status
from wherry.pb import meta_v1_pb2

DETAILS_KEY = "grpc-status-details-bin"
# Metadata is limited (8 KiB by default in gRPC, 64 KiB with our options): violations beyond this are left out of the copy.
MAX_VIOLATIONS = 64

_CODES: dict[type[APIError], grpc.StatusCode] = {
    errors.BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthorized: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.MethodNotAllowed: grpc.StatusCode.UNIMPLEMENTED,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.Conflict: grpc.StatusCode.ABORTED,
    errors.Expired: grpc.StatusCode.OUT_OF_RANGE,
    errors.RequestEntityTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnsupportedMediaType: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.TooManyRequests: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.InternalError: grpc.StatusCode.INTERNAL,
    errors.ServiceUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Unreachable: grpc.StatusCode.UNAVAILABLE,
    errors.Timeout: grpc.StatusCode.DEADLINE_EXCEEDED,
}

# What a status without our details means: it comes from gRPC itself or from a proxy.
_REASONS: dict[grpc.StatusCode, type[APIError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.BadRequest,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthorized,
    grpc.StatusCode.PERMISSION_DENIED: errors.Forbidden,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.UNIMPLEMENTED: errors.MethodNotAllowed,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExists,
    grpc.StatusCode.ABORTED: errors.Conflict,
    grpc.StatusCode.OUT_OF_RANGE: errors.Expired,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.TooManyRequests,
    grpc.StatusCode.UNAVAILABLE: errors.ServiceUnavailable,
    grpc.StatusCode.CANCELLED: errors.ServiceUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.Timeout,
}


def code_of(error: APIError) -> grpc.StatusCode:
    return _CODES.get(type(error), grpc.StatusCode.INTERNAL)


def to_rpc_status(error: APIError) -> status_pb2.Status:
    """The error as google.rpc.Status."""
    code: int = code_of(error).value[0]
    status = status_pb2.Status(code=code, message=error.message)
    meta = to_status(error)
    if len(meta.details.causes) > MAX_VIOLATIONS:
        del meta.details.causes[MAX_VIOLATIONS:]
    packed = any_pb2.Any()
    packed.Pack(meta)
    status.details.append(packed)
    if error.retry_after_s:
        packed = any_pb2.Any()
        packed.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=error.retry_after_s)))
        status.details.append(packed)
    if isinstance(error, errors.Invalid) and error.causes:
        violations = error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field=cause.field, description=cause.message)
                for cause in error.causes[:MAX_VIOLATIONS]
            ]
        )
        packed = any_pb2.Any()
        packed.Pack(violations)
        status.details.append(packed)
    return status


def trailing_metadata(error: APIError) -> tuple[tuple[str, bytes], ...]:
    return ((DETAILS_KEY, to_rpc_status(error).SerializeToString()),)


def from_rpc_status(status: status_pb2.Status) -> APIError | None:
    """None when the status carries no details of ours."""
    for detail in status.details:
        if detail.Is(meta_v1_pb2.Status.DESCRIPTOR):
            meta = meta_v1_pb2.Status()
            detail.Unpack(meta)
            return from_status(meta)
    return None


def from_rpc_error(error: grpc.aio.AioRpcError) -> APIError:
    """What a failed call means for the caller of the client."""
    return from_parts(error.code(), error.details() or "", error.trailing_metadata() or ())


def from_parts(code: grpc.StatusCode, details: str, metadata: Iterable[Any]) -> APIError:
    for key, value in metadata:
        if key == DETAILS_KEY:
            known = from_rpc_status(status_pb2.Status.FromString(value))
            if known is not None:
                return known
    if code is grpc.StatusCode.UNAVAILABLE:
        # gRPC tells the whole story of its attempts; the last word of it is the reason.
        _, _, reason = details.rpartition(": ")
        return errors.Unreachable((reason if details.startswith("failed to connect") else details) or code.name)
    return _REASONS.get(code, errors.InternalError)(details or code.name)
