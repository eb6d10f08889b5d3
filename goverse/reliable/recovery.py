"""What shards bring along when they open, and what becomes of it when they close."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

from goverse.aio.backoff import Backoff
from goverse.aio.tasks import Tasks
from goverse.errors import Executed, NotOwner, Unavailable
from goverse.objects.shard import Shard
from goverse.reliable.accepts import Accepts
from goverse.reliable.entries import ACCEPTING, RESTING, Entry
from goverse.reliable.execution import Execution
from goverse.reliable.ledger import Ledger, Page
from goverse.reliable.unfinished import ShardCalls, Unfinished
from goverse.storage.values import StoredCall

log = logging.getLogger(__name__)


class Recovery:
    """Reads the pending calls of shards that open, a page at a time, into their orders."""

    def __init__(
        self,
        unfinished: Unfinished,
        execution: Execution,
        accepts: Accepts,
        ledger: Ledger,
        tasks: Tasks,
    ) -> None:
        self._unfinished = unfinished
        self._execution = execution
        self._accepts = accepts
        self._ledger = ledger
        self._tasks = tasks
        #: First pages of shards that are not let in yet, and whether their former owners released
        #: them.
        self._pages: dict[Shard, tuple[Page[StoredCall], bool]] = {}

    async def opening(self, shard: Shard, *, released: bool) -> None:
        """Raises Unavailable."""
        assert shard.opening is not None
        page = await self._ledger.first_calls(shard.opening.slots)
        self._pages = {one: kept for one, kept in self._pages.items() if one.is_opening}
        if shard.is_opening:
            self._pages[shard] = (page, released)

    def opened(self, shard: Shard) -> None:
        page, released = self._pages.pop(shard)
        calls = self._unfinished.shards[shard] = ShardCalls(page.cursor, released)
        self._take(shard, calls, page.rows)
        if page.cursor is not None:
            calls.reader = self._tasks.spawn(
                f"read calls of shard {shard.number}", self._read_on(shard, calls)
            )

    def closed(self, shard: Shard) -> None:
        self._pages.pop(shard, None)
        calls = self._unfinished.shards.pop(shard, None)
        if calls is None:
            return
        if calls.reader is not None:
            calls.reader.cancel()
        for order in calls.orders.values():
            order.close()
        for entry in list(calls.entries):
            withdrawn = entry.state is ACCEPTING and self._accepts.withdraw(entry)
            executed = Executed.NO if withdrawn and not entry.sent else Executed.UNKNOWN
            self._unfinished.end(entry, partial(_moved, entry, executed))

    async def _read_on(self, shard: Shard, calls: ShardCalls) -> None:
        """More was pending than one page; memory for it comes as calls are finished."""
        assert shard.opening is not None
        backoff = Backoff(self._execution.runtime.random, min_s=0.1, max_s=2.0)
        while calls.cursor is not None:
            await self._unfinished.wait_room()
            try:
                page = await self._ledger.more_calls(shard.opening.slots, calls.cursor)
            except Unavailable as error:
                log.warning("shard %d: %s", shard.number, error)
                await asyncio.sleep(backoff.next_s())
                continue
            backoff.reset()
            self._take(shard, calls, page.rows)
            calls.cursor = page.cursor
        late, calls.late = calls.late, []
        for entry in late:
            if entry.waits_for_page:
                self._execution.order(entry).join(entry)

    def _take(self, shard: Shard, calls: ShardCalls, rows: Sequence[StoredCall]) -> None:
        for row in rows:
            entry = self._unfinished.get(row.call.call_id)
            if entry is None:
                entry = self._unfinished.enter(row.call, shard)
            elif entry.state is ACCEPTING:
                self._accepts.withdraw(entry)
                self._unfinished.landed(entry)
            elif not entry.waits_for_page:
                continue
            self._adopt(entry, row)
            self._execution.order(entry).join(entry, suspect=not calls.released)

    def _adopt(self, entry: Entry, row: StoredCall) -> None:
        entry.adopt(row)
        entry.sent = True
        entry.accepted_at = entry.accepted_at or asyncio.get_running_loop().time()
        entry.tell_accepted()

    def take_due(self, shard: Shard, row: StoredCall) -> None:
        """A delayed call of an open shard has got its place, from this node: nobody ran it yet."""
        calls = self._unfinished.shards.get(shard)
        if calls is None:
            return
        entry = self._unfinished.get(row.call.call_id)
        if entry is None:
            entry = self._unfinished.enter(row.call, shard)
        elif entry.state is ACCEPTING:
            self._accepts.withdraw(entry)
            self._unfinished.landed(entry)
        elif entry.state not in RESTING:
            return
        self._adopt(entry, row)
        if calls.cursor is None:
            self._execution.order(entry).join(entry)
        else:
            entry.wait_for_page()
            calls.late.append(entry)


def _moved(entry: Entry, executed: Executed) -> NotOwner:
    error = NotOwner(
        f"call {entry.call_id}: shard {entry.shard.number} has left this node",
        epoch=entry.shard.epoch,
    )
    error.executed = executed
    return error
