"""Reliable calls that committed turns issued, on their way to the owners of their targets.

::

    committed ──> lane of (sender, target) ──ENQUEUE──> accepted there ──> row removed
                      ^           │  └── nobody reachable: again, with backoff
    read when a shard │           └── refused for good: parked
    opens, or memory ─┘
    was full

A lane delivers one call at a time, so that calls from one object to one object arrive in order.
What is in memory is bounded; past the bound rows stay in the store until they are read again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import msgspec

from goverse.aio.backoff import Backoff
from goverse.aio.batcher import Batcher
from goverse.aio.room import Room
from goverse.aio.runtime import Runtime
from goverse.aio.seldom import Seldom
from goverse.aio.tasks import Tasks
from goverse.call import Call, CallTarget, Verb
from goverse.errors import (
    Conflict,
    Executed,
    FailedPrecondition,
    GoverseError,
    InvalidArgument,
    NotFound,
    TooLarge,
    Unavailable,
)
from goverse.ids import ObjectId
from goverse.objects.durability.fences import Opening
from goverse.objects.durability.journal import Subject
from goverse.objects.recording import Context
from goverse.objects.shard import Shard
from goverse.objects.timing import Schedule, said_of
from goverse.reliable.ledger import Ledger
from goverse.storage.api import OutcomeUnknown, StorageUnavailable, Store
from goverse.storage.values import (
    CallStatus,
    Fence,
    OutboxChange,
    OutboxRow,
    OutboxStep,
    ReliableCall,
    StepResult,
    Verdict,
)

log = logging.getLogger(__name__)

_REFUSALS = (InvalidArgument, NotFound, FailedPrecondition, Conflict, TooLarge)
_MAX_REASON_BYTES = 1024
_MAX_CHANGES = 512


class Envelope(msgspec.Struct, array_like=True):
    """The payload of an ENQUEUE: what of a call does not travel in a call's own fields."""

    arguments: bytes
    parent: str = ""
    expires_at: float | None = None


class OutboxObserver(Protocol):
    def delivered(self) -> None: ...

    def delivery_parked(self) -> None: ...


class _Item:
    """A row that is in memory."""

    __slots__ = ("call", "opening", "sender", "slot")

    def __init__(self, call: ReliableCall, sender: ObjectId, slot: int, opening: Opening) -> None:
        self.call = call
        self.sender = sender
        self.slot = slot
        self.opening = opening

    def fence(self) -> Fence:
        return self.opening.fence(self.slot)


class _ShardRows:
    """The rows of one open shard.

    :param behind: the store may have rows that are not in memory; nothing is taken from turns
        until they are read, as they come first.
    :param missed: and turns have committed more since the last page was asked for.
    """

    __slots__ = ("behind", "cursor", "items", "lanes", "missed", "reader")

    def __init__(self) -> None:
        self.behind = True
        self.missed = False
        self.cursor = 0
        self.items: dict[str, _Item] = {}
        self.lanes: dict[tuple[ObjectId, ObjectId], _Lane] = {}
        self.reader: asyncio.Task[None] | None = None


class _Lane:
    __slots__ = ("items", "task")

    def __init__(self) -> None:
        self.items: deque[_Item] = deque()
        self.task: asyncio.Task[None] | None = None


