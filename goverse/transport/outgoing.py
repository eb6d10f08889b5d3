"""The calls that this side of a link makes: one slot each, freed whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from goverse.call import Call, Receiver, Reply
from goverse.errors import (
    DeadlineExceeded,
    Executed,
    GoverseError,
    InvalidArgument,
    LinkBroken,
    Overloaded,
    TooLarge,
)
from goverse.transport.call_frames import MAX_HEAD_BYTES, exact_head_bytes, extra_of, remaining_ms
from goverse.transport.chunks import Assemblies, Stream
from goverse.transport.expiry import Expiry
from goverse.transport.outbox import Outbox
from goverse.transport.wire import (
    CallExtra,
    CallFrame,
    CancelFrame,
    ChunkFrame,
    ErrorFrame,
    Frame,
    Of,
    ReplyFrame,
    WireError,
)
from goverse.transport.wire_errors import error_of

_SHORT_HEAD = 1_000
"""Up to here it does not matter that a character may take four bytes."""


@dataclass(frozen=True)
class Bounds:
    """What one direction of a link may hold at a time."""

    max_calls: int
    max_bytes: int
    max_payload_bytes: int
    max_chunk_bytes: int


class Awaited:
    """The receiver of a call that a coroutine waits for."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[Reply]) -> None:
        self.future = future

    def succeed(self, reply: Reply) -> None:
        if not self.future.done():
            self.future.set_result(reply)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            # The waiting task may have been cancelled in this very moment and never look.
            self.future.exception()


class Slot:
    """One call that waits for its reply, and the item that sends it.

    ::

        queued ──taken──> sent ──reply, error──> told
          └─────────────────┴─── deadline, cancelled, link ended: told or not, and abandoned

    ``sent`` turns true immediately before the frame is passed to the carrier; as long as it is
    false, nobody but this process has seen the call. A slot without a call has been abandoned.

    :param size: bytes in the queue. :param bytes: what it counts for until it is over.
    """

    __slots__ = (
        "bytes",
        "call",
        "deadline",
        "extra",
        "number",
        "owner",
        "receiver",
        "sent",
        "size",
    )

    def __init__(
        self,
        owner: Outgoing,
        number: int,
        call: Call,
        deadline: float,
        size: int,
        bytes: int,
        extra: CallExtra | None,
        receiver: Receiver,
    ) -> None:
        self.owner = owner
        self.number = number
        self.call: Call | None = call
        self.deadline = deadline
        self.size = size
        self.bytes = bytes
        self.extra = extra
        self.receiver = receiver
        self.sent = False

    def frame(self, now: float) -> Frame | None:
        call = self.call
        if call is None:
            return None
        self.sent = True
        payload = call.payload
        size = 0
        if self.size < self.bytes:  # it goes in chunks, which the queue does not count
            size = len(payload)
            self.owner.outbox.stream(Stream(self.number, Of.CALL, payload))
            payload = b""
        return CallFrame(
            self.number,
            remaining_ms(self.deadline - now),
            call.type,
            call.id,
            call.method,
            payload,
            call.codec,
            call.verb,
            size,
            self.extra,
        )

    def unfit(self, error: Exception) -> Frame | None:
        self.sent = False
        if self.owner.free(self):
            self.receiver.fail(InvalidArgument(f"the call cannot be encoded: {error}"))
        return None

    def cancel(self) -> None:
        if self.owner.free(self):
            self.abandon()

    def abandon(self) -> None:
        """Nobody waits for this call any more."""
        self.call = None
        if self.sent:
            self.owner.outbox.put_control(CancelFrame(self.number))


