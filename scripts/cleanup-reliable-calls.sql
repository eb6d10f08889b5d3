-- Deletes finished reliable calls from a store on PostgreSQL 15 or newer, where psql is at hand and
-- goverse-cli is not. What it does, and when not to run it: docs/RELIABLE_CALLS_CLEANUP.md.
--
-- Counts, and deletes nothing:
--   PGOPTIONS="-c goverse.older_than=90days" psql "$URL" -f scripts/cleanup-reliable-calls.sql
-- Deletes:
--   PGOPTIONS="-c goverse.older_than=90days -c goverse.delete=yes" psql "$URL" -f ...
--
-- Settings, each with -c: goverse.older_than (age since the finish, an interval; needed),
-- goverse.statuses (success,failed,skipped), goverse.batch (calls in a transaction, 500),
-- goverse.pause (seconds after each of them, 0.05). It can be stopped at any moment and run again.

CREATE OR REPLACE FUNCTION pg_temp.goverse_before() RETURNS bigint LANGUAGE plpgsql AS $body$
DECLARE
    age interval := nullif(current_setting('goverse.older_than', true), '')::interval;
BEGIN
    IF age IS NULL OR age <= interval '0' THEN
        RAISE EXCEPTION 'goverse.older_than must be an age above 0'
            USING HINT = 'PGOPTIONS="-c goverse.older_than=90days"';
    END IF;
    RETURN extract(epoch FROM clock_timestamp() - age) * 1000000;
END
$body$;

CREATE OR REPLACE FUNCTION pg_temp.goverse_statuses() RETURNS text[] LANGUAGE plpgsql AS $body$
DECLARE
    finished text[] := '{success,failed,skipped}';
    named text[] := coalesce(
        string_to_array(nullif(current_setting('goverse.statuses', true), ''), ','), finished);
BEGIN
    IF NOT named <@ finished THEN
        RAISE EXCEPTION 'goverse.statuses is %: only calls that are % can be deleted',
            array_to_string(named, ','), array_to_string(finished, ', ');
    END IF;
    RETURN named;
END
$body$;

SELECT c.status, count(*) AS to_be_deleted, to_timestamp(min(finished_at) / 1e6) AS oldest
FROM goverse_reliable_calls c,
    (SELECT pg_temp.goverse_before() AS before, pg_temp.goverse_statuses() AS statuses) s
WHERE c.finished_at < s.before AND c.status = ANY (s.statuses)
    AND NOT EXISTS (SELECT FROM goverse_outbox o WHERE o.call_id = c.call_id)
GROUP BY c.status ORDER BY c.status;

DO $body$
DECLARE
    before bigint := pg_temp.goverse_before();
    statuses text[] := pg_temp.goverse_statuses();
    batch integer := coalesce(nullif(current_setting('goverse.batch', true), ''), '500');
    pause float := coalesce(nullif(current_setting('goverse.pause', true), ''), '0.05');
    one text;
    at bigint;
    id text;
    seen integer;
    gone integer;
    deleted bigint := 0;
BEGIN
    IF coalesce(current_setting('goverse.delete', true), '') <> 'yes' THEN
        RAISE NOTICE 'nothing is deleted without -c goverse.delete=yes';
        RETURN;
    END IF;
    FOREACH one IN ARRAY statuses LOOP
        at := 0;
        id := '';
        LOOP
            -- Along the index, so that what is spared is passed by and looked at once. A call's
            -- delivery is committed before the call, so whoever sees the call sees the delivery.
            WITH page AS MATERIALIZED (
                SELECT c.call_id, c.finished_at FROM goverse_reliable_calls c
                WHERE c.status = one AND c.finished_at >= at AND (c.finished_at, c.call_id) > (at, id)
                    AND c.finished_at < before
                ORDER BY c.finished_at, c.call_id LIMIT batch
            ), doomed AS MATERIALIZED (
                SELECT c.call_id FROM goverse_reliable_calls c JOIN page USING (call_id)
                WHERE c.finished_at < before
                    AND NOT EXISTS (SELECT FROM goverse_outbox o WHERE o.call_id = c.call_id)
                ORDER BY c.call_id FOR UPDATE OF c
            ), deletion AS (
                DELETE FROM goverse_reliable_calls c USING doomed d WHERE c.call_id = d.call_id
                RETURNING 1
            ), last AS (
                SELECT finished_at, call_id FROM page ORDER BY finished_at DESC, call_id DESC LIMIT 1
            )
            SELECT (SELECT count(*) FROM page), (SELECT count(*) FROM deletion),
                (SELECT finished_at FROM last), (SELECT call_id FROM last)
            INTO seen, gone, at, id;
            deleted := deleted + gone;
            COMMIT;
            EXIT WHEN seen < batch;
            PERFORM pg_sleep(pause);
        END LOOP;
    END LOOP;
    RAISE NOTICE '% calls deleted', deleted;
END
$body$;
