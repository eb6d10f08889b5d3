"""Batches of the ledger and of the outbox, and what is read of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from goverse.storage.columns import (
    CALL_COLUMNS,
    TIMING_COLUMNS,
    call_values,
    micros,
    timing_values,
)
from goverse.storage.mysql import locks, sql
from goverse.storage.mysql.running import Decision
from goverse.storage.mysql.session import Answer
from goverse.storage.rules import STEP_FROM, fenced, not_due
from goverse.storage.values import (
    Acceptance,
    AcceptResult,
    CallStatus,
    CallStep,
    DueStep,
    OutboxChange,
    OutboxStep,
    ReliableCall,
    Step,
    StepResult,
    Verdict,
)

_ACCEPT = (
    "INSERT INTO goverse_reliable_calls (slot, seq, status, reason, created_at, finished_at, "
    f"{', '.join((*CALL_COLUMNS, *TIMING_COLUMNS))})"
)
_UPDATE = "UPDATE goverse_reliable_calls FORCE INDEX (PRIMARY) SET"


def call_row(call: ReliableCall) -> str:
    """What `CALL_COLUMNS` and `TIMING_COLUMNS` are of ``call``."""
    values = (*call_values(call), *timing_values(call))
    return ", ".join(_value(value) for value in values)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return sql.text(value)
    return sql.blob(value) if isinstance(value, bytes) else sql.number(value)


class AcceptPlan:
    """Each id stands once. What is there already is KNOWN, and not looked at further."""

    def __init__(self, batch: Sequence[Acceptance]) -> None:
        self._batch = batch
        self._count = sum(acceptance.status is CallStatus.PENDING for acceptance in batch)

    def locks(self) -> list[str]:
        batch = self._batch
        ids = sql.texts(acceptance.call.call_id for acceptance in batch)
        return [
            locks.fences(acceptance.fence for acceptance in batch),
            *locks.draw(self._count),
            # Not locked: who is not there cannot be, and who comes meanwhile is met by the insert.
            f"SELECT call_id FROM goverse_reliable_calls FORCE INDEX (PRIMARY) "
            f"WHERE call_id IN {ids}",
        ]

    def decide(self, answers: Sequence[Answer]) -> Decision[AcceptResult]:
        numbers = locks.drawn(answers[1], self._count) if self._count else range(0)
        following = iter(numbers)
        known = {row[0] for row in answers[-1].rows}
        rows, results = [], []
        for acceptance in self._batch:
            call_id = acceptance.call.call_id.encode()
            if call_id in known:
                results.append(AcceptResult(Verdict.KNOWN))
                continue
            seq = next(following) if acceptance.status is CallStatus.PENDING else 0
            results.append(AcceptResult(Verdict.DONE, seq))
            rows.append((call_id, _accepted(acceptance, seq)))
        # In the order of ids: owners that meet the same ids wait for each other, never in a circle.
        inserts = sql.statements(_ACCEPT, [row for _, row in sorted(rows)])
        return Decision([*inserts, *locks.put_back(numbers)] if rows else (), results)


def _accepted(acceptance: Acceptance, seq: int) -> str:
    skip = acceptance.skip
    return (
        f"({acceptance.fence.slot}, {seq}, '{acceptance.status.value}', {sql.text(skip)}, "
        f"{sql.NOW}, {sql.NOW if skip else 'NULL'}, {call_row(acceptance.call)})"
    )


class StepPlan:
    """Steps of calls."""

    def __init__(self, batch: Sequence[CallStep]) -> None:
        self._batch = batch
        self._retries = sum(step.step is Step.RETRY for step in batch)

    def locks(self) -> list[str]:
        return [
            locks.fences(step.fence for step in self._batch),
            *locks.draw(self._retries),
            *locks.calls(step.call_id for step in self._batch),
        ]

    def decide(self, answers: Sequence[Answer]) -> Decision[StepResult]:
        numbers = locks.drawn(answers[1], self._retries) if self._retries else range(0)
        following = iter(numbers)
        found = {row[0]: row[1:5] for row in locks.rows_of(answers[1 + bool(numbers) :])}
        done: list[tuple[CallStep, int]] = []
        results = []
        for step in self._batch:
            slot, status, attempts, seq = found.get(step.call_id.encode(), (-1, b"", 0, 0))
            allowed = [each.value.encode() for each in STEP_FROM[step.step]]
            if slot != step.fence.slot or status not in allowed:
                message = f"call {step.call_id} cannot take the step {step.step.value}"
                results.append(StepResult(Verdict.NOT_PENDING, message=message))
                continue
            if step.step is Step.ATTEMPT:
                attempts += 1
            elif step.step is Step.RETRY:
                attempts, seq = 0, next(following)
            elif step.step is Step.RESET:
                attempts = 0
            done.append((step, seq))
            results.append(StepResult(Verdict.DONE, attempts, seq))
        writes = [*_step_writes(done), *locks.put_back(numbers)]
        return Decision(writes if done else (), results)


def _step_writes(done: Sequence[tuple[CallStep, int]]) -> list[str]:
    alike: dict[str, list[str]] = {}
    for step, seq in done:
        reason = sql.text(step.reason)
        change = {
            Step.ATTEMPT: "attempts = attempts + 1",
            Step.PARK: f"status = 'parked', reason = {reason}",
            Step.RETRY: f"status = 'pending', attempts = 0, reason = {reason}, seq = {seq}",
            Step.RESET: "attempts = 0",
            Step.SKIP: f"status = 'skipped', reason = {reason}, finished_at = {sql.NOW}",
        }[step.step]
        alike.setdefault(change, []).append(step.call_id)
    return [
        f"{_UPDATE} {change} WHERE call_id IN {sql.texts(ids)}" for change, ids in alike.items()
    ]


class DuePlan:
    """Delayed calls whose time has come, by the server's clock once they are locked."""

    def __init__(self, batch: Sequence[DueStep]) -> None:
        self._batch = batch

    def locks(self) -> list[str]:
        return [
            locks.fences(step.fence for step in self._batch),
            *locks.draw(len(self._batch)),
            *locks.delayed(step.call_id for step in self._batch),
            f"SELECT {sql.NOW}",
        ]

    def decide(self, answers: Sequence[Answer]) -> Decision[StepResult]:
        numbers = locks.drawn(answers[1], len(self._batch))
        following = iter(numbers)
        [(now,)] = answers[-1].rows
        found = {row[0]: row[1:] for row in locks.rows_of(answers[2:-1])}
        due: list[tuple[DueStep, int]] = []
        results = []
        for step in self._batch:
            slot, run_at, attempts = found.get(step.call_id.encode(), (-1, None, 0))
            later = micros(step.run_at)
            if slot != step.fence.slot or run_at != micros(step.was_at) or later is None:
                results.append(StepResult(Verdict.NOT_PENDING, message=not_due(step)))
                continue
            seq = next(following) if later <= now else 0
            due.append((step, seq))
            results.append(StepResult(Verdict.DONE, attempts, seq))
        writes = [*_due_writes(due), *locks.put_back(numbers)]
        return Decision(writes if due else (), results)


