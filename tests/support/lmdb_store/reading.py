"""What reads: each function sees one snapshot."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from goverse.ids import NO_EPOCH, Epoch, ObjectId
from goverse.storage import stats
from goverse.storage.api import Census, FinishedCalls, LiveCalls, QueuedCalls
from goverse.storage.listing import (
    CallPosition,
    FinishedCount,
    ListedCall,
    listed,
    listed_delivery,
)
from goverse.storage.values import (
    CallStatus,
    DelayedCall,
    OutboxRow,
    StoredCall,
    StoredObject,
)
from tests.support.lmdb_store.tables import (
    END,
    Tables,
    beginning,
    delivery_key,
    due_key,
    listed_key,
    micros,
    number,
)

_LIVE = (CallStatus.PENDING, CallStatus.DELAYED, CallStatus.PARKED)
_FINISHED = (CallStatus.SUCCESS, CallStatus.FAILED, CallStatus.SKIPPED)


def highest_epoch(tables: Tables) -> Epoch:
    return max((row.epoch for _, row in tables.fences()), default=NO_EPOCH)


def load(tables: Tables, objects: Sequence[ObjectId]) -> dict[ObjectId, StoredObject]:
    rows = ((object, tables.object(object)) for object in objects)
    return {object: StoredObject(row.version, row.state) for object, row in rows if row}


def get_calls(tables: Tables, call_ids: Sequence[str]) -> dict[str, StoredCall]:
    rows = ((call_id, tables.call(call_id)) for call_id in call_ids)
    return {call_id: row for call_id, row in rows if row is not None}


def deliveries(tables: Tables, call_ids: Sequence[str]) -> dict[str, ListedCall]:
    rows = ((call_id, tables.delivery(call_id)) for call_id in call_ids)
    return {call_id: listed_delivery(row) for call_id, row in rows if row is not None}


# ---- live work of some slots


def pending_calls(tables: Tables, slots: Sequence[int], after: int, limit: int) -> list[StoredCall]:
    def of(slot: int) -> Iterator[StoredCall]:
        start = listed_key(CallStatus.PENDING, slot, number(after + 1))
        return tables.calls_between(start, listed_key(CallStatus.PENDING, slot + 1))

    merged = heapq.merge(*map(of, sorted(set(slots))), key=lambda row: row.seq)
    return list(islice(merged, limit))


def parked_calls(tables: Tables, slots: Sequence[int], after: str, limit: int) -> list[StoredCall]:
    def of(slot: int) -> Iterator[StoredCall]:
        start = listed_key(CallStatus.PARKED, slot, beginning(after) if after else b"")
        rows = tables.calls_between(start, listed_key(CallStatus.PARKED, slot + 1))
        return (row for row in rows if row.call.call_id > after)

    merged = heapq.merge(*map(of, sorted(set(slots))), key=lambda row: row.call.call_id)
    return list(islice(merged, limit))


def delayed_calls(
    tables: Tables, slots: Sequence[int], until: float, after: tuple[float, str], limit: int
) -> list[DelayedCall]:
    wanted = set(slots)
    start = due_key(after[0], beginning(after[1]) if after[1] else b"")
    rows = tables.calls_between(start, due_key(until) + END * 40)
    calls = (
        DelayedCall(row.call.call_id, row.slot, row.call.object, row.call.timing)
        for row in rows
        if row.slot in wanted and row.call.timing is not None
    )
    ahead = (call for call in calls if (call.timing.run_at, call.call_id) > after)
    return list(islice(ahead, limit))


def outbox(
    tables: Tables, slots: Sequence[int], after: int, limit: int, parked: bool
) -> list[OutboxRow]:
    def of(slot: int) -> Iterator[OutboxRow]:
        start = delivery_key(parked, slot, after + 1)
        return tables.deliveries_between(start, delivery_key(parked, slot + 1))

    merged = heapq.merge(*map(of, sorted(set(slots))), key=lambda row: row.position)
    return list(islice(merged, limit))


# ---- for operators


def list_calls(
    tables: Tables, status: CallStatus, after: CallPosition, limit: int
) -> list[ListedCall]:
    return list(islice(map(listed, _behind(tables, status, after)), limit))


def _behind(tables: Tables, status: CallStatus, after: CallPosition) -> Iterator[StoredCall]:
    place = beginning(after.call_id) if after.call_id else b""
    if status is CallStatus.PENDING:
        place = number(after.seq)
    rows = tables.calls_between(
        listed_key(status, after.number, place), listed_key(status, 2**63) + END
    )
    return (row for row in rows if listed(row).position > after)


def list_outbox(tables: Tables, parked: bool, after: CallPosition, limit: int) -> list[ListedCall]:
    start = delivery_key(parked, after.number, after.seq)
    rows = map(listed_delivery, tables.deliveries_between(start, delivery_key(parked, 2**63)))
    return list(islice((row for row in rows if row.position > after), limit))


def count_finished(
    tables: Tables, status: CallStatus, before: float, after: CallPosition, limit: int
) -> FinishedCount:
    page = list(islice(_behind(tables, status, after), limit))
    old = [row for row in page if row.finished_at is not None and row.finished_at < before]
    times = [row.finished_at for row in old if tables.delivery(row.call.call_id) is None]
    return FinishedCount(
        len(times),
        len(old) - len(times),
        min(times, default=None),
        max(times, default=None),
        listed(old[-1]).position if len(old) == limit else None,
    )


def census(tables: Tables) -> Census:
    live = Counter(row.status for row in tables.all_calls(*_LIVE))
    parked = Counter(bool(row.parked) for row in tables.all_deliveries())
    return Census(*(live[status] for status in _LIVE), parked[False], parked[True])


def live_calls(tables: Tables, now: float) -> tuple[LiveCalls, ...]:
    since: dict[tuple[str, str], list[float]] = {}
    for row in tables.all_calls(*_LIVE):
        since.setdefault((row.call.object.type, row.status.value), []).append(_since(row))
    return stats.live_calls(
        (*key, len(times), micros(now - min(times))) for key, times in since.items()
    )


def longest_queues(tables: Tables, now: float, limit: int) -> tuple[QueuedCalls, ...]:
    since: dict[ObjectId, list[float]] = {}
    for row in tables.all_calls(CallStatus.PENDING):
        since.setdefault(row.call.object, []).append(_since(row))
    longest = sorted(since.items(), key=lambda one: (-len(one[1]), one[0]))
    return stats.queued_calls(
        (*object, len(times), micros(now - min(times))) for object, times in longest[:limit]
    )


def _since(row: StoredCall) -> float:
    """When it was accepted, or due, if that was later."""
    timing = row.call.timing
    return row.created_at if timing is None else max(row.created_at, timing.run_at)


def finished_calls(tables: Tables) -> tuple[FinishedCalls, ...]:
    counts = Counter(
        (row.call.object.type, row.status.value) for row in tables.all_calls(*_FINISHED)
    )
    return stats.finished_calls((*key, count) for key, count in counts.items())
