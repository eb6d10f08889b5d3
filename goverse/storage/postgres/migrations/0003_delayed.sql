-- Delayed and repeated calls. ``every`` is in microseconds; NULL: the call runs once.

ALTER TABLE goverse_reliable_calls
    ADD COLUMN every bigint,
    ADD COLUMN catch_up text COLLATE "C" CHECK (catch_up IN ('each', 'one', 'none')),
    ADD CHECK ((run_at IS NULL) = (catch_up IS NULL)),
    ADD CHECK (status <> 'delayed' OR run_at IS NOT NULL);
ALTER TABLE goverse_outbox
    ADD COLUMN every bigint,
    ADD COLUMN catch_up text COLLATE "C" CHECK (catch_up IN ('each', 'one', 'none')),
    ADD CHECK ((run_at IS NULL) = (catch_up IS NULL));

-- ``slot`` is here so that what others own is passed over without a look at its row.
CREATE INDEX goverse_reliable_calls_due ON goverse_reliable_calls (run_at, call_id, slot)
    WHERE status = 'delayed';
