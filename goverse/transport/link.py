"""One connection to another process, multiplexed: calls in both directions over one stream.

::

          _begin                       peer says goodbye
    open ─────────> both sides call ────────────────────> no new calls from here
                        │    │ close()                        │
                        │    └──> goodbye, acknowledged, all calls answered, END ──┐
                        │ abort(): stream broken, silent peer, bad message, lease  │
                        └──────────────────────────> closed <──────────────────────┘
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from goverse.aio.limits import Limit
from goverse.call import Call, CallTarget, Forwarded, Receiver, Reply
from goverse.errors import GoverseError
from goverse.transport.carrier import Carrier
from goverse.transport.heartbeat import Heartbeat
from goverse.transport.hello import (
    SKIP_UNKNOWN_FRAMES,
    Hello,
    Role,
    both,
    refusal_of,
    shake_hands,
    turn_away,
)
from goverse.transport.inbound import MAX_SPARE_CONTROLS, Inbound
from goverse.transport.link_config import LinkConfig, LinkSnapshot, max_message_bytes
from goverse.transport.outbox import Outbox
from goverse.transport.outgoing import Bounds, Outgoing
from goverse.transport.pump import Pump
from goverse.transport.wire import (
    CallFrame,
    CancelFrame,
    ChunkFrame,
    ErrorFrame,
    Frame,
    GoodbyeFrame,
    HelloFrame,
    Of,
    PingFrame,
    ReplyFrame,
    Stage,
    WireError,
)

__all__ = ["Link", "LinkConfig", "LinkSnapshot", "open_link"]

log = logging.getLogger(__name__)

_TASKS_END_S = 5.0
"""How long cancelled tasks may take to end before they are reported."""


async def open_link(
    carrier: Carrier,
    hello: Hello,
    serve: Callable[[Hello, Link], CallTarget],
    config: LinkConfig,
    *,
    on_hello: Callable[[Hello], Hello] | None = None,
) -> Link:
    """Greet the other side and return the link.

    :param hello: who we are.
    :param serve: gives the target of the peer's calls; what it raises refuses the link.
    :param on_hello: an acceptor's hello in answer to the peer's, instead of ``hello``.

    Raises `LinkBroken` (not sent) if the stream fails or the peer does not answer in time, and
    the `GoverseError` with which either side refused it.
    """
    # Whoever is silent longer than a heartbeat may be is dead, here as later.
    timeout_s = min(config.limits.connection_timeout_s, config.limits.heartbeat_timeout_s)
    term = config.term()  # the one that our hello speaks of
    mine, theirs = await shake_hands(carrier, hello, timeout_s, on_hello)
    link = Link(carrier, mine, theirs, config, term)
    try:
        target = serve(theirs, link)
    except GoverseError as error:
        refusal = error
    except BaseException:
        link.abort("its server failed")
        raise
    else:
        link.start(target)
        return link
    await turn_away(carrier, refusal)
    link.abort(f"refused: {refusal}")
    raise refusal


class Link:
    """A `goverse.call.CallTarget`: what is invoked on it happens on the other side.

    Made by `open_link`.
    """

    def __init__(
        self, carrier: Carrier, mine: Hello, theirs: Hello, config: LinkConfig, term: object
    ) -> None:
        limits = config.limits
        is_session = Role.CLIENT in (mine.role, theirs.role)
        bounds = Bounds(
            limits.max_session_calls if is_session else limits.max_inflight_calls,
            limits.max_inflight_bytes,
            limits.max_payload_bytes,
            limits.max_chunk_bytes,
        )
        self.peer = theirs
        self.peer_address = carrier.peer
        self.name = f"{config.name}->{theirs.member.name or theirs.member.incarnation[:8]}"
        self._carrier = carrier
        self._bounds = bounds
        self._limits = limits
        self._term = config.term
        self._own_term = term
        self._skip_unknown = both(mine, theirs, SKIP_UNKNOWN_FRAMES)
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(
            max_batch_bytes=limits.max_batch_bytes,
            max_chunk_bytes=limits.max_chunk_bytes,
            on_streams_end=self._check_drained,
        )
        self._outgoing = Outgoing(
            self._outbox,
            bounds,
            replies_from_member=theirs.is_member,
            on_idle=self._check_drained,
        )
        self._inbound = Inbound(
            self._outbox,
            bounds,
            peer_is_member=theirs.is_member,
            name=self.name,
            on_idle=self._check_drained,
        )
        self._heartbeat = Heartbeat(
            interval_s=limits.heartbeat_interval_s,
            timeout_s=limits.heartbeat_timeout_s,
            send=self._ping,
            on_silence=self.abort,
        )
        self._pump = Pump(
            carrier,
            self._outbox,
            self._heartbeat,
            may_send=self._in_term,
            take=self._take,
            end=self.abort,
        )
        self._reason = ""
        self._end_reason = ""
        self._closing = False
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._on_closed: list[Callable[[Link], None]] = []
        self._on_goodbye: list[Callable[[Link], None]] = []
        self._said_goodbye = False
        self._peer_understood = False
        self._drained: asyncio.Future[None] = self._loop.create_future()

    def start(self, target: CallTarget) -> None:
        """Begin to read and write; ``target`` takes the peer's calls."""
        self._inbound.start(target)
        self._heartbeat.start()
        self._pump.start(max_bytes=max_message_bytes(self._limits), skip_unknown=self._skip_unknown)

    # A plain function that hands on the coroutine: one frame less for every call to pass.
    def invoke(self, call: Call) -> Coroutine[Any, Any, Reply]:
        """Carry ``call`` out on the other side.

        Raises what was raised there; `LinkBroken` if the link ends first or takes no calls;
        `Overloaded`, `TooLarge` and `DeadlineExceeded` of this side.
        """
        return self._outgoing.invoke(call)

    def forward(self, call: Call, receiver: Receiver) -> Forwarded:
        """See `goverse.call.Forwarder`; never declines. Raises as `invoke` does."""
        return self._outgoing.forward(call, receiver)

    @property
    def takes_calls(self) -> bool:
        """False once the peer has said goodbye, or the link is closing or closed."""
        return not self._outgoing.refusal

    def add_close_callback(self, callback: Callable[[Link], None]) -> None:
        """Have ``callback(link)`` called when the link has ended; at once if it has already."""
        if self._reason:
            callback(self)
        else:
            self._on_closed.append(callback)

    def add_goodbye_callback(self, callback: Callable[[Link], None]) -> None:
        """Have ``callback(link)`` called when the peer asks for no new calls."""
        self._on_goodbye.append(callback)

    # -- ends ---------------------------------------------------------------------------------

    def goodbye(self) -> None:
        """Ask the peer for no new calls. Those under way, in both directions, go on."""
        if not self._said_goodbye and not self._reason:
            self._said_goodbye = True
            self._outbox.put_control(GoodbyeFrame(Stage.NO_NEW_CALLS))

    async def close(self, timeout_s: float) -> None:
        """Say goodbye, let all calls in both directions end, then end the link; abort it when
        that takes longer than ``timeout_s``, or when the closing is cancelled."""
        timer = self._loop.call_later(timeout_s, self.abort, f"not closed within {timeout_s:g} s")
        try:
            self._outgoing.refuse(f"the link to {self.peer} is closing")
            self.goodbye()
            self._closing = True
            self._check_drained()
            await asyncio.shield(self._drained)
            self._end_reason = "closed"
            self._outbox.put_control(GoodbyeFrame(Stage.END))
            # The peer ends the stream when it has read this: then it has read everything.
            await self.wait_closed()
        except asyncio.CancelledError:
            self.abort("its closing was cancelled")
            raise
        finally:
            timer.cancel()

    def abort(self, reason: str) -> None:
        """End it now. Waiting calls raise `LinkBroken`; what still arrives is ignored."""
        if self._reason:
            return
        self._reason = self._end_reason or reason or "aborted"
        self._pump.stop()
        log.debug("link to %s (%s) ended: %s", self.peer, self.peer_address, self._reason)
        self._carrier.abort(self._reason)
        self._heartbeat.stop()
        self._outbox.close()
        self._outgoing.close(f"link to {self.peer}: {self._reason}")
        self._inbound.close()
        if not self._drained.done():
            self._drained.set_result(None)
        self._closed.set_result(None)
        for callback in self._on_closed:
            callback(self)

    async def wait_closed(self) -> str:
        """Wait until the link has ended and its calls with it; returns why it ended."""
        await asyncio.shield(self._closed)
        current = asyncio.current_task()
        tasks = [task for task in self._inbound.tasks if task is not current]
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=_TASKS_END_S)
            if stuck:
                log.error("%s: %d cancelled calls do not end", self.name, len(stuck))
        return self._reason

    def snapshot(self) -> LinkSnapshot:
        if self._reason:
            state = f"closed: {self._reason}"
        else:
            state = "closing" if self._said_goodbye or not self.takes_calls else "open"
        outgoing, inbound, outbox = self._outgoing, self._inbound, self._outbox
        return LinkSnapshot(
            peer=self.peer,
            peer_address=self.peer_address,
            state=state,
            waiting_calls=len(outgoing.slots),
            waiting_bytes=outgoing.bytes,
            served_calls=len(inbound.served),
            served_bytes=inbound.bytes,
            running_tasks=len(inbound.tasks),
            queued_frames=len(outbox.items),
            streams=len(outbox.streams),
            assemblies=len(outgoing.replies.parts) + len(inbound.arriving.parts),
            messages_sent=self._pump.messages_sent,
            messages_received=self._pump.messages_received,
            silent_s=self._heartbeat.silent_s,
        )

    def limits(self) -> Iterator[Limit]:
        bounds, outgoing, inbound = self._bounds, self._outgoing, self._inbound
        calls = bounds.max_calls
        cancelled = len(inbound.tasks) - sum(s.task is not None for s in inbound.served.values())
        yield Limit("link.calls_out", len(outgoing.slots), calls)
        yield Limit("link.bytes_out", outgoing.bytes, bounds.max_bytes)
        yield Limit("link.calls_in", len(inbound.served) + max(0, cancelled), calls)
        yield Limit("link.bytes_in", inbound.bytes, bounds.max_bytes)
        # Two per call of ours, one per call of the peer, one per cancel, and the refusals.
        frames = 5 * calls + MAX_SPARE_CONTROLS
        yield Limit("link.queued_frames", len(self._outbox.items), frames)
        yield Limit("link.streams", len(self._outbox.streams), 2 * calls)
        yield Limit("link.replies_arriving_bytes", outgoing.replies.bytes, bounds.max_bytes)
        yield Limit("link.calls_arriving_bytes", inbound.arriving.bytes, bounds.max_bytes)

    def _check_drained(self) -> None:
        if (
            self._closing
            and self._peer_understood
            and not self._outgoing.slots
            and not self._inbound.served
            and not self._outbox.streams  # a large reply is out when its last piece is
            and not self._drained.done()
        ):
            self._drained.set_result(None)

    def _in_term(self) -> bool:
        return self._term() == self._own_term

    def _ping(self) -> None:
        if not self._outbox.items:  # a carrier that takes nothing must not pile up pings
            self._outbox.put_control(PingFrame())

    # -- what arrives -------------------------------------------------------------------------

    def _take(self, frames: list[Frame]) -> None:
        on_call, on_reply = self._inbound.on_call, self._outgoing.on_reply
        for frame in frames:
            kind = type(frame)
            if kind is CallFrame:
                on_call(frame)  # type: ignore[arg-type]
            elif kind is ReplyFrame:
                on_reply(frame)  # type: ignore[arg-type]
            else:
                self._take_rare(frame)
                if self._reason:
                    return

    def _take_rare(self, frame: Frame) -> None:
        match frame:
            case ErrorFrame(number=0):
                self.abort(refusal_of(frame))
            case ErrorFrame():
                self._outgoing.on_error(frame)
            case ChunkFrame(of=Of.CALL):
                self._inbound.on_chunk(frame)
            case ChunkFrame():
                self._outgoing.on_chunk(frame)
            case CancelFrame():
                self._inbound.on_cancel(frame.number)
            case GoodbyeFrame(stage=Stage.NO_NEW_CALLS):
                self._outgoing.refuse(f"{self.peer} is closing")
                self._outbox.put_control(GoodbyeFrame(Stage.UNDERSTOOD))
                for callback in self._on_goodbye:
                    callback(self)
            case GoodbyeFrame(stage=Stage.UNDERSTOOD):
                self._peer_understood = True
                self._check_drained()
            case GoodbyeFrame():
                self.abort("the peer closed it")
            case HelloFrame():
                raise WireError("a second hello")
