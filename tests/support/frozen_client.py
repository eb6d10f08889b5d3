"""Run as a script: a client that takes a fence and stops in the middle of a 4 MiB message.

``python frozen_client.py URL SLOT``, the password in PGPASSWORD. What it leaves on the server is a
session inside a pipeline: its statements have run, the next message is half there, and no Sync
has come.
"""

import os
import signal
import sys

import psycopg

STATE = 4 * 1024 * 1024


def main() -> None:
    url, slot = sys.argv[1:]
    connection = psycopg.connect(url, autocommit=True)
    raw = connection.pgconn
    raw.nonblocking = 1
    raw.enter_pipeline_mode()
    raw.send_query_params(
        b"SELECT opening FROM goverse_fences WHERE slot = $1::int4 FOR SHARE", [slot.encode()]
    )
    raw.send_query_params(
        b"INSERT INTO goverse_objects (object_type, object_id, slot, version, updated_at)"
        b" VALUES ('Frozen', 'early', $1::int4, 1, 0)",
        [slot.encode()],
    )
    raw.send_flush_request()
    while raw.flush():
        pass
    raw.send_query_params(
        b"INSERT INTO goverse_objects (object_type, object_id, slot, version, state, updated_at)"
        b" VALUES ('Frozen', 'late', $1::int4, 1, $2::bytea, 0)",
        [slot.encode(), b"x" * STATE],
    )
    in_the_middle = raw.flush()
    print("stopping" if in_the_middle else "sent everything", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    try:
        raw.pipeline_sync()
        while raw.flush():
            pass
        raw.nonblocking = 0
        while (result := raw.get_result()) is not None:
            print(result.status, flush=True)
    finally:
        print("over", flush=True)


main()
