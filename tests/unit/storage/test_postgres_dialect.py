"""What is said to CockroachDB, and how its errors are understood."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from goverse.storage.api import OutcomeUnknown, StorageUnavailable
from goverse.storage.halving import BatchRefused
from goverse.storage.postgres import calls, commit, schema
from goverse.storage.postgres.dialect import COCKROACH, POSTGRES, Dialect
from goverse.storage.postgres.failures import Again, of_write

STATEMENTS = {
    **{f"accept {timed}": text for timed, text in calls.ACCEPTS.items()},
    "change calls": calls.CHANGE_CALLS,
    "make due": calls.MAKE_DUE,
    "delete finished": calls.DELETE_FINISHED,
    "change outbox": calls.CHANGE_OUTBOX,
    **{f"commit {parts}": text for parts, text in commit.COMMITS.items()},
    **{migration.name: migration.text.encode() for migration in schema.known()},
}
SENDS = re.compile(rb"INSERT INTO goverse_outbox")


@pytest.mark.parametrize("name", STATEMENTS)
def test_cockroachdb_hears_of_no_shared_lock_and_no_collation(name: str) -> None:
    said = COCKROACH.written(STATEMENTS[name])
    assert b"FOR SHARE" not in said and b"COLLATE" not in said and b"/*" not in said
    assert POSTGRES.written(STATEMENTS[name]) == STATEMENTS[name]
    # Every place where a parameter goes is still there.
    assert re.findall(rb"\$\d+", said) == re.findall(rb"\$\d+", STATEMENTS[name])


def test_where_rows_must_be_numbered_in_an_order_the_order_is_named() -> None:
    """Numbers drawn row by row come in any order on CockroachDB."""
    unordered = {
        name: text.count(b"nextval('goverse_seq')") - text.count(b"in the order of")
        for name, text in STATEMENTS.items()
        if b"nextval('goverse_seq')" in text
    }
    assert unordered and not any(unordered.values())
    for statement, place in (
        *((text, b"s.ord") for text in calls.ACCEPTS.values()),
        (calls.CHANGE_CALLS, b"t.ord"),
        (calls.MAKE_DUE, b"t.ord"),
        (next(text for name, text in STATEMENTS.items() if SENDS.search(text)), b"x.place"),
    ):
        drawn = b"(((SELECT nextval('goverse_seq')) << 20) + " + place + b")"
        assert COCKROACH.written(statement).count(drawn) == 1


def test_a_url_is_put_as_libpq_knows_it() -> None:
    url = COCKROACH.url("cockroachdb://me@db.example/bank?sslmode=verify-full")
    given = {**COCKROACH.parameters, **conninfo_to_dict(url)}
    assert (given["host"], given["port"], given["dbname"]) == ("db.example", "26257", "bank")
    assert POSTGRES.url("postgres://h/d") == "postgres://h/d"


ERROR = "ERROR"


def failed(state: str, severity: str | None = ERROR) -> psycopg.Error:
    """An error of a server, as psycopg would raise it."""

    class Failed(psycopg.Error):
        sqlstate = state
        diag = cast(Any, SimpleNamespace(severity_nonlocalized=severity, message_primary="said"))

    return Failed("said")


@pytest.mark.parametrize(
    ("state", "broken", "postgres", "cockroach"),
    [
        ("40001", False, Again, Again),
        ("40P01", False, Again, Again),
        # Only the latter answers with them to a commit that may be carried out.
        ("57014", False, StorageUnavailable, OutcomeUnknown),
        ("57P01", True, StorageUnavailable, OutcomeUnknown),
        ("XXUUU", False, BatchRefused, OutcomeUnknown),
        ("40003", False, OutcomeUnknown, OutcomeUnknown),
        ("08006", False, BatchRefused, OutcomeUnknown),
        ("23505", False, BatchRefused, BatchRefused),
        ("23505", True, BatchRefused, OutcomeUnknown),
        ("53100", False, StorageUnavailable, StorageUnavailable),
    ],
)
def test_what_an_error_of_a_write_means(
    state: str, broken: bool, postgres: type[Exception], cockroach: type[Exception]
) -> None:
    for dialect, meaning in ((POSTGRES, postgres), (COCKROACH, cockroach)):
        assert type(of_write(failed(state), dialect, broken=broken)) is meaning


def server(version: int, crdb: str | None) -> psycopg.ConnectionInfo:
    said = {"crdb_version": crdb}
    return cast(Any, SimpleNamespace(server_version=version, parameter_status=said.get))


@pytest.mark.parametrize(
    ("dialect", "version", "crdb", "wrong"),
    [
        (POSTGRES, 150_003, None, ""),
        (POSTGRES, 140_011, None, "PostgreSQL 14 is too old"),
        (POSTGRES, 180_000, "CockroachDB CCL v25.4.1", "must begin with cockroachdb://"),
        (COCKROACH, 180_000, "CockroachDB CCL v25.4.1 (x86_64)", ""),
        (COCKROACH, 130_000, "CockroachDB CCL v24.3.9", "v24.3.9 is not known to be v25.1"),
        (COCKROACH, 130_000, "CockroachDB", "not known to be v25.1"),
        (COCKROACH, 180_000, None, "must begin with postgresql://"),
    ],
)
def test_a_server_of_the_other_kind_is_told_from_its_greeting(
    dialect: Dialect, version: int, crdb: str | None, wrong: str
) -> None:
    found = dialect.faults(server(version, crdb))
    assert [wrong in one for one in found] == ([True] if wrong else [])
