-- Ids are compared byte by byte. Times are microseconds since 1970. See goverse/storage/DESIGN.md.

CREATE TABLE goverse_cluster (
    one INTEGER PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    cluster_id TEXT NOT NULL
);

CREATE TABLE goverse_fences (
    slot INTEGER PRIMARY KEY,
    node TEXT UNIQUE,
    generation INTEGER NOT NULL DEFAULT 0,
    revision INTEGER NOT NULL DEFAULT 0,
    incarnation TEXT NOT NULL DEFAULT '',
    opening INTEGER NOT NULL DEFAULT 0
);

INSERT INTO goverse_fences (slot)
    WITH RECURSIVE slots (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM slots WHERE n < 65535)
    SELECT n FROM slots;

-- The order of calls within an object, and of rows in the outbox.
CREATE TABLE goverse_seq (
    one INTEGER PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    last INTEGER NOT NULL
);

INSERT INTO goverse_seq (last) VALUES (0);



CREATE TABLE goverse_objects (
    object_type TEXT NOT NULL,
    object_id TEXT NOT NULL,
    slot INTEGER NOT NULL,
    version INTEGER NOT NULL,
    state BLOB,
    state_schema INTEGER NOT NULL DEFAULT 0,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (object_type, object_id)
);

CREATE TABLE goverse_reliable_calls (
    call_id TEXT PRIMARY KEY,
    slot INTEGER NOT NULL,
    seq INTEGER NOT NULL DEFAULT 0,
    status TEXT NOT NULL CHECK (
        status IN ('pending', 'delayed', 'parked', 'success', 'failed', 'skipped')
    ),
    object_type TEXT NOT NULL,
    object_id TEXT NOT NULL,
    method TEXT NOT NULL,
    arguments BLOB NOT NULL,
    codec INTEGER NOT NULL,
    digest BLOB NOT NULL,
    principal TEXT NOT NULL,
    context BLOB NOT NULL,
    parent TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    run_at INTEGER,
    expires_at INTEGER,
    result BLOB,
    result_codec INTEGER,
    reason TEXT NOT NULL DEFAULT '',
    created_at INTEGER NOT NULL,
    finished_at INTEGER,
    CHECK ((status IN ('success', 'failed', 'skipped')) = (finished_at IS NOT NULL))
);

CREATE INDEX goverse_reliable_calls_pending ON goverse_reliable_calls (slot, seq)
    WHERE status = 'pending';
CREATE INDEX goverse_reliable_calls_held ON goverse_reliable_calls (slot, call_id)
    WHERE status IN ('delayed', 'parked');

CREATE TABLE goverse_outbox (
    call_id TEXT PRIMARY KEY,
    slot INTEGER NOT NULL,
    position INTEGER NOT NULL,
    sender_type TEXT NOT NULL,
    sender_id TEXT NOT NULL,
    object_type TEXT NOT NULL,
    object_id TEXT NOT NULL,
    method TEXT NOT NULL,
    arguments BLOB NOT NULL,
    codec INTEGER NOT NULL,
    digest BLOB NOT NULL,
    principal TEXT NOT NULL,
    context BLOB NOT NULL,
    parent TEXT NOT NULL,
    run_at INTEGER,
    expires_at INTEGER,
    parked TEXT NOT NULL DEFAULT '',
    created_at INTEGER NOT NULL
);

CREATE INDEX goverse_outbox_live ON goverse_outbox (slot, position) WHERE parked = '';
CREATE INDEX goverse_outbox_parked ON goverse_outbox (slot, position) WHERE parked <> '';
