-- Ids are compared byte by byte. Times are microseconds since 1970. See goverse/storage/DESIGN.md.
-- A definition commits by itself here: each statement must do no harm when it is carried out again.

CREATE TABLE IF NOT EXISTS goverse_cluster (
    one tinyint PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    cluster_id varbinary(4096) NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC;

CREATE TABLE IF NOT EXISTS goverse_fences (
    slot int PRIMARY KEY,
    generation bigint NOT NULL DEFAULT 0,
    revision bigint NOT NULL DEFAULT 0,
    incarnation varbinary(4096) NOT NULL DEFAULT '',
    opening bigint NOT NULL DEFAULT 0
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC;

INSERT INTO goverse_fences (slot)
WITH digits AS (
    SELECT 0 AS n UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3
    UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7
    UNION ALL SELECT 8 UNION ALL SELECT 9 UNION ALL SELECT 10 UNION ALL SELECT 11
    UNION ALL SELECT 12 UNION ALL SELECT 13 UNION ALL SELECT 14 UNION ALL SELECT 15
)
SELECT a.n * 4096 + b.n * 256 + c.n * 16 + d.n
FROM digits a CROSS JOIN digits b CROSS JOIN digits c CROSS JOIN digits d
WHERE true
ON DUPLICATE KEY UPDATE slot = goverse_fences.slot;

-- What lives on a node has the slot 65,535 + number. Names are longer than a key may be.
CREATE TABLE IF NOT EXISTS goverse_nodes (
    number int AUTO_INCREMENT PRIMARY KEY,
    digest binary(32) NOT NULL UNIQUE,
    node varbinary(4096) NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC;

-- Hands out numbers: the order of calls within an object, and of rows in the outbox. Rows do not
-- stay.
CREATE TABLE IF NOT EXISTS goverse_seq (
    drawn bigint AUTO_INCREMENT PRIMARY KEY
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC;

CREATE TABLE IF NOT EXISTS goverse_objects (
    object_type varbinary(512) NOT NULL,
    object_id varbinary(512) NOT NULL,
    slot int NOT NULL,
    version bigint NOT NULL,
    state longblob,
    state_schema int NOT NULL DEFAULT 0,
    updated_at bigint NOT NULL,
    PRIMARY KEY (object_type, object_id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC;

CREATE TABLE IF NOT EXISTS goverse_reliable_calls (
    call_id varbinary(1024) PRIMARY KEY,
    slot int NOT NULL,
    seq bigint NOT NULL DEFAULT 0,
    status varbinary(8) NOT NULL CHECK (
        status IN ('pending', 'delayed', 'parked', 'success', 'failed', 'skipped')
    ),
    object_type varbinary(512) NOT NULL,
    object_id varbinary(512) NOT NULL,
    method varbinary(4096) NOT NULL,
    arguments longblob NOT NULL,
    codec smallint NOT NULL,
    digest varbinary(64) NOT NULL,
    principal varbinary(4096) NOT NULL,
    context longblob NOT NULL,
    parent varbinary(1024) NOT NULL,
    attempts int NOT NULL DEFAULT 0,
    run_at bigint,
    every bigint,
    catch_up varbinary(4) CHECK (catch_up IN ('each', 'one', 'none')),
    expires_at bigint,
    result longblob,
    result_codec smallint,
    reason varbinary(4096) NOT NULL DEFAULT '',
    created_at bigint NOT NULL,
    finished_at bigint,
    -- There are no partial indexes. One has all calls by status, and within it in the order in which
    -- they are listed: pending ones by slot and seq, held ones by slot and id, finished ones by their
    -- end and id. A call enters it once, and moves when it is finished.
    place bigint AS (coalesce(finished_at, slot)) STORED,
    turn bigint AS (IF(status = 'pending', seq, 0)) STORED,
    KEY goverse_reliable_calls_listed (status, place, turn, call_id),
    -- What is delayed, by time. What is not stands far before, by its age, so that it is appended to
    -- one page and never moves.
    due bigint AS (IF(status = 'delayed', run_at, created_at - 9000000000000000000)) STORED,
    KEY goverse_reliable_calls_due (due, call_id, slot),
    CHECK ((status IN ('success', 'failed', 'skipped')) = (finished_at IS NOT NULL)),
    CHECK ((run_at IS NULL) = (catch_up IS NULL)),
    CHECK (status <> 'delayed' OR run_at IS NOT NULL)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC;

CREATE TABLE IF NOT EXISTS goverse_outbox (
    call_id varbinary(1024) PRIMARY KEY,
    slot int NOT NULL,
    position bigint NOT NULL,
    sender_type varbinary(512) NOT NULL,
    sender_id varbinary(512) NOT NULL,
    object_type varbinary(512) NOT NULL,
    object_id varbinary(512) NOT NULL,
    method varbinary(4096) NOT NULL,
    arguments longblob NOT NULL,
    codec smallint NOT NULL,
    digest varbinary(64) NOT NULL,
    principal varbinary(4096) NOT NULL,
    context longblob NOT NULL,
    parent varbinary(1024) NOT NULL,
    run_at bigint,
    every bigint,
    catch_up varbinary(4) CHECK (catch_up IN ('each', 'one', 'none')),
    expires_at bigint,
    parked varbinary(4096) NOT NULL DEFAULT '',
    created_at bigint NOT NULL,
    KEY goverse_outbox_live (slot, position),
    CHECK ((run_at IS NULL) = (catch_up IS NULL))
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC;
