"""What operators do to single calls: cancel them, retry those that are parked.

::

    cancel ──> pending, nobody has it in hand ──> taken out ──SKIP──> skipped
           ──> running, or committing ──> waits: the turn wins, or leaves no outcome and is skipped;
               of a repeated call this tick is the last
           ──> parked, delayed ──SKIP──> skipped
           ──> unknown ──accepted to be skipped──> skipped: it can never run
    retry  ──> parked ──RETRY──> at the end of its order
           ──> pending, and holds up its object ──RESET──> runs again, in its place
           ──> parked in an outbox ──> delivered again

Only the owner of a call's object does this, in step with the order of that object; whoever asks is
routed to it. What is done is done whether or not the asker waits for it, and an answer that is lost
is asked for again: what stands in the ledger is the truth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from goverse.aio.tasks import Tasks
from goverse.call import Call, Reply, Verb
from goverse.errors import (
    Conflict,
    DeadlineExceeded,
    Executed,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from goverse.objects import encoding
from goverse.objects.shard import Shard
from goverse.observability import audit
from goverse.reliable.entries import (
    ACCEPTING,
    CHANGING,
    DELAYED,
    OVER,
    PARKED,
    RESTING,
    Cancellation,
    Entry,
)
from goverse.reliable.execution import CatalogDoor, Execution
from goverse.reliable.ledger import Ledger
from goverse.reliable.orders import Order
from goverse.reliable.outbox import Outbox
from goverse.reliable.unfinished import Unfinished
from goverse.storage.api import OutcomeUnknown, StorageUnavailable, Store
from goverse.storage.values import (
    CallStatus,
    Outcome,
    Payload,
    ReliableCall,
    Step,
    StepResult,
    StoredCall,
)

T = TypeVar("T")


class Wish(msgspec.Struct, array_like=True):
    """The payload of CANCEL and RETRY.

    :param delivery: of RETRY: it is about a row in the outbox of the object.
    """

    reason: str = ""
    delivery: bool = False


class Changed(msgspec.Struct, array_like=True):
    """The answer to it: the status as it stands now, and whether this made it so."""

    status: str
    method: str = ""
    changed: bool = False
    message: str = ""


_decode_wish = msgspec.msgpack.Decoder(Wish).decode
decode_changed = msgspec.msgpack.Decoder(Changed).decode

#: Enters a call that is to be recorded as skipped.
AcceptToSkip = Callable[[ReliableCall, Shard, Cancellation], Entry]
#: Returns when the accept of an entry is over. Raises what was in its way.
WaitAccepted = Callable[[Call, Entry], Awaitable[None]]


class Interventions:
    """Those of one node. Set `door` before use."""

    door: CatalogDoor

    def __init__(
        self,
        store: Store,
        unfinished: Unfinished,
        execution: Execution,
        ledger: Ledger,
        outbox: Outbox,
        tasks: Tasks,
        accept_to_skip: AcceptToSkip,
        wait_accepted: WaitAccepted,
    ) -> None:
        self._store = store
        self._unfinished = unfinished
        self._execution = execution
        self._ledger = ledger
        self._outbox = outbox
        self._tasks = tasks
        self._accept_to_skip = accept_to_skip
        self._wait_accepted = wait_accepted

    async def invoke(self, call: Call) -> Reply:
        """Raises NotOwner, NotFound, Conflict, Unavailable, DeadlineExceeded."""
        try:
            wish = _decode_wish(call.payload) if call.payload else Wish()
        except encoding.DECODE_ERRORS as error:
            raise InvalidArgument(f"{call}: what came is no wish: {error}") from None
        try:
            async with asyncio.timeout_at(call.deadline):
                if call.verb is Verb.CANCEL:
                    answer = await self._cancel(call, wish)
                elif wish.delivery:
                    answer = await self._retry_delivery(call)
                else:
                    answer = await self._retry(call)
        except DeadlineExceeded:
            raise
        except TimeoutError:
            raise DeadlineExceeded(
                f"{call}: its turn is running, or the store is away. What is cancelled is skipped "
                "if its turn leaves no outcome, otherwise the turn has won; ask again",
                executed=Executed.UNKNOWN,
                details={"call_id": call.call_id},
            ) from None
        return Reply(msgspec.msgpack.encode(answer))

    # -- cancel

    async def _cancel(self, call: Call, wish: Wish) -> Changed:
        reason = f"cancelled: {wish.reason}" if wish.reason else "cancelled"
        cancellation = Cancellation(reason, call.principal)
        tried = False
        while True:
            shard = await self.door.wait_open(call)
            entry = self._entry(call)
            if entry is not None and entry.state not in RESTING:
                tried = True
                await self._cancel_live(call, entry, cancellation)
                continue
            row = await self._row(call)
            if not self._stands(call, shard, entry):
                continue
            if row is None:
                blind = self._accept_to_skip(_blind(call), shard, cancellation)
                await self._wait_accepted(call, blind)
            elif row.status.finished:
                return _unchanged(row, tried and row.reason == reason)
            elif row.status is CallStatus.PENDING:
                raise _still_reading(call)
            else:
                held = self._hold(entry, row, shard)
                held.cancelled = cancellation
                await self._owned(call, self._skip_held(held))
            tried = True

    async def _cancel_live(self, call: Call, entry: Entry, cancellation: Cancellation) -> None:
        if entry.state is ACCEPTING:
            await self._wait_accepted(call, entry)
            return
        if entry.state is not CHANGING:
            if entry.order is None:
                raise _still_reading(call)
            entry.cancelled = entry.cancelled or cancellation
            if not entry.order.has_in_hand(entry):
                entry.order.take_out(entry)
                await self._owned(call, self._skip_pending(entry, entry.order))
                return
        await entry.wait_changed()

    async def _skip_pending(self, entry: Entry, order: Order) -> None:
        result = await self._step(entry, Step.SKIP)
        if entry.state is OVER:
            return
        if result is None:
            order.put_back(entry, known=False)
            entry.tell_changed()
            raise _not_known(entry)
        order.taken_out(entry)
        self._skipped(entry)

    async def _skip_held(self, entry: Entry) -> None:
        result = await self._step(entry, Step.SKIP)
        if entry.state is OVER:
            return
        if result is None:
            self._rest(entry)
            raise _not_known(entry)
        self._skipped(entry)

    def _skipped(self, entry: Entry) -> None:
        assert entry.cancelled is not None
        reason = entry.cancelled.reason
        self._execution.finished(entry, Outcome(entry.call_id, CallStatus.SKIPPED, None, reason))

    # -- retry

    async def _retry(self, call: Call) -> Changed:
        while True:
            shard = await self.door.wait_open(call)
            entry = self._entry(call)
            if entry is not None and entry.state not in RESTING:
                order = entry.order
                if entry.state is CHANGING:
                    await entry.wait_changed()
                elif order is None or not order.is_blocked_by(entry):
                    text = "it is not parked: it waits for its turn, or is running"
                    return Changed(CallStatus.PENDING.value, entry.call.method, False, text)
                else:
                    order.take_out(entry)
                    if await self._owned(call, self._reset(entry, order, call.principal)):
                        return Changed(CallStatus.PENDING.value, entry.call.method, True)
                continue
            row = await self._row(call)
            if not self._stands(call, shard, entry):
                continue
            if row is None:
                raise NotFound(
                    f"{call}: no call is known under this id; it may be on its way, or have been "
                    "cleaned up",
                    executed=Executed.NO,
                )
            if row.status is not CallStatus.PARKED:
                return _unchanged(row, False)
            if entry is None:
                self._unfinished.check_room()
            held = self._hold(entry, row, shard)
            order = self._execution.order(held)
            order.hold()
            if await self._owned(call, self._unpark(held, order, call.principal)):
                return Changed(CallStatus.PENDING.value, row.call.method, True)

    async def _reset(self, entry: Entry, order: Order, by: str) -> bool:
        """Of a call that holds up its object."""
        result = await self._step(entry, Step.RESET)
        if entry.state is OVER:
            return False
        if result is not None:
            entry.attempts = result.attempts
            _tell_retried(entry, by)
        order.put_back(entry, known=result is not None)
        entry.tell_changed()
        if result is None:
            raise _not_known(entry)
        return True

    async def _unpark(self, entry: Entry, order: Order, by: str) -> bool:
        """Its place is at the end; what comes behind it waits until it is there."""
        try:
            result = await self._step(entry, Step.RETRY)
            row = None
            if result is None and entry.state is not OVER:
                row = (await self._ledger.rows([entry.call_id])).get(entry.call_id)
            if entry.state is OVER:
                return False
            if result is not None:
                entry.seq, entry.attempts = result.seq, result.attempts
            elif row is not None and row.status is CallStatus.PENDING:
                entry.adopt(row)
            else:
                self._rest(entry)
                raise _not_known(entry)
            _tell_retried(entry, by)
            entry.tell_changed()
            calls = self._unfinished.shards[entry.shard]
            if calls.cursor is None:
                order.join(entry)
            else:
                entry.wait_for_page()
                calls.late.append(entry)
            return True
        finally:
            order.release()

    async def _retry_delivery(self, call: Call) -> Changed:
        shard = await self.door.wait_open(call)
        retried = await self._outbox.retry(shard, call.object_id, call.call_id)
        if not retried:
            text = "it is not parked: it is being delivered"
            return Changed(CallStatus.PENDING.value, "", False, text)
        audit.record(
            "delivery_retried",
            by=call.principal,
            target=f"from {call.object_id}",
            call_ids=(call.call_id,),
            outcome=CallStatus.PENDING.value,
        )
        return Changed(CallStatus.PENDING.value, "", True)

    # -- what both need

    def _entry(self, call: Call) -> Entry | None:
        entry = self._unfinished.get(call.call_id)
        if entry is not None and entry.object != call.object_id:
            raise _another(call)
        return entry

    async def _row(self, call: Call) -> StoredCall | None:
        try:
            row = (await self._store.get_calls([call.call_id])).get(call.call_id)
        except ValueError as error:
            raise InvalidArgument(str(error), details={"field": "call_id"}) from None
        except (StorageUnavailable, OutcomeUnknown) as error:
            raise Unavailable(
                f"{call}: the ledger cannot be read, the store is away: {error}",
                executed=Executed.NO,
            ) from None
        if row is not None and row.call.object != call.object_id:
            raise _another(call)
        return row

    def _stands(self, call: Call, shard: Shard, entry: Entry | None) -> bool:
        """Whether nothing happened to the call here while its row was read."""
        if shard not in self._unfinished.shards:
            return False
        return self._unfinished.get(call.call_id) is entry and (
            entry is None or entry.state in RESTING
        )

    def _hold(self, entry: Entry | None, row: StoredCall, shard: Shard) -> Entry:
        """An entry of a call that is not in its order; whoever repeats it waits with it."""
        if entry is None:
            entry = self._unfinished.enter(row.call, shard)
        entry.adopt(row)
        entry.sent, entry.cancelled = True, None
        entry.state = CHANGING
        return entry

    def _rest(self, entry: Entry) -> None:
        """It is as it was; or it is due by now, and is found when that is tried."""
        entry.cancelled = None
        delayed = entry.call.timing is not None and not entry.seq
        self._execution.left(entry, DELAYED if delayed else PARKED)

    async def _step(self, entry: Entry, step: Step) -> StepResult | None:
        reason = entry.cancelled.reason if entry.cancelled is not None else ""
        return await self._ledger.change(entry, step, reason)

    async def _owned(self, call: Call, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, which is ended whether or not anybody waits for it."""
        task = self._tasks.spawn(str(call), _outcome(work))
        result, error = await asyncio.shield(task)
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]


