"""How the calls of a node's orders are run, counted and ended."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import logging
from typing import Any, Protocol

from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.call import Call, Codec
from goverse.config.settings import LimitSettings
from goverse.errors import FailedPrecondition, GoverseError
from goverse.ids import ObjectId
from goverse.objects.arrival import Arrival
from goverse.objects.registry import Registry
from goverse.objects.shard import Shard
from goverse.objects.turn import Turn
from goverse.observability import audit
from goverse.reliable.delays import Delays
from goverse.reliable.entries import DELAYED, Entry, EntryState
from goverse.reliable.ledger import Ledger
from goverse.reliable.observer import ReliableObserver
from goverse.reliable.orders import Order
from goverse.reliable.unfinished import Unfinished
from goverse.storage.values import CallStatus, DelayedCall, Outcome, Step, StoredCall

log = logging.getLogger(__name__)


class CatalogDoor(Protocol):
    """What is needed of the catalog."""

    @property
    def arrival(self) -> Arrival: ...

    async def wait_open(self, call: Call) -> Shard: ...

    def open_shard_of(self, call: Call) -> Shard | None: ...

    async def run_recorded(self, turn: Turn) -> None: ...

    def run_recorded_in_place(self, turn: Turn) -> bool: ...


class Execution:
    """A `goverse.reliable.orders.OrderHost`. Set `door` and `delays` before use."""

    door: CatalogDoor
    delays: Delays

    def __init__(
        self,
        unfinished: Unfinished,
        ledger: Ledger,
        registry: Registry,
        limits: LimitSettings,
        tasks: Tasks,
        runtime: Runtime,
        observer: ReliableObserver,
    ) -> None:
        self.runtime = runtime
        self.max_attempts = limits.max_call_attempts
        self._unfinished = unfinished
        self._ledger = ledger
        self._registry = registry
        self._timeout_s = limits.default_call_timeout_s
        self._tasks = tasks
        self._observer = observer

    def order(self, entry: Entry) -> Order:
        """The order of ``entry``'s object, in its shard, which is open."""
        orders = self._unfinished.shards[entry.shard].orders
        order = orders.get(entry.object)
        if order is None:
            order = orders[entry.object] = Order(self, entry.object, entry.shard)
        return order

    def wall(self) -> float:
        return self.runtime.clock.wall()

    def blocks_on_parked(self, object: ObjectId) -> bool:
        return self._registry.get(object.type).options.on_parked == "block"

    def spawn_runner(self, order: Order) -> asyncio.Task[None]:
        return self._tasks.spawn(f"calls of {order.object}", order.run())

    async def run(self, entry: Entry) -> None:
        await self.door.run_recorded(self._turn(entry))

    def run_at_once(self, entry: Entry) -> bool:
        try:
            return self.door.run_recorded_in_place(self._turn(entry))
        except Exception:
            return False  # whatever it is, it meets the task of the order again, and is told there

    def _turn(self, entry: Entry) -> Turn:
        """Raises why it cannot run here."""
        arrival = self.door.arrival
        object_type = self._registry.get(entry.object.type)
        if object_type.stored is None:
            raise FailedPrecondition(f"class {object_type.name} is not durable here")
        method = object_type.methods.get(entry.call.method)
        call = entry.turn_call(method, self._timeout_s)
        if entry.refusal is None:
            turn = arrival.turn(call, object_type, asyncio.get_running_loop().time())
        else:
            turn = Turn(call, _Refused(entry.refusal), None, call.deadline)
        turn.record = entry
        return turn

    async def step(self, entry: Entry, step: Step, reason: str) -> int | None:
        return await self._ledger.step(entry, step, reason)

    async def rows(self, entries: list[Entry]) -> dict[str, StoredCall]:
        return await self._ledger.rows(entry.call_id for entry in entries)

    def finished(self, entry: Entry, outcome: Outcome) -> None:
        tell_cancelled(entry, outcome)
        now = asyncio.get_running_loop().time()
        self._observer.finished(
            entry.object.type, outcome.status.value, now - (entry.accepted_at or now)
        )
        timing = entry.call.timing
        if timing is not None and entry.began_at:
            late_s = self.delays.clock.at(entry.began_at) - timing.run_at
            self._observer.late(entry.object.type, max(0.0, late_s))
        if timing is None or outcome.again_at is None:
            self._unfinished.end(entry, lambda: outcome)
        else:
            again = timing._replace(run_at=outcome.again_at)
            entry.call = dataclasses.replace(entry.call, timing=again)
            self.left(entry, DELAYED)

    def parked(self, entry: Entry, reason: str) -> None:
        log.error(
            "call %s of %s.%s is parked: %s",
            entry.call_id,
            entry.object,
            entry.call.method,
            reason,
        )
        self._observer.parked(entry.object.type)

    def left(self, entry: Entry, state: EntryState) -> None:
        entry.state = state
        entry.tell_changed()
        if not entry.awaited:
            self._unfinished.remove(entry)
        if state is DELAYED and entry.call.timing is not None:
            call = DelayedCall(entry.call_id, entry.slot, entry.object, entry.call.timing)
            self.delays.add(call, entry.shard)

    def emptied(self, order: Order) -> None:
        self._unfinished.emptied(order)


def tell_cancelled(entry: Entry, outcome: Outcome) -> None:
    """Write to the audit log what became of a cancellation, if there was one."""
    if entry.cancelled is not None:
        won = outcome.status is CallStatus.SKIPPED
        audit.record(
            "call_cancelled" if won else "call_not_cancelled",
            by=entry.cancelled.by,
            target=str(entry.object),
            call_ids=(entry.call_id,),
            outcome=f"{outcome.status.value}" if won else f"{outcome.status.value} came first",
        )


class _Refused:
    """The work of a call whose state the store will not take: it fails, in a turn of its own."""

    read_only = False
    shared = False
    tracked = False

    def __init__(self, error: GoverseError) -> None:
        self._error = error

    async def start(self, instance: Any, arguments: Any) -> None:
        """Nothing runs any more."""

    def encode(self, result: Any, codec: Codec) -> bytes:
        raise own_copy(self._error)


def own_copy(error: GoverseError) -> GoverseError:
    """Each who is told gets an error of its own: a raised error is written to."""
    own: GoverseError = copy.copy(error)
    own.details = dict(error.details)
    return own
