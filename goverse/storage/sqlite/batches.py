"""Batches on SQLite, item by item within one transaction of one writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from goverse.storage import pages
from goverse.storage.columns import (
    CALL_COLUMNS,
    LEDGER_ROW,
    TIMING_COLUMNS,
    call_values,
    micros,
    stored_call,
    timing_values,
)
from goverse.storage.rules import STEP_FROM, fenced, known_or_conflict, not_due, outcomes_of
from goverse.storage.values import (
    Acceptance,
    AcceptResult,
    Act,
    CallStatus,
    CallStep,
    CommitResult,
    DueStep,
    Fence,
    ObjectCommit,
    OutboxChange,
    OutboxStep,
    Outcome,
    State,
    Step,
    StepResult,
    Verdict,
)

_COLUMNS = (*CALL_COLUMNS, *TIMING_COLUMNS)
_CALL = ", ".join(_COLUMNS)
_CALL_MARKS = ", ".join("?" * len(_COLUMNS))


class Batch:
    """One transaction's view of the tables.

    :param now: microseconds since 1970, the time of everything that it writes.
    """

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._now = now
        self._fences: dict[Fence, bool] = {}

    def _stands(self, fence: Fence) -> bool:
        if fence not in self._fences:
            row = self._execute(
                "SELECT 1 FROM goverse_fences "
                "WHERE slot = ? AND generation = ? AND revision = ? AND opening = ?",
                (fence.slot, fence.epoch.generation, fence.epoch.revision, fence.opening),
            ).fetchone()
            self._fences[fence] = row is not None
        return self._fences[fence]

    def _next(self) -> int:
        self._execute("UPDATE goverse_seq SET last = last + 1")
        return int(self._execute("SELECT last FROM goverse_seq").fetchone()[0])

    # ---- commits

    def commit(self, batch: Sequence[ObjectCommit]) -> list[CommitResult]:
        return [self._commit(commit) for commit in batch]

    def _commit(self, commit: ObjectCommit) -> CommitResult:
        if not self._stands(commit.fence):
            return CommitResult(Verdict.FENCED, message=fenced(commit.fence.slot))
        for outcome in commit.outcomes:
            pending = self._execute(
                "SELECT 1 FROM goverse_reliable_calls WHERE call_id = ? AND status = 'pending' "
                "AND object_type = ? AND object_id = ? AND slot = ?",
                (outcome.call_id, *commit.object, commit.fence.slot),
            ).fetchone()
            if pending is None:
                message = f"call {outcome.call_id} is not pending"
                return CommitResult(Verdict.NOT_PENDING, message=message)
        # A row that cannot be written takes back what this object has written, and no other.
        self._execute("SAVEPOINT one_object")
        try:
            passed = self._write_object(commit)
            if passed:
                self._write_calls(commit)
        except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError) as error:
            self._execute("ROLLBACK TO one_object")
            return CommitResult(Verdict.REFUSED, message=f"SQLite: {error}")
        finally:
            self._execute("RELEASE one_object")
        if not passed:
            message = f"{commit.object} does not have version {commit.version}"
            return CommitResult(Verdict.VERSION, message=message)
        return CommitResult(Verdict.DONE, 0 if commit.state is Act.DELETE else commit.version + 1)

    def _write_object(self, commit: ObjectCommit) -> bool:
        """Whether the stored version is the stated one."""
        state, stated = commit.state, (*commit.object, commit.version)
        if commit.version == 0:
            there = self._execute(
                "SELECT 1 FROM goverse_objects WHERE object_type = ? AND object_id = ?",
                commit.object,
            ).fetchone()
            if there is None and state is not Act.DELETE:
                data, schema = state if isinstance(state, State) else (None, 0)
                self._execute(
                    "INSERT INTO goverse_objects (object_type, object_id, slot, version, state, "
                    "state_schema, updated_at) VALUES (?, ?, ?, 1, ?, ?, ?)",
                    (*commit.object, commit.fence.slot, data, schema, self._now),
                )
            return there is None
        where = "WHERE object_type = ? AND object_id = ? AND version = ?"
        if state is Act.DELETE:
            done = self._execute(f"DELETE FROM goverse_objects {where}", stated)
        elif isinstance(state, State):
            done = self._execute(
                "UPDATE goverse_objects SET version = version + 1, slot = ?, updated_at = ?, "
                f"state = ?, state_schema = ? {where}",
                (commit.fence.slot, self._now, state.data, state.schema, *stated),
            )
        else:
            done = self._execute(
                "UPDATE goverse_objects SET version = version + 1, slot = ?, updated_at = ? "
                f"{where}",
                (commit.fence.slot, self._now, *stated),
            )
        return done.rowcount == 1

    def _write_calls(self, commit: ObjectCommit) -> None:
        outcomes = outcomes_of(commit)
        ended = [outcome for outcome in outcomes if outcome.again_at is None]
        self._connection.executemany(
            "UPDATE goverse_reliable_calls SET result = ?, result_codec = ?, reason = ?, "
            "status = ?, finished_at = ? WHERE call_id = ?",
            [(*_left(one), one.status.value, self._now, one.call_id) for one in ended],
        )
        again = [outcome for outcome in outcomes if outcome.again_at is not None]
        self._connection.executemany(
            "UPDATE goverse_reliable_calls SET result = ?, result_codec = ?, reason = ?, "
            "status = 'delayed', run_at = ?, seq = 0, attempts = 0 WHERE call_id = ?",
            [(*_left(one), micros(one.again_at), one.call_id) for one in again],
        )
        if commit.state is Act.DELETE:
            for live in ("status = 'pending'", "status IN ('delayed', 'parked')"):
                self._execute(
                    "UPDATE goverse_reliable_calls SET status = 'skipped', reason = 'deleted', "
                    f"finished_at = ? WHERE slot = ? AND {live} "
                    "AND object_type = ? AND object_id = ?",
                    (self._now, commit.fence.slot, *commit.object),
                )
        for call in commit.outbox:
            self._execute(
                "INSERT INTO goverse_outbox (position, slot, sender_type, sender_id, created_at, "
                f"{_CALL}) VALUES (?, ?, ?, ?, ?, {_CALL_MARKS})",
                (
                    self._next(),
                    commit.fence.slot,
                    *commit.object,
                    self._now,
                    *call_values(call),
                    *timing_values(call),
                ),
            )

    # ---- calls

    def accept(self, calls: Sequence[Acceptance]) -> list[AcceptResult]:
        return [self._accept(acceptance) for acceptance in calls]

    def _accept(self, acceptance: Acceptance) -> AcceptResult:
        fence, call, skip = acceptance.fence, acceptance.call, acceptance.skip
        if not self._stands(fence):
            return AcceptResult(Verdict.FENCED, message=fenced(fence.slot))
        row = self._execute(
            f"SELECT {LEDGER_ROW} FROM goverse_reliable_calls WHERE call_id = ?", (call.call_id,)
        ).fetchone()
        if row is not None:
            return known_or_conflict(call, stored_call(row))
        status = acceptance.status
        seq = self._next() if status is CallStatus.PENDING else 0
        self._execute(
            "INSERT INTO goverse_reliable_calls (slot, seq, status, reason, created_at, "
            f"finished_at, {_CALL}) VALUES (?, ?, ?, ?, ?, ?, {_CALL_MARKS})",
            (
                fence.slot,
                seq,
                status.value,
                skip,
                self._now,
                self._now if skip else None,
                *call_values(call),
                *timing_values(call),
            ),
        )
        return AcceptResult(Verdict.DONE, seq)

    def change_calls(self, steps: Sequence[CallStep]) -> list[StepResult]:
        return [self._step(step) for step in steps]

    def _step(self, step: CallStep) -> StepResult:
        if not self._stands(step.fence):
            return StepResult(Verdict.FENCED, message=fenced(step.fence.slot))
        row = self._execute(
            "SELECT status, attempts, seq FROM goverse_reliable_calls "
            "WHERE call_id = ? AND slot = ?",
            (step.call_id, step.fence.slot),
        ).fetchone()
        if row is None or CallStatus(row[0]) not in STEP_FROM[step.step]:
            message = f"call {step.call_id} cannot take the step {step.step.value}"
            return StepResult(Verdict.NOT_PENDING, message=message)
        attempts, seq = row[1:]
        values: tuple[object, ...]
        if step.step is Step.ATTEMPT:
            attempts += 1
            change, values = "attempts = ?", (attempts,)
        elif step.step is Step.RETRY:
            attempts, seq = 0, self._next()
            change = "status = 'pending', reason = ?, attempts = 0, seq = ?"
            values = (step.reason, seq)
        elif step.step is Step.RESET:
            attempts = 0
            change, values = "attempts = ?", (attempts,)
        elif step.step is Step.PARK:
            change, values = "status = 'parked', reason = ?", (step.reason,)
        else:
            change = "status = 'skipped', reason = ?, finished_at = ?"
            values = (step.reason, self._now)
        self._execute(
            f"UPDATE goverse_reliable_calls SET {change} WHERE call_id = ?",
            (*values, step.call_id),
        )
        return StepResult(Verdict.DONE, attempts, seq)

    def make_due(self, steps: Sequence[DueStep]) -> list[StepResult]:
        return [self._make_due(step) for step in steps]

    def _make_due(self, step: DueStep) -> StepResult:
        if not self._stands(step.fence):
            return StepResult(Verdict.FENCED, message=fenced(step.fence.slot))
        row = self._execute(
            "SELECT attempts FROM goverse_reliable_calls "
            "WHERE call_id = ? AND slot = ? AND status = 'delayed' AND run_at = ?",
            (step.call_id, step.fence.slot, micros(step.was_at)),
        ).fetchone()
        run_at = micros(step.run_at)
        if row is None or run_at is None:
            return StepResult(Verdict.NOT_PENDING, message=not_due(step))
        status, seq = CallStatus.DELAYED, 0
        if run_at <= self._now:
            status, seq = CallStatus.PENDING, self._next()
        self._execute(
            "UPDATE goverse_reliable_calls SET run_at = ?, status = ?, seq = ? WHERE call_id = ?",
            (run_at, status.value, seq, step.call_id),
        )
        return StepResult(Verdict.DONE, row[0], seq)

    def change_outbox(self, changes: Sequence[OutboxChange]) -> list[StepResult]:
        return [self._change(change) for change in changes]

    def _change(self, change: OutboxChange) -> StepResult:
        if not self._stands(change.fence):
            return StepResult(Verdict.FENCED, message=fenced(change.fence.slot))
        key = (change.call_id, change.fence.slot)
        if change.step is OutboxStep.DELIVERED:
            self._execute("DELETE FROM goverse_outbox WHERE call_id = ? AND slot = ?", key)
            return StepResult(Verdict.DONE)
        parked = change.reason if change.step is OutboxStep.PARK else ""
        done = self._execute(
            "UPDATE goverse_outbox SET parked = ? WHERE call_id = ? AND slot = ?", (parked, *key)
        )
        if done.rowcount == 0:
            message = f"call {change.call_id} is not in the outbox"
            return StepResult(Verdict.NOT_PENDING, message=message)
        return StepResult(Verdict.DONE)

    def delete_finished(self, call_ids: Sequence[str], before: float) -> list[str]:
        statement = (
            "DELETE FROM goverse_reliable_calls AS c WHERE call_id = ? AND "
            + pages.DELETABLE.replace("%s", "?")
        )
        moment = micros(before)
        return [
            call_id
            for call_id in call_ids
            if self._execute(statement, (call_id, moment)).rowcount == 1
        ]


def _left(outcome: Outcome) -> tuple[bytes | None, int | None, str]:
    """What a turn leaves in the columns result, result_codec and reason."""
    result = outcome.result
    if result is None:
        return None, None, outcome.reason
    return result.data, int(result.codec), outcome.reason
