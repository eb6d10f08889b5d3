"""Our errors as gRPC statuses, and back: for unary services and their clients.

A status carries the message; the trailer `ERROR_TRAILER` carries a JSON object with code,
executed, message and details, so that our own clients get back exactly what was raised.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import Any

import grpc

from goverse.errors import (
    BY_CODE,
    ApplicationError,
    ClusterError,
    DeadlineExceeded,
    Executed,
    GoverseError,
    Internal,
    InvalidArgument,
    NotFound,
    NotImplementedYet,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)

log = logging.getLogger(__name__)

ERROR_TRAILER = "goverse-error-bin"

# A peer refuses 8 KiB of metadata; base64 and the status message need their share.
_MAX_DETAILS_BYTES = 3 * 1024
_MAX_MESSAGE_CHARS = 1_000

Trailers = tuple[tuple[str, bytes], ...]


def status_of(error: BaseException) -> tuple[grpc.StatusCode, str, Trailers]:
    """Status, message and trailing metadata that tell a client of ``error``.

    What is not one of our errors is our fault: it is logged, and its text stays here.
    """
    if not isinstance(error, GoverseError) or isinstance(error, ClusterError):
        log.error("an unexpected error is answered as internal", exc_info=error)
        executed = error.executed if isinstance(error, GoverseError) else Executed.UNKNOWN
        error = Internal("internal error; the log of this process has it", executed=executed)
    message = error.message[:_MAX_MESSAGE_CHARS]
    body: dict[str, Any] = {
        "code": error.code,
        "executed": error.executed.value,
        "message": message,
        "application": isinstance(error, ApplicationError),
    }
    if error.details:
        try:
            details = json.dumps(error.details)
        except (TypeError, ValueError):
            details = ""
        if 0 < len(details) <= _MAX_DETAILS_BYTES:
            body["details"] = error.details
        else:
            body["details"] = {"truncated": True}
    trailers = ((ERROR_TRAILER, json.dumps(body).encode()),)
    return grpc.StatusCode[error.grpc_status], message, trailers


def error_of(code: grpc.StatusCode, message: str, trailers: Iterable[Any] | None) -> GoverseError:
    """The error that a failed call stands for, whoever the server was.

    :param trailers: pairs of key and value, as the failed call has them.
    """
    for key, value in trailers or ():
        if key == ERROR_TRAILER:
            try:
                return _decoded(json.loads(value))
            except (ValueError, TypeError, KeyError, AttributeError):
                break  # Not ours after all: the status says enough.
    known = _BY_STATUS.get(code)
    if known is None:
        return Internal(f"{code.name}: {message}", executed=Executed.UNKNOWN)
    cls, executed = known
    return cls(message or code.name.lower(), executed=executed)


def _decoded(body: dict[str, Any]) -> GoverseError:
    executed = Executed(body["executed"])
    details = body.get("details") or {}
    if body.get("application"):
        return ApplicationError(body["code"], body["message"], details, executed=executed)
    cls = BY_CODE.get(body["code"], Internal)
    if issubclass(cls, ClusterError):
        cls = Internal
    return cls(body["message"], executed=executed, details=details)


# Without our trailer the status came from gRPC itself or from a proxy; UNAVAILABLE and
# DEADLINE_EXCEEDED then say nothing about execution.
_BY_STATUS: dict[grpc.StatusCode, tuple[type[GoverseError], Executed]] = {
    grpc.StatusCode.INVALID_ARGUMENT: (InvalidArgument, Executed.NO),
    grpc.StatusCode.UNAUTHENTICATED: (Unauthenticated, Executed.NO),
    grpc.StatusCode.PERMISSION_DENIED: (PermissionDenied, Executed.NO),
    grpc.StatusCode.NOT_FOUND: (NotFound, Executed.NO),
    grpc.StatusCode.UNIMPLEMENTED: (NotImplementedYet, Executed.NO),
    grpc.StatusCode.UNAVAILABLE: (Unavailable, Executed.UNKNOWN),
    grpc.StatusCode.DEADLINE_EXCEEDED: (DeadlineExceeded, Executed.UNKNOWN),
}
