"""One shard as the catalog sees it.

::

    (not here) ──begin_opening──► OPENING ──opened──► OPEN ◄──called off──┐
                                     │                  │                 │
                                     │                  └──drain──► DRAINING
                                     ▼                                │   │ quiet, and objects
                                  CLOSED ◄──quiet, or discarded───────┘   │ have a state to take
                                     ▲                                    ▼ along
                                     └────────sent, or given up─────── LEAVING

While it is OPENING or LEAVING it holds every call back; while DRAINING, those that begin a chain,
because some turn that still runs may wait for the others. What is held back keeps its order.
"""

from __future__ import annotations

import asyncio
import enum
from collections import OrderedDict
from typing import TYPE_CHECKING

from goverse.call import Call
from goverse.errors import DeadlineExceeded, NotOwner, Overloaded
from goverse.ids import Epoch
from goverse.objects.durability.fences import Opening
from goverse.objects.turn import Turn

if TYPE_CHECKING:
    from goverse.objects.activation import Activation
    from goverse.objects.luggage import Luggage


class ShardState(enum.Enum):
    OPENING = "opening"
    OPEN = "open"
    DRAINING = "draining"
    LEAVING = "leaving"
    CLOSED = "closed"


OPEN = ShardState.OPEN


class HeldLimit:
    """How many calls all shards of a node hold back together."""

    __slots__ = ("held", "max_held")

    def __init__(self, max_held: int) -> None:
        self.max_held = max_held
        self.held = 0


class Shard:
    """A shard that this node has a claim on, under one epoch."""

    __slots__ = (
        "_changed",
        "_held",
        "_limit",
        "_quiet",
        "activations",
        "busy",
        "busy_s",
        "departing",
        "epoch",
        "luggage",
        "metered_busy_s",
        "metered_turns",
        "number",
        "opening",
        "state",
        "turns",
    )

    def __init__(self, number: int, epoch: Epoch, limit: HeldLimit) -> None:
        self.number = number
        self.epoch = epoch
        self.state = ShardState.OPENING
        #: Under which fence its objects are written; None without a store.
        self.opening: Opening | None = None
        self.activations: dict[tuple[str, str], Activation] = {}
        #: Objects that are not active and have a state all the same; most shards have none.
        self.luggage: Luggage | None = None
        #: Whether the state of what is deactivated now goes along to another node.
        self.departing = False
        #: Turns that run or wait in mailboxes here, hooks included.
        self.busy = 0
        #: Turns that have ended here, and how long they took in all.
        self.turns = 0
        self.busy_s = 0.0
        #: What of that has been reported.
        self.metered_turns = 0
        self.metered_busy_s = 0.0
        self._held: OrderedDict[Turn, None] = OrderedDict()
        self._limit = limit
        self._quiet: asyncio.Future[None] | None = None
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
            return not turn.call.chain
        return self.state is not ShardState.OPEN

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

    def ended(self) -> None:
        """A turn that was counted as busy has ended or left its mailbox."""
        self.busy -= 1
        if not self.busy and self._quiet is not None:
            self.wake()

    def wake(self) -> None:
        """Let `wait_quiet` look again."""
        if self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    async def wait_quiet(self, deadline: float) -> bool:
        """Wait until nothing is busy, or the shard is closed; False at ``deadline``."""
        loop = asyncio.get_running_loop()
        while self.busy and self.state is not ShardState.CLOSED:
            self._quiet = loop.create_future()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._quiet
            except TimeoutError:
                return not self.busy
            finally:
                self._quiet = None
        return True
