"""A whole batch of commits in one transaction, decided while all of it is locked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from goverse.ids import ObjectId
from goverse.storage.columns import CALL_COLUMNS, TIMING_COLUMNS, micros
from goverse.storage.mysql import locks, sql
from goverse.storage.mysql.calls import call_row
from goverse.storage.mysql.running import Decision
from goverse.storage.mysql.session import Answer
from goverse.storage.rules import fenced, outcomes_of
from goverse.storage.values import (
    Act,
    CommitResult,
    ObjectCommit,
    Outcome,
    State,
    Verdict,
)

_OBJECT = "object_type, object_id, slot, version, state, state_schema, updated_at"
_INSERT = f"INSERT INTO goverse_objects ({_OBJECT})"
# The rows are there, and locked: nothing is ever inserted by these. There is no shorter way to give
# many rows a value each.
_KEEP = (
    " ON DUPLICATE KEY UPDATE version = VALUES(version), slot = VALUES(slot), "
    "updated_at = VALUES(updated_at)"
)
_WRITE = f"{_KEEP}, state = VALUES(state), state_schema = VALUES(state_schema)"
_LEFT = "result, result_codec, reason"
# Columns that must have a value although none is inserted.
_NEEDED = (
    "slot, object_type, object_id, method, arguments, codec, digest, principal, context, parent, "
    "created_at"
)
_NOTHING = "0, '', '', '', '', 0, '', '', '', '', 0"


def _changing(columns: str, *, beside: str) -> tuple[str, str]:
    names = [*columns.split(", "), *_LEFT.split(", ")]
    changes = ", ".join(f"{name} = VALUES({name})" for name in names)
    head = f"INSERT INTO goverse_reliable_calls (call_id, {columns}, {_LEFT}, {beside})"
    return head, f" ON DUPLICATE KEY UPDATE {changes}"


_FINISH = _changing("status, finished_at", beside=_NEEDED)
_AGAIN = _changing("status, run_at, seq, attempts", beside=f"catch_up, {_NEEDED}")
_SEND = (
    "INSERT INTO goverse_outbox (position, slot, sender_type, sender_id, created_at, "
    f"{', '.join((*CALL_COLUMNS, *TIMING_COLUMNS))})"
)


class CommitPlan:
    """See `goverse.storage.mysql.running.Plan`."""

    def __init__(self, batch: Sequence[ObjectCommit]) -> None:
        self._batch = batch
        self._sends = sum(len(commit.outbox) for commit in batch)
        self._calls = locks.calls(o.call_id for commit in batch for o in commit.outcomes)

    def locks(self) -> list[str]:
        return [
            locks.fences(commit.fence for commit in self._batch),
            *locks.draw(self._sends),
            *self._calls,
            *locks.objects(commit.object for commit in self._batch),
        ]

    def decide(self, answers: Sequence[Answer]) -> Decision[CommitResult]:
        numbers = locks.drawn(answers[1], self._sends) if self._sends else range(0)
        first = 1 + bool(numbers)
        last = first + len(self._calls)
        pending = {
            call_id: (slot, *object)
            for call_id, slot, status, _, _, *object in locks.rows_of(answers[first:last])
            if status == b"pending"
        }
        versions = {row[:2]: row[2] for row in locks.rows_of(answers[last:])}
        results, passed = [], []
        for commit in self._batch:
            result = _judge(commit, pending, versions.get(_encoded(commit.object), 0))
            results.append(result)
            if result.verdict is Verdict.DONE:
                passed.append(commit)
        return Decision(_writes(passed, numbers) if passed else (), results)


def _judge(
    commit: ObjectCommit, pending: dict[Any, tuple[Any, ...]], version: object
) -> CommitResult:
    theirs = (commit.fence.slot, *_encoded(commit.object))
    if any(pending.get(o.call_id.encode()) != theirs for o in commit.outcomes):
        message = f"a call that {commit.object} is to finish is not pending"
        return CommitResult(Verdict.NOT_PENDING, message=message)
    if version != commit.version:
        message = f"{commit.object} does not have version {commit.version}"
        return CommitResult(Verdict.VERSION, message=message)
    return CommitResult(Verdict.DONE, 0 if commit.state is Act.DELETE else commit.version + 1)


def _writes(passed: Sequence[ObjectCommit], numbers: range) -> list[str]:
    deleted = [commit for commit in passed if commit.state is Act.DELETE]
    kept = [commit for commit in passed if commit.state is not Act.DELETE]
    outcomes = [outcome for commit in passed for outcome in outcomes_of(commit)]
    ended = [_ended(outcome) for outcome in outcomes if outcome.again_at is None]
    again = [_again(outcome) for outcome in outcomes if outcome.again_at is not None]
    new = [_object(commit) for commit in kept if not commit.version]
    old = [commit for commit in kept if commit.version]
    written = [_object(commit) for commit in old if isinstance(commit.state, State)]
    touched = [_object(commit) for commit in old if not isinstance(commit.state, State)]
    outbox = [(commit, call) for commit in passed for call in commit.outbox]
    sent = [
        f"({number}, {commit.fence.slot}, {sql.text(commit.object.type)}, "
        f"{sql.text(commit.object.id)}, {sql.NOW}, {call_row(call)})"
        for number, (commit, call) in zip(numbers, outbox, strict=False)
    ]
    # Finished rows are no longer live when the calls of what is deleted are skipped.
    return [
        *sql.statements(_FINISH[0], ended, _FINISH[1]),
        *sql.statements(_AGAIN[0], again, _AGAIN[1]),
        *sql.statements(_INSERT, new),
        *sql.statements(_INSERT, written, _WRITE),
        *sql.statements(_INSERT, touched, _KEEP),
        *(statement for commit in deleted for statement in _delete(commit)),
        *sql.statements(_SEND, sent),
        *locks.put_back(numbers),
    ]


def _object(commit: ObjectCommit) -> str:
    data, schema = commit.state if isinstance(commit.state, State) else (None, 0)
    return (
        f"({sql.text(commit.object.type)}, {sql.text(commit.object.id)}, {commit.fence.slot}, "
        f"{commit.version + 1}, {sql.blob(data)}, {schema}, {sql.NOW})"
    )


def _ended(outcome: Outcome) -> str:
    status = sql.text(outcome.status.value)
    return f"({sql.text(outcome.call_id)}, {status}, {sql.NOW}, {_left(outcome)}, {_NOTHING})"


def _again(outcome: Outcome) -> str:
    run_at = sql.number(micros(outcome.again_at))
    return (
        f"({sql.text(outcome.call_id)}, 'delayed', {run_at}, 0, 0, {_left(outcome)}, 'one', "
        f"{_NOTHING})"
    )


def _left(outcome: Outcome) -> str:
    """What a turn leaves in the columns of `_LEFT`."""
    result = outcome.result
    data, codec = (result.data, int(result.codec)) if result else (None, None)
    return f"{sql.blob(data)}, {sql.number(codec)}, {sql.text(outcome.reason)}"


def _delete(commit: ObjectCommit) -> list[str]:
    which = (
        f"object_type = {sql.text(commit.object.type)} AND object_id = {sql.text(commit.object.id)}"
    )
    gone = f"DELETE FROM goverse_objects WHERE {which}"
    skipped = (
        "UPDATE goverse_reliable_calls FORCE INDEX (goverse_reliable_calls_listed) "
        f"SET status = 'skipped', reason = 'deleted', finished_at = {sql.NOW} "
        "WHERE status IN ('pending', 'delayed', 'parked') "
        f"AND place = {commit.fence.slot} AND {which}"
    )
    return [*([gone] if commit.version else []), skipped]


def _encoded(object: ObjectId) -> tuple[bytes, bytes]:
    return object.type.encode(), object.id.encode()


def fenced_commit(commit: ObjectCommit) -> CommitResult:
    return CommitResult(Verdict.FENCED, message=fenced(commit.fence.slot))
