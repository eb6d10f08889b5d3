"""The `Store` on MariaDB."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.ids import ObjectId
from goverse.storage import checks
from goverse.storage.api import StoreSnapshot
from goverse.storage.columns import delayed_call, listed_call, micros, outbox_row, stored_call
from goverse.storage.halving import halved
from goverse.storage.listing import ListedCall
from goverse.storage.mysql import calls, commit, locks, reading, sql
from goverse.storage.mysql.administration import MysqlAdministration
from goverse.storage.repeated import firsts, with_known
from goverse.storage.values import (
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


class MysqlStore(MysqlAdministration):
    """Made by `goverse.storage.open`; connects when it is first used."""

    def __init__(self, settings: StorageSettings, runtime: Runtime) -> None:
        super().__init__(settings, runtime)
        self._place = _without_secrets(settings.url)
        self._committing = checks.InFlight()
        self._accepting = checks.InFlight()

    # ---- writing

    async def commit(self, batch: Sequence[ObjectCommit]) -> Sequence[CommitResult]:
        checks.check_commits(batch)

        async def send(part: Sequence[ObjectCommit]) -> list[CommitResult]:
            return await self._work.write(part, commit.CommitPlan, commit.fenced_commit)

        with self._committing.holding(item.object for item in batch):
            results = await self._halved("commit", batch, send, _refused_commit)
        self._counts.committed(results)
        return results

    async def accept(self, acceptances: Sequence[Acceptance]) -> Sequence[AcceptResult]:
        checks.check_acceptances(acceptances)
        first = firsts(acceptances)

        async def send(part: Sequence[Acceptance]) -> list[AcceptResult]:
            return await self._work.write(part, calls.AcceptPlan, calls.fenced_accept)

        with self._accepting.holding(acceptance.call.object for acceptance in acceptances):
            sent = await self._halved("accept", first, send, _refused_accept)
            results = await with_known(acceptances, first, sent, self.get_calls)
        self._counts.accepted(results)
        return results

    async def change_calls(self, steps: Sequence[CallStep]) -> Sequence[StepResult]:
        checks.check_steps(steps)

        async def send(part: Sequence[CallStep]) -> list[StepResult]:
            return await self._work.write(part, calls.StepPlan, calls.fenced_step)

        results = await self._halved("change calls", steps, send, _refused_step)
        self._counts.refused(results)
        return results

    async def make_due(self, steps: Sequence[DueStep]) -> Sequence[StepResult]:
        checks.check_due(steps)

        async def send(part: Sequence[DueStep]) -> list[StepResult]:
            return await self._work.write(part, calls.DuePlan, calls.fenced_step)

        results = await self._halved("make due", steps, send, _refused_step)
        self._counts.refused(results)
        return results

    async def change_outbox(self, changes: Sequence[OutboxChange]) -> Sequence[StepResult]:
        checks.check_steps(changes)

        async def send(part: Sequence[OutboxChange]) -> list[StepResult]:
            return await self._work.write(part, calls.OutboxPlan, calls.fenced_step)

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
        found = {}
        for type, ids in locks.by_type(objects):
            rows = await self._work.read(
                "SELECT object_id, version, state, state_schema "
                "FROM goverse_objects FORCE INDEX (PRIMARY) "
                f"WHERE object_type = {sql.text(type)} AND object_id IN {sql.texts(ids)}"
            )
            for id, version, data, state_schema in rows:
                state = None if data is None else State(data, state_schema)
                found[ObjectId(type, id.decode())] = StoredObject(version, state)
        return found

    async def get_calls(self, call_ids: Sequence[str]) -> Mapping[str, StoredCall]:
        checks.check_call_ids(call_ids)
        found = await self._calls(reading.get_calls(call_ids)) if call_ids else []
        return {stored.call.call_id: stored for stored in found}

    async def deliveries(self, call_ids: Sequence[str]) -> Mapping[str, ListedCall]:
        checks.check_call_ids(call_ids)
        rows = await self._work.read(reading.deliveries(call_ids)) if call_ids else ()
        found = [listed_call(row) for row in reading.all_texts(rows)]
        return {delivery.call_id: delivery for delivery in found}

    async def pending_calls(
        self, slots: Sequence[int], *, after: int = 0, limit: int = 1000
    ) -> Sequence[StoredCall]:
        checks.check_page(slots, limit)
        return await self._calls(reading.pending_calls(slots, after, limit))

    async def parked_calls(
        self, slots: Sequence[int], *, after: str = "", limit: int = 1000
    ) -> Sequence[StoredCall]:
        checks.check_page(slots, limit)
        checks.check_text("after", after)
        return await self._calls(reading.parked_calls(slots, after, limit))

    async def delayed_calls(
        self,
        slots: Sequence[int],
        *,
        within_s: float,
        after: tuple[float, str] = (0.0, ""),
        limit: int = 1000,
    ) -> DelayedPage:
        checks.check_window(slots, within_s, after, limit)
        behind = (micros(after[0]) or 0, after[1])
        now, found = await self._work.read_all(
            *reading.delayed_calls(slots, micros(within_s) or 0, behind, limit)
        )
        rows = reading.all_texts(found.rows)
        return DelayedPage(now.rows[0][0] / 1_000_000, tuple(delayed_call(row) for row in rows))

    async def _calls(self, statement: str) -> list[StoredCall]:
        rows = await self._work.read(statement)
        return [stored_call(reading.ledger_row(row)) for row in rows]

    async def outbox(
        self, slots: Sequence[int], *, after: int = 0, limit: int = 1000, parked: bool = False
    ) -> Sequence[OutboxRow]:
        checks.check_page(slots, limit)
        rows = await self._work.read(reading.outbox(slots, after, limit, parked=parked))
        return [outbox_row(reading.outbox_row(row)) for row in rows]

    # ---- the client itself

    def snapshot(self) -> StoreSnapshot:
        return self._counts.snapshot(
            "mysql",
            self._place,
            len(self._connections) + len(self._control_connections),
            len(self._committing) + len(self._accepting),
            self._fences.ended_sessions,
        )

    async def close(self) -> None:
        await self._work.close()
        await self._control.close()


def _refused_commit(message: str) -> CommitResult:
    return CommitResult(Verdict.REFUSED, message=message)


def _refused_accept(message: str) -> AcceptResult:
    return AcceptResult(Verdict.REFUSED, message=message)


def _refused_step(message: str) -> StepResult:
    return StepResult(Verdict.REFUSED, message=message)


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
