"""meta/v1 `Status` to `APIError` and back. Used by the gRPC mapping (`grpc_errors`), by the fronts for results inside of
messages (bindings, exec results), and by the client that reads them."""

from __future__ import annotations

from wherry.api.errors import BY_REASON, APIError, Cause, InternalError
from wherry.pb import meta_v1_pb2


def to_status(error: APIError) -> meta_v1_pb2.Status:
    """The failure as Kubernetes' Status; `details` is set when there is anything to put in it."""
    status = meta_v1_pb2.Status(status="Failure", message=error.message, reason=error.reason, code=error.code)
    if error.name or error.group or error.kind or error.uid or error.causes or error.retry_after_s:
        details = status.details
        details.name = error.name
        details.group = error.group
        details.kind = error.kind
        details.uid = error.uid
        details.retry_after_seconds = error.retry_after_s
        for cause in error.causes:
            details.causes.add(reason=cause.reason, message=cause.message, field=cause.field)
    return status


def from_status(status: meta_v1_pb2.Status) -> APIError:
    """The error that `status` tells of; an unknown reason becomes the class of its code, or InternalError."""
    cls = BY_REASON.get(status.reason)
    if cls is None:
        cls = next((known for known in BY_REASON.values() if known.code == status.code), InternalError)
    details = status.details
    return cls(
        status.message,
        group=details.group,
        kind=details.kind,
        name=details.name,
        uid=details.uid,
        causes=[Cause(cause.reason, cause.message, cause.field) for cause in details.causes],
        retry_after_s=details.retry_after_seconds,
    )


def copy_of(error: APIError) -> APIError:
    """A fresh exception of the same content, so that a traceback is not shared between two tasks."""
    return type(error)(
        error.message,
        group=error.group,
        kind=error.kind,
        name=error.name,
        uid=error.uid,
        causes=error.causes,
        retry_after_s=error.retry_after_s,
    )
