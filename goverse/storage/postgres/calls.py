"""Statements about the ledger and the outbox. Locks are taken in the order fences, calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from goverse.storage import pages, stats
from goverse.storage.columns import (
    CALL_COLUMNS,
    DELAYED_ROW,
    LEDGER_ROW,
    LISTED_DELIVERY,
    NOW,
    OUTBOX_ROW,
    STATEMENT_NOW,
    TIMING_COLUMNS,
    micros,
    timing_values,
)
from goverse.storage.postgres.arrays import (
    Array,
    blobs,
    int2s,
    int4s,
    int8s,
    numbered,
    texts,
)
from goverse.storage.rules import fenced, not_due
from goverse.storage.values import (
    Acceptance,
    CallStep,
    DueStep,
    Fence,
    OutboxChange,
    ReliableCall,
    StepResult,
    Verdict,
)

_FENCES = """
fences AS MATERIALIZED (
    SELECT slot, generation, revision, opening FROM goverse_fences
    WHERE slot = ANY (%s::int4[]) ORDER BY slot FOR SHARE
), standing AS MATERIALIZED (
    SELECT b.* FROM batch b JOIN fences f USING (slot, generation, revision, opening)
)"""


# ``seq`` is drawn in the order of the batch, and rows are inserted in the order of their ids: two
# owners that meet the same ids wait for each other and never in a circle.
def _accept(*, timed: bool) -> bytes:
    columns = ", ".join((*CALL_COLUMNS, *TIMING_COLUMNS) if timed else CALL_COLUMNS)
    delays = "WHEN run_at IS NOT NULL THEN 'delayed'" if timed else ""
    places = ", %s::int8[], %s::int8[], %s::text[]" if timed else ""
    return numbered(f"""
