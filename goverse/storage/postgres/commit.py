"""The deciding statement: a whole batch of commits in one round trip. See DESIGN.md."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from goverse.storage.columns import CALL_COLUMNS, NOW, TIMING_COLUMNS, micros
from goverse.storage.postgres.arrays import (
    Array,
    blobs,
    int2s,
    int4s,
    int8s,
    numbered,
    texts,
)
from goverse.storage.postgres.calls import call_columns, fence_columns, slots, timing_columns
from goverse.storage.rules import fenced, outcomes_of
from goverse.storage.values import (
    DELETE,
    DONE,
    FENCED,
    KEEP,
    Act,
    CommitResult,
    ObjectCommit,
    Outcome,
    State,
    Verdict,
)

_WRITE, _KEEP, _DELETE = 0, 1, 2

# Parts for batches that have something to delete, or to send. Few have, and a statement without
# them takes a fifth less time.
_DELETED = f"""), deleted AS (
    DELETE FROM goverse_objects o
    USING (SELECT * FROM eligible WHERE version > 0 AND act = {_DELETE}) e
    WHERE o.object_type = e.object_type AND o.object_id = e.object_id AND o.version = e.version
    RETURNING e.ord
"""
_PASSED_DELETED = f"""    UNION ALL
    SELECT ord FROM deleted
    UNION ALL
    SELECT e.ord FROM eligible e
    WHERE e.version = 0 AND e.act = {_DELETE} AND NOT EXISTS (
        SELECT FROM goverse_objects o
        WHERE o.object_type = e.object_type AND o.object_id = e.object_id
    )
"""
_SKIPPED = f"""), skipped AS (
    UPDATE goverse_reliable_calls c SET
        status = 'skipped', reason = 'deleted', finished_at = {NOW}
    FROM (
        SELECT b.* FROM batch b JOIN passed p ON p.ord = b.ord WHERE b.act = {_DELETE}
    ) d
    CROSS JOIN LATERAL (
        SELECT u.call_id FROM goverse_reliable_calls u
        WHERE u.slot = d.slot AND u.status = 'pending'
          AND u.object_type = d.object_type AND u.object_id = d.object_id
        UNION ALL
        SELECT u.call_id FROM goverse_reliable_calls u
        WHERE u.slot = d.slot AND u.status IN ('delayed', 'parked')
          AND u.object_type = d.object_type AND u.object_id = d.object_id
    ) live
    WHERE c.call_id = live.call_id AND c.finished_at IS NULL
      AND NOT EXISTS (SELECT FROM outcomes o WHERE o.call_id = live.call_id)
"""


def _sent(timed: bool) -> str:
    columns = (*CALL_COLUMNS, *TIMING_COLUMNS) if timed else CALL_COLUMNS
    places = ", %s::int8[], %s::int8[], %s::text[]" if timed else ""
    return f"""), sent AS (
    INSERT INTO goverse_outbox (
        position, slot, sender_type, sender_id, created_at, {", ".join(columns)}
    )
    SELECT nextval('goverse_seq') /* in the order of x.place */,
        x.slot, x.sender_type, x.sender_id, {NOW},
        {", ".join(f"x.{column}" for column in columns)}
    FROM (
        SELECT b.slot, b.object_type AS sender_type, b.object_id AS sender_id, u.*
        FROM unnest(
            %s::int8[], %s::text[], %s::text[], %s::text[], %s::text[], %b::bytea[], %s::int2[],
            %b::bytea[], %s::text[], %b::bytea[], %s::text[], %s::int8[]{places}
        ) WITH ORDINALITY AS u (ord, {", ".join(columns)}, place)
        JOIN passed p ON p.ord = u.ord JOIN batch b ON b.ord = u.ord
        ORDER BY u.place
    ) x
"""


_ENDED = f"status = o.status, finished_at = {NOW}"
_AGAIN = f"""status = CASE WHEN o.again_at IS NULL THEN o.status ELSE 'delayed' END,
        finished_at = CASE WHEN o.again_at IS NULL THEN {NOW} END,
        run_at = coalesce(o.again_at, c.run_at),
        seq = CASE WHEN o.again_at IS NULL THEN c.seq ELSE 0 END,
        attempts = CASE WHEN o.again_at IS NULL THEN c.attempts ELSE 0 END"""


# Each CTE locks one table, and the ORDER BY below a locking clause makes it wait for all that it
# reads from: every fence is locked before the first call, every call before the first object.
# Whatever is long here is looked up by hash: the planner takes a batch for a few rows, and would
# compare each with each. A call is found by its id: ``status || ''`` keeps the planner from the
# index of pending calls, which has few rows when a plan is made, and then many.
def _statement(*, deletes: bool, sends: bool, timed: bool) -> bytes:
    return numbered(f"""
WITH batch AS MATERIALIZED (
    SELECT * FROM unnest(
        %s::int4[], %s::int8[], %s::int8[], %s::int8[], %s::text[], %s::text[], %s::int8[],
        %s::int2[], %b::bytea[], %s::int4[], %s::int4[]
    ) WITH ORDINALITY AS b (
        slot, generation, revision, opening, object_type, object_id, version,
        act, state, state_schema, outcomes, ord
    )
), outcomes AS MATERIALIZED (
    SELECT * FROM unnest(
        %s::int8[], %s::text[], %s::text[], %b::bytea[], %s::int2[], %s::text[]{
        ", %s::int8[]" if timed else ""
    }
    ) AS o (ord, call_id, status, result, result_codec, reason{", again_at" if timed else ""})
), fences AS MATERIALIZED (
    SELECT slot, generation, revision, opening FROM goverse_fences
    WHERE slot = ANY (%s::int4[]) ORDER BY slot FOR SHARE
), standing AS MATERIALIZED (
    SELECT b.* FROM batch b JOIN fences f USING (slot, generation, revision, opening)
), calls AS MATERIALIZED (
    SELECT c.call_id, s.ord, s.outcomes
    FROM standing s JOIN outcomes o ON o.ord = s.ord
    JOIN goverse_reliable_calls c ON c.call_id = o.call_id
    WHERE c.status || '' = 'pending'
      AND c.object_type = s.object_type AND c.object_id = s.object_id AND c.slot = s.slot
    ORDER BY c.call_id FOR UPDATE OF c
), eligible AS MATERIALIZED (
    SELECT s.* FROM standing s
    WHERE s.outcomes = 0
       OR s.ord IN (SELECT ord FROM calls GROUP BY ord, outcomes HAVING count(*) = outcomes)
), inserted AS (
    INSERT INTO goverse_objects
        (object_type, object_id, slot, version, state, state_schema, updated_at)
    SELECT object_type, object_id, slot, 1, CASE act WHEN {_WRITE} THEN state END, state_schema,
        {NOW} FROM eligible
    WHERE version = 0 AND act <> {_DELETE} ORDER BY object_type, object_id
    ON CONFLICT (object_type, object_id) DO NOTHING
    RETURNING object_type, object_id
), updated AS (
    UPDATE goverse_objects o SET
        version = o.version + 1, slot = e.slot, updated_at = {NOW},
        state = CASE e.act WHEN {_WRITE} THEN e.state ELSE o.state END,
        state_schema = CASE e.act WHEN {_WRITE} THEN e.state_schema ELSE o.state_schema END
    FROM (
        SELECT * FROM eligible WHERE version > 0 AND act <> {_DELETE}
        ORDER BY object_type, object_id
    ) e
    WHERE o.object_type = e.object_type AND o.object_id = e.object_id AND o.version = e.version
    RETURNING e.ord
{_DELETED if deletes else ""}), passed AS MATERIALIZED (
    SELECT ord FROM updated
    UNION ALL
    SELECT e.ord FROM eligible e
    WHERE ((e.object_type, e.object_id) IN (SELECT object_type, object_id FROM inserted)) IS TRUE
{_PASSED_DELETED if deletes else ""}), finished AS (
    UPDATE goverse_reliable_calls c SET
        result = o.result, result_codec = o.result_codec, reason = o.reason,
        {_AGAIN if timed else _ENDED}
    FROM outcomes o JOIN passed p ON p.ord = o.ord
    WHERE c.call_id = o.call_id
{_SKIPPED if deletes else ""}{_sent(timed) if sends else ""})
SELECT s.ord IS NOT NULL, e.ord IS NOT NULL, p.ord IS NOT NULL
FROM batch b
LEFT JOIN standing s ON s.ord = b.ord
LEFT JOIN eligible e ON e.ord = b.ord
LEFT JOIN passed p ON p.ord = b.ord
ORDER BY b.ord
""")


#: By whether the batch deletes, sends, and has calls that are delayed or repeated.
COMMITS = {
    (deletes, sends, timed): _statement(deletes=deletes, sends=sends, timed=timed)
    for deletes, sends, timed in itertools.product((False, True), repeat=3)
}


def statement(batch: Sequence[ObjectCommit]) -> tuple[bytes, list[Array]]:
    """What commits ``batch``, and what it is executed with, column by column."""
    deletes = any(commit.state is DELETE for commit in batch)
    sent = [(ord, call) for ord, commit in enumerate(batch, 1) for call in commit.outbox]
    outcomes = [(ord, o) for ord, commit in enumerate(batch, 1) for o in outcomes_of(commit)]
    timed = any(call.timing is not None for _, call in sent) or any(
        outcome.again_at is not None for _, outcome in outcomes
    )
    columns = _columns(batch, outcomes)
    if timed:
        columns.append(int8s([micros(outcome.again_at) for _, outcome in outcomes]))
    columns.append(slots([commit.fence for commit in batch]))
    if sent:
        calls = [call for _, call in sent]
        columns.append(int8s([ord for ord, _ in sent]))
        columns += call_columns(calls)
        columns += timing_columns(calls) if timed else ()
    return COMMITS[deletes, bool(sent), timed], columns


def _columns(batch: Sequence[ObjectCommit], outcomes: Sequence[tuple[int, Outcome]]) -> list[Array]:
    states = [commit.state for commit in batch]
    return [
        *fence_columns([commit.fence for commit in batch]),
        texts([commit.object.type for commit in batch]),
        texts([commit.object.id for commit in batch]),
        int8s([commit.version for commit in batch]),
        int2s([_act(state) for state in states]),
        blobs([state.data if isinstance(state, State) else b"" for state in states]),
        int4s([state.schema if isinstance(state, State) else 0 for state in states]),
        int4s([len(commit.outcomes) for commit in batch]),
        int8s([ord for ord, _ in outcomes]),
        texts([outcome.call_id for _, outcome in outcomes]),
        texts([outcome.status.value for _, outcome in outcomes]),
        blobs([outcome.result.data if outcome.result else None for _, outcome in outcomes]),
        int2s([outcome.result.codec if outcome.result else None for _, outcome in outcomes]),
        texts([outcome.reason for _, outcome in outcomes]),
    ]


def _act(state: State | Act) -> int:
    if isinstance(state, State):
        return _WRITE
    return _KEEP if state is KEEP else _DELETE


def results(batch: Sequence[ObjectCommit], rows: Sequence[tuple[Any, ...]]) -> list[CommitResult]:
    """What a commit returned, in words."""
    return [_result(commit, *row) for commit, row in zip(batch, rows, strict=True)]


def _result(commit: ObjectCommit, stands: bool, eligible: bool, passed: bool) -> CommitResult:
    if passed:
        gone = commit.state is DELETE
        return CommitResult(DONE, 0 if gone else commit.version + 1)
    if not stands:
        return CommitResult(FENCED, message=fenced(commit.fence.slot))
    if not eligible:
        message = f"a call that {commit.object} is to finish is not pending"
        return CommitResult(Verdict.NOT_PENDING, message=message)
    message = f"{commit.object} does not have version {commit.version}"
    return CommitResult(Verdict.VERSION, message=message)
