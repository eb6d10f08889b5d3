-- Delayed and repeated calls. ``every`` is in microseconds; NULL: the call runs once.

ALTER TABLE goverse_reliable_calls ADD COLUMN every INTEGER;
ALTER TABLE goverse_reliable_calls ADD COLUMN catch_up TEXT CHECK (
    catch_up IN ('each', 'one', 'none') AND run_at IS NOT NULL OR catch_up IS NULL AND run_at IS NULL
);
ALTER TABLE goverse_outbox ADD COLUMN every INTEGER;
ALTER TABLE goverse_outbox ADD COLUMN catch_up TEXT CHECK (
    catch_up IN ('each', 'one', 'none') AND run_at IS NOT NULL OR catch_up IS NULL AND run_at IS NULL
);

CREATE INDEX goverse_reliable_calls_due ON goverse_reliable_calls (run_at, call_id, slot)
    WHERE status = 'delayed';
