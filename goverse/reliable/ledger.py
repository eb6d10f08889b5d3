"""Rows of the ledger, read and changed for many orders and shards at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from goverse.aio.batcher import Batcher
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.errors import Unavailable
from goverse.objects.durability.fences import Fences
from goverse.objects.durability.settlement import shut_out
from goverse.reliable.entries import Entry
from goverse.storage.api import OutcomeUnknown, StorageUnavailable, Store
from goverse.storage.patience import until_read
from goverse.storage.values import CallStep, OutboxRow, Step, StepResult, StoredCall, Verdict

log = logging.getLogger(__name__)

#: Rows of one page. A row holds its arguments, which may be large.
PAGE = 500

_MAX_ITEMS = 512
_MAX_SHARDS = 1024
_MAX_WAITING = 1_000_000  # of every order and every shard one waits at most


class SlotRow(Protocol):
    @property
    def slot(self) -> int: ...


Row = TypeVar("Row", bound=SlotRow)


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Rows of one shard, in their order. ``cursor``: where the next page begins; None: it was the
    last."""

    rows: tuple[Row, ...]
    cursor: int | None


class Ledger:
    def __init__(self, store: Store, fences: Fences, tasks: Tasks, runtime: Runtime) -> None:
        self._store = store
        self._fences = fences
        self._runtime = runtime
        self._steps: Batcher[tuple[Entry, CallStep], StepResult | None] = Batcher(
            "change calls", self._change, tasks, max_items=_MAX_ITEMS, max_waiting=_MAX_WAITING
        )
        self._rows: Batcher[str, StoredCall | None] = Batcher(
            "read calls", self._read, tasks, max_items=_MAX_ITEMS, max_waiting=_MAX_WAITING
        )
        self._first_calls: Batcher[tuple[int, ...], Page[StoredCall]] = Batcher(
            "first calls",
            lambda shards: self._first(shards, self._calls_of, _seq),
            tasks,
            max_items=_MAX_SHARDS,
            max_waiting=_MAX_WAITING,
        )
        self._first_rows: Batcher[tuple[int, ...], Page[OutboxRow]] = Batcher(
            "first outbox rows",
            lambda shards: self._first(shards, self._outbox_of, _position),
            tasks,
            max_items=_MAX_SHARDS,
            max_waiting=_MAX_WAITING,
        )

    async def step(self, entry: Entry, step: Step, reason: str) -> int | None:
        """The row's attempts after ``step``; None: what became of it must be read."""
        result = await self.change(entry, step, reason)
        return result.attempts if result is not None else None

    async def change(self, entry: Entry, step: Step, reason: str) -> StepResult | None:
        """``step``, which is DONE; None: what became of the row must be read."""
        change = CallStep(entry.fence(), entry.call_id, step, reason)
        result = await self._steps.submit((entry, change))
        if result is None or result.verdict is not Verdict.DONE:
            return None
        return result

    async def rows(self, call_ids: Iterable[str]) -> dict[str, StoredCall]:
        """Those that there are; a store that is away is waited for."""
        wanted = list(call_ids)

        async def read() -> dict[str, StoredCall]:
            found = await asyncio.gather(*(self._rows.submit(id) for id in wanted))
            return {row.call.call_id: row for row in found if row is not None}

        return await until_read(read, f"{len(wanted)} calls", self._runtime, log)

    async def first_calls(self, slots: tuple[int, ...]) -> Page[StoredCall]:
        """The first page of pending calls, of many shards at a time. Raises Unavailable."""
        try:
            return await self._first_calls.submit(slots)
        except (StorageUnavailable, OutcomeUnknown) as error:
            raise Unavailable(f"pending calls cannot be read, the store is away: {error}") from None

    async def more_calls(self, slots: tuple[int, ...], cursor: int) -> Page[StoredCall]:
        """Raises Unavailable."""
        try:
            return _page(await self._calls_of(slots, cursor), _seq)
        except (StorageUnavailable, OutcomeUnknown) as error:
            raise Unavailable(f"pending calls cannot be read, the store is away: {error}") from None

    async def outbox_rows(self, slots: tuple[int, ...], cursor: int) -> Page[OutboxRow]:
        """A page of rows to be delivered. Raises Unavailable."""
        try:
            if not cursor:
                return await self._first_rows.submit(slots)
            return _page(await self._outbox_of(slots, cursor), _position)
        except (StorageUnavailable, OutcomeUnknown) as error:
            raise Unavailable(f"the outbox cannot be read, the store is away: {error}") from None

    # -- batches

    async def _change(self, items: Sequence[tuple[Entry, CallStep]]) -> Sequence[StepResult | None]:
        try:
            return await self._store.change_calls([step for _, step in items])
        except StorageUnavailable as error:
            log.warning("%d calls cannot be changed: %s", len(items), error)
        except OutcomeUnknown as error:
            log.warning("whether %d calls were changed is not known: %s", len(items), error)
            openings = [entry.shard.opening for entry, _ in items if entry.shard.opening]
            with ExitStack() as settling:
                await shut_out(openings, settling, self._fences, self._runtime)
        return [None] * len(items)

    async def _read(self, call_ids: Sequence[str]) -> Sequence[StoredCall | None]:
        found = await self._store.get_calls(list(dict.fromkeys(call_ids)))
        return [found.get(call_id) for call_id in call_ids]

    async def _first(
        self,
        shards: Sequence[tuple[int, ...]],
        read: Callable[[Sequence[int], int], Awaitable[Sequence[Row]]],
        key: Callable[[Row], int],
    ) -> Sequence[Page[Row]]:
        page = _page(await read([slot for slots in shards for slot in slots], 0), key)
        if not page.rows:  # as nearly always, and slots are many
            return [page] * len(shards)
        by_slot: dict[int, list[Row]] = {}
        for row in page.rows:
            by_slot.setdefault(row.slot, []).append(row)
        found = [[row for slot in slots for row in by_slot.get(slot, ())] for slots in shards]
        return [Page(tuple(sorted(rows, key=key)), page.cursor) for rows in found]

    async def _calls_of(self, slots: Sequence[int], cursor: int) -> Sequence[StoredCall]:
        return await self._store.pending_calls(slots, after=cursor, limit=PAGE)

    async def _outbox_of(self, slots: Sequence[int], cursor: int) -> Sequence[OutboxRow]:
        return await self._store.outbox(slots, after=cursor, limit=PAGE)


def _page(rows: Sequence[Row], key: Callable[[Row], int]) -> Page[Row]:
    return Page(tuple(rows), key(rows[-1]) if len(rows) >= PAGE else None)


def _seq(row: StoredCall) -> int:
    return row.seq


def _position(row: OutboxRow) -> int:
    return row.position