class Outbox:
    """The outbox of one node.

    :param router: takes calls to the owners of their objects.
    :param timeout_s: of one attempt to deliver.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        router: CallTarget,
        tasks: Tasks,
        runtime: Runtime,
        observer: OutboxObserver,
        *,
        max_rows: int,
        timeout_s: float,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._router = router
        self._tasks = tasks
        self._runtime = runtime
        self._observer = observer
        self._max_rows = max_rows
        self._timeout_s = timeout_s
        self._rows = 0
        self._shards: dict[Shard, _ShardRows] = {}
        self._by_opening: dict[Opening, Shard] = {}
        self._room = Room()
        self._tell = Seldom()
        self._changes: Batcher[tuple[_Item, OutboxStep, str], StepResult | None] = Batcher(
            "change outbox", self._change, tasks, max_items=_MAX_CHANGES, max_waiting=2 * max_rows
        )

    def __len__(self) -> int:
        """Rows in memory."""
        return self._rows

    @property
    def behind(self) -> int:
        """Shards of which the store may have rows that are not in memory."""
        return sum(1 for rows in self._shards.values() if rows.behind)

    def opened(self, shard: Shard) -> None:
        """Read what former owners left."""
        assert shard.opening is not None
        self._shards[shard] = _ShardRows()
        self._by_opening[shard.opening] = shard
        self._read_on(shard)

    def closed(self, shard: Shard) -> None:
        """Whoever opens the shard next delivers the rest."""
        rows = self._shards.pop(shard, None)
        if rows is None:
            return
        assert shard.opening is not None
        del self._by_opening[shard.opening]
        if rows.reader is not None:
            rows.reader.cancel()
        for lane in rows.lanes.values():
            if lane.task is not None:
                lane.task.cancel()
        self._rows -= len(rows.items)
        rows.items.clear()  # those that are being acknowledged must not be counted again
        self._room.made()

    def issued(self, sender: Subject, calls: Sequence[ReliableCall]) -> None:
        """``calls`` are committed."""
        shard = self._by_opening.get(sender.opening)
        rows = self._shards.get(shard) if shard is not None else None
        if shard is None or rows is None:
            return
        if not rows.behind and self._rows + len(calls) > self._max_rows:
            rows.behind, rows.cursor = True, 0
        if rows.behind:
            rows.missed = True
            self._read_on(shard)
            return
        for call in calls:
            if call.call_id not in rows.items:  # a page may have had it already
                self._add(rows, _Item(call, sender.object, sender.slot, sender.opening))

    async def retry(self, shard: Shard, sender: ObjectId, call_id: str) -> bool:
        """Deliver a row of ``sender`` that is parked. False: it is under way already.

        Raises NotFound, Conflict, Unavailable."""
        opening, rows = shard.opening, self._shards.get(shard)
        assert opening is not None
        if rows is not None and call_id in rows.items:
            return False
        try:
            row = (await self._store.deliveries([call_id])).get(call_id)
            if row is None:
                raise NotFound(f"no delivery of call {call_id} is known: it may have arrived")
            if row.sender != sender:
                raise Conflict(f"call {call_id} was issued by another object")
            if row.status is not CallStatus.PARKED:
                return False
            fence = opening.fence(row.slot)
            [result] = await self._store.change_outbox(
                [OutboxChange(fence, call_id, OutboxStep.RETRY)]
            )
        except ValueError as error:
            raise InvalidArgument(str(error), details={"field": "call_id"}) from None
        except StorageUnavailable as error:
            raise Unavailable(f"the outbox cannot be reached: {error}") from None
        except OutcomeUnknown as error:
            text = f"whether the delivery of call {call_id} is retried is not known: {error}"
            raise Unavailable(text, executed=Executed.UNKNOWN) from None
        if result.verdict is not Verdict.DONE or self._shards.get(shard) is not rows:
            raise Unavailable(f"the delivery of call {call_id} has changed; ask again")
        if rows is not None:
            # Its place is among rows that were read long ago.
            rows.behind, rows.cursor, rows.missed = True, 0, True
            self._read_on(shard)
        return True

    # -- from the store

    def _read_on(self, shard: Shard) -> None:
        rows = self._shards[shard]
        if rows.reader is None:
            rows.reader = self._tasks.spawn(f"read outbox {shard.number}", self._read(shard, rows))

    async def _read(self, shard: Shard, rows: _ShardRows) -> None:
        opening = shard.opening
        assert opening is not None
        backoff = Backoff(self._runtime.random, min_s=0.1, max_s=2.0)
        while rows.behind:
            await self._wait_room()
            if not rows.cursor:
                rows.missed = False
            try:
                page = await self._ledger.outbox_rows(opening.slots, rows.cursor)
            except Unavailable as error:
                self._tell_reading(shard, error)
                await asyncio.sleep(backoff.next_s())
                continue
            for row in page.rows:
                self._take(rows, row, opening)
            if page.cursor is None and rows.missed:
                # Positions are drawn before their commits: a lower one may have come meanwhile.
                rows.cursor = 0
            rows.behind = page.cursor is not None or rows.missed
        rows.reader = None

    def _tell_reading(self, shard: Shard, error: Unavailable) -> None:
        """A store that is away for one shard is away for thousands: a line for all of them."""
        if self._tell.due():
            reading = sum(rows.reader is not None for rows in self._shards.values())
            log.warning("shard %d waits, one of %d: %s", shard.number, reading, error)

    def _take(self, rows: _ShardRows, row: OutboxRow, opening: Opening) -> None:
        rows.cursor = max(rows.cursor, row.position)
        if row.call.call_id not in rows.items:
            self._add(rows, _Item(row.call, row.sender, row.slot, opening))

    async def _wait_room(self) -> None:
        while self._rows >= self._max_rows:
            await self._room.wait()

    # -- delivery

    def _add(self, rows: _ShardRows, item: _Item) -> None:
        rows.items[item.call.call_id] = item
        self._rows += 1
        key = (item.sender, item.call.object)
        lane = rows.lanes.get(key)
        if lane is None:
            lane = rows.lanes[key] = _Lane()
        lane.items.append(item)
        if lane.task is None:
            name = f"deliver from {item.sender}"
            lane.task = self._tasks.spawn(name, self._deliver_all(rows, key, lane))

    async def _deliver_all(
        self, rows: _ShardRows, key: tuple[ObjectId, ObjectId], lane: _Lane
    ) -> None:
        backoff = Backoff(self._runtime.random, min_s=0.05, max_s=5.0)
        while lane.items:
            item = lane.items[0]
            try:
                await self._router.invoke(self._call(item.call))
            except _REFUSALS as refusal:
                log.error("%s cannot be delivered: %s", _name(item), refusal)
                await self._settle(rows, item, OutboxStep.PARK, _reason(refusal))
                self._observer.delivery_parked()
            except GoverseError as error:
                log.warning("%s is delivered later: %s", _name(item), error)
                await asyncio.sleep(backoff.next_s())
                continue
            except Exception:  # whatever it is, those behind this one wait for it
                log.exception("%s is delivered later", _name(item))
                await asyncio.sleep(backoff.next_s())
                continue
            else:
                backoff.reset()
                self._observer.delivered()
                self._tasks.spawn("acknowledge", self._settle(rows, item, OutboxStep.DELIVERED, ""))
            lane.items.popleft()
        del rows.lanes[key]

    def _call(self, call: ReliableCall) -> Call:
        context = Context.decode(call.context)
        verb, payload, call_id = Verb.ENQUEUE, call.arguments.data, call.call_id
        if not call.method:  # its arguments name a call that is to be cancelled
            verb, payload, call_id = Verb.CANCEL, b"", payload.decode()
        elif call.timing is None:
            payload = msgspec.msgpack.encode(Envelope(payload, call.parent, call.expires_at))
        else:
            verb, said = Verb.SCHEDULE, said_of(call.timing)
            payload = msgspec.msgpack.encode(Schedule(payload, said, call.parent, call.expires_at))
        return Call(
            call.object.type,
            call.object.id,
            call.method,
            payload,
            asyncio.get_running_loop().time() + self._timeout_s,
            codec=call.arguments.codec,
            verb=verb,
            principal=call.principal,
            client_id=context.client_id,
            call_id=call_id,
            trace=context.trace,
        )

    async def _settle(self, rows: _ShardRows, item: _Item, step: OutboxStep, why: str) -> None:
        """The row goes, or stays aside; repeated until the store has answered."""
        backoff = Backoff(self._runtime.random, min_s=0.1, max_s=5.0)
        while self._shards.get(self._by_opening.get(item.opening)) is rows:  # type: ignore[arg-type]
            result = await self._changes.submit((item, step, why))
            if result is not None and result.verdict is not Verdict.FENCED:
                break
            await asyncio.sleep(backoff.next_s())
        else:
            return  # closed
        if rows.items.pop(item.call.call_id, None) is not None:
            self._rows -= 1
            self._room.made()

    async def _change(
        self, items: Sequence[tuple[_Item, OutboxStep, str]]
    ) -> Sequence[StepResult | None]:
        changes = [
            OutboxChange(item.fence(), item.call.call_id, step, why) for item, step, why in items
        ]
        try:
            return await self._store.change_outbox(changes)
        except (StorageUnavailable, OutcomeUnknown) as error:
            # A late acknowledgement does no harm: the target has the call.
            log.warning("%d deliveries cannot be acknowledged: %s", len(items), error)
            return [None] * len(items)


def _name(item: _Item) -> str:
    return f"call {item.call.call_id} from {item.sender} to {item.call.object}"


def _reason(error: GoverseError) -> str:
    return f"{error.code}: {error.message}".encode()[:_MAX_REASON_BYTES].decode("utf-8", "ignore")
