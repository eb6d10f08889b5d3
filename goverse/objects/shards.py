"""The shards of one node: opened, closed in order, or discarded, each with what lives in it.

Who owns a shard decides when; here that is done, so that what runs, waits or is packed in it goes
the right way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.call import CallTarget
from goverse.config.settings import LimitSettings
from goverse.errors import Executed, Fenced, GoverseError, Outranked, Unavailable
from goverse.ids import NO_EPOCH, Epoch
from goverse.objects import outcome
from goverse.objects.activation import ACTIVE, Activation
from goverse.objects.autoload import Autoload, keep_trying
from goverse.objects.durability.service import Durability
from goverse.objects.holders import GRACE_S, Holders
from goverse.objects.idling import Idling
from goverse.objects.latch import Acquired, Holds, LatchObserver, Purpose, Writer
from goverse.objects.luggage import Arrivals, Courier, Luggage
from goverse.objects.recording import ReliableCalls
from goverse.objects.shard import HeldLimit, Shard, ShardState
from goverse.objects.turn import Turn

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moves:
    """How the state of volatile objects comes and goes with shards."""

    arrivals: Arrivals
    courier: Courier


class ShardsHost(CallTarget, Protocol):
    """What shards ask of the catalog."""

    def place_again(self, turns: list[Turn]) -> None:
        """Admit what was held back, in order."""
        ...


class Shards:
    """See `goverse.cluster.opening.ShardHost` for what ownership asks of it."""

    def __init__(
        self,
        host: ShardsHost,
        shard_of: Callable[[str], int],
        autoload: Autoload,
        idling: Idling,
        tasks: Tasks,
        limits: LimitSettings,
        runtime: Runtime,
        *,
        durability: Durability | None,
        reliable: ReliableCalls | None,
        moves: Moves | None,
        holds: Holds | None,
        latch_observer: LatchObserver | None,
    ) -> None:
        self.by_number: dict[int, Shard] = {}
        self.stopped = False
        self.held_limit = HeldLimit(limits.max_waiting_calls)
        self.holders = Holders(holds or Holds(), latch_observer, self._cut_off)
        self._host = host
        self._shard_of = shard_of
        self._autoload = autoload
        self._idling = idling
        self._tasks = tasks
        self._runtime = runtime
        self._create_timeout_s = limits.default_create_timeout_s
        self._durability = durability
        self._reliable = reliable
        self._moves = moves
        self._now = asyncio.get_running_loop().time
        #: The newest epoch known of shards that were open here: what NotOwner tells.
        self._epochs: dict[int, Epoch] = {}

    def epoch_of(self, shard: int) -> Epoch:
        """The newest one known, or `NO_EPOCH`."""
        return self._epochs.get(shard, NO_EPOCH)

    def begin_opening(self, shard: int, epoch: Epoch) -> None:
        """The claim is held: arriving calls wait from now on. An older opening is dropped.

        Raises Outranked for an epoch below the one known, Unavailable after `stop`.
        """
        if self.stopped:
            raise Unavailable(f"shard {shard}: this node is stopping")
        known = self.epoch_of(shard)
        if epoch < known:
            raise Outranked(f"shard {shard}: epoch {epoch} is older than {known}", known)
        current = self.by_number.get(shard)
        if current is not None:
            if current.epoch == epoch:
                return
            # Another claim: what ran or waited under the old one is not carried over.
            self._discard(current, _superseded)
        self._epochs[shard] = epoch
        self.by_number[shard] = Shard(shard, epoch, self.held_limit, now=self._now())

    async def open_shard(self, shard: int, epoch: Epoch, *, released: Epoch = NO_EPOCH) -> None:
        """Let calls in, those that waited first. Raises Outranked, Unavailable.

        :param released: the epoch right before this one, if its owner has certainly given it up in
            an orderly way.
        """
        self.begin_opening(shard, epoch)
        opening = self.by_number[shard]
        if opening.state is not ShardState.OPENING:
            return
        if self._durability is not None:
            opening.opening = await self._durability.open_shard(shard, epoch)
            if not self._still_opening(opening):
                return  # lost, or superseded, while its fence was being raised
        reliable = self._reliable
        if reliable is not None:
            await reliable.opening(opening, released=released != NO_EPOCH)
            if not self._still_opening(opening):
                return
        if self._moves is not None:
            opening.luggage = self._moves.arrivals.open(shard, released)
            self._idling.check_luggage(opening)
        writer = opening.writer
        self._let_in(opening)
        if writer is not None:
            self.holders.ended(writer, Acquired.ACQUIRED)
        if reliable is not None:
            reliable.opened(opening)
        timeout_s = self._create_timeout_s
        for id in self._autoload.objects_of(shard, self._shard_of):
            trying = keep_trying(id, opening, self._host, self._runtime, timeout_s)
            self._tasks.spawn(f"autoload {id}", trying)

    def _still_opening(self, shard: Shard) -> bool:
        return self.by_number.get(shard.number) is shard and shard.state is ShardState.OPENING

    def _let_in(self, shard: Shard) -> None:
        # Placed here, at once and in order: their tasks wake later, and a call that arrives in
        # between must not overtake them.
        shard.state, shard.writer = ShardState.OPEN, None
        shard.departing = False
        self._host.place_again(shard.take_held())
        shard.changed()

    async def close_shard(
        self, shard: int, *, drain_timeout_s: float, wanted_s: float = 0.0
    ) -> bool:
        """Close in an orderly way. False: turns ran past the timeout, and it is open again.

        Calls that begin a chain wait meanwhile, in order, also those in mailboxes: closed, they
        go back with NotOwner; called off, they go on here.

        :param wanted_s: for how long this has been wanted, by attempts that were called off. From
            `Holds.max_hold_s` on it is not called off any more, and takes no longer than that.
        """
        closing = self.by_number.get(shard)
        if closing is None:
            return True
        if closing.draining:
            if self.stopped:
                return False  # `stop` closes it, and its claim ends with the process
            raise RuntimeError(f"shard {shard} is being closed already")
        if closing.state is ShardState.OPEN:
            away = self._moves is not None and self._moves.courier.leads_away(shard)
            purpose = Purpose.HAND_OVER if away else Purpose.CLOSE
            closing.want(self._writer(purpose, drain_timeout_s, wanted_s))
            if away:
                closing.departing = True
                closing.luggage = closing.luggage or Luggage()
            closed = False
            try:
                closed = await self._drain(closing, drain_timeout_s)
            finally:
                if closing.draining and not closed:
                    self._let_in(closing)
            if not closed:
                return False
            if closing.draining and closing.departing:
                await self._send(closing)
        if closing.state is not ShardState.CLOSED:
            self._discard(closing, _stopping)
        return True

    async def _send(self, shard: Shard) -> None:
        """Let the state of its objects go where ``shard`` goes. Nothing is admitted any more: it
        would run on a state that has been sent."""
        moves, leaving = self._moves, shard.luggage
        assert moves is not None and leaving is not None
        shard.state = ShardState.LEAVING
        for activation in list(shard.activations.values()):
            if activation.object_id not in leaving:
                self._cut_off(activation)
            activation.discard(_stopping)
        if leaving:
            await moves.courier.deliver(shard.number, shard.epoch, leaving)
        shard.luggage = None  # whatever became of it is counted

    def _cut_off(self, activation: Activation) -> None:
        """It is about to be ended before its state could be taken along."""
        if (
            self._moves is not None
            and activation.shard.departing
            and activation.object_type.packed is not None
        ):
            self._moves.arrivals.count("cut_off")

    def _writer(self, purpose: Purpose, timeout_s: float, wanted_s: float = 0.0) -> Writer:
        now = self._now()
        max_hold_s = self.holders.max_hold_s
        if wanted_s < max_hold_s:
            return Writer(purpose, now, now - wanted_s, now + timeout_s)
        return Writer(purpose, now, now - wanted_s, now + max_hold_s + GRACE_S, sealed=True)

    async def _drain(self, shard: Shard, timeout_s: float) -> bool:
        """Wait until no turn runs, then end the activations; False if turns ran too long."""
        writer = shard.writer
        assert writer is not None, "whoever drains a shard wants it"
        if not await self.holders.wait_alone(shard, writer):
            return False
        # From here on the move is not called off any more: objects have been told to end.
        deadline = self._now() + timeout_s
        while shard.activations and shard.draining:
            for activation in list(shard.activations.values()):
                # A hook that runs may have called an object here, and made it busy again.
                if activation.mailbox.idle and activation.state is ACTIVE:
                    activation.begin_deactivation()
            if not await shard.wait_quiet(deadline):
                log.warning(
                    "shard %d: %d objects did not end within %.1f s and are cut off",
                    shard.number,
                    len(shard.activations),
                    timeout_s,
                )
                break
        return True

    def discard_all(self, reason: str) -> None:
        """The lease is lost: end everything now. Nothing leaves afterwards."""
        if self.by_number:
            objects = sum(len(shard.activations) for shard in self.by_number.values())
            log.warning("discarding %d objects: %s", objects, reason)
        for shard in list(self.by_number.values()):
            self._discard(shard, lambda turn: Fenced(f"{turn.call}: {reason}"))

    def _discard(self, shard: Shard, reason: outcome.Reason) -> None:
        if shard.is_opening and shard.writer is not None:
            self.holders.ended(shard.writer, Acquired.LOST)
        shard.state, shard.writer = ShardState.CLOSED, None
        if self.by_number.get(shard.number) is shard:
            del self.by_number[shard.number]
        for activation in list(shard.activations.values()):
            activation.discard(reason)
        for turn in shard.take_held():
            turn.room = None
            turn.refuse(shard.not_owner())
        if shard.luggage is not None:
            self._leave_behind(shard.luggage)
        if self._reliable is not None:
            self._reliable.closed(shard)
        shard.changed()
        shard.wake()

    def _leave_behind(self, luggage: Luggage) -> None:
        """Its shard has gone without it."""
        luggage.close()
        if luggage and self._moves is not None:
            self._moves.arrivals.count("left_behind", len(luggage))

    async def stop(self, timeout_s: float) -> None:
        """Close all, and open none any more: turns may end, then they are cut off."""
        self.stopped = True
        deadline = self._now() + timeout_s
        shards = list(self.by_number.values())
        # All of them first: a turn on one shard may wait for an object on another.
        for shard in shards:
            if shard.state is ShardState.OPEN:
                shard.want(self._writer(Purpose.CLOSE, timeout_s))
            elif shard.draining:
                shard.writer = self._writer(Purpose.CLOSE, timeout_s)  # whoever wanted it before
        for shard in shards:
            remaining_s = max(0.0, deadline - self._now())
            if shard.draining:
                await self._drain(shard, remaining_s)
            self._discard(shard, _stopping)


def _stopping(turn: Turn) -> GoverseError:
    text = f"{turn.call}: cut off while its shard closed"
    return Unavailable(text, executed=Executed.UNKNOWN)


def _superseded(turn: Turn) -> GoverseError:
    return Fenced(f"{turn.call}: its shard has another epoch now")
