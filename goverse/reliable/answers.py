"""How a stored outcome is told: to whoever repeats the call, and to whoever looks it up."""

from __future__ import annotations

from typing import Any

import msgspec

from goverse.call import Call, Codec, Reply
from goverse.errors import Executed, FailedPrecondition, GoverseError, Internal, NotFound
from goverse.objects import encoding
from goverse.objects.definition import MethodType
from goverse.objects.recording import error_of
from goverse.objects.registry import Registry
from goverse.storage.values import CallStatus, Outcome, Payload, StoredCall


def outcome_of(stored: StoredCall) -> Outcome:
    """The outcome of a finished call."""
    return Outcome(stored.call.call_id, stored.status, stored.result, stored.reason)


def reply_of(outcome: Outcome, call: Call, method: MethodType) -> Reply:
    """The reply to ``call``, in its codec. Raises what the method raised, FailedPrecondition for a
    call that never ran."""
    if outcome.status is CallStatus.SUCCESS:
        return Reply(_result(outcome.result, call.codec, method), call.codec)
    if outcome.status is CallStatus.FAILED:
        raise error_of(outcome.result.data if outcome.result else b"")
    raise FailedPrecondition(
        f"{call} was skipped and will never run: {outcome.reason}",
        details={"call_id": call.call_id, "status": "skipped", "reason": outcome.reason},
    )


def _result(stored: Payload | None, codec: Codec, method: MethodType | None) -> bytes:
    """Results are stored as msgpack. Raises Internal."""
    data = stored.data if stored is not None else encoding.NONE[Codec.MSGPACK]
    if codec is Codec.MSGPACK:
        return data
    try:
        if method is None:
            return encoding.encode(encoding.decode_plain(data), codec)
        return method.encode(method.signature.decode_result(data), codec)
    except (encoding.EncodingFault, *encoding.DECODE_ERRORS) as fault:
        raise Internal(
            f"the call has succeeded, and its result cannot be told in {codec.name.lower()}: "
            f"{fault}",
            executed=Executed.YES,
        ) from None


class Found(msgspec.Struct, omit_defaults=True):
    """What a look-up answers."""

    call_id: str
    type: str
    id: str
    method: str
    status: str
    result: Any = msgspec.UNSET
    error: Any = msgspec.UNSET
    reason: str = ""
    #: When it is or was due, and how it is repeated: seconds since 1970, seconds.
    run_at: float | msgspec.UnsetType = msgspec.UNSET
    every_s: float | msgspec.UnsetType = msgspec.UNSET
    catch_up: str | msgspec.UnsetType = msgspec.UNSET
    #: How the last tick of a repeated call ended, with its result or error.
    last_tick: str | msgspec.UnsetType = msgspec.UNSET


_msgpack = msgspec.msgpack.Encoder()
_json = msgspec.json.Encoder()


def found(call: Call, stored: StoredCall | None, registry: Registry) -> Reply:
    """The reply to a look-up. Raises NotFound."""
    if stored is None:
        raise NotFound(
            "no call is known under this id. That is not to say that it never ran: it may be on "
            "its way, or have been cleaned up (repeated after that, it runs again)",
            executed=Executed.UNKNOWN,
            details={"call_id": call.call_id, "status": "unknown"},
        )
    told = stored.call
    answer = Found(
        told.call_id,
        told.object.type,
        told.object.id,
        told.method,
        stored.status.value,
        reason=stored.reason if stored.last_tick is None else "",
    )
    _tell_timing(answer, stored)
    ended = stored.last_tick or stored.status
    if ended is CallStatus.SUCCESS:
        try:
            result = _result(stored.result, call.codec, _method(stored, registry))
            answer.result = msgspec.Raw(result)
        except Internal as fault:
            answer.reason = fault.message
    elif ended is CallStatus.FAILED:
        answer.error = _error(error_of(stored.result.data if stored.result else b""))
    encoder = _json if call.codec is Codec.JSON else _msgpack
    return Reply(encoder.encode(answer), call.codec)


def _tell_timing(answer: Found, stored: StoredCall) -> None:
    timing = stored.call.timing
    if timing is None:
        return
    answer.run_at = timing.run_at
    if timing.every_s:
        answer.every_s, answer.catch_up = timing.every_s, timing.catch_up.value
    if stored.last_tick is not None:
        answer.last_tick = stored.last_tick.value


def _method(stored: StoredCall, registry: Registry) -> MethodType | None:
    try:
        return registry.get(stored.call.object.type).method(stored.call.method)
    except NotFound:
        return None


def _error(error: GoverseError) -> dict[str, Any]:
    return {
        "code": error.code,
        "message": error.message,
        "executed": error.executed.value,
        "details": error.details,
    }
