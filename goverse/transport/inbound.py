"""The calls that the other side of a link makes: one answer each at most.

A target that can begin a call at once is given it in the middle of reading (`Forwarder`); any
other call gets a task. Calls for one object are begun in the order in which they arrive.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from goverse.call import Call, CallTarget, Forwarded, Receiver, Reply
from goverse.errors import (
    DeadlineExceeded,
    Executed,
    Fenced,
    GoverseError,
    Internal,
    Overloaded,
    TooLarge,
    Unavailable,
)
from goverse.transport.call_frames import MAX_REMAINING_MS, call_of
from goverse.transport.chunks import Assemblies, Stream
from goverse.transport.expiry import Expiry
from goverse.transport.outbox import Outbox
from goverse.transport.outgoing import Bounds
from goverse.transport.wire import (
    MAX_NUMBER,
    CallFrame,
    ChunkFrame,
    ErrorFrame,
    Frame,
    Of,
    ReplyFrame,
    WireError,
    encode,
)
from goverse.transport.wire_errors import error_frame

log = logging.getLogger(__name__)

GRACE_S = 0.1
"""How long past its deadline a call may run. Whoever runs it knows best how far it got, and the
caller has given up on its own; this is for targets that forget the deadline."""

MAX_SPARE_CONTROLS = 1_024

_REPLY_HEAD_BYTES = 64
"""What a reply takes in the queue without its payload; one in chunks takes no more there."""


class Served:
    """One call of the peer: the receiver of its outcome, and the item that sends its answer.

    ::

        arriving ──last chunk──> running ──reply or error──> answered ──taken──> gone
            └──────────┴── cancelled, expired, link ended: gone, nothing is sent ──┘

    ``bytes`` are those of the arguments, then those of the result; ``deadline`` is when the link
    itself ends the call. While it runs, either its target has it ``under_way`` or it has a
    ``task``.
    """

    __slots__ = (
        "answer",
        "bytes",
        "call",
        "deadline",
        "number",
        "owner",
        "size",
        "started",
        "task",
        "under_way",
    )

    def __init__(self, owner: Inbound, number: int, bytes: int, deadline: float) -> None:
        self.owner = owner
        self.number = number
        self.bytes = bytes
        self.deadline = deadline
        self.size = 0
        self.call: Call | None = None
        self.under_way: Forwarded | None = None
        self.task: asyncio.Task[None] | None = None
        self.started = False
        self.answer: Reply | ErrorFrame | None = None

    def succeed(self, reply: Reply) -> None:
        """Queue the reply, if somebody waits for it."""
        if self.under_way is not None:
            self.under_way = None  # do not close the circle
        owner, payload = self.owner, reply.payload
        if type(payload) is not bytes:
            owner.answer_error(self, TypeError(f"a payload of {type(payload).__name__}"))
            return
        size = len(payload)
        if size > owner.max_payload_bytes:
            owner.answer_error(self, owner.too_large(size))
            return
        if owner.served.get(self.number) is not self:
            return  # cancelled, expired, or the link has ended
        self.answer = reply
        head = _REPLY_HEAD_BYTES
        self.size = head + size if size <= owner.max_chunk_bytes else head
        owner.bytes += size - self.bytes
        self.bytes = size
        owner.put(self)

    def fail(self, error: Exception) -> None:
        self.under_way = None
        self.owner.answer_error(self, error)

    def frame(self, now: float) -> Frame | None:
        answer = self.answer
        if answer is None or not self.owner.release(self):
            return None
        if isinstance(answer, ErrorFrame):
            return answer
        payload = answer.payload
        if self.size == _REPLY_HEAD_BYTES + self.bytes:
            return ReplyFrame(self.number, payload, answer.codec)
        self.owner.outbox.stream(Stream(self.number, Of.REPLY, payload))
        return ReplyFrame(self.number, b"", answer.codec, self.bytes)

    def unfit(self, error: Exception) -> Frame | None:
        log.error("the reply to %s cannot be encoded: %s", self.call, error)
        failure = Internal("the reply cannot be encoded", executed=Executed.YES)
        return error_frame(self.number, failure, to_member=self.owner.peer_is_member)


class Inbound:
    """Runs the peer's calls, within limits, and queues their answers.

    A call counts until its answer has been taken by the carrier: a peer that calls and does not
    read runs into its limit.

    :param on_idle: called whenever the last call has gone.
    """

    def __init__(
        self,
        outbox: Outbox,
        bounds: Bounds,
        *,
        peer_is_member: bool,
        name: str,
        on_idle: Callable[[], None],
    ) -> None:
        self.outbox = outbox
        self.bounds = bounds
        self.peer_is_member = peer_is_member
        self.served: dict[int, Served] = {}
        self.bytes = 0
        self.arriving: Assemblies[tuple[CallFrame, Served]] = Assemblies()
        self._task_name = f"{name}:call"
        self._on_idle = on_idle
        self.put = outbox.put
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self.max_payload_bytes = bounds.max_payload_bytes
        self.max_chunk_bytes = bounds.max_chunk_bytes
        self._target: CallTarget
        self._forward: Callable[[Call, Receiver], Forwarded | None] | None = None
        # Tasks are owned by their `Served` and not by a `Tasks`: that would cost two callbacks
        # per call, and `_run` lets nothing escape that would have to be logged. Only a task that
        # was cancelled and has not ended yet is kept here.
        self._cancelled: dict[asyncio.Task[None], None] = {}
        # Objects whose calls have a task that has not begun yet: what arrives for them in the
        # meantime must not overtake it.
        self._starting: dict[tuple[str, str], int] = {}
        self._expiry = Expiry(self.served, self._expire)

    @property
    def tasks(self) -> tuple[asyncio.Task[None], ...]:
        """What still runs, cancelled calls included."""
        tasks = [served.task for served in self.served.values() if served.task is not None]
        return (*(task for task in tasks if not task.done()), *self._cancelled)

    def start(self, target: CallTarget) -> None:
        self._target = target
        self._forward = getattr(target, "forward", None)

    # -- what arrives -------------------------------------------------------------------------

    def on_call(self, frame: CallFrame) -> None:
        number = frame.number
        if number in self.served or not 0 < number <= MAX_NUMBER:
            raise WireError(f"call {number} began twice, or its number is out of range")
        if frame.size and (frame.size < 0 or frame.payload):
            raise WireError(f"call {number} announces {frame.size} bytes")
        payload_bytes = frame.size or len(frame.payload)
        bounds = self.bounds
        remaining_ms = frame.remaining_ms
        if (
            payload_bytes > self.max_payload_bytes
            # Cancelled calls that still run count as well: otherwise a peer that calls and
            # cancels could start any number of them.
            or len(self.served) + len(self._cancelled) >= bounds.max_calls
            or self.bytes + payload_bytes > bounds.max_bytes
            or remaining_ms <= 0
        ):
            self._turn_down(number, payload_bytes)
            return
        if remaining_ms > MAX_REMAINING_MS:
            remaining_ms = MAX_REMAINING_MS
        deadline = self._now() + remaining_ms / 1000
        end = deadline + GRACE_S
        self.served[number] = served = Served(self, number, payload_bytes, end)
        self.bytes += payload_bytes
        if end < self._expiry.next:
            self._expiry.expect(end)
        if frame.size:
            self.arriving.begin(number, (frame, served), frame.size)
        else:
            self._begin(served, call_of(frame, frame.payload, deadline, self.peer_is_member))

    def on_chunk(self, frame: ChunkFrame) -> None:
        if (whole := self.arriving.add(frame)) is not None:
            (head, served), payload = whole
            deadline = served.deadline - GRACE_S
            self._begin(served, call_of(head, payload, deadline, self.peer_is_member))

    def on_cancel(self, number: int) -> None:
        served = self.served.get(number)
        if served is not None:
            self._give_up(served)
        elif self.outbox.streams:
            self.outbox.drop_stream(number, Of.REPLY)

    def _turn_down(self, number: int, payload_bytes: int) -> None:
        bounds = self.bounds
        error: GoverseError
        if payload_bytes > bounds.max_payload_bytes:
            text = f"arguments of {payload_bytes} bytes, the limit is {bounds.max_payload_bytes}"
            error = TooLarge(text)
        elif (
            len(self.served) + len(self._cancelled) >= bounds.max_calls
            or self.bytes + payload_bytes > bounds.max_bytes
        ):
            text = f"{len(self.served)} calls with {self.bytes} bytes are served on this link"
            error = Overloaded(text)
        else:
            error = DeadlineExceeded("the deadline passed on the way")
        if self.outbox.controls > bounds.max_calls + MAX_SPARE_CONTROLS:
            raise WireError("it sends calls and does not read the answers")
        self._put_error(number, error)

    # -- serving ------------------------------------------------------------------------------

    def _begin(self, served: Served, call: Call) -> None:
        served.call = call
        if self._forward is None or (self._starting and (call.type, call.id) in self._starting):
            self._begin_task(served, call)
            return
        try:
            under_way = self._forward(call, served)
        except Exception as error:
            self.answer_error(served, error)
            return
        if under_way is None:
            self._begin_task(served, call)
        elif served.answer is None:
            served.under_way = under_way

    def _begin_task(self, served: Served, call: Call) -> None:
        key = (call.type, call.id)
        self._starting[key] = self._starting.get(key, 0) + 1
        served.task = self._loop.create_task(self._run(served, call), name=self._task_name)

    def _started(self, call: Call) -> None:
        key = (call.type, call.id)
        left = self._starting[key] - 1
        if left:
            self._starting[key] = left
        else:
            del self._starting[key]

    async def _run(self, served: Served, call: Call) -> None:
        served.started = True
        self._started(call)
        error: Exception
        try:
            reply = await self._target.invoke(call)
            if not isinstance(reply, Reply):
                raise TypeError(f"answered by {type(reply).__name__}, not by a reply")
            served.succeed(reply)
            return
        except asyncio.CancelledError:
            # If it was us, the call has been released and nobody waits. Any other cancellation
            # came from inside, and then the caller does.
            error = Unavailable("the call was interrupted", executed=Executed.UNKNOWN)
        except Exception as raised:
            error = raised
        self.answer_error(served, error)

    def answer_error(self, served: Served, error: Exception) -> None:
        """As `Served.succeed`, for what `CallTarget.invoke` raises."""
        if isinstance(error, Fenced):
            # The lease is lost. Whatever is known of this call must not be told: a newer owner
            # may have it already. The process ends this link in a moment.
            log.warning("no answer to %s: %s", served.call, error)
            self.release(served)
            return
        if not isinstance(error, GoverseError):
            log.error("%s failed outside of its object", served.call, exc_info=error)
            error = Internal("internal error, see the log", executed=Executed.UNKNOWN)
        if self.served.get(served.number) is not served:
            return
        frame = error_frame(served.number, error, to_member=self.peer_is_member)
        served.answer = frame
        size = len(encode([frame]))
        served.size = _REPLY_HEAD_BYTES + size
        self.bytes += size - served.bytes
        served.bytes = size
        self.outbox.put(served)

    def too_large(self, size: int) -> TooLarge:
        limit = self.bounds.max_payload_bytes
        return TooLarge(f"a result of {size} bytes, the limit is {limit}", executed=Executed.YES)

    def _put_error(self, number: int, error: GoverseError) -> None:
        frame = error_frame(number, error, to_member=self.peer_is_member)
        self.outbox.put_control(frame)

    # -- ends ---------------------------------------------------------------------------------

    def release(self, served: Served) -> bool:
        """Free the slot. False if that was done before."""
        if self.served.get(served.number) is not served:
            return False
        del self.served[served.number]
        self.bytes -= served.bytes
        if not self.served:
            self._on_idle()
        return True

    def _expire(self, served: Served) -> None:
        """The time of a call is up and its target did not notice."""
        if served.answer is not None:
            return  # on its way out
        executed = Executed.NO if served.call is None else Executed.UNKNOWN
        self._give_up(served)
        late = DeadlineExceeded("the call did not end in time", executed=executed)
        self._put_error(served.number, late)

    def _give_up(self, served: Served) -> None:
        if not self.release(served):
            return
        task, call = served.task, served.call
        if call is None:
            self.arriving.drop(served.number)
        elif served.under_way is not None:
            served.under_way.cancel()
            served.under_way = None
        elif task is not None and not task.done():
            if not served.started:
                self._started(call)
                served.started = True
            self._cancelled[task] = None
            task.add_done_callback(self._forget)
            task.cancel()

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._cancelled[task]

    def close(self) -> None:
        """The link has ended: nobody waits for these calls any more."""
        self._expiry.stop()
        for served in tuple(self.served.values()):
            self._give_up(served)
