"""What arrives with a call id, as the call that the ledger keeps."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import msgspec

from goverse.call import CALL, ENQUEUE, SCHEDULE, Call
from goverse.errors import FailedPrecondition, InvalidArgument
from goverse.objects import encoding
from goverse.objects.arrival import Arrival
from goverse.objects.definition import MethodType
from goverse.objects.recording import ISSUED, Context
from goverse.objects.timing import decode_schedule, timing_of
from goverse.reliable.outbox import Envelope
from goverse.reliable.store_clock import StoreClock
from goverse.storage.checks import check_call_id
from goverse.storage.values import Payload, ReliableCall

_DIGEST_BYTES = 16

_WITH_METHOD = (CALL, ENQUEUE, SCHEDULE)

_decode_envelope = msgspec.msgpack.Decoder(Envelope).decode


def understand(call: Call, arrival: Arrival, clock: StoreClock) -> tuple[ReliableCall, MethodType]:
    """Raises what refuses ``call`` for good, without a row."""
    if call.verb not in _WITH_METHOD:
        raise InvalidArgument(f"{call}: a call id goes with a call of a method")
    check_id_of(call)
    if call.chain:
        raise FailedPrecondition(
            f"{call} has a call id and cannot be awaited in a turn; goverse.issue(...) makes "
            "the call once the turn is committed"
        )
    # Of ids that are the system's own, which no client may send.
    issued = call.verb is not CALL and ISSUED.fullmatch(call.call_id) is not None
    parent, expires_at, timing = "", None, None
    if call.verb is ENQUEUE:
        envelope = _opened(call)
        issued, parent, expires_at = True, envelope.parent, envelope.expires_at
        call = msgspec.structs.replace(call, payload=envelope.arguments)
    elif call.verb is SCHEDULE:
        schedule = decode_schedule(call.payload)
        timing = timing_of(schedule.when, clock.now())
        if issued:
            parent, expires_at = schedule.parent, schedule.expires_at
        call = msgspec.structs.replace(call, payload=schedule.arguments)
    object_type = arrival.object_type(call)
    method = arrival.method(call, object_type)
    arguments, _ = arrival.bind(call, method, asyncio.get_running_loop().time())
    if object_type.stored is None:
        raise FailedPrecondition(
            f"{call} has a call id, and class {call.type} is not durable; give it "
            'durability="acknowledged"'
        )
    encoded = _encoded(call, arguments)
    wanted = ReliableCall(
        call.call_id,
        call.object_id,
        call.method,
        Payload(encoded),
        _digest(call.call_id.encode() if issued else encoded),
        call.principal,
        Context(call.client_id, call.trace).encode(),
        parent,
        expires_at,
        timing,
    )
    return wanted, method


def check_id_of(call: Call) -> None:
    """Raises InvalidArgument."""
    try:
        check_call_id(call.call_id)
    except ValueError as error:
        raise InvalidArgument(str(error), details={"field": "call_id"}) from None


def _opened(call: Call) -> Envelope:
    try:
        return _decode_envelope(call.payload)
    except encoding.DECODE_ERRORS as error:
        raise InvalidArgument(f"{call}: what came is no delivery: {error}") from None


def _encoded(call: Call, arguments: Any) -> bytes:
    try:
        return encoding.encode_canonical(arguments)
    except encoding.EncodingFault as fault:
        raise InvalidArgument(f"{call}: {fault}", details={"path": fault.path}) from None


def _digest(what: bytes) -> bytes:
    """What tells a repetition from another call: of the arguments, where an id is somebody's
    choice. The system's own ids are never used twice, and a delivery repeated to a newer version
    of the class, with another default, is still the same."""
    return hashlib.blake2b(what, digest_size=_DIGEST_BYTES).digest()
