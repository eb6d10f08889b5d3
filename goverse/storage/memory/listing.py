"""Lists and cleanup of the tables in memory."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, MutableMapping, Sequence

from goverse.storage.listing import CallPosition, FinishedCount, ListedCall
from goverse.storage.values import CallStatus, OutboxRow, StoredCall


class Listing:
    """What operators see of ``calls`` and ``outbox``. Looks at every row: these tables are for
    tests and development."""

    def __init__(
        self, calls: MutableMapping[str, StoredCall], outbox: Mapping[str, OutboxRow]
    ) -> None:
        self._calls = calls
        self._outbox = outbox

    def calls(self, status: CallStatus, after: CallPosition, limit: int) -> list[ListedCall]:
        rows = (_listed(call) for call in self._calls.values() if call.status is status)
        return _page(rows, after, limit)

    def outbox(self, parked: bool, after: CallPosition, limit: int) -> list[ListedCall]:
        rows = (_delivery(row) for row in self._outbox.values() if bool(row.parked) == parked)
        return _page(rows, after, limit)

    def deliveries(self, call_ids: Sequence[str]) -> dict[str, ListedCall]:
        return {id: _delivery(self._outbox[id]) for id in call_ids if id in self._outbox}

    def count(
        self, status: CallStatus, before: float, after: CallPosition, limit: int
    ) -> FinishedCount:
        page = [
            call
            for call in self.calls(status, after, limit)
            if call.finished_at is not None and call.finished_at < before
        ]
        times = [
            call.finished_at
            for call in page
            if call.finished_at is not None and call.call_id not in self._outbox
        ]
        return FinishedCount(
            len(times),
            len(page) - len(times),
            min(times, default=None),
            max(times, default=None),
            page[-1].position if len(page) == limit else None,
        )

    def delete(self, call_ids: Sequence[str], before: float) -> list[str]:
        doomed = [
            call_id
            for call_id in call_ids
            if (call := self._calls.get(call_id)) is not None
            and call.finished_at is not None
            and call.finished_at < before
            and call_id not in self._outbox
        ]
        for call_id in doomed:
            del self._calls[call_id]
        return doomed


def _page(rows: Iterable[ListedCall], after: CallPosition, limit: int) -> list[ListedCall]:
    behind = (row for row in rows if row.position > after)
    return heapq.nsmallest(limit, behind, key=lambda row: row.position)


def _listed(stored: StoredCall) -> ListedCall:
    call = stored.call
    return ListedCall(
        call.call_id,
        call.object,
        call.method,
        stored.slot,
        stored.seq,
        stored.status,
        stored.attempts,
        stored.reason,
        call.principal,
        call.parent,
        len(call.arguments.data),
        len(stored.result.data) if stored.result else 0,
        stored.created_at,
        call.expires_at,
        stored.finished_at,
        call.timing and call.timing.run_at,
    )


def _delivery(row: OutboxRow) -> ListedCall:
    call = row.call
    return ListedCall(
        call.call_id,
        call.object,
        call.method,
        row.slot,
        row.position,
        CallStatus.PARKED if row.parked else CallStatus.PENDING,
        0,
        row.parked,
        call.principal,
        call.parent,
        len(call.arguments.data),
        0,
        row.created_at,
        call.expires_at,
        None,
        call.timing and call.timing.run_at,
        row.sender,
    )
