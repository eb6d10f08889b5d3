"""Reliable calls of one node: from their arrival to their outcome, and what shards bring along.

See DESIGN.md. The catalog hands every call that has a call id to `invoke`.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import msgspec

from goverse.aio.deadlines import Deadlines
from goverse.aio.limits import Limit
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.call import (
    OVER,
    Call,
    CallTarget,
    Codec,
    Forwarded,
    Receiver,
    Reply,
    Verb,
)
from goverse.config.settings import LimitSettings
from goverse.errors import (
    Conflict,
    Executed,
    FailedPrecondition,
    GoverseError,
    InvalidArgument,
    NotOwner,
    Overloaded,
    Unavailable,
)
from goverse.ids import ObjectId, new_token
from goverse.objects import encoding
from goverse.objects.arrival import Arrival
from goverse.objects.definition import MethodType
from goverse.objects.durability.fences import Fences
from goverse.objects.durability.journal import Subject
from goverse.objects.recording import Context
from goverse.objects.registry import Registry
from goverse.objects.shard import Shard
from goverse.objects.turn import Turn
from goverse.reliable.accepts import Accepts
from goverse.reliable.answers import found, outcome_of, reply_of
from goverse.reliable.entries import ACCEPTING, PARKED, Answer, Entry
from goverse.reliable.ledger import Ledger, Page
from goverse.reliable.orders import Order
from goverse.reliable.outbox import Envelope, Outbox, OutboxObserver
from goverse.storage.api import OutcomeUnknown, StorageUnavailable, Store
from goverse.storage.checks import check_call_id
from goverse.storage.values import (
    AcceptResult,
    CallStatus,
    Outcome,
    Payload,
    ReliableCall,
    Step,
    StoredCall,
)

log = logging.getLogger(__name__)

_DIGEST_BYTES = 16

#: What is told to who waits for the row alone.
_RECORDED = Reply(encoding.NONE[Codec.MSGPACK])

_decode_envelope = msgspec.msgpack.Decoder(Envelope).decode


class CatalogDoor(Protocol):
    """What is needed of the catalog."""

    @property
    def arrival(self) -> Arrival: ...

    async def wait_open(self, call: Call) -> Shard: ...

    def open_shard_of(self, call: Call) -> Shard | None: ...

    async def run_recorded(self, turn: Turn) -> None: ...

    def run_recorded_in_place(self, turn: Turn) -> bool: ...


class ReliableObserver(OutboxObserver, Protocol):
    """Told what reliable calls do; counts it."""

    def accepted(self, type_name: str) -> None: ...

    def repeated(self, type_name: str) -> None:
        """A call id was known already, for the same call."""
        ...

    def finished(self, type_name: str, status: str, seconds: float) -> None:
        """``seconds`` since its accept was known here."""
        ...

    def parked(self, type_name: str) -> None: ...


@dataclass(frozen=True)
class ReliableSnapshot:
    """
    :param entries: unfinished calls that this node has in memory. :param bytes: of arguments.
    :param accepting: calls that wait to be handed to the store.
    :param recovering: shards whose pending calls are still being read.
    :param outbox: rows in memory. :param outbox_behind: shards that may have more in the store.
    :param longest: objects with the most pending calls.
    """

    entries: int
    bytes: int
    accepting: int
    recovering: int
    outbox: int
    outbox_behind: int
    longest: tuple[tuple[ObjectId, int], ...]


class _ShardCalls:
    """The calls of one open shard.

    :param cursor: where the next page of what was pending begins; None: everything is here.
    """

    __slots__ = ("cursor", "entries", "late", "orders", "reader", "released")

    def __init__(self, cursor: int | None, released: bool) -> None:
        self.cursor = cursor
        self.released = released
        self.orders: dict[ObjectId, Order] = {}
        self.entries: dict[Entry, None] = {}
        #: Accepted before everything is here: they come after what is still to be read.
        self.late: list[Entry] = []
        self.reader: asyncio.Task[None] | None = None


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
        self.runtime = runtime
        self.max_attempts = limits.max_call_attempts
        self._store = store
        self._registry = registry
        self._limits = limits
        self._observer = observer
        self._tasks = Tasks("reliable calls")
        self._deadlines = Deadlines()
        self._ledger = Ledger(store, fences, self._tasks, runtime)
        self._accepts = Accepts(store, fences, self._tasks, runtime, self)
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
        self._door: CatalogDoor
        self._entries: dict[str, Entry] = {}
        self._bytes = 0
        self._pages: dict[Shard, tuple[Page[StoredCall], bool]] = {}
        self._shards: dict[Shard, _ShardCalls] = {}
        self._room: list[asyncio.Future[None]] = []

    def bind(self, door: CatalogDoor) -> None:
        """The catalog needs this, and this the catalog."""
        self._door = door

    async def close(self) -> None:
        """What is unfinished is left to the next owners."""
        await self._tasks.close()
        self._deadlines.close()

    def snapshot(self) -> ReliableSnapshot:
        orders = [order for calls in self._shards.values() for order in calls.orders.values()]
        lengths = sorted(((o.object, len(o.pending)) for o in orders), key=lambda one: -one[1])
        return ReliableSnapshot(
            len(self._entries),
            self._bytes,
            len(self._accepts),
            sum(1 for calls in self._shards.values() if calls.cursor is not None),
            len(self._outbox),
            self._outbox.behind,
            tuple(lengths[:10]),
        )

    def limits(self) -> Iterator[Limit]:
        limits = self._limits
        yield Limit("reliable.calls", len(self._entries), limits.max_reliable_calls)
        yield Limit("reliable.bytes", self._bytes, limits.max_reliable_bytes)
        yield Limit("reliable.outbox", len(self._outbox), limits.max_reliable_calls)

    def count_by_type(self) -> dict[tuple[str, ...], float]:
        """Unfinished calls of each type, as a gauge wants it."""
        counts: dict[tuple[str, ...], float] = {}
        for entry in self._entries.values():
            labels = (entry.object.type,)
            counts[labels] = counts.get(labels, 0) + 1
        return counts

    # -- calls

    async def invoke(self, call: Call) -> Reply:
        if call.verb is Verb.LOOKUP:
            return await self._look_up(call)
        wanted, method = self._understand(call)
        # No await from here to the entry: the shard cannot leave in between.
        entry = self._entry_of(call, wanted, await self._door.wait_open(call))
        if call.verb is Verb.ENQUEUE:
            await entry.wait(call, self._deadlines, accepted=True, gone=self._nobody_waits)
            return _RECORDED
        outcome = await entry.wait(call, self._deadlines, accepted=False, gone=self._nobody_waits)
        return reply_of(outcome, call, method)

    def forward(self, call: Call, receiver: Receiver) -> Forwarded | None:
        """`invoke` without a task; None if the store has to be asked, or the shard is not open."""
        shard = self._door.open_shard_of(call)
        if call.verb is Verb.LOOKUP or shard is None:
            return None
        wanted, method = self._understand(call)
        entry = self._entry_of(call, wanted, shard)
        accepted = call.verb is Verb.ENQUEUE
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
        entry = self._entries.get(call.call_id)
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

    def _understand(self, call: Call) -> tuple[ReliableCall, MethodType]:
        """Raises what refuses ``call`` for good, without a row."""
        if call.verb not in (Verb.CALL, Verb.ENQUEUE):
            raise InvalidArgument(f"{call}: a call id goes with a call of a method")
        try:
            check_call_id(call.call_id)
        except ValueError as error:
            raise InvalidArgument(str(error), details={"field": "call_id"}) from None
        if call.chain:
            raise FailedPrecondition(
                f"{call} has a call id and cannot be awaited in a turn; goverse.issue(...) makes "
                "the call once the turn is committed"
            )
        envelope = Envelope(call.payload)
        if call.verb is Verb.ENQUEUE:
            envelope = _opened(call)
            call = msgspec.structs.replace(call, payload=envelope.arguments)
        object_type = self._door.arrival.object_type(call)
        method = self._door.arrival.method(call, object_type)
        arguments, _ = self._door.arrival.bind(call, method, asyncio.get_running_loop().time())
        if object_type.stored is None:
            raise FailedPrecondition(
                f"{call} has a call id, and class {call.type} is not durable; give it "
                'durability="acknowledged"'
            )
        encoded = _encoded(call, arguments)
        wanted = ReliableCall(
            call.call_id,
            call.object_id,
            call.method,
            Payload(encoded),
            _digest(encoded if call.verb is Verb.CALL else call.call_id.encode()),
            call.principal,
            Context(call.client_id, call.trace).encode(),
            envelope.parent,
            envelope.expires_at,
        )
        return wanted, method

    def _accept(self, wanted: ReliableCall, shard: Shard) -> Entry:
        """Raises Overloaded."""
        if len(self._entries) >= self._limits.max_reliable_calls:
            raise Overloaded(
                f"{len(self._entries)} reliable calls are under way on this node, as many as may "
                "be (limits.max_reliable_calls)"
            )
        if self._bytes >= self._limits.max_reliable_bytes:
            raise Overloaded(
                f"reliable calls on this node have {self._bytes} bytes of arguments, as many as "
                "they may (limits.max_reliable_bytes)"
            )
        entry = self._enter(wanted, shard)
        order = self._order(self._shards[shard], entry)
        order.accepting += 1
        self._accepts.add(entry)
        return entry

    def _nobody_waits(self, entry: Entry) -> None:
        """The last caller has given up. What is in the ledger goes on."""
        if entry.state is PARKED:
            self._remove(entry)
        elif entry.state is ACCEPTING and self._accepts.withdraw(entry):
            self._landed(entry)
            self._remove(entry)

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
        calls = self._shards[entry.shard]
        entry.accepted_at = asyncio.get_running_loop().time()
        stored = result.stored
        if stored is None:
            entry.seq = result.seq
            self._observer.accepted(entry.object.type)
        else:
            self._observer.repeated(entry.object.type)
            entry.adopt(stored)
            if stored.status is not CallStatus.PENDING:
                self._landed(entry)
                if stored.status.finished:
                    self._end(entry, lambda: outcome_of(stored))
                else:
                    entry.tell_accepted()
                    self.left(entry)
                return
        entry.tell_accepted()
        if calls.cursor is None:
            order = self._order(calls, entry)
            order.accept_landed()
            order.join(entry)
        else:
            self._landed(entry)
            entry.wait_for_page()
            calls.late.append(entry)

    def not_accepted(self, entry: Entry, error: GoverseError) -> None:
        self._landed(entry)
        self._end(entry, lambda: _copy(error))

    def _landed(self, entry: Entry) -> None:
        """Its accept is not under way any more."""
        calls = self._shards.get(entry.shard)
        order = calls.orders.get(entry.object) if calls is not None else None
        if order is not None:
            order.accept_landed()
            if order.empty:
                self.emptied(order)

    # -- shards

    async def opening(self, shard: Shard, *, released: bool) -> None:
        assert shard.opening is not None
        page = await self._ledger.first_calls(shard.opening.slots)
        self._pages = {one: kept for one, kept in self._pages.items() if one.is_opening}
        if shard.is_opening:
            self._pages[shard] = (page, released)

    def opened(self, shard: Shard) -> None:
        page, released = self._pages.pop(shard)
        calls = self._shards[shard] = _ShardCalls(page.cursor, released)
        self._outbox.opened(shard)
        self._take(shard, calls, page.rows)
        if page.cursor is not None:
            calls.reader = self._tasks.spawn(
                f"read calls of shard {shard.number}", self._read_on(shard, calls)
            )

    def closed(self, shard: Shard) -> None:
        self._pages.pop(shard, None)
        calls = self._shards.pop(shard, None)
        self._outbox.closed(shard)
        if calls is None:
            return
        if calls.reader is not None:
            calls.reader.cancel()
        for order in calls.orders.values():
            order.close()
        for entry in list(calls.entries):
            withdrawn = entry.state is ACCEPTING and self._accepts.withdraw(entry)
            executed = Executed.NO if withdrawn and not entry.sent else Executed.UNKNOWN
            self._remove(entry, calls)
            entry.tell(partial(_moved, entry, executed))

    async def _read_on(self, shard: Shard, calls: _ShardCalls) -> None:
        """More was pending than one page; memory for it comes as calls are finished."""
        assert shard.opening is not None
        while calls.cursor is not None:
            await self._wait_room()
            try:
                page = await self._ledger.more_calls(shard.opening.slots, calls.cursor)
            except Unavailable as error:
                log.warning("shard %d: %s", shard.number, error)
                await asyncio.sleep(1.0)
                continue
            self._take(shard, calls, page.rows)
            calls.cursor = page.cursor
        late, calls.late = calls.late, []
        for entry in late:
            if entry.waits_for_page:
                self._order(calls, entry).join(entry)

    def _take(self, shard: Shard, calls: _ShardCalls, rows: Sequence[StoredCall]) -> None:
        for row in rows:
            entry = self._entries.get(row.call.call_id)
            if entry is None:
                entry = self._enter(row.call, shard)
            elif entry.state is ACCEPTING:
                self._accepts.withdraw(entry)
                self._landed(entry)
            elif not entry.waits_for_page:
                continue
            entry.adopt(row)
            entry.sent = True
            entry.accepted_at = entry.accepted_at or asyncio.get_running_loop().time()
            entry.tell_accepted()
            self._order(calls, entry).join(entry, suspect=not calls.released)

    async def _wait_room(self) -> None:
        while len(self._entries) >= self._limits.max_reliable_calls:
            waiting = asyncio.get_running_loop().create_future()
            self._room.append(waiting)
            await waiting

    def deleted(self, shard: Shard, object: ObjectId) -> None:
        calls = self._shards.get(shard)
        order = calls.orders.get(object) if calls is not None else None
        if order is not None:
            order.deleted()

    # -- what turns issue

    def issued(self, sender: Subject, calls: tuple[ReliableCall, ...]) -> None:
        self._outbox.issued(sender, calls)

    def new_call_id(self) -> str:
        return f"~{new_token(self.runtime.random)}"

    # -- what orders need

    def wall(self) -> float:
        return self.runtime.clock.wall()

    def blocks_on_parked(self, object: ObjectId) -> bool:
        return self._registry.get(object.type).options.on_parked == "block"

    def spawn_runner(self, order: Order) -> asyncio.Task[None]:
        return self._tasks.spawn(f"calls of {order.object}", order.run())

    async def run(self, entry: Entry) -> None:
        await self._door.run_recorded(self._turn(entry))

    def run_at_once(self, entry: Entry) -> bool:
        try:
            return self._door.run_recorded_in_place(self._turn(entry))
        except Exception:
            return False  # whatever it is, it meets the task of the order again, and is told there

    def _turn(self, entry: Entry) -> Turn:
        """Raises why it cannot run here."""
        arrival = self._door.arrival
        object_type = self._registry.get(entry.object.type)
        if object_type.stored is None:
            raise FailedPrecondition(f"class {object_type.name} is not durable here")
        method = object_type.methods.get(entry.call.method)
        call = entry.turn_call(method, self._limits.default_call_timeout_s)
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
        now = asyncio.get_running_loop().time()
        self._observer.finished(
            entry.object.type, outcome.status.value, now - (entry.accepted_at or now)
        )
        self._end(entry, lambda: outcome)

    def parked(self, entry: Entry, reason: str) -> None:
        log.error(
            "call %s of %s.%s is parked: %s",
            entry.call_id,
            entry.object,
            entry.call.method,
            reason,
        )
        self._observer.parked(entry.object.type)

    def left(self, entry: Entry) -> None:
        entry.state = PARKED
        if not entry.awaited:
            self._remove(entry)

    def emptied(self, order: Order) -> None:
        calls = self._shards.get(order.shard)
        if calls is not None and calls.orders.get(order.object) is order:
            del calls.orders[order.object]

    # -- entries

    def _enter(self, call: ReliableCall, shard: Shard) -> Entry:
        entry = self._entries[call.call_id] = Entry(call, shard)
        self._shards[shard].entries[entry] = None
        self._bytes += entry.size
        return entry

    def _order(self, calls: _ShardCalls, entry: Entry) -> Order:
        order = calls.orders.get(entry.object)
        if order is None:
            order = calls.orders[entry.object] = Order(self, entry.object, entry.shard)
        return order

    def _end(self, entry: Entry, answer: Callable[[], Answer]) -> None:
        self._remove(entry)
        entry.tell(answer)

    def _remove(self, entry: Entry, calls: _ShardCalls | None = None) -> None:
        if self._entries.get(entry.call_id) is not entry:
            return
        del self._entries[entry.call_id]
        self._bytes -= entry.size
        calls = calls or self._shards.get(entry.shard)
        if calls is not None:
            calls.entries.pop(entry, None)
        waiting, self._room = self._room, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


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
        raise _copy(self._error)


def _opened(call: Call) -> Envelope:
    try:
        return _decode_envelope(call.payload)
    except encoding.DECODE_ERRORS as error:
        raise InvalidArgument(f"{call}: what came is no delivery: {error}") from None


def _encoded(call: Call, arguments: Any) -> bytes:
    try:
        return encoding.encode_canonical(arguments)
    except encoding.EncodingFault as fault:
        raise InvalidArgument(f"{call}: {fault}", details={"path": fault.path}) from None


def _digest(what: bytes) -> bytes:
    """What tells a repetition from another call: of the arguments, where an id is somebody's
    choice. The system's own ids are never used twice, and a delivery repeated to a newer version
    of the class, with another default, is still the same."""
    return hashlib.blake2b(what, digest_size=_DIGEST_BYTES).digest()


def _moved(entry: Entry, executed: Executed) -> NotOwner:
    error = NotOwner(
        f"call {entry.call_id}: shard {entry.shard.number} has left this node",
        epoch=entry.shard.epoch,
    )
    error.executed = executed
    return error


def _copy(error: GoverseError) -> GoverseError:
    own: GoverseError = copy.copy(error)
    own.details = dict(error.details)
    return own
