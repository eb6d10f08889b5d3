"""Reliable calls of one node: a call from its arrival to its answer.

See DESIGN.md. The catalog hands every call that has a call id to `invoke`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from goverse.aio.deadlines import Deadlines
from goverse.aio.limits import Limit
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.call import (
    CANCEL,
    ENQUEUE,
    LOOKUP,
    OVER,
    SCHEDULE,
    Call,
    CallTarget,
    Codec,
    Forwarded,
    Receiver,
    Reply,
    Verb,
)
from goverse.config.settings import LimitSettings
from goverse.errors import Conflict, GoverseError, InvalidArgument, Unavailable
from goverse.ids import ObjectId, new_token
from goverse.objects import encoding
from goverse.objects.durability.fences import Fences
from goverse.objects.durability.journal import Subject
from goverse.objects.registry import Registry
from goverse.objects.shard import Shard
from goverse.reliable.accepts import Accepts
from goverse.reliable.answers import found, outcome_of, reply_of
from goverse.reliable.delays import Delays
from goverse.reliable.entries import (
    ACCEPTING,
    DELAYED,
    PARKED,
    RESTING,
    Answer,
    Cancellation,
    Entry,
)
from goverse.reliable.execution import CatalogDoor, Execution, own_copy, tell_cancelled
from goverse.reliable.interventions import Interventions
from goverse.reliable.ledger import Ledger
from goverse.reliable.observer import ReliableObserver
from goverse.reliable.outbox import Outbox
from goverse.reliable.recovery import Recovery
from goverse.reliable.requests import understand
from goverse.reliable.unfinished import Unfinished
from goverse.storage.api import OutcomeUnknown, StorageUnavailable, Store
from goverse.storage.values import (
    AcceptResult,
    CallStatus,
    Outcome,
    ReliableCall,
    StoredCall,
)

_LONGEST = 10

_INTERVENTIONS = (CANCEL, Verb.RETRY)

#: Whoever sends these waits for the row alone.
_RECORDED_ALONE = (ENQUEUE, SCHEDULE)

#: What is told to them.
_RECORDED = Reply(encoding.NONE[Codec.MSGPACK])


@dataclass(frozen=True)
class ReliableSnapshot:
    """
    :param entries: unfinished calls that this node has in memory. :param bytes: of arguments.
    :param accepting: calls that wait to be handed to the store.
    :param recovering: shards whose pending calls are still being read.
    :param delayed: calls that are known to be due soon.
    :param outbox: rows in memory. :param outbox_behind: shards that may have more in the store.
    :param longest: objects with the most pending calls.
    """

    entries: int
    bytes: int
    accepting: int
    recovering: int
    delayed: int
    outbox: int
    outbox_behind: int
    longest: tuple[tuple[ObjectId, int], ...]


class Reliability:
    """Satisfies `goverse.objects.recording.ReliableCalls`. `bind` before use."""

    def __init__(
        self,
        store: Store,
        fences: Fences,
        router: CallTarget,
        registry: Registry,
        limits: LimitSettings,
        runtime: Runtime,
        observer: ReliableObserver,
    ) -> None:
        self._store = store
        self._registry = registry
        self._limits = limits
        self._runtime = runtime
        self._observer = observer
        self._tasks = Tasks("reliable calls")
        self._deadlines = Deadlines()
        self._unfinished = Unfinished(limits)
        self._ledger = Ledger(store, fences, self._tasks, runtime)
        self._accepts = Accepts(
            store, fences, self._tasks, runtime, self, noted=self._unfinished.count_noted
        )
        self._execution = Execution(
            self._unfinished, self._ledger, registry, limits, self._tasks, runtime, observer
        )
        self._delays = Delays(
            store,
            self._ledger,
            fences,
            self._tasks,
            runtime,
            self,
            max_calls=limits.max_delayed_calls,
            max_missed=limits.max_missed_ticks,
        )
        self._execution.delays = self._delays
        self._recovery = Recovery(
            self._unfinished, self._execution, self._accepts, self._ledger, self._tasks
        )
        self._outbox = Outbox(
            store,
            self._ledger,
            router,
            self._tasks,
            runtime,
            observer,
            max_rows=limits.max_reliable_calls,
            timeout_s=limits.default_call_timeout_s,
        )
        self._interventions = Interventions(
            store,
            self._unfinished,
            self._execution,
            self._ledger,
            self._outbox,
            self._tasks,
            self._accept_to_skip,
            self._wait_accepted,
        )
        self._door: CatalogDoor

    def bind(self, door: CatalogDoor) -> None:
        """The catalog needs this, and this the catalog."""
        self._door = self._execution.door = self._interventions.door = door

    async def close(self) -> None:
        """What is unfinished is left to the next owners."""
        await self._tasks.close()
        self._deadlines.close()

    def snapshot(self) -> ReliableSnapshot:
        return ReliableSnapshot(
            len(self._unfinished),
            self._unfinished.bytes,
            len(self._accepts),
            self._unfinished.recovering,
            len(self._delays),
            len(self._outbox),
            self._outbox.behind,
            self._unfinished.longest(_LONGEST),
        )

    def limits(self) -> Iterator[Limit]:
        yield from self._unfinished.limits()
        yield Limit("reliable.delayed", len(self._delays), self._limits.max_delayed_calls)
        yield Limit("reliable.outbox", len(self._outbox), self._limits.max_reliable_calls)

    def count_by_type(self) -> dict[tuple[str, ...], float]:
        """Unfinished calls of each type, as a gauge wants it."""
        return self._unfinished.count_by_type()

    def oldest_by_type(self) -> dict[tuple[str, ...], float]:
        """Seconds since the oldest of them was accepted."""
        return self._unfinished.oldest_by_type(self.wall())

    def delayed_by_type(self) -> dict[tuple[str, ...], float]:
        """Calls of each type that are known to be due soon."""
        return self._delays.count_by_type()

    # -- calls

    async def invoke(self, call: Call) -> Reply:
        if call.verb is LOOKUP:
            return await self._look_up(call)
        if call.verb in _INTERVENTIONS:
            return await self._interventions.invoke(call)
        wanted, method = understand(call, self._door.arrival, self._delays.clock)
        # No await from here to the entry: the shard cannot leave in between.
        entry = self._entry_of(call, wanted, await self._door.wait_open(call))
        if call.verb in _RECORDED_ALONE:
            await entry.wait(call, self._deadlines, accepted=True, gone=self._nobody_waits)
            return _RECORDED
        outcome = await entry.wait(call, self._deadlines, accepted=False, gone=self._nobody_waits)
        return reply_of(outcome, call, method)

    def forward(self, call: Call, receiver: Receiver) -> Forwarded | None:
        """`invoke` without a task; None if the store has to be asked, or the shard is not open."""
        shard = self._door.open_shard_of(call)
        if call.verb is LOOKUP or call.verb in _INTERVENTIONS or shard is None:
            return None
        wanted, method = understand(call, self._door.arrival, self._delays.clock)
        entry = self._entry_of(call, wanted, shard)
        accepted = call.verb in _RECORDED_ALONE
        if accepted and entry.state is not ACCEPTING:
            receiver.succeed(_RECORDED)
            return OVER

        def tell(answer: Answer) -> None:
            if isinstance(answer, GoverseError):
                receiver.fail(answer)
                return
            try:
                reply = _RECORDED if accepted else reply_of(answer, call, method)
            except Exception as error:  # it belongs to the caller, and not to who commits
                receiver.fail(error)
            else:
                receiver.succeed(reply)

        return entry.when(call, self._deadlines, tell, accepted=accepted, gone=self._nobody_waits)

    def _entry_of(self, call: Call, wanted: ReliableCall, shard: Shard) -> Entry:
        """The entry of ``call``'s id, new or not. Raises Conflict, Overloaded."""
        entry = self._unfinished.get(call.call_id)
        if entry is None:
            entry = self._accept(wanted, shard)
        elif not entry.is_same(wanted):
            raise Conflict(
                f"call id {call.call_id} was used for another object, method or arguments",
                details={"call_id": call.call_id},
            )
        else:
            self._observer.repeated(call.type)
        return entry

    def _accept_to_skip(
        self, wanted: ReliableCall, shard: Shard, cancellation: Cancellation
    ) -> Entry:
        """Raises Overloaded."""
        entry = self._accept(wanted, shard, skip=cancellation.reason)
        entry.cancelled = cancellation
        return entry

    async def _wait_accepted(self, call: Call, entry: Entry) -> None:
        await entry.wait(call, self._deadlines, accepted=True, gone=self._nobody_waits)

    def _accept(self, wanted: ReliableCall, shard: Shard, *, skip: str = "") -> Entry:
        """Raises Overloaded."""
        self._unfinished.check_room()
        entry = self._unfinished.enter(wanted, shard)
        entry.skip = skip
        self._execution.order(entry).accepting += 1
        self._accepts.add(entry)
        return entry

    def _nobody_waits(self, entry: Entry) -> None:
        """The last caller has given up. What is in the ledger goes on."""
        if entry.state in RESTING:
            self._unfinished.remove(entry)
        elif entry.state is ACCEPTING and self._accepts.withdraw(entry):
            self._unfinished.landed(entry)
            self._unfinished.remove(entry)

    async def _look_up(self, call: Call) -> Reply:
        try:
            stored = await self._store.get_calls([call.call_id])
        except ValueError as error:
            raise InvalidArgument(str(error), details={"field": "call_id"}) from None
        except (StorageUnavailable, OutcomeUnknown) as error:
            raise Unavailable(f"the ledger cannot be read, the store is away: {error}") from None
        return found(call, stored.get(call.call_id), self._registry)

    # -- what becomes of accepts

    def recorded(self, entry: Entry, result: AcceptResult) -> None:
        calls = self._unfinished.shards[entry.shard]
        entry.accepted_at = asyncio.get_running_loop().time()
        entry.waits_since = self.wall()
        stored = result.stored
        if stored is None and entry.skip:
            skipped = Outcome(entry.call_id, CallStatus.SKIPPED, None, entry.skip)
            tell_cancelled(entry, skipped)
            self._unfinished.landed(entry)
            self._unfinished.end(entry, lambda: skipped)
            return
        if stored is None:
            entry.seq = result.seq
            self._observer.accepted(entry.object.type)
            if entry.skip:
                self._unfinished.landed(entry)
                skipped = Outcome(entry.call_id, CallStatus.SKIPPED, None, entry.skip)
                self._unfinished.end(entry, lambda: skipped)
                return
            if entry.call.timing is not None:
                self._unfinished.landed(entry)
                entry.tell_accepted()
                self._execution.left(entry, DELAYED)
                return
        else:
            self._observer.repeated(entry.object.type)
            entry.adopt(stored)
            if stored.status is not CallStatus.PENDING:
                self._unfinished.landed(entry)
                if stored.status.finished:
                    self._unfinished.end(entry, lambda: outcome_of(stored))
                else:
                    entry.tell_accepted()
                    delayed = stored.status is CallStatus.DELAYED
                    self._execution.left(entry, DELAYED if delayed else PARKED)
                return
        entry.tell_accepted()
        if calls.cursor is None:
            order = self._execution.order(entry)
            order.accept_landed()
            order.join(entry)
        else:
            self._unfinished.landed(entry)
            entry.wait_for_page()
            calls.late.append(entry)

    def not_accepted(self, entry: Entry, error: GoverseError) -> None:
        self._observer.refused(entry.object.type, error.code)
        self._unfinished.landed(entry)
        self._unfinished.end(entry, lambda: own_copy(error))

    # -- shards

    def due(self, shard: Shard, row: StoredCall) -> None:
        """It is pending from now on, or somebody has ended it."""
        if row.status is CallStatus.PENDING:
            self._recovery.take_due(shard, row)
            return
        entry = self._unfinished.get(row.call.call_id)
        if entry is not None and entry.state in RESTING and row.status.finished:
            self._unfinished.end(entry, lambda: outcome_of(row))

    async def wait_room(self) -> None:
        await self._unfinished.wait_room()

    def ticks_left_out(self, type_name: str, ticks: int) -> None:
        self._observer.ticks_left_out(type_name, ticks)

    async def opening(self, shard: Shard, *, released: bool) -> None:
        await self._recovery.opening(shard, released=released)

    def opened(self, shard: Shard) -> None:
        self._outbox.opened(shard)
        self._recovery.opened(shard)
        self._delays.opened(shard)

    def closed(self, shard: Shard) -> None:
        self._outbox.closed(shard)
        self._recovery.closed(shard)
        self._delays.closed(shard)

    def deleted(self, shard: Shard, object: ObjectId) -> None:
        order = self._unfinished.order_of(shard, object)
        if order is not None:
            order.deleted()

    # -- what turns issue

    def issued(self, sender: Subject, calls: tuple[ReliableCall, ...]) -> None:
        self._outbox.issued(sender, calls)

    def new_call_id(self) -> str:
        return f"~{new_token(self._runtime.random)}"

    def wall(self) -> float:
        return self._runtime.clock.wall()

    def store_now(self) -> float:
        return self._delays.clock.now()
