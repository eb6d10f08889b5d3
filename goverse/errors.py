"""The error tree, and what each error says about execution.

::

    GoverseError
    ├── InvalidArgument      the call cannot be understood          invalid_argument
    ├── Unauthenticated      who is calling is not known            unauthenticated
    ├── PermissionDenied     known, and may not                     permission_denied
    ├── NotFound             no such type, method, call             not_found
    ├── Conflict             already exists, or a call id reused    conflict
    ├── FailedPrecondition   not in this state                      failed_precondition
    ├── TooLarge             a payload above its limit              too_large
    ├── RateLimited          too many calls by this caller          rate_limited
    ├── Overloaded           a queue of ours is full                overloaded
    ├── Unavailable          nobody could be reached who owns it    unavailable
    ├── DeadlineExceeded     also a TimeoutError                    deadline_exceeded
    ├── ApplicationError     raised by a method, on purpose         the method's own code
    ├── ObjectFailed         a method raised something else         object_failed
    ├── NotImplementedYet    asked for something this version lacks unimplemented
    ├── Internal             our own fault                          internal
    └── ClusterError         never leaves the cluster
        ├── NotOwner         this node does not own the shard (any more)
        ├── Fenced           a newer epoch has written
        │     └── Outranked  a newer epoch is known, and the claim stands all the same
        └── LinkBroken       the connection went away

Every error carries ``executed``: whether the call ran, over all its attempts.
``NO`` means that the turn never began, so repeating the call is safe.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, ClassVar

from goverse.ids import NO_EPOCH, Epoch


class Executed(enum.Enum):
    """Whether a failed call was executed, over all its attempts."""

    NO = "no"
    YES = "yes"
    UNKNOWN = "unknown"


class GoverseError(Exception):
    """Root of the tree.

    :param message: one sentence for a person; says what to do next where that is known.
    :param executed: what is known of the call's execution.
    :param details: JSON-compatible facts for programs.
    """

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        executed: Executed = Executed.NO,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.executed = executed
        self.details: dict[str, Any] = dict(details or {})

    def __str__(self) -> str:
        return self.message


class InvalidArgument(GoverseError):
    code = "invalid_argument"
    http_status = 400
    grpc_status = "INVALID_ARGUMENT"


class Unauthenticated(GoverseError):
    code = "unauthenticated"
    http_status = 401
    grpc_status = "UNAUTHENTICATED"


class PermissionDenied(GoverseError):
    code = "permission_denied"
    http_status = 403
    grpc_status = "PERMISSION_DENIED"


class NotFound(GoverseError):
    code = "not_found"
    http_status = 404
    grpc_status = "NOT_FOUND"


class Conflict(GoverseError):
    code = "conflict"
    http_status = 409
    grpc_status = "ALREADY_EXISTS"


class FailedPrecondition(GoverseError):
    code = "failed_precondition"
    http_status = 409
    grpc_status = "FAILED_PRECONDITION"


class TooLarge(GoverseError):
    code = "too_large"
    http_status = 413
    grpc_status = "RESOURCE_EXHAUSTED"


class RateLimited(GoverseError):
    code = "rate_limited"
    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"


class Overloaded(GoverseError):
    code = "overloaded"
    http_status = 503
    grpc_status = "UNAVAILABLE"


class Unavailable(GoverseError):
    code = "unavailable"
    http_status = 503
    grpc_status = "UNAVAILABLE"


class DeadlineExceeded(GoverseError, TimeoutError):
    code = "deadline_exceeded"
    http_status = 504
    grpc_status = "DEADLINE_EXCEEDED"


class ApplicationError(GoverseError):
    """Raised by a method; reaches the caller as it is.

    :param app_code: the application's own code, visible to the caller as ``code``.
    """

    http_status = 422
    grpc_status = "ABORTED"

    def __init__(
        self,
        app_code: str,
        message: str = "",
        details: Mapping[str, Any] | None = None,
        *,
        executed: Executed = Executed.YES,
    ) -> None:
        super().__init__(message or app_code, executed=executed, details=details)
        self.code = app_code  # type: ignore[misc]


class ObjectFailed(GoverseError):
    """A method raised an exception that is not an ApplicationError."""

    code = "object_failed"
    http_status = 500
    grpc_status = "UNKNOWN"


class NotImplementedYet(GoverseError):
    code = "unimplemented"
    http_status = 501
    grpc_status = "UNIMPLEMENTED"


class Internal(GoverseError):
    pass


class ClusterError(GoverseError):
    """Never leaves the cluster: the router nearest the caller answers for it."""


class NotOwner(ClusterError):
    """The shard is not open here. ``epoch`` is the newest one that the node knows."""

    code = "not_owner"

    def __init__(self, message: str, *, epoch: Epoch = NO_EPOCH) -> None:
        super().__init__(message, executed=Executed.NO, details={"epoch": list(epoch)})
        self.epoch = epoch


class Fenced(ClusterError):
    code = "fenced"

    def __init__(self, message: str, *, executed: Executed = Executed.UNKNOWN) -> None:
        super().__init__(message, executed=executed)


class Outranked(Fenced):
    """A claim stands, and a higher ``epoch`` of its shard is known: to the store, or to this
    process from before the coordinator lost its history. Never leaves a process."""

    def __init__(self, message: str, epoch: Epoch) -> None:
        super().__init__(message)
        self.epoch = epoch


class LinkBroken(ClusterError):
    """The link went away. ``sent`` is False only for frames never passed to a write."""

    code = "link_broken"

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message, executed=Executed.UNKNOWN if sent else Executed.NO)
        self.sent = sent


def _leaves(cls: type[GoverseError]) -> list[type[GoverseError]]:
    found = [cls]
    for child in cls.__subclasses__():
        found.extend(_leaves(child))
    return found


#: Classes by wire code; ApplicationError travels under a flag of its own, having no fixed code.
BY_CODE: dict[str, type[GoverseError]] = {
    cls.code: cls
    for cls in _leaves(GoverseError)
    if cls not in (GoverseError, ClusterError, ApplicationError, Outranked)
}
