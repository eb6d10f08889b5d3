"""Goverse: named objects that live on a cluster, one call at a time.

This is the public API: re-exports only, frozen by a test. Nothing inside imports it.
"""

from goverse.errors import (
    ApplicationError,
    Conflict,
    DeadlineExceeded,
    Executed,
    FailedPrecondition,
    GoverseError,
    Internal,
    InvalidArgument,
    NotFound,
    NotImplementedYet,
    ObjectFailed,
    Overloaded,
    PermissionDenied,
    RateLimited,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from goverse.objects.access import create, delete, get, options
from goverse.objects.context import Context, context
from goverse.objects.definition import Object, method
from goverse.objects.issuing import cancel, issue
from goverse.objects.messages import broadcast, message, push

__all__ = [
    "ApplicationError",
    "Conflict",
    "Context",
    "DeadlineExceeded",
    "Executed",
    "FailedPrecondition",
    "GoverseError",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "NotImplementedYet",
    "Object",
    "ObjectFailed",
    "Overloaded",
    "PermissionDenied",
    "RateLimited",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "broadcast",
    "cancel",
    "context",
    "create",
    "delete",
    "get",
    "issue",
    "message",
    "method",
    "options",
    "push",
]
