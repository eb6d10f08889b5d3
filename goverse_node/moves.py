"""State that goes with a shard, from node to node.

::

    Catalog ──deliver()──> NodeMoves ══ link, Verb.MOVE ══> NodeLink ──accept()──> Arrivals
                              │                                 │
                   the target of the moment,            only from the node whose claim
                   within a bounded time                of that epoch the view shows

Nothing here holds a move up for long or fails it: what cannot be taken along is counted, logged
once per move, and left behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from goverse.call import Call, Forwarded, Receiver, Reply, Verb
from goverse.cluster.member import NodeMember
from goverse.cluster.records import MemberRecord, MemberState
from goverse.cluster.state import ViewChange
from goverse.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    GoverseError,
    InvalidArgument,
    LinkBroken,
    Unavailable,
)
from goverse.ids import Epoch, MemberId
from goverse.objects import Catalog, encoding
from goverse.objects.luggage import Arrivals, Luggage, Observer, Piece
from goverse.sharding import NODE_SHARD
from goverse.transport.hello import MOVE_STATE
from goverse.transport.pool import LinkPool

log = logging.getLogger(__name__)

LANES = 8
"""Shards whose state is on its way at one time; the others wait for their turn."""

_pieces = msgspec.msgpack.Decoder(Piece)


class NodeMoves:
    """A `Courier`, and the one who takes what others' couriers bring.

    :param timeout_s: how long a shard may wait for its state to be sent, its turn included; 0:
        nothing is sent.
    """

    def __init__(
        self,
        member: NodeMember,
        pool: LinkPool,
        arrivals: Arrivals,
        observer: Observer,
        *,
        timeout_s: float,
    ) -> None:
        self._member = member
        self._pool = pool
        self._arrivals = arrivals
        self._observer = observer
        self._timeout_s = timeout_s
        self._lanes = asyncio.Semaphore(LANES)
        member.view.subscribe(self._on_view)

    # -- what leaves

    def leads_away(self, shard: int) -> bool:
        if shard == NODE_SHARD or not self._timeout_s:
            return False
        target = self._target(shard)
        return target is not None and target.member != self._member.membership.member

    def _target(self, shard: int) -> MemberRecord | None:
        """The node that is to have ``shard``, if it takes shards."""
        state = self._member.view.state
        target = state.targets.get(shard)
        record = state.nodes.get(target.node) if target is not None else None
        return record if record is not None and record.state is MemberState.ACTIVE else None

    async def deliver(self, shard: int, epoch: Epoch, luggage: Luggage) -> None:
        objects = len(luggage)
        sending = _Sending(self, shard, epoch, luggage)
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        reason, detail = "", ""
        try:
            async with asyncio.timeout_at(deadline), self._lanes:
                await sending.run(deadline)
        except TimeoutError:
            reason, detail = "timeout", f"it was not there within {self._timeout_s:g} s"
        except GoverseError as error:
            reason, detail = _reason(error), str(error)
        except Exception as error:
            log.exception("shard %d: its state cannot be sent", shard)
            reason, detail = "failed", repr(error)
        if sending.sent:
            self._observer.moved("sent", sending.sent)
        if sending.sent < objects:
            self._observer.moved(reason, objects - sending.sent)
            log.warning(
                "shard %d moves without the state of %d of its %d objects, which begin afresh: %s",
                shard,
                objects - sending.sent,
                objects,
                detail,
            )

    async def send(self, piece: Piece, deadline: float) -> None:
        """To the target of this moment. Raises why it has not certainly arrived."""
        record = self._target(piece.shard)
        if record is None:
            raise _NoTarget(f"shard {piece.shard} has no target that takes shards any more")
        if not self._member.valid():
            raise Unavailable("this node's lease has ended")
        if record.member == self._member.membership.member:
            self._arrivals.add(piece)  # it is to come back to where it is
            return
        hello = await self._pool.greeting(record.member, record.address, deadline)
        if MOVE_STATE not in hello.features:
            raise _TooOld(f"{record.member} is of a version that takes no state")
        payload = msgspec.msgpack.encode(piece)
        call = Call("", "", "", payload, deadline, verb=Verb.MOVE)
        await self._pool.target(record.member, record.address).invoke(call)

    # -- what comes

    async def accept(self, call: Call, peer: MemberId) -> Reply:
        """Keep what ``peer`` sends of a shard that it gives up.

        Raises InvalidArgument, FailedPrecondition, Unavailable, Overloaded.
        """
        try:
            piece = _pieces.decode(call.payload)
        except encoding.DECODE_ERRORS as error:
            raise InvalidArgument(f"state of a moving shard: {error}") from None
        view = self._member.view
        remaining_s = call.deadline - asyncio.get_running_loop().time()
        await view.wait_for(lambda: view.revision >= piece.epoch.revision, timeout_s=remaining_s)
        # From here on without an await: the claim stands at this step of the view.
        if not self._member.valid():
            raise Unavailable("this node's lease has ended")
        claim = view.state.claims.get(piece.shard)
        if claim is None or claim.member != peer or claim.epoch != piece.epoch:
            raise FailedPrecondition(f"{peer} does not own shard {piece.shard} at {piece.epoch}")
        self._arrivals.add(piece)
        return Reply(b"", call.codec)

    def _on_view(self, change: ViewChange) -> None:
        """Drop what can never be used: it could only be used under the very next claim."""
        if not len(self._arrivals):
            return
        state, me = self._member.view.state, self._member.membership.member
        for shard, epoch in self._arrivals.shards():
            claim = state.claims.get(shard)
            if claim is not None:
                if claim.epoch != epoch and claim.member != me:
                    self._arrivals.drop(shard, "superseded")
            elif state.released.get(shard) != epoch and state.revision >= epoch.revision:
                reason = "unsure" if change.replaced else "source_lost"
                self._arrivals.drop(shard, reason)

    def discard(self) -> None:
        """The lease is lost."""
        self._arrivals.drop_all("lease_lost")


class _Sending:
    """One shard's state on its way. ``sent`` counts the objects that have certainly arrived."""

    def __init__(self, moves: NodeMoves, shard: int, epoch: Epoch, luggage: Luggage) -> None:
        self._moves = moves
        self._shard = shard
        self._epoch = epoch
        self._luggage = luggage
        self.sent = 0

    async def run(self, deadline: float) -> None:
        for objects in self._luggage.pieces(asyncio.get_running_loop().time()):
            await self._moves.send(Piece(self._shard, self._epoch, objects), deadline)
            self.sent += len(objects)


