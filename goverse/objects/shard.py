"""One shard as the catalog sees it.

A latch (`goverse.objects.latch`), and what is held back while a writer has it or wants it::

    (not here) ──begin_opening──► OPENING ──opened──► OPEN ◄──called off──┐
                                     │                  │                 │
                                     │                  └──drain──► DRAINING
                                     ▼                                │   │ quiet, and objects
                                  CLOSED ◄──quiet, or discarded───────┘   │ have a state to take
                                     ▲                                    ▼ along
                                     └────────sent, or given up─────── LEAVING

While it is OPENING or LEAVING it holds every call back; while DRAINING, those that begin a chain,
because some turn that still runs may wait for the others; sealed, all that no turn which runs here
waits for. What is held back keeps its order.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

from goverse.call import Call
from goverse.errors import DeadlineExceeded, NotOwner, Overloaded
from goverse.ids import Epoch
from goverse.objects.durability.fences import Opening
from goverse.objects.latch import OPEN, Latch, ShardState, Writer
from goverse.objects.turn import Turn

if TYPE_CHECKING:
    from goverse.objects.activation import Activation
    from goverse.objects.luggage import Luggage


__all__ = ["OPEN", "HeldLimit", "Shard", "ShardState"]


class HeldLimit:
    """How many calls all shards of a node hold back together."""

    __slots__ = ("held", "max_held")

    def __init__(self, max_held: int) -> None:
        self.max_held = max_held
        self.held = 0


class Shard(Latch):
    """A shard that this node has a claim on, under one epoch."""

    __slots__ = (
        "_changed",
        "_held",
        "_limit",
        "activations",
        "busy_s",
        "departing",
        "epoch",
        "luggage",
        "metered_busy_s",
        "metered_turns",
        "number",
        "opening",
        "turns",
    )

    def __init__(self, number: int, epoch: Epoch, limit: HeldLimit, *, now: float = 0.0) -> None:
        super().__init__(now)
        self.number = number
        self.epoch = epoch
        #: Under which fence its objects are written; None without a store.
        self.opening: Opening | None = None
        self.activations: dict[tuple[str, str], Activation] = {}
        #: Objects that are not active and have a state all the same; most shards have none.
        self.luggage: Luggage | None = None
        #: Whether the state of what is deactivated now goes along to another node.
        self.departing = False
        #: Turns that have ended here, and how long they took in all.
        self.turns = 0
        self.busy_s = 0.0
        #: What of that has been reported.
        self.metered_turns = 0
        self.metered_busy_s = 0.0
        self._held: OrderedDict[Turn, None] = OrderedDict()
        self._limit = limit
        self._changed: dict[asyncio.Future[None], None] = {}

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def is_opening(self) -> bool:
        return self.state is ShardState.OPENING

    @property
    def is_open(self) -> bool:
        return self.state is ShardState.OPEN or self.state is ShardState.DRAINING

    @property
    def draining(self) -> bool:
        return self.state is ShardState.DRAINING

    def not_owner(self) -> NotOwner:
        return NotOwner(f"shard {self.number} is not open here", epoch=self.epoch)

    def holds_back(self, turn: Turn) -> bool:
        """Whether ``turn`` must wait for this shard rather than for its object."""
        if self.state is ShardState.DRAINING:
            if not turn.call.chain:
                return True
            return self.writer is not None and self.writer.sealed and not self.is_awaited(turn)
        return self.state is not ShardState.OPEN

    def is_awaited(self, turn: Turn) -> bool:
        """Whether a turn that runs here waits for ``turn``, by its chain."""
        for entry in turn.call.chain:
            activation = self.activations.get((entry.type, entry.id))
            if activation is not None and entry.turn in activation.turns:
                return True
        return False

    def want(self, writer: Writer) -> None:
        """``writer`` waits from now on: what it need not wait for is held back."""
        self.state, self.writer = ShardState.DRAINING, writer
        for activation in list(self.activations.values()):
            for turn in activation.take_waiting(self.holds_back):
                self.keep(turn)

    def apart(self, holders: int) -> Shard:
        """A closed shard for so many of the holders: their object is dead, and nobody waits for
        them here any more, nor notices their end."""
        apart = Shard(self.number, self.epoch, self._limit)
        apart.state, apart.writer = ShardState.CLOSED, None
        apart.opening, apart.holders = self.opening, holders
        self.holders -= holders
        self.wake()
        return apart

    def hold(self, turn: Turn) -> None:
        """Keep ``turn`` waiting. Raises Overloaded."""
        if self._limit.held >= self._limit.max_held:
            raise Overloaded(
                f"{turn.call}: {self._limit.held} calls wait already for shards to open"
            )
        self.keep(turn)

    async def wait_change(self, call: Call) -> None:
        """Return when it has been opened or closed. Raises Overloaded, DeadlineExceeded."""
        limit = self._limit
        if limit.held >= limit.max_held:
            raise Overloaded(f"{call}: {limit.held} calls wait already for shards to open")
        limit.held += 1
        waiting = asyncio.get_running_loop().create_future()
        self._changed[waiting] = None
        try:
            async with asyncio.timeout_at(call.deadline):
                await waiting
        except TimeoutError:
            raise DeadlineExceeded(
                f"{call}: shard {self.number} was not open before its deadline"
            ) from None
        finally:
            limit.held -= 1
            self._changed.pop(waiting, None)  # it has gone already if the change came meanwhile

    def changed(self) -> None:
        """Let `wait_change` look again."""
        waiting, self._changed = self._changed, {}
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def keep(self, turn: Turn) -> None:
        """`hold` for a turn that was accepted before: no limit applies."""
        self._limit.held += 1
        self._held[turn] = None
        turn.room = self

    def withdraw(self, turn: Turn) -> None:
        """``turn`` was given up while it was held."""
        if turn in self._held:
            del self._held[turn]
            self._limit.held -= 1

    def take_held(self) -> list[Turn]:
        turns = list(self._held)
        self._held.clear()
        self._limit.held -= len(turns)
        return turns