WITH batch AS MATERIALIZED (
    SELECT * FROM unnest(
        %s::int4[], %s::int8[], %s::int8[], %s::int8[], %s::text[],
        %s::text[], %s::text[], %s::text[], %s::text[], %b::bytea[], %s::int2[],
        %b::bytea[], %s::text[], %b::bytea[], %s::text[], %s::int8[]{places}
    ) WITH ORDINALITY AS b (
        slot, generation, revision, opening, skip, {columns}, ord
    )
), {_FENCES}, statuses AS MATERIALIZED (
    SELECT s.*, CASE WHEN skip <> '' THEN 'skipped' {delays} ELSE 'pending' END AS status
    FROM standing s
), numbered AS MATERIALIZED (
    SELECT s.*, CASE s.status WHEN 'pending'
        THEN nextval('goverse_seq') /* in the order of s.ord */ ELSE 0 END AS seq
    FROM (SELECT * FROM statuses ORDER BY ord) s
), inserted AS (
    INSERT INTO goverse_reliable_calls (
        slot, seq, status, reason, created_at, finished_at, {columns}
    )
    SELECT slot, seq, status, skip, {NOW}, CASE skip WHEN '' THEN NULL ELSE {NOW} END, {columns}
    FROM numbered ORDER BY call_id
    ON CONFLICT (call_id) DO NOTHING
    RETURNING call_id, seq
)
SELECT s.ord IS NOT NULL, i.seq
FROM batch b LEFT JOIN standing s ON s.ord = b.ord LEFT JOIN inserted i ON i.call_id = b.call_id
ORDER BY b.ord
""")


#: By whether any call of the batch is delayed: most batches have none, and three columns less.
ACCEPTS = {timed: _accept(timed=timed) for timed in (False, True)}

_STEPS = f"""
WITH batch AS MATERIALIZED (
    SELECT * FROM unnest(
        %s::int4[], %s::int8[], %s::int8[], %s::int8[], %s::text[], %s::text[], %s::text[]
    ) WITH ORDINALITY AS b (slot, generation, revision, opening, call_id, step, reason, ord)
), {_FENCES}"""

CHANGE_CALLS = numbered(f"""
{_STEPS}, targets AS MATERIALIZED (
    SELECT c.call_id, s.ord, s.step, s.reason
    FROM standing s JOIN goverse_reliable_calls c ON c.call_id = s.call_id AND c.slot = s.slot
    WHERE CASE s.step
        WHEN 'retry' THEN c.status = 'parked'
        WHEN 'skip' THEN c.status IN ('pending', 'delayed', 'parked')
        ELSE c.status = 'pending' END
    ORDER BY c.call_id FOR UPDATE OF c
), numbered AS MATERIALIZED (
    SELECT t.*, CASE WHEN t.step = 'retry'
        THEN nextval('goverse_seq') /* in the order of t.ord */ END AS seq
    FROM (SELECT * FROM targets ORDER BY ord) t
), changed AS (
    UPDATE goverse_reliable_calls c SET
        status = CASE t.step
            WHEN 'park' THEN 'parked' WHEN 'retry' THEN 'pending' WHEN 'skip' THEN 'skipped'
            ELSE c.status END,
        attempts = CASE t.step
            WHEN 'attempt' THEN c.attempts + 1 WHEN 'retry' THEN 0 WHEN 'reset' THEN 0
            ELSE c.attempts END,
        seq = coalesce(t.seq, c.seq),
        reason = CASE WHEN t.step IN ('attempt', 'reset') THEN c.reason ELSE t.reason END,
        finished_at = CASE t.step WHEN 'skip' THEN {NOW} END
    FROM numbered t WHERE c.call_id = t.call_id
    RETURNING t.ord, c.attempts, c.seq
)
SELECT s.ord IS NOT NULL, c.ord IS NOT NULL, coalesce(c.attempts, 0), coalesce(c.seq, 0)
FROM batch b LEFT JOIN standing s ON s.ord = b.ord LEFT JOIN changed c ON c.ord = b.ord
ORDER BY b.ord
""")

# ``seq`` is drawn in the order of the batch. Calls are found by their ids, as in a commit.
MAKE_DUE = numbered(f"""
WITH batch AS MATERIALIZED (
    SELECT * FROM unnest(
        %s::int4[], %s::int8[], %s::int8[], %s::int8[], %s::text[], %s::int8[], %s::int8[]
    ) WITH ORDINALITY AS b (slot, generation, revision, opening, call_id, was_at, run_at, ord)
), {_FENCES}, targets AS MATERIALIZED (
    SELECT c.call_id, s.ord, s.run_at, s.run_at <= {NOW} AS due
    FROM standing s JOIN goverse_reliable_calls c ON c.call_id = s.call_id
    WHERE c.status || '' = 'delayed' AND c.run_at = s.was_at AND c.slot = s.slot
    ORDER BY c.call_id FOR UPDATE OF c
), numbered AS MATERIALIZED (
    SELECT t.*, CASE WHEN t.due
        THEN nextval('goverse_seq') /* in the order of t.ord */ ELSE 0 END AS seq
    FROM (SELECT * FROM targets ORDER BY ord) t
), changed AS (
    UPDATE goverse_reliable_calls c SET
        run_at = n.run_at, seq = n.seq, status = CASE WHEN n.due THEN 'pending' ELSE 'delayed' END
    FROM numbered n WHERE c.call_id = n.call_id
    RETURNING n.ord, c.attempts, c.seq
)
SELECT s.ord IS NOT NULL, c.ord IS NOT NULL, coalesce(c.attempts, 0), coalesce(c.seq, 0)
FROM batch b LEFT JOIN standing s ON s.ord = b.ord LEFT JOIN changed c ON c.ord = b.ord
ORDER BY b.ord
""")

CHANGE_OUTBOX = numbered(f"""
{_STEPS}, targets AS MATERIALIZED (
    SELECT x.call_id, s.ord, s.step, s.reason
    FROM standing s JOIN goverse_outbox x ON x.call_id = s.call_id AND x.slot = s.slot
    ORDER BY x.call_id FOR UPDATE OF x
), parked AS (
    UPDATE goverse_outbox x SET parked = CASE t.step WHEN 'park' THEN t.reason ELSE '' END
    FROM targets t WHERE x.call_id = t.call_id AND t.step <> 'delivered'
), delivered AS (
    DELETE FROM goverse_outbox x
    USING targets t WHERE x.call_id = t.call_id AND t.step = 'delivered'
)
SELECT s.ord IS NOT NULL, t.ord IS NOT NULL OR b.step = 'delivered', 0, 0
FROM batch b LEFT JOIN standing s ON s.ord = b.ord LEFT JOIN targets t ON t.ord = b.ord
ORDER BY b.ord
""")

# Locked in the order of every other write, and looked at again once they are.
DELETE_FINISHED = numbered(f"""
WITH doomed AS MATERIALIZED (
    SELECT call_id FROM goverse_reliable_calls c
    WHERE call_id = ANY (%s::text[]) AND {pages.DELETABLE.replace("%s", "(%s::int8[])[1]")}
    ORDER BY call_id FOR UPDATE
)
DELETE FROM goverse_reliable_calls c USING doomed d WHERE c.call_id = d.call_id
RETURNING c.call_id
""")

DELIVERIES = f"SELECT {LISTED_DELIVERY} FROM goverse_outbox WHERE call_id = ANY (%s::text[])"

GET_CALLS = f"SELECT {LEDGER_ROW} FROM goverse_reliable_calls WHERE call_id = ANY (%s::text[])"

# The statuses are written out: a parameter would not let the planner use a partial index.
PENDING_CALLS = f"""
SELECT {LEDGER_ROW} FROM goverse_reliable_calls
WHERE status = 'pending' AND slot = ANY (%s::int4[]) AND seq > %s ORDER BY seq LIMIT %s
"""
PARKED_CALLS = f"""
SELECT {LEDGER_ROW} FROM goverse_reliable_calls
WHERE status IN ('delayed', 'parked') AND status = 'parked'
  AND slot = ANY (%s::int4[]) AND call_id > %s ORDER BY call_id LIMIT %s
