"""Run as a script: a client that takes a fence and stops somewhere before its COMMIT.

``python frozen_mysql_client.py PORT DATABASE SLOT WHERE``, the password in MYSQL_PASSWORD. WHERE is
"between journeys" (it holds its locks), "in a packet" (half of what it writes is there) or "before
commit" (all of it has run).
"""

import os
import signal
import sys

import pymysql

STATE = 4 * 1024 * 1024
INSERT = (
    "INSERT INTO goverse_objects (object_type, object_id, slot, version, state, updated_at) "
    "VALUES ('Frozen', 'late', {slot}, 1, x'{state}', 0)"
)


def main() -> None:
    port, database, slot, where = sys.argv[1:]
    connection = pymysql.connect(
        host="127.0.0.1",
        port=int(port),
        user="goverse",
        password=os.environ["MYSQL_PASSWORD"],
        database=database,
    )
    cursor = connection.cursor()
    cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    cursor.execute("START TRANSACTION")
    cursor.execute("SELECT drawn FROM goverse_seq WHERE drawn = 0 FOR UPDATE")
    cursor.execute(f"SELECT opening FROM goverse_fences WHERE slot = {slot} LOCK IN SHARE MODE")
    insert = INSERT.format(slot=slot, state="ab" * STATE).encode()
    packet = (len(insert) + 1).to_bytes(3, "little") + b"\0\x03" + insert
    raw = connection._sock
    if where == "before commit":
        cursor.execute(insert.decode())
    elif where == "in a packet":
        raw.sendall(packet[: len(packet) // 2])
    print("stopping", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    try:
        if where == "in a packet":
            raw.sendall(packet[len(packet) // 2 :])
            raw.recv(100)
        elif where == "between journeys":
            cursor.execute(insert.decode())
        connection.commit()
    except (OSError, pymysql.Error):
        pass


main()
