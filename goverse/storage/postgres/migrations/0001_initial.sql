-- Ids are compared byte by byte. Times are microseconds since 1970. See goverse/storage/DESIGN.md.

CREATE TABLE goverse_cluster (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    cluster_id text COLLATE "C" NOT NULL
);

CREATE TABLE goverse_fences (
    slot integer PRIMARY KEY,
    node text COLLATE "C" UNIQUE,
    generation bigint NOT NULL DEFAULT 0,
    revision bigint NOT NULL DEFAULT 0,
    incarnation text COLLATE "C" NOT NULL DEFAULT '',
    opening bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

INSERT INTO goverse_fences (slot) SELECT generate_series(0, 65535);

CREATE SEQUENCE goverse_node_slots AS integer START 65536 MINVALUE 65536;

-- The order of calls within an object, and of rows in the outbox.
CREATE SEQUENCE goverse_seq AS bigint;

CREATE TABLE goverse_objects (
    object_type text COLLATE "C" NOT NULL,
    object_id text COLLATE "C" NOT NULL,
    slot integer NOT NULL,
    version bigint NOT NULL,
    state bytea,
    state_schema integer NOT NULL DEFAULT 0,
    updated_at bigint NOT NULL,
    PRIMARY KEY (object_type, object_id)
);

CREATE TABLE goverse_reliable_calls (
    call_id text COLLATE "C" PRIMARY KEY,
    slot integer NOT NULL,
    seq bigint NOT NULL DEFAULT 0,
    status text COLLATE "C" NOT NULL CHECK (
        status IN ('pending', 'delayed', 'parked', 'success', 'failed', 'skipped')
    ),
    object_type text COLLATE "C" NOT NULL,
    object_id text COLLATE "C" NOT NULL,
    method text COLLATE "C" NOT NULL,
    arguments bytea NOT NULL,
    codec smallint NOT NULL,
    digest bytea NOT NULL,
    principal text COLLATE "C" NOT NULL,
    context bytea NOT NULL,
    parent text COLLATE "C" NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    run_at bigint,
    expires_at bigint,
    result bytea,
    result_codec smallint,
    reason text COLLATE "C" NOT NULL DEFAULT '',
    created_at bigint NOT NULL,
    finished_at bigint,
    CHECK ((status IN ('success', 'failed', 'skipped')) = (finished_at IS NOT NULL))
);

CREATE INDEX goverse_reliable_calls_pending ON goverse_reliable_calls (slot, seq)
    WHERE status = 'pending';
CREATE INDEX goverse_reliable_calls_held ON goverse_reliable_calls (slot, call_id)
    WHERE status IN ('delayed', 'parked');

CREATE TABLE goverse_outbox (
    call_id text COLLATE "C" PRIMARY KEY,
    slot integer NOT NULL,
    position bigint NOT NULL,
    sender_type text COLLATE "C" NOT NULL,
    sender_id text COLLATE "C" NOT NULL,
    object_type text COLLATE "C" NOT NULL,
    object_id text COLLATE "C" NOT NULL,
    method text COLLATE "C" NOT NULL,
    arguments bytea NOT NULL,
    codec smallint NOT NULL,
    digest bytea NOT NULL,
    principal text COLLATE "C" NOT NULL,
    context bytea NOT NULL,
    parent text COLLATE "C" NOT NULL,
    run_at bigint,
    expires_at bigint,
    parked text COLLATE "C" NOT NULL DEFAULT '',
    created_at bigint NOT NULL
);

CREATE INDEX goverse_outbox_live ON goverse_outbox (slot, position) WHERE parked = '';
CREATE INDEX goverse_outbox_parked ON goverse_outbox (slot, position) WHERE parked <> '';
