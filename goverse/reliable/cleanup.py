"""Finished calls that are old enough, counted and deleted. Works upon a store alone, node or not.

Finished rows never change, so nobody's epoch is needed: what was counted is what is deleted, by
whomever and however often it is begun again. A call id that was deleted is as new: repeated after
that, it runs again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from goverse.storage.api import MAX_BATCH_ITEMS, MAX_PAGE, Store
from goverse.storage.listing import START, CallPosition, LedgerSize, finished_from
from goverse.storage.values import CallStatus

DAY_S = 86_400.0

#: Where one age begins and the next one ends.
AGES_S = (DAY_S, 7 * DAY_S, 30 * DAY_S, 90 * DAY_S, 365 * DAY_S)

FINISHED = tuple(status for status in CallStatus if status.finished)

DEFAULT_BATCH = 500
DEFAULT_PAUSE_S = 0.05

#: A batch that took long is followed by so many times as long a pause: a database that has much to
#: do gets more rest.
_REST = 2.0
_MAX_PAUSE_S = 5.0

#: Told how many so far.
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which calls are meant: those that finished before ``before``.

    :param now: when it was decided, seconds since 1970 by the store's clock.
    """

    statuses: tuple[CallStatus, ...]
    now: float
    older_than_s: float

    @property
    def before(self) -> float:
        return self.now - self.older_than_s


@dataclass(frozen=True, slots=True)
class AgeCount:
    """Calls of one status that finished more than ``from_s`` and at most ``to_s`` seconds ago;
    None: however long ago."""

    status: CallStatus
    from_s: float
    to_s: float | None
    calls: int


@dataclass(frozen=True, slots=True)
class Preview:
    """What a cleanup would delete.

    :param spared: calls that are as old, and are kept: their row still stands in the outbox.
    :param oldest: when the first and the last of them finished; None: there are none.
    """

    selection: Selection
    counts: tuple[AgeCount, ...]
    calls: int
    spared: int
    oldest: float | None
    newest: float | None
    size: LedgerSize


@dataclass
class Deleted:
    """What a cleanup has deleted so far; right also when it was stopped."""

    by_status: dict[CallStatus, int] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        return sum(self.by_status.values())


async def select(store: Store, statuses: Sequence[CallStatus], older_than_s: float) -> Selection:
    """Raises ValueError, `StorageUnavailable`."""
    unfinished = [status.value for status in statuses if not status.finished]
    if unfinished or not statuses:
        raise ValueError(
            f"calls that are {', '.join(unfinished) or 'of no status'} cannot be cleaned up; "
            f"name some of {', '.join(status.value for status in FINISHED)}"
        )
    now = await store.now()
    if not 0 < older_than_s <= now:
        raise ValueError(f"an age of {older_than_s:g} s: it must be above 0, and after 1970")
    return Selection(tuple(dict.fromkeys(statuses)), now, older_than_s)


async def preview(store: Store, selection: Selection, progress: Progress | None = None) -> Preview:
    """Count, page by page. Writes nothing. Raises `StorageUnavailable`."""
    counts: list[AgeCount] = []
    calls = spared = 0
    oldest: list[float] = []
    newest: list[float] = []
    for status in selection.statuses:
        for from_s, to_s in _ages(selection.older_than_s):
            after = START if to_s is None else finished_from(selection.now - to_s)
            position: CallPosition | None = after
            of_age = 0
            while position is not None:
                page = await store.count_finished(
                    status, selection.now - from_s, after=position, limit=MAX_PAGE
                )
                position = page.last
                of_age += page.calls
                spared += page.spared
                if page.oldest is not None and page.newest is not None:
                    oldest.append(page.oldest)
                    newest.append(page.newest)
                if progress is not None:
                    progress(calls + of_age)
            calls += of_age
            if of_age:
                counts.append(AgeCount(status, from_s, to_s, of_age))
    return Preview(
        selection,
        tuple(counts),
        calls,
        spared,
        min(oldest, default=None),
        max(newest, default=None),
        await store.ledger_size(),
    )


def _ages(older_than_s: float) -> list[tuple[float, float | None]]:
    edges = [older_than_s, *(age for age in AGES_S if age > older_than_s)]
    return list(zip(edges, [*edges[1:], None], strict=True))


async def delete(
    store: Store,
    selection: Selection,
    deleted: Deleted,
    *,
    batch: int = DEFAULT_BATCH,
    pause_s: float = DEFAULT_PAUSE_S,
    max_calls: int | None = None,
    until: float | None = None,
    progress: Progress | None = None,
) -> bool:
    """Delete in batches, the oldest first, and rest after each. Whether all of it is gone.

    May be cancelled at any await, and done again: ``deleted`` says what was done. Raises
    `StorageUnavailable`, `OutcomeUnknown`: the last batch may be deleted, and is not counted.

    :param max_calls: enough for this time.
    :param until: no batch begins after this moment of the running loop.
    """
    now = asyncio.get_running_loop().time
    size = max(1, min(batch, MAX_BATCH_ITEMS))
    for status in selection.statuses:
        async for call_ids in _pages(store, status, selection.before, size):
            left = size if max_calls is None else max_calls - deleted.calls
            if left <= 0 or (until is not None and now() >= until):
                return False
            began = now()
            gone = await store.delete_finished(call_ids[:left], selection.before)
            took_s = now() - began
            deleted.by_status[status] = deleted.by_status.get(status, 0) + len(gone)
            if progress is not None:
                progress(deleted.calls)
            if left < len(call_ids):
                return False
            await rest(pause_s, took_s)
    return True


async def rest(pause_s: float, took_s: float) -> None:
    """After a batch that took so long."""
    await asyncio.sleep(min(max(pause_s, _REST * took_s), _MAX_PAUSE_S))


async def _pages(
    store: Store, status: CallStatus, before: float, size: int
) -> AsyncIterator[list[str]]:
    """Ids of what is old enough. What is spared is passed by, so that it is looked at once."""
    after = START
    while True:
        page = await store.list_calls(status, after=after, limit=size)
        old = [
            call.call_id
            for call in page
            if call.finished_at is not None and call.finished_at < before
        ]
        if old:
            yield old
        if len(old) < size:
            return
        after = page[-1].position
