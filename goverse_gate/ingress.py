"""The only door for clients: who is calling, may they, how fast, until when.

Every front of the gate gets a `Door` here and calls nothing else, so a check made in this
module holds for all protocols. What only members may write (chain, principal) is taken off
here, and what only the cluster may see (`ClusterError`) stops here.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from goverse.aio.limits import Limit, fullest
from goverse.call import (
    CALL,
    CANCEL,
    LOOKUP,
    Call,
    Forwarded,
    Forwarder,
    Receiver,
    Reply,
    Verb,
    look_up,
)
from goverse.config.settings import LimitSettings
from goverse.errors import (
    ClusterError,
    DeadlineExceeded,
    Executed,
    GoverseError,
    Internal,
    InvalidArgument,
    Overloaded,
    PermissionDenied,
    RateLimited,
    TooLarge,
    Unavailable,
)
from goverse.ids import MAX_ID_BYTES, MAX_TYPE_CHARS, check_id, check_type
from goverse.observability.metrics import Metrics, status_of
from goverse.sharding.placement import shard_of
from goverse_gate.call_ids import looked_for, scoped

log = logging.getLogger(__name__)

MAX_METHOD_CHARS = 128

#: The metric label of a verb.
OPERATIONS = {
    Verb.CALL: "call",
    Verb.CREATE: "create",
    Verb.DELETE: "delete",
    Verb.LOOKUP: "look_up",
    Verb.SCHEDULE: "schedule",
    Verb.CANCEL: "cancel",
}

#: What is said of a call id.
_BY_ID = (Verb.LOOKUP, Verb.SCHEDULE, Verb.CANCEL)

# https://www.w3.org/TR/trace-context/ version 00. Anything else is ignored, as it demands.
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")


@dataclass(frozen=True)
class IngressSnapshot:
    doors: int
    calls: int


class Ingress:
    """Where every call of every client goes through.

    :param router: takes admitted calls into the cluster.
    :param limits: default deadlines and the largest number of calls of all clients together.
    :param metrics: is told operation, status and duration of each call once it is over.
    """

    def __init__(self, router: Forwarder, limits: LimitSettings, metrics: Metrics) -> None:
        self._router = router
        self._limits = limits
        self._metrics = metrics
        self._now = asyncio.get_running_loop().time
        self._calls = 0
        self._bytes = 0
        self._doors: dict[Door, None] = {}
        #: Found once rather than for every call.
        self._succeeded = {
            verb: metrics.operation_seconds.child(operation, "ok")
            for verb, operation in OPERATIONS.items()
        }
        self._timeouts = {
            Verb.CALL: limits.default_call_timeout_s,
            Verb.CREATE: limits.default_create_timeout_s,
            Verb.DELETE: limits.default_delete_timeout_s,
            Verb.LOOKUP: limits.default_call_timeout_s,
            Verb.SCHEDULE: limits.default_call_timeout_s,
            Verb.CANCEL: limits.default_call_timeout_s,
        }

    def door(self, *, client_id: str, max_calls: int, principal: str = "") -> Door:
        """An entrance for one caller, who may have ``max_calls`` calls in flight.

        :param client_id: issued by this gate; empty for callers that have no session.
        :param principal: who is calling, as proven to this gate; empty for nobody in particular.
        """
        door = Door(self, client_id, max_calls, principal)
        self._doors[door] = None
        return door

    def snapshot(self) -> IngressSnapshot:
        return IngressSnapshot(doors=len(self._doors), calls=self._calls)

    def limits(self) -> Iterator[Limit]:
        yield Limit("gate.calls", self._calls, self._limits.max_inflight_calls)
        yield Limit("gate.call_bytes", self._bytes, self._limits.max_inflight_bytes)
        yield from fullest(Limit("door.calls", d.calls, d.max_calls) for d in self._doors)

    def _closed(self, door: Door) -> None:
        del self._doors[door]

    async def _invoke(self, door: Door, call: Call) -> Reply:
        started = self._now()
        status = "ok"
        try:
            admitted = self._admit(door, call, started)
            size = len(admitted.payload)
            self._calls += 1
            self._bytes += size
            door.calls += 1
            try:
                return await self._router.invoke(admitted)
            finally:
                self._calls -= 1
                self._bytes -= size
                door.calls -= 1
        except asyncio.CancelledError:
            status = "cancelled"
            raise
        except Exception as error:
            told = outward(error, call)
            status = status_of(told)
            if told is error:
                raise
            raise told from error
        finally:
            self._ended(call, status, started)

    def _forward(self, door: Door, call: Call, receiver: Receiver) -> Forwarded | None:
        started = self._now()
        guest = Guest(self, door, call, started, receiver)
        try:
            admitted = self._admit(door, call, started)
        except GoverseError as error:
            self._ended(call, status_of(error), started)
            raise
        self._calls += 1
        self._bytes += len(call.payload)
        door.calls += 1
        try:
            under_way = self._router.forward(admitted, guest)
        except Exception as error:
            raise guest.failed(error) from None
        if under_way is None:
            guest.leave()  # it comes again, through `_invoke`
            return None
        guest.under_way = under_way
        return guest

    def _ended(self, call: Call, status: str, started: float) -> None:
        operation = OPERATIONS.get(call.verb, "refused")
        self._metrics.operation_ended(operation, status, self._now() - started)

    def _admit(self, door: Door, call: Call, now: float) -> Call:
        """The call as the cluster may see it. Raises what it is refused for."""
        check_names(call)
        if call.verb not in OPERATIONS:
            raise PermissionDenied(f"{call.verb.name} is for members only")
        if call.client_id and call.client_id != door.client_id:
            raise PermissionDenied("client_id was not issued on this connection")
        call_id = call.call_id
        if call_id:
            name = looked_for if call.verb in (Verb.LOOKUP, Verb.CANCEL) else scoped
            call_id = name(call_id, door.principal)
        if len(call.payload) > self._limits.max_payload_bytes:
            raise TooLarge(
                f"arguments of {len(call.payload)} bytes are above the limit of "
                f"{self._limits.max_payload_bytes} (limits.max_payload_bytes)"
            )
        deadline = now + self._timeouts[call.verb]
        if not call.deadline >= deadline:  # a deadline that is not a number stays one
            deadline = call.deadline
        if not deadline > now:
            raise DeadlineExceeded("the deadline had passed when the call reached the gate")
        if door.calls >= door.max_calls:
            self._metrics.refused.inc("caller")
            raise RateLimited(f"this caller has {door.calls} calls in flight, as many as it may")
        if self._calls >= self._limits.max_inflight_calls:
            self._metrics.refused.inc("gate")
            raise Overloaded(f"the gate has {self._calls} calls in flight, as many as it may")
        if self._bytes + len(call.payload) > self._limits.max_inflight_bytes:
            # Each link has this limit too, but there may be thousands of them.
            self._metrics.refused.inc("gate")
            raise Overloaded(f"the gate has {self._bytes} bytes of calls in flight")
        trace = call.trace if call.trace and _TRACEPARENT.match(call.trace) else ""
        if call.verb is LOOKUP:
            return look_up(call_id, deadline, call.codec)
        return Call(  # without a chain
            call.type,
            call.id,
            call.method,
            b"" if call.verb is CANCEL else call.payload,  # what operators say stands there
            deadline,
            call.codec,
            call.verb,
            (),
            door.principal,
            door.client_id,
            call_id,
            trace,
        )


class Door:
    """One caller's way in: a `Forwarder`. Close it when the caller is gone."""

    __slots__ = ("_ingress", "_open", "calls", "client_id", "max_calls", "principal")

    def __init__(
        self, ingress: Ingress, client_id: str, max_calls: int, principal: str = ""
    ) -> None:
        self._ingress = ingress
        self._open = True
        self.client_id = client_id
        self.principal = principal
        self.max_calls = max_calls
        self.calls = 0

    def invoke(self, call: Call) -> Coroutine[Any, Any, Reply]:
        return self._ingress._invoke(self, call)

    def forward(self, call: Call, receiver: Receiver) -> Forwarded | None:
        return self._ingress._forward(self, call, receiver)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._ingress._closed(self)