async def _outcome(work: Coroutine[Any, Any, T]) -> tuple[T | None, Exception | None]:
    try:
        return await work, None
    except Exception as error:
        return None, error


def _blind(call: Call) -> ReliableCall:
    """A call of which only id and object are known."""
    return ReliableCall(call.call_id, call.object_id, "", Payload(b""), b"")


def _unchanged(row: StoredCall, changed: bool) -> Changed:
    text = "" if changed else f"it is {row.status.value} already"
    if row.status is CallStatus.SKIPPED and row.reason:
        text = row.reason if changed else f"{text}: {row.reason}"
    return Changed(row.status.value, row.call.method, changed, text)


def _tell_retried(entry: Entry, by: str) -> None:
    audit.record(
        "call_retried",
        by=by,
        target=str(entry.object),
        call_ids=(entry.call_id,),
        outcome=CallStatus.PENDING.value,
    )


def _another(call: Call) -> Conflict:
    return Conflict(
        f"{call}: this call id belongs to a call of another object",
        details={"call_id": call.call_id},
    )


def _still_reading(call: Call) -> Unavailable:
    return Unavailable(
        f"{call}: the node is still reading what was pending; ask again", executed=Executed.NO
    )


def _not_known(entry: Entry) -> Unavailable:
    return Unavailable(
        f"what became of call {entry.call_id} is not known: its row had changed, or the store is "
        "away; ask again",
        executed=Executed.UNKNOWN,
    )
