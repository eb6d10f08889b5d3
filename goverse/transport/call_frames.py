"""What of a call travels in its frame, and the call that a frame carries."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from goverse.call import Call
from goverse.transport.wire import CallExtra, CallFrame

MAX_REMAINING_MS = 24 * 3600 * 1000
"""A deadline further away than a day travels as a day."""

_DAY_S = MAX_REMAINING_MS / 1000

MAX_HEAD_BYTES = 64 * 1024
"""Everything of a call except its payload: names, chain, principal, trace."""

_encode = msgspec.msgpack.Encoder().encode

_NO_EXTRA = (None, 0)


def extra_of(call: Call) -> tuple[CallExtra | None, int]:
    """What `CallFrame.extra` says of ``call``, and about how many bytes that takes; None if there
    is nothing to say."""
    principal, client_id = call.principal, call.client_id
    if not (call.chain or call.call_id or call.trace):
        return _extra_of_caller(principal, client_id) if client_id or principal else _NO_EXTRA
    return _sized(CallExtra(call.chain, principal, client_id, call.call_id, call.trace))


@lru_cache(maxsize=1_024)
def _extra_of_caller(principal: str, client_id: str) -> tuple[CallExtra, int]:
    """The same for all plain calls of one caller, which are most calls."""
    return _sized(CallExtra(principal=principal, client_id=client_id))


def _sized(extra: CallExtra) -> tuple[CallExtra, int]:
    size = 48 + len(extra.principal) + len(extra.client_id) + len(extra.call_id) + len(extra.trace)
    if extra.chain:
        size += sum(32 + len(entry.type) + len(entry.id) for entry in extra.chain)
    return extra, size


def exact_head_bytes(call: Call) -> int:
    """What a call takes without its payload. A field that cannot be encoded counts for nothing:
    that is found out when its frame is made."""
    try:
        return 48 + len(_encode((call.type, call.id, call.method, extra_of(call)[0])))
    except (TypeError, ValueError):
        return 0


def remaining_ms(remaining_s: float) -> int:
    """What a frame says of a deadline; 0 if it has passed, and of a call without end, a day."""
    if remaining_s <= 0:
        return 0
    return int(remaining_s * 1000) if remaining_s < _DAY_S else MAX_REMAINING_MS


def call_of(frame: CallFrame, payload: bytes, deadline: float, from_member: bool) -> Call:
    """The call that a frame carries.

    :param from_member: False for a client, whose word on chain, principal and client id counts
        for nothing: its gate writes them.
    """
    extra = frame.extra
    if extra is None:
        return Call(frame.type, frame.id, frame.method, payload, deadline, frame.codec, frame.verb)
    return Call(
        frame.type,
        frame.id,
        frame.method,
        payload,
        deadline,
        frame.codec,
        frame.verb,
        extra.chain if from_member else (),
        extra.principal if from_member else "",
        extra.client_id if from_member else "",
        extra.call_id,
        extra.trace,
    )