class Guest:
    """A forwarded call of a door, from its admission to its outcome."""

    __slots__ = ("call", "door", "ingress", "receiver", "started", "under_way")

    def __init__(
        self, ingress: Ingress, door: Door, call: Call, started: float, receiver: Receiver
    ) -> None:
        self.ingress = ingress
        self.door = door
        self.call = call
        self.started = started
        self.receiver = receiver
        self.under_way: Forwarded | None = None

    def succeed(self, reply: Reply) -> None:
        self.under_way = None  # do not close the circle
        self.leave()
        self.ingress._succeeded[self.call.verb].observe(self.ingress._now() - self.started)
        self.receiver.succeed(reply)

    def fail(self, error: Exception) -> None:
        self.receiver.fail(self.failed(error))

    def cancel(self) -> None:
        under_way, self.under_way = self.under_way, None
        self.leave()
        self.ingress._ended(self.call, "cancelled", self.started)
        if under_way is not None:
            under_way.cancel()

    def failed(self, error: Exception) -> GoverseError:
        """It is over; what its caller is told."""
        self.under_way = None
        self.leave()
        told = outward(error, self.call)
        self.ingress._ended(self.call, status_of(told), self.started)
        return told

    def leave(self) -> None:
        self.ingress._calls -= 1
        self.ingress._bytes -= len(self.call.payload)
        self.door.calls -= 1


