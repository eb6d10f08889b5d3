"""Who holds a shard that somebody wants alone, for how long, and how those that stay are removed.

Looked at only while a writer waits, or when somebody asks: a turn knows when it began, and
nothing else is written down for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from goverse.aio.seldom import Seldom
from goverse.errors import Executed, GoverseError, Unavailable
from goverse.objects.latch import Acquired, Holds, LatchObserver, Purpose, ShardState, Writer
from goverse.objects.turn import RUNNING, Turn, describe_chain

if TYPE_CHECKING:
    from goverse.objects.activation import Activation
    from goverse.objects.shard import Shard

log = logging.getLogger(__name__)

#: How long a cancelled turn may take to end.
GRACE_S = 1.0

#: Longest time between two looks at who holds a shard.
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Holder:
    """A turn or hook that has begun. ``since``: when, by the running loop."""

    activation: Activation
    turn: Turn
    since: float

    @property
    def method(self) -> str:
        """What it runs: a method, or what else is done to an object."""
        call = self.turn.call
        return call.method or call.verb.name.lower()

    def __str__(self) -> str:
        call = self.turn.call
        text = f"{call.type}/{call.id}.{self.method} (turn {self.turn.number or '-'}"
        return text + (f", call {call.call_id})" if call.call_id else ")")


def holders_of(activations: Iterable[Activation]) -> Iterator[Holder]:
    """Of everything that has begun and not ended; a hook begins when it takes the mailbox."""
    for activation in activations:
        hook = activation.hook
        if hook is not None:
            yield Holder(activation, hook, hook.started)
        for turn in activation.turns.values():
            if turn is not hook:
                yield Holder(activation, turn, turn.started)


def oldest_of(holders: Iterable[Holder]) -> Holder | None:
    """Who has begun first."""
    return min(holders, key=attrgetter("since"), default=None)


class Holders:
    """Lets writers wait for the shards of one node, and removes who holds them for too long.

    :param ending: told of an activation right before it is cut loose.
    """

    def __init__(
        self, holds: Holds, observer: LatchObserver | None, ending: Callable[[Activation], None]
    ) -> None:
        self.max_hold_s = holds.max_hold_s
        self._warn_after_s = holds.warn_after_s
        self._observer = observer
        self._ending = ending
        self._tell = Seldom()
        #: Dead, and something of them still runs.
        self._loose: dict[Activation, None] = {}

    async def wait_alone(self, shard: Shard, writer: Writer) -> bool:
        """Wait until ``writer`` has ``shard`` alone, or it is closed. False: called off."""
        how = Acquired.CANCELLED
        try:
            how = await self._wait(shard, writer)
        finally:
            self.ended(writer, how)
        return how is not Acquired.CALLED_OFF

    def ended(self, writer: Writer, how: Acquired) -> None:
        """``writer`` waits no more."""
        if self._observer is not None:
            seconds = asyncio.get_running_loop().time() - writer.since
            self._observer.acquired(writer.purpose.value, how.value, seconds)

    async def _wait(self, shard: Shard, writer: Writer) -> Acquired:
        loop = asyncio.get_running_loop()
        removal = _Removal(self, shard, writer)
        # Nobody has held it for long while it was wanted, if that is new.
        look_at = writer.wanted_at + min(self._warn_after_s, self.max_hold_s)
        while not await shard.wait_quiet(min(look_at, writer.deadline)):
            now = loop.time()
            if now >= writer.deadline:
                if not writer.sealed:
                    return Acquired.CALLED_OFF
                removal.remove_all()
                break
            look_at = removal.look(now)
        if shard.state is ShardState.CLOSED:
            return Acquired.LOST
        return Acquired.FORCED if removal.removed else Acquired.ACQUIRED

    def held_s(self, holder: Holder, writer: Writer, now: float) -> float:
        """For how long ``holder`` has kept ``writer`` waiting."""
        return now - max(holder.since, writer.wanted_at)

    def warn(self, shard: Shard, writer: Writer, oldest: Holder, now: float) -> bool:
        """Name ``oldest`` if it is time for that; whether it was."""
        held_s = self.held_s(oldest, writer, now)
        if held_s < self._warn_after_s or not self._tell.due():
            return False
        log.warning(
            "shard %d has been waited for for %.1f s, to be %s: %s has held it for %.1f s, the "
            "oldest of %d%s",
            shard.number,
            now - writer.wanted_at,
            _DONE[writer.purpose],
            oldest,
            now - oldest.since,
            shard.holders,
            describe_chain(oldest.turn.call),
            extra={
                "shard": shard.number,
                "object": f"{oldest.turn.call.type}/{oldest.turn.call.id}",
                "method": oldest.turn.call.method,
                "call": oldest.turn.call.call_id,
            },
        )
        return True

    def cancel(self, holder: Holder, reason: GoverseError) -> None:
        holder.turn.stop(reason)
        self._removed("cancelled")

    def cut_loose(self, holder: Holder, reason: GoverseError) -> None:
        """End its object; what of it still runs holds nothing any more."""
        activation = holder.activation
        log.error(
            "shard %d: %s did not end when it was told to, and is cut loose: its object is ended, "
            "and whatever it still does is refused",
            activation.shard.number,
            holder,
        )
        self._ending(activation)
        activation.discard(lambda turn: reason)
        self._loose = {one: None for one in self._loose if one.lingers}
        self._loose[activation] = None
        self._removed("cut_loose")

    def _removed(self, how: str) -> None:
        if self._observer is not None:
            self._observer.removed(how)

    def loose(self) -> list[Holder]:
        """Holders that were cut loose and have not ended."""
        return [*holders_of(one for one in self._loose if one.lingers)]


class _Removal:
    """What one wait of a writer does to those that hold the shard for too long."""

    def __init__(self, holders: Holders, shard: Shard, writer: Writer) -> None:
        self._holders = holders
        self._shard = shard
        self._writer = writer
        #: Turns that were cancelled, with the time until which they may end.
        self._told: dict[Turn, float] = {}
        #: Who was named last: once is enough.
        self._named: Turn | None = None
        self.removed = False

    def look(self, now: float) -> float:
        """Remove whoever has held for too long; when to look again."""
        found = [*holders_of(self._shard.activations.values())]
        max_hold_s = self._holders.max_hold_s
        next_at = now + _LOOK_S
        oldest = oldest_of(found)
        if (
            oldest is not None
            and oldest.turn is not self._named
            and self._holders.warn(self._shard, self._writer, oldest, now)
        ):
            self._named = oldest.turn
        for holder in found:
            removed_at = self._told.get(holder.turn)
            if removed_at is None:
                removed_at = max(holder.since, self._writer.wanted_at) + max_hold_s
            if now >= removed_at:
                self._remove(holder, now)
                removed_at = now + GRACE_S
            next_at = min(next_at, removed_at)
        return max(next_at, now)

    def _remove(self, holder: Holder, now: float) -> None:
        self.removed = True
        turn = holder.turn
        held_s = self._holders.held_s(holder, self._writer, now)
        if turn in self._told or turn.is_hook:
            if not holder.activation.dead:  # with another turn of it
                self._holders.cut_loose(holder, self._reason(holder, held_s))
        elif turn.state is RUNNING:
            log.error(
                "shard %d: %s has held it for %.1f s while it was to be %s, and is cancelled",
                self._shard.number,
                holder,
                held_s,
                _DONE[self._writer.purpose],
            )
            self._told[turn] = now + GRACE_S
            self._holders.cancel(holder, self._reason(holder, held_s))

    def remove_all(self) -> None:
        """Whoever is left, at the end of all patience."""
        now = asyncio.get_running_loop().time()
        for holder in [*holders_of(self._shard.activations.values())]:
            self.removed = True
            if not holder.activation.dead:
                held_s = self._holders.held_s(holder, self._writer, now)
                self._holders.cut_loose(holder, self._reason(holder, held_s))

    def _reason(self, holder: Holder, held_s: float) -> GoverseError:
        done = _DONE[self._writer.purpose]
        return Unavailable(
            f"{holder} was cut off: it had held shard {self._shard.number} for {held_s:.1f} s "
            f"while that was to be {done} (node.latch_max_hold)"
            f"{describe_chain(holder.turn.call)}",
            executed=Executed.UNKNOWN,
        )


_DONE = {Purpose.OPEN: "opened", Purpose.CLOSE: "closed", Purpose.HAND_OVER: "handed over"}
