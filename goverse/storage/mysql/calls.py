"""Batches of the ledger and of the outbox, and what is read of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from goverse.storage import stats
from goverse.storage.columns import CALL_COLUMNS, LEDGER_ROW, OUTBOX_ROW, call_values
from goverse.storage.mysql import locks, sql
from goverse.storage.mysql.running import Decision
from goverse.storage.mysql.session import Answer
from goverse.storage.rules import STEP_FROM, fenced
from goverse.storage.values import (
    Acceptance,
    AcceptResult,
    CallStatus,
    CallStep,
    OutboxChange,
    OutboxStep,
    ReliableCall,
    Step,
    StepResult,
    Verdict,
)

_ACCEPT = (
    "INSERT INTO goverse_reliable_calls (slot, seq, status, reason, created_at, finished_at, "
    f"{', '.join(CALL_COLUMNS)})"
)
_UPDATE = "UPDATE goverse_reliable_calls FORCE INDEX (PRIMARY) SET"
_TEXTS = frozenset(
    (
        *("call_id", "object_type", "object_id", "method", "principal", "parent"),
        *("status", "reason", "sender_type", "sender_id", "parked"),
    )
)


def call_row(call: ReliableCall) -> str:
    """What `CALL_COLUMNS` are of ``call``."""
    return ", ".join(_value(value) for value in call_values(call))


def _value(value: Any) -> str:
    if isinstance(value, str):
        return sql.text(value)
    return sql.blob(value) if isinstance(value, bytes) else sql.number(value)


class AcceptPlan:
    """Each id stands once. What is there already is KNOWN, and not looked at further."""

    def __init__(self, batch: Sequence[Acceptance]) -> None:
        self._batch = batch
        self._count = sum(not acceptance.skip for acceptance in batch)

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
            seq = 0 if acceptance.skip else next(following)
            results.append(AcceptResult(Verdict.DONE, seq))
            rows.append((call_id, _accepted(acceptance, seq)))
        # In the order of ids: owners that meet the same ids wait for each other, never in a circle.
        inserts = sql.statements(_ACCEPT, [row for _, row in sorted(rows)])
        return Decision([*inserts, *locks.put_back(numbers)] if rows else (), results)


def _accepted(acceptance: Acceptance, seq: int) -> str:
    skip = acceptance.skip
    status = CallStatus.SKIPPED if skip else CallStatus.PENDING
    return (
        f"({acceptance.fence.slot}, {seq}, '{status.value}', {sql.text(skip)}, {sql.NOW}, "
        f"{sql.NOW if skip else 'NULL'}, {call_row(acceptance.call)})"
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
            Step.SKIP: f"status = 'skipped', reason = {reason}, finished_at = {sql.NOW}",
        }[step.step]
        alike.setdefault(change, []).append(step.call_id)
    return [
        f"{_UPDATE} {change} WHERE call_id IN {sql.texts(ids)}" for change, ids in alike.items()
    ]


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


def fenced_step(step: CallStep | OutboxChange) -> StepResult:
    return StepResult(Verdict.FENCED, message=fenced(step.fence.slot))


# ---- reading

LIVE_CALLS = stats.live_statement(sql.NOW)
FINISHED = stats.FINISHED


def longest_queues(limit: int) -> str:
    return stats.longest_statement(sql.NOW, str(limit))


CENSUS = """
SELECT
    (SELECT count(*) FROM goverse_reliable_calls WHERE status = 'pending'),
    (SELECT count(*) FROM goverse_reliable_calls WHERE status = 'delayed'),
    (SELECT count(*) FROM goverse_reliable_calls WHERE status = 'parked'),
    (SELECT count(*) FROM goverse_outbox WHERE parked = ''),
    (SELECT count(*) FROM goverse_outbox WHERE parked <> '')
"""


def get_calls(call_ids: Iterable[str]) -> str:
    return (
        f"SELECT {LEDGER_ROW} FROM goverse_reliable_calls FORCE INDEX (PRIMARY) "
        f"WHERE call_id IN {sql.texts(call_ids)}"
    )


def _of_slots(slots: Iterable[int]) -> str:
    """A table of slots. A list of tens of thousands of values would be too long for a range."""
    listed = json.dumps(sorted(set(slots)))
    return f"JSON_TABLE('{listed}', '$[*]' COLUMNS (slot int PATH '$')) w"


def pending_calls(slots: Iterable[int], after: int, limit: int) -> str:
    return (
        f"SELECT {_qualified(LEDGER_ROW)} FROM {_of_slots(slots)} STRAIGHT_JOIN "
        "goverse_reliable_calls c FORCE INDEX (goverse_reliable_calls_live) "
        f"ON c.status = 'pending' AND c.slot = w.slot AND c.seq > {after} "
        f"ORDER BY c.seq LIMIT {limit}"
    )


def parked_calls(slots: Iterable[int], after: str, limit: int) -> str:
    return (
        f"SELECT {_qualified(LEDGER_ROW)} FROM {_of_slots(slots)} STRAIGHT_JOIN "
        "goverse_reliable_calls c FORCE INDEX (goverse_reliable_calls_live) "
        f"ON c.status = 'parked' AND c.slot = w.slot AND c.call_id > {sql.text(after)} "
        f"ORDER BY c.call_id LIMIT {limit}"
    )


def outbox(slots: Iterable[int], after: int, limit: int, *, parked: bool) -> str:
    return (
        f"SELECT {_qualified(OUTBOX_ROW)} FROM {_of_slots(slots)} STRAIGHT_JOIN "
        "goverse_outbox c FORCE INDEX (goverse_outbox_live) "
        f"ON c.slot = w.slot AND c.position > {after} AND c.parked {'<>' if parked else '='} '' "
        f"ORDER BY c.position LIMIT {limit}"
    )


def _qualified(columns: str) -> str:
    return ", ".join(f"c.{column}" for column in columns.split(", "))


def _decoder(columns: str) -> list[bool]:
    return [column in _TEXTS for column in columns.split(", ")]


_LEDGER_TEXTS, _OUTBOX_TEXTS = _decoder(LEDGER_ROW), _decoder(OUTBOX_ROW)


def ledger_row(row: Sequence[Any]) -> list[Any]:
    """``row`` with texts where texts are meant: the server knows bytes alone."""
    return [v.decode() if text else v for v, text in zip(row, _LEDGER_TEXTS, strict=True)]


def outbox_row(row: Sequence[Any]) -> list[Any]:
    return [v.decode() if text else v for v, text in zip(row, _OUTBOX_TEXTS, strict=True)]


def decoded(rows: Sequence[Sequence[Any]], texts: int) -> list[tuple[Any, ...]]:
    """``rows`` whose first ``texts`` columns are texts."""
    return [(*(_text(value) for value in row[:texts]), *row[texts:]) for row in rows]


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()
