"""The errors of the API, one class per reason of Kubernetes' `Status` (meta/v1 StatusReason).

Raised by the store, the registry and the client alike; mapped to gRPC in `wherry.client.grpc_errors` and to HTTP by the
`code` here. Never recognised by message text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """One field violation. `reason` is a meta/v1 CauseType such as FieldValueRequired; `field` a path in JSON names."""

    reason: str
    message: str
    field: str = ""


class APIError(Exception):
    """`code` is the HTTP status, `reason` the StatusReason; the rest is `Status.details`."""

    code = 500
    reason = "InternalError"

    def __init__(
        self,
        message: str,
        *,
        group: str = "",
        kind: str = "",
        name: str = "",
        uid: str = "",
        causes: Sequence[Cause] = (),
        retry_after_s: int = 0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.group = group
        self.kind = kind
        self.name = name
        self.uid = uid
        self.causes = tuple(causes)
        self.retry_after_s = retry_after_s


class BadRequest(APIError):
    code, reason = 400, "BadRequest"


class Unauthorized(APIError):
    code, reason = 401, "Unauthorized"


class Forbidden(APIError):
    code, reason = 403, "Forbidden"


class NotFound(APIError):
    code, reason = 404, "NotFound"


class MethodNotAllowed(APIError):
    code, reason = 405, "MethodNotAllowed"


class AlreadyExists(APIError):
    code, reason = 409, "AlreadyExists"


class Conflict(APIError):
    """The object is not at the revision (or does not have the uid) that the request names; read again and retry."""

    code, reason = 409, "Conflict"


class Expired(APIError):
    """The asked-for revision was compacted, or the watcher fell behind: list again."""

    code, reason = 410, "Expired"


class RequestEntityTooLarge(APIError):
    code, reason = 413, "RequestEntityTooLarge"


class UnsupportedMediaType(APIError):
    code, reason = 415, "UnsupportedMediaType"


class Invalid(APIError):
    """Validation failed: `causes` holds one entry per field."""

    code, reason = 422, "Invalid"


class TooManyRequests(APIError):
    code, reason = 429, "TooManyRequests"


class InternalError(APIError):
    """A defect of ours."""


class ServiceUnavailable(APIError):
    """The other side cannot be reached or is shutting down; retry with back-off."""

    code, reason = 503, "ServiceUnavailable"


class Unreachable(ServiceUnavailable):
    """Nobody answered: known by the caller's side alone, never sent."""


class Timeout(APIError):
    code, reason = 504, "Timeout"


BY_REASON: dict[str, type[APIError]] = {
    error.reason: error
    for error in (
        BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, AlreadyExists, Conflict, Expired,
        RequestEntityTooLarge, UnsupportedMediaType, Invalid, TooManyRequests, InternalError, ServiceUnavailable, Timeout,
    )
}  # fmt: skip
