"""The deciding statement: a whole batch of commits in one round trip. See DESIGN.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from goverse.storage.columns import CALL_COLUMNS, NOW
from goverse.storage.postgres.arrays import (
    Array,
    blobs,
    int2s,
    int4s,
    int8s,
    numbered,
    texts,
)
from goverse.storage.postgres.calls import call_columns, fence_columns, slots
from goverse.storage.rules import fenced
from goverse.storage.values import (
    Act,
    CommitResult,
    ObjectCommit,
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
_SENT = f"""), sent AS (
    INSERT INTO goverse_outbox (
        position, slot, sender_type, sender_id, created_at, {", ".join(CALL_COLUMNS)}
    )
    SELECT nextval('goverse_seq') /* in the order of x.place */,
        x.slot, x.sender_type, x.sender_id, {NOW},
        {", ".join(f"x.{column}" for column in CALL_COLUMNS)}
    FROM (
        SELECT b.slot, b.object_type AS sender_type, b.object_id AS sender_id, u.*
        FROM unnest(
            %s::int8[], %s::text[], %s::text[], %s::text[], %s::text[], %b::bytea[], %s::int2[],
            %b::bytea[], %s::text[], %b::bytea[], %s::text[], %s::int8[]
        ) WITH ORDINALITY AS u (ord, {", ".join(CALL_COLUMNS)}, place)
        JOIN passed p ON p.ord = u.ord JOIN batch b ON b.ord = u.ord
        ORDER BY u.place
    ) x
"""


# Each CTE locks one table, and the ORDER BY below a locking clause makes it wait for all that it
# reads from: every fence is locked before the first call, every call before the first object.
# Whatever is long here is looked up by hash: the planner takes a batch for a few rows, and would
# compare each with each. A call is found by its id: ``status || ''`` keeps the planner from the
# index of pending calls, which has few rows when a plan is made, and then many.
def _statement(*, deletes: bool, sends: bool) -> bytes:
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
        %s::int8[], %s::text[], %s::text[], %b::bytea[], %s::int2[], %s::text[]
    ) AS o (ord, call_id, status, result, result_codec, reason)
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
        status = o.status, result = o.result, result_codec = o.result_codec,
        reason = o.reason, finished_at = {NOW}
    FROM outcomes o JOIN passed p ON p.ord = o.ord
    WHERE c.call_id = o.call_id
{_SKIPPED if deletes else ""}{_SENT if sends else ""})
SELECT s.ord IS NOT NULL, e.ord IS NOT NULL, p.ord IS NOT NULL
FROM batch b
LEFT JOIN standing s ON s.ord = b.ord
LEFT JOIN eligible e ON e.ord = b.ord
LEFT JOIN passed p ON p.ord = b.ord
ORDER BY b.ord
""")


COMMITS = {
    (deletes, sends): _statement(deletes=deletes, sends=sends)
    for deletes in (False, True)
    for sends in (False, True)
}


def statement(batch: Sequence[ObjectCommit]) -> tuple[bytes, list[Array]]:
    """What commits ``batch``, and what it is executed with, column by column."""
    deletes = any(commit.state is Act.DELETE for commit in batch)
    sends = any(commit.outbox for commit in batch)
    return COMMITS[deletes, sends], _parameters(batch, sends)


def _parameters(batch: Sequence[ObjectCommit], sends: bool) -> list[Array]:
    fences = [commit.fence for commit in batch]
    states = [commit.state for commit in batch]
    outcomes = [(ord, o) for ord, commit in enumerate(batch, 1) for o in commit.outcomes]
    columns = [
        *fence_columns(fences),
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
        slots(fences),
    ]
    if sends:
        outbox = [(ord, call) for ord, commit in enumerate(batch, 1) for call in commit.outbox]
        columns.append(int8s([ord for ord, _ in outbox]))
        columns += call_columns([call for _, call in outbox])
    return columns


def _act(state: State | Act) -> int:
    if isinstance(state, State):
        return _WRITE
    return _KEEP if state is Act.KEEP else _DELETE


def results(batch: Sequence[ObjectCommit], rows: Sequence[tuple[Any, ...]]) -> list[CommitResult]:
    """What a commit returned, in words."""
    return [_result(commit, *row) for commit, row in zip(batch, rows, strict=True)]


def _result(commit: ObjectCommit, stands: bool, eligible: bool, passed: bool) -> CommitResult:
    if passed:
        gone = commit.state is Act.DELETE
        return CommitResult(Verdict.DONE, 0 if gone else commit.version + 1)
    if not stands:
        return CommitResult(Verdict.FENCED, message=fenced(commit.fence.slot))
    if not eligible:
        message = f"a call that {commit.object} is to finish is not pending"
        return CommitResult(Verdict.NOT_PENDING, message=message)
    message = f"{commit.object} does not have version {commit.version}"
    return CommitResult(Verdict.VERSION, message=message)