def check_names(call: Call) -> None:
    """Raise `InvalidArgument`, naming the field, unless type, id and method can exist."""
    type, id, method = call.type, call.id, call.method
    if not (
        call.verb is CALL
        and type.isidentifier()
        and method.isidentifier()
        and id.isprintable()
        and "#" not in id
        and 0 < len(id) <= MAX_ID_BYTES // 4
        and len(type) <= MAX_TYPE_CHARS
        and len(method) <= MAX_METHOD_CHARS
    ):
        _check_each_name(call)  # rare ones, and bad ones


def _check_each_name(call: Call) -> None:
    if call.verb in _BY_ID and not call.call_id:
        operation = OPERATIONS[call.verb]
        raise InvalidArgument(f"{operation} needs a call id", details={"field": "call_id"})
    if call.verb is LOOKUP:
        return
    try:
        check_type(call.type)
    except ValueError as error:
        raise InvalidArgument(str(error), details={"field": "type"}) from None
    try:
        check_id(call.id)
        if "#" in call.id:
            shard_of(call.id, 1)
    except ValueError as error:
        raise InvalidArgument(str(error), details={"field": "id"}) from None
    method = call.method
    if call.verb not in (Verb.CALL, Verb.SCHEDULE):
        if method:
            raise InvalidArgument(
                f"{call.verb.name.lower()} has no method, got {method[:64]!r}",
                details={"field": "method"},
            )
    elif not method.isidentifier() or len(method) > MAX_METHOD_CHARS:
        raise InvalidArgument(
            f"method {method[:64]!r} must be an identifier of at most "
            f"{MAX_METHOD_CHARS} characters",
            details={"field": "method"},
        )


def outward(error: Exception, call: Call) -> GoverseError:
    """``error`` if clients may see it, otherwise what they are told in its place."""
    if isinstance(error, ClusterError):
        told: GoverseError = Unavailable(
            "the object's node could not be reached; see `executed` before trying again",
            executed=error.executed,
        )
    elif isinstance(error, GoverseError):
        return error
    else:
        log.error("a call failed inside the gate: %s", call, exc_info=error)
        told = Internal("the gate failed; its log says why", executed=Executed.UNKNOWN)
    told.__cause__ = error
    return told