"""
# What others own is passed over by a hash of the slots; all that is read is in the index, but for
# the rows that are returned. A row without a call id has the clock alone.
DELAYED_CALLS = f"""
SELECT n.now, d.* FROM (SELECT {STATEMENT_NOW} AS now) n LEFT JOIN LATERAL (
    SELECT {DELAYED_ROW} FROM goverse_reliable_calls
    WHERE status = 'delayed' AND (run_at, call_id) > (%s, %s)
      AND run_at <= {STATEMENT_NOW} + %s::int8
      AND slot IN (SELECT unnest(%s::int4[]))
    ORDER BY run_at, call_id LIMIT %s
) d ON true
ORDER BY d.run_at, d.call_id
"""
OUTBOX = f"""
SELECT {OUTBOX_ROW} FROM goverse_outbox
WHERE parked = '' AND slot = ANY (%s::int4[]) AND position > %s ORDER BY position LIMIT %s
"""
PARKED_OUTBOX = OUTBOX.replace("parked = ''", "parked <> ''")

LIVE_CALLS = stats.live_statement(NOW)
LONGEST_QUEUES = stats.longest_statement(NOW, "%s")

CENSUS = """
SELECT
    (SELECT count(*) FROM goverse_reliable_calls WHERE status = 'pending'),
    (SELECT count(*) FROM goverse_reliable_calls
     WHERE status IN ('delayed', 'parked') AND status = 'delayed'),
    (SELECT count(*) FROM goverse_reliable_calls
     WHERE status IN ('delayed', 'parked') AND status = 'parked'),
    (SELECT count(*) FROM goverse_outbox WHERE parked = ''),
    (SELECT count(*) FROM goverse_outbox WHERE parked <> '')
"""


def fence_columns(fences: Sequence[Fence]) -> list[Array]:
    return [
        int4s([fence.slot for fence in fences]),
        int8s([fence.epoch.generation for fence in fences]),
        int8s([fence.epoch.revision for fence in fences]),
        int8s([fence.opening for fence in fences]),
    ]


def slots(fences: Sequence[Fence]) -> Array:
    return int4s(sorted({fence.slot for fence in fences}))


def call_columns(calls: Sequence[ReliableCall]) -> list[Array]:
    """One array per column of `CALL_COLUMNS`."""
    return [
        texts([call.call_id for call in calls]),
        texts([call.object.type for call in calls]),
        texts([call.object.id for call in calls]),
        texts([call.method for call in calls]),
        blobs([call.arguments.data for call in calls]),
        int2s([call.arguments.codec for call in calls]),
        blobs([call.digest for call in calls]),
        texts([call.principal for call in calls]),
        blobs([call.context for call in calls]),
        texts([call.parent for call in calls]),
        int8s([micros(call.expires_at) for call in calls]),
    ]


def timing_columns(calls: Sequence[ReliableCall]) -> list[Array]:
    """One array per column of `TIMING_COLUMNS`."""
    run_at, every, catch_up = zip(*map(timing_values, calls), strict=True)
    return [int8s(run_at), int8s(every), texts(catch_up)]


def accept(acceptances: Sequence[Acceptance]) -> tuple[bytes, list[Array]]:
    """What records ``acceptances``, of which there is at least one, and its columns."""
    fences = [acceptance.fence for acceptance in acceptances]
    calls = [acceptance.call for acceptance in acceptances]
    timed = any(call.timing is not None for call in calls)
    columns = [
        *fence_columns(fences),
        texts([acceptance.skip for acceptance in acceptances]),
        *call_columns(calls),
        *(timing_columns(calls) if timed else ()),
        slots(fences),
    ]
    return ACCEPTS[timed], columns


def due_parameters(steps: Sequence[DueStep]) -> list[Array]:
    fences = [step.fence for step in steps]
    return [
        *fence_columns(fences),
        texts([step.call_id for step in steps]),
        int8s([micros(step.was_at) for step in steps]),
        int8s([micros(step.run_at) for step in steps]),
        slots(fences),
    ]


def step_parameters(steps: Sequence[CallStep | OutboxChange]) -> list[Array]:
    fences = [step.fence for step in steps]
    return [
        *fence_columns(fences),
        texts([step.call_id for step in steps]),
        texts([step.step.value for step in steps]),
        texts([step.reason for step in steps]),
        slots(fences),
    ]


def step_results(
    steps: Sequence[CallStep | OutboxChange | DueStep], rows: Sequence[tuple[Any, ...]]
) -> list[StepResult]:
    results = []
    for step, (stands, done, attempts, seq) in zip(steps, rows, strict=True):
        if not stands:
            results.append(StepResult(Verdict.FENCED, message=fenced(step.fence.slot)))
        elif not done:
            if isinstance(step, DueStep):
                message = not_due(step)
            else:
                message = f"call {step.call_id} cannot take the step {step.step.value}"
            results.append(StepResult(Verdict.NOT_PENDING, message=message))
        else:
            results.append(StepResult(Verdict.DONE, attempts, seq))
    return results