def _due_writes(due: Sequence[tuple[DueStep, int]]) -> list[str]:
    return [
        f"{_UPDATE} run_at = {sql.number(micros(step.run_at))}, seq = {seq}, "
        f"status = '{'pending' if seq else 'delayed'}' WHERE call_id = {sql.text(step.call_id)}"
        for step, seq in due
    ]


class DeletionPlan:
    """Of finished calls, those that no delivery can bring back. Results are the ids deleted.

    Deliveries are looked for once the calls are locked: theirs is committed first.
    """

    def __init__(self, call_ids: Sequence[str], before: float) -> None:
        self._call_ids = call_ids
        self._before = micros(before)

    def locks(self) -> list[str]:
        ids = sql.texts(self._call_ids)
        return [
            "SELECT call_id FROM goverse_reliable_calls FORCE INDEX (PRIMARY) "
            f"WHERE call_id IN {ids} AND finished_at < {sql.number(self._before)} "
            "ORDER BY call_id FOR UPDATE",
            f"SELECT call_id FROM goverse_outbox FORCE INDEX (PRIMARY) WHERE call_id IN {ids}",
        ]

    def decide(self, answers: Sequence[Answer]) -> Decision[str]:
        finished, delivered = ({row[0].decode() for row in answer.rows} for answer in answers)
        doomed = sorted(finished - delivered)
        writes = [f"DELETE FROM goverse_reliable_calls WHERE call_id IN {sql.texts(doomed)}"]
        return Decision(writes if doomed else (), doomed)


class OutboxPlan:
    """Steps of outbox rows."""

    def __init__(self, batch: Sequence[OutboxChange]) -> None:
        self._batch = batch

    def locks(self) -> list[str]:
        return [
            locks.fences(change.fence for change in self._batch),
            *locks.outbox(change.call_id for change in self._batch),
        ]

    def decide(self, answers: Sequence[Answer]) -> Decision[StepResult]:
        slots = dict(locks.rows_of(answers[1:]))
        delivered, parked, results = [], dict[str, list[str]](), []
        for change in self._batch:
            there = slots.get(change.call_id.encode()) == change.fence.slot
            if change.step is OutboxStep.DELIVERED:
                delivered += [change.call_id] * there
            elif there:
                reason = change.reason if change.step is OutboxStep.PARK else ""
                parked.setdefault(reason, []).append(change.call_id)
            else:
                message = f"call {change.call_id} cannot take the step {change.step.value}"
                results.append(StepResult(Verdict.NOT_PENDING, message=message))
                continue
            results.append(StepResult(Verdict.DONE))
        writes = [
            f"UPDATE goverse_outbox SET parked = {sql.text(reason)} "
            f"WHERE call_id IN {sql.texts(ids)}"
            for reason, ids in parked.items()
        ]
        if delivered:
            writes.append(f"DELETE FROM goverse_outbox WHERE call_id IN {sql.texts(delivered)}")
        return Decision(writes, results)


def fenced_accept(acceptance: Acceptance) -> AcceptResult:
    return AcceptResult(Verdict.FENCED, message=fenced(acceptance.fence.slot))


def fenced_step(step: CallStep | OutboxChange | DueStep) -> StepResult:
    return StepResult(Verdict.FENCED, message=fenced(step.fence.slot))
