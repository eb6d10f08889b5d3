"""Errors as frames, and back: code, message, details and executed survive the journey."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from goverse.errors import (
    BY_CODE,
    ApplicationError,
    ClusterError,
    Executed,
    Fenced,
    GoverseError,
    Internal,
    LinkBroken,
    NotOwner,
    Unavailable,
)
from goverse.ids import NO_EPOCH, Epoch
from goverse.transport.wire import ErrorFrame

MAX_MESSAGE_CHARS = 4 * 1024
MAX_CODE_CHARS = 256
MAX_DETAIL_DEPTH = 16
MAX_DETAIL_ITEMS = 1_000
MAX_DETAIL_CHARS = 4 * 1024
MAX_DETAILS_CHARS = 16 * 1024

_EXECUTED = {executed.value: executed for executed in Executed}


def error_frame(number: int, error: GoverseError, *, to_member: bool = True) -> ErrorFrame:
    """The frame for ``error``; never fails, whatever somebody put into its details.

    :param to_member: False for a client, which is not told of errors within the cluster.
    """
    if isinstance(error, ClusterError) and not to_member:
        error = Unavailable(error.message, executed=error.executed)
    details = error.details
    return ErrorFrame(
        number,
        _text(error.code, MAX_CODE_CHARS),
        _text(error.message, MAX_MESSAGE_CHARS),
        error.executed.value,
        isinstance(error, ApplicationError),
        safe_details(details) if details else {},
    )


def error_of(frame: ErrorFrame, *, from_member: bool = True) -> GoverseError:
    """The error that ``frame`` carries, new on every call.

    A code that this version does not know (a newer peer's, or a cluster error that a client made
    up) becomes `Internal` with the code in its details.
    """
    executed = _EXECUTED.get(frame.executed, Executed.UNKNOWN)
    message = frame.message
    details = safe_details(frame.details) if frame.details else {}
    if frame.application:
        return ApplicationError(frame.code, message, details, executed=executed)
    cls = BY_CODE.get(frame.code)
    if cls is None or (issubclass(cls, ClusterError) and not from_member):
        return Internal(message, executed=executed, details={**details, "code": frame.code})
    error: GoverseError
    if cls is NotOwner:
        error = NotOwner(message, epoch=_epoch(details.get("epoch")))
    elif cls is LinkBroken:
        error = LinkBroken(message, sent=executed is not Executed.NO)
    elif cls is Fenced:
        error = Fenced(message)
    else:
        return cls(message, executed=executed, details=details)
    error.executed = executed
    error.details = details
    return error


def safe_details(details: Mapping[Any, Any]) -> dict[str, Any]:
    """``details`` as JSON has it: depth, number of items and length of texts are bounded, and
    what JSON does not have is replaced by its text."""
    budget = _Budget()
    safe = _safe(details, 0, budget)
    if budget.spent:
        safe["truncated"] = True
    return dict(safe)


class _Budget:
    def __init__(self) -> None:
        self._items = MAX_DETAIL_ITEMS
        self._chars = MAX_DETAILS_CHARS

    def take(self, chars: int) -> None:
        self._items -= 1
        self._chars -= chars

    @property
    def spent(self) -> bool:
        return self._items < 0 or self._chars < 0


def _safe(value: Any, depth: int, budget: _Budget) -> Any:
    kind = type(value)
    if value is None or kind is bool:
        budget.take(4)
        return value
    if kind is int and -(2**63) <= value < 2**64:
        budget.take(8)
        return value
    if kind is float and math.isfinite(value):
        budget.take(8)
        return value
    if depth < MAX_DETAIL_DEPTH:
        # Isinstance after the exact kinds: a subclass of str or int is written as text.
        if isinstance(value, Mapping):
            return _safe_map(value, depth, budget)
        if isinstance(value, list | tuple):
            safe = []
            for item in value:
                if budget.spent:
                    break
                safe.append(_safe(item, depth + 1, budget))
            return safe
    text = _text(value, MAX_DETAIL_CHARS)
    budget.take(len(text))
    return text


def _safe_map(value: Mapping[Any, Any], depth: int, budget: _Budget) -> dict[str, Any]:
    safe = {}
    for key, item in value.items():
        if budget.spent:
            break
        name = _text(key, MAX_CODE_CHARS)
        budget.take(len(name))
        safe[name] = _safe(item, depth + 1, budget)
    return safe


def _text(value: object, max_chars: int) -> str:
    """``value`` as text that UTF-8 can carry. Application code may be behind ``__str__``."""
    if isinstance(value, list | tuple | Mapping):
        return f"<{type(value).__name__}>"  # its text might have no end
    try:
        text = str(value)[:max_chars]
    except Exception:
        return f"<{type(value).__name__}>"
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode()


def _epoch(value: object) -> Epoch:
    if isinstance(value, list | tuple) and len(value) == 2 and all(type(n) is int for n in value):
        return Epoch(value[0], value[1])
    return NO_EPOCH