class Outgoing:
    """Numbers calls, limits them, and brings replies to those who wait.

    :param on_idle: called whenever the last waiting call has gone.
    """

    def __init__(
        self,
        outbox: Outbox,
        bounds: Bounds,
        *,
        replies_from_member: bool,
        on_idle: Callable[[], None],
    ) -> None:
        self.outbox = outbox
        self.bounds = bounds
        self.slots: dict[int, Slot] = {}
        self.bytes = 0
        self.refusal = ""
        """Why no new call is taken; empty as long as they are."""
        self.replies: Assemblies[ReplyFrame] = Assemblies()
        self._from_member = replies_from_member
        self._on_idle = on_idle
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._last_number = 0
        self._expiry = Expiry(self.slots, self._expire)

    def refuse(self, reason: str) -> None:
        """Take no new calls; those that wait go on."""
        self.refusal = self.refusal or reason

    async def invoke(self, call: Call) -> Reply:
        future: asyncio.Future[Reply] = self._loop.create_future()
        slot = self.forward(call, Awaited(future))
        try:
            return await future
        except BaseException:
            slot.cancel()  # if it was the waiting that ended: otherwise it is over already
            # An error's traceback holds this frame: do not close the circle.
            del slot, future
            raise

    # Written out in one piece: this is the path of every call.
    def forward(self, call: Call, receiver: Receiver) -> Slot:
        """See `goverse.call.Forwarder`; never declines."""
        if self.refusal:
            raise LinkBroken(self.refusal, sent=False)
        payload = call.payload
        if type(payload) is not bytes:  # the peer would end the link for it
            raise TypeError(f"a payload of {type(payload).__name__}, not of bytes")
        payload_bytes = len(payload)
        extra, extra_bytes = extra_of(call)
        head = 48 + len(call.type) + len(call.id) + len(call.method) + extra_bytes
        if head > _SHORT_HEAD:  # characters so far
            head = exact_head_bytes(call)
        size = payload_bytes + head
        bounds, slots = self.bounds, self.slots
        if payload_bytes > bounds.max_payload_bytes or head > MAX_HEAD_BYTES:
            raise self._too_large(call, head)
        if (
            len(slots) >= bounds.max_calls
            or self.bytes + size > bounds.max_bytes
            # Abandoned calls leave an empty item in the queue until the carrier takes more.
            or len(self.outbox.items) >= 2 * bounds.max_calls
        ):
            raise Overloaded(f"{len(slots)} calls with {self.bytes} bytes wait on this link")
        deadline = call.deadline
        if not deadline > self._now():
            raise DeadlineExceeded(f"the deadline of {call} had passed before it was sent")
        self._last_number = number = self._last_number + 1
        # In the queue a payload in chunks does not count: its chunks are taken one by one.
        queued = size if payload_bytes <= bounds.max_chunk_bytes else head
        slots[number] = slot = Slot(self, number, call, deadline, queued, size, extra, receiver)
        self.bytes += size
        if deadline < self._expiry.next:
            self._expiry.expect(deadline)
        self.outbox.put(slot)
        return slot

    def free(self, slot: Slot) -> bool:
        """Whatever way a call ends, it ends here: reply, error, deadline, cancellation, broken
        link. False if it has ended before."""
        if self.slots.pop(slot.number, None) is None:
            return False
        self.bytes -= slot.bytes
        if self.outbox.streams or self.replies.parts:
            self.outbox.drop_stream(slot.number, Of.CALL)
            self.replies.drop(slot.number)
        if not self.slots:
            self._on_idle()
        return True

    def _too_large(self, call: Call, head: int) -> TooLarge:
        if head > MAX_HEAD_BYTES:
            return TooLarge(
                f"names, chain and principal of {str(call)[:200]} take about {head} bytes, "
                f"the limit is {MAX_HEAD_BYTES}"
            )
        limit = self.bounds.max_payload_bytes
        return TooLarge(f"arguments of {len(call.payload)} bytes, the limit is {limit}")

    def _expire(self, slot: Slot) -> None:
        call, executed = slot.call, Executed.UNKNOWN if slot.sent else Executed.NO
        self.free(slot)
        slot.abandon()
        slot.receiver.fail(DeadlineExceeded(f"no reply to {call} in time", executed=executed))

    def close(self, reason: str) -> None:
        """The link has ended: everybody who waits is told whether their call had left."""
        self.refusal = reason
        self._expiry.stop()
        for slot in tuple(self.slots.values()):
            # Whoever is told may give other calls up.
            if self.free(slot):
                slot.receiver.fail(LinkBroken(reason, sent=slot.sent))
        self.replies.clear()

    # -- what arrives -------------------------------------------------------------------------

    def on_reply(self, frame: ReplyFrame) -> None:
        slot = self.slots.get(frame.number)
        if slot is None:
            return
        if not slot.sent:
            raise WireError(f"a reply to call {frame.number}, which was not sent")
        if frame.size == 0:
            self.free(slot)
            slot.receiver.succeed(Reply(frame.payload, frame.codec))
        else:
            self._begin_reply(slot, frame)

    def _begin_reply(self, slot: Slot, frame: ReplyFrame) -> None:
        bounds = self.bounds
        error: GoverseError
        if frame.size < 0 or frame.payload:
            raise WireError(f"reply {frame.number} announces {frame.size} bytes")
        if frame.size > bounds.max_payload_bytes:
            text = f"a result of {frame.size} bytes, the limit is {bounds.max_payload_bytes}"
            error = TooLarge(text, executed=Executed.YES)
        elif self.replies.bytes + frame.size > bounds.max_bytes:
            text = f"large results of {self.replies.bytes} bytes are arriving already"
            error = Overloaded(text, executed=Executed.YES)
        else:
            self.replies.begin(frame.number, frame, frame.size)
            return
        self.free(slot)
        slot.receiver.fail(error)

    def on_chunk(self, frame: ChunkFrame) -> None:
        if (whole := self.replies.add(frame)) is None:
            return
        head, payload = whole
        slot = self.slots.get(frame.number)
        if slot is not None:
            self.free(slot)
            slot.receiver.succeed(Reply(payload, head.codec))

    def on_error(self, frame: ErrorFrame) -> None:
        slot = self.slots.get(frame.number)
        if slot is None:
            return
        if not slot.sent:
            raise WireError(f"an error for call {frame.number}, which was not sent")
        self.free(slot)
        slot.receiver.fail(error_of(frame, from_member=self._from_member))
