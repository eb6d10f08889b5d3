"""The `Store` on PostgreSQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.ids import ObjectId
from goverse.storage import checks
from goverse.storage.api import (
    StoreSnapshot,
)
from goverse.storage.columns import (
    delayed_call,
    integers,
    listed_call,
    micros,
    outbox_row,
    stored_call,
)
from goverse.storage.halving import halved
from goverse.storage.listing import ListedCall
from goverse.storage.postgres import calls, commit
from goverse.storage.postgres.administration import PostgresAdministration
from goverse.storage.postgres.dialect import POSTGRES, Dialect
from goverse.storage.repeated import firsts, with_known
from goverse.storage.rules import fenced
from goverse.storage.values import (
    DONE,
    FENCED,
    Acceptance,
    AcceptResult,
    CallStep,
    CommitResult,
    DelayedPage,
    DueStep,
    ObjectCommit,
    OutboxChange,
    OutboxRow,
    State,
    StepResult,
    StoredCall,
    StoredObject,
    Verdict,
)

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOAD = """
SELECT o.object_type, o.object_id, o.version, o.state, o.state_schema
FROM unnest(%s::text[], %s::text[]) AS w (object_type, object_id)
JOIN goverse_objects o ON o.object_type = w.object_type AND o.object_id = w.object_id
"""


class PostgresStore(PostgresAdministration):
    """Made by `goverse.storage.open`; connects when it is first used."""

    def __init__(
        self, settings: StorageSettings, runtime: Runtime, dialect: Dialect = POSTGRES
    ) -> None:
        super().__init__(settings, runtime, dialect)
        self._place = _without_secrets(settings.url)
        self._committing = checks.InFlight()
        self._accepting = checks.InFlight()

    # ---- writing

    async def commit(self, batch: Sequence[ObjectCommit]) -> Sequence[CommitResult]:
        checks.check_commits(batch)

        async def send(part: Sequence[ObjectCommit]) -> list[CommitResult]:
            rows = await self._work.write(*commit.statement(part))
            return commit.results(part, rows)

        with self._committing.holding(item.object for item in batch):
            results = await self._halved("commit", batch, send, _refused_commit)
        self._counts.committed(results)
        return results

    async def accept(self, acceptances: Sequence[Acceptance]) -> Sequence[AcceptResult]:
        checks.check_acceptances(acceptances)
        first = firsts(acceptances)

        async def send(part: Sequence[Acceptance]) -> list[AcceptResult]:
            rows = await self._work.write(*calls.accept(part))
            return [_accepted(a, *row) for a, row in zip(part, rows, strict=True)]

        with self._accepting.holding(acceptance.call.object for acceptance in acceptances):
            sent = await self._halved("accept", first, send, _refused_accept)
            results = await with_known(acceptances, first, sent, self.get_calls)
        self._counts.accepted(results)
        return results

    async def change_calls(self, steps: Sequence[CallStep]) -> Sequence[StepResult]:
        checks.check_steps(steps)

        async def send(part: Sequence[CallStep]) -> list[StepResult]:
            rows = await self._work.write(calls.CHANGE_CALLS, calls.step_parameters(part))
            return calls.step_results(part, rows)

        results = await self._halved("change calls", steps, send, _refused_step)
        self._counts.refused(results)
        return results

    async def make_due(self, steps: Sequence[DueStep]) -> Sequence[StepResult]:
        checks.check_due(steps)

        async def send(part: Sequence[DueStep]) -> list[StepResult]:
            rows = await self._work.write(calls.MAKE_DUE, calls.due_parameters(part))
            return calls.step_results(part, rows)

        results = await self._halved("make due", steps, send, _refused_step)
        self._counts.refused(results)
        return results

    async def change_outbox(self, changes: Sequence[OutboxChange]) -> Sequence[StepResult]:
        checks.check_steps(changes)

        async def send(part: Sequence[OutboxChange]) -> list[StepResult]:
            rows = await self._work.write(calls.CHANGE_OUTBOX, calls.step_parameters(part))
            return calls.step_results(part, rows)

        results = await self._halved("change the outbox", changes, send, _refused_step)
        self._counts.refused(results)
        return results

    async def _halved(
        self,
        name: str,
        items: Sequence[Item],
        send: Callable[[Sequence[Item]], Awaitable[list[Result]]],
        refused: Callable[[str], Result],
    ) -> list[Result]:
        return await self._work.owned(name, halved(items, send, refused)) if items else []

    # ---- reading

    async def load(self, objects: Sequence[ObjectId]) -> Mapping[ObjectId, StoredObject]:
        checks.check_objects(objects)
        types, ids = [object.type for object in objects], [object.id for object in objects]
        found = {}
        for type, id, version, data, state_schema in await self._work.read(_LOAD, (types, ids)):
            state = None if data is None else State(data, state_schema)
            found[ObjectId(type, id)] = StoredObject(version, state)
        return found

    async def get_calls(self, call_ids: Sequence[str]) -> Mapping[str, StoredCall]:
        checks.check_call_ids(call_ids)
        rows = await self._work.read(calls.GET_CALLS, (list(call_ids),))
        return {row[0]: stored_call(row) for row in rows}

    async def deliveries(self, call_ids: Sequence[str]) -> Mapping[str, ListedCall]:
        checks.check_call_ids(call_ids)
        rows = await self._work.read(calls.DELIVERIES, (list(call_ids),))
        return {row[0]: listed_call(row) for row in rows}

    async def pending_calls(
        self, slots: Sequence[int], *, after: int = 0, limit: int = 1000
    ) -> Sequence[StoredCall]:
        checks.check_page(slots, limit)
        values = (integers(slots), after, limit)
        return [stored_call(row) for row in await self._work.read(calls.PENDING_CALLS, values)]

    async def parked_calls(
        self, slots: Sequence[int], *, after: str = "", limit: int = 1000
    ) -> Sequence[StoredCall]:
        checks.check_page(slots, limit)
        checks.check_text("after", after)
        values = (integers(slots), after, limit)
        return [stored_call(row) for row in await self._work.read(calls.PARKED_CALLS, values)]

    async def delayed_calls(
        self,
        slots: Sequence[int],
        *,
        within_s: float,
        after: tuple[float, str] = (0.0, ""),
        limit: int = 1000,
    ) -> DelayedPage:
        checks.check_window(slots, within_s, after, limit)
        values = (micros(after[0]), after[1], micros(within_s), integers(slots), limit)
        rows = await self._work.read(calls.DELAYED_CALLS, values)
        found = tuple(delayed_call(row[1:]) for row in rows if row[1] is not None)
        return DelayedPage(rows[0][0] / 1_000_000, found)

    async def outbox(
        self, slots: Sequence[int], *, after: int = 0, limit: int = 1000, parked: bool = False
    ) -> Sequence[OutboxRow]:
        checks.check_page(slots, limit)
        statement = calls.PARKED_OUTBOX if parked else calls.OUTBOX
        rows = await self._work.read(statement, (integers(slots), after, limit))
        return [outbox_row(row) for row in rows]

    # ---- the client itself

    def snapshot(self) -> StoreSnapshot:
        return self._counts.snapshot(
            self._dialect.name,
            self._place,
            len(self._connections) + len(self._control_connections),
            len(self._committing) + len(self._accepting),
            self._fences.ended_sessions,
        )

    async def close(self) -> None:
        await self._work.close()
        await self._control.close()


def _accepted(acceptance: Acceptance, stands: bool, seq: int | None) -> AcceptResult:
    if not stands:
        return AcceptResult(FENCED, message=fenced(acceptance.fence.slot))
    return AcceptResult(Verdict.KNOWN) if seq is None else AcceptResult(DONE, seq)


def _refused_commit(message: str) -> CommitResult:
    return CommitResult(Verdict.REFUSED, message=message)


def _refused_accept(message: str) -> AcceptResult:
    return AcceptResult(Verdict.REFUSED, message=message)


def _refused_step(message: str) -> StepResult:
    return StepResult(Verdict.REFUSED, message=message)


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
