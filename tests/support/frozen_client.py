"""Run as a script: a client that takes a fence and stops in the middle of a 4 MiB pipeline.

``python frozen_client.py URL SLOT WHERE``, the password in PGPASSWORD. What it leaves on the server
is a session inside a pipeline: its first statements have run, and no Sync has come. WHERE is "in a
message" (half of the last one is there) or "before sync" (all of it).
"""

import os
import signal
import socket
import sys

import psycopg

STATE = 4 * 1024 * 1024
INSERT = (
    b"INSERT INTO goverse_objects (object_type, object_id, slot, version, state, updated_at)"
    b" VALUES ('Frozen', $1, $2::int4, 1, $3::bytea, 0)"
)


def main() -> None:
    url, slot, where = sys.argv[1:]
    connection = psycopg.connect(url, autocommit=True)
    raw = connection.pgconn
    raw.nonblocking = 1
    raw.enter_pipeline_mode()
    raw.send_query_params(
        b"SELECT opening FROM goverse_fences WHERE slot = $1::int4 FOR SHARE", [slot.encode()]
    )
    raw.send_query_params(INSERT, [b"early", slot.encode(), b"x"])
    if where == "before sync":
        raw.send_query_params(INSERT, [b"late", slot.encode(), b"x" * STATE])
    raw.send_flush_request()
    while raw.flush():
        pass
    if where == "in a message":
        query = INSERT.replace(b"$1", b"'late'").replace(b"$2", slot.encode())
        body = b"\0" + query.replace(b"$3", b"'" + b"x" * STATE + b"'") + b"\0\0\0"
        message = b"P" + (len(body) + 4).to_bytes(4, "big") + body
        twin = socket.socket(fileno=os.dup(raw.socket))
        twin.setblocking(True)
        twin.sendall(message[: len(message) // 2])
    print("stopping", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    if where == "in a message":
        try:
            twin.sendall(message[len(message) // 2 :])
        except OSError:
            pass
    raw.pipeline_sync()
    raw.flush()


main()