class NodeLink:
    """Takes the calls that arrive on another node's link: a `Forwarder`.

    State of moving shards is believed only here, where it is known which node sends it; calls go to
    the catalog as from everybody.
    """

    def __init__(self, catalog: Catalog, moves: NodeMoves, peer: MemberId) -> None:
        self._catalog = catalog
        self._moves = moves
        self._peer = peer
        #: The catalog's own: the path of a call is no longer than on a gate's link.
        self.forward: Callable[[Call, Receiver], Forwarded | None] = catalog.forward

    # A plain function that hands on the coroutine, as `Link.invoke`.
    def invoke(self, call: Call) -> Coroutine[Any, Any, Reply]:
        if call.verb is Verb.MOVE:
            return self._moves.accept(call, self._peer)
        return self._catalog.invoke(call)


class _NoTarget(FailedPrecondition):
    """Nobody is to take the shard any more."""


class _TooOld(FailedPrecondition):
    """The target does not know what to do with state."""


def _reason(error: GoverseError) -> str:
    """The bounded word under which a failure is counted."""
    match error:
        case _NoTarget():
            return "no_target"
        case _TooOld():
            return "too_old"
        case LinkBroken():
            return "no_link"
        case DeadlineExceeded():
            return "timeout"
        case _:
            return "refused"
