"""What an error of psycopg means: the one place that reads SQLSTATE."""

from __future__ import annotations

import psycopg

from goverse.storage.api import OutcomeUnknown, StorageUnavailable
from goverse.storage.halving import BatchRefused
from goverse.storage.postgres.dialect import Dialect

#: Deadlock and serialization failure: aborted, nothing written, may be sent again as it is.
AGAIN = ("40P01", "40001")
LOCK_TIMEOUT = "55P03"

#: About the server and not about what was sent: resources, operator intervention, system errors,
#: read-only, not the owner of a table any more.
_UNAVAILABLE_CLASSES = ("53", "57", "58", "42", "28", "3D")
_UNAVAILABLE = ("25006", LOCK_TIMEOUT)


class Again(Exception):
    """A definite abort that has nothing to do with what was sent."""


def of_write(error: psycopg.Error, dialect: Dialect, *, broken: bool) -> Exception:
    """What a write's error means. ``broken``: its connection is gone."""
    answered = dialect.trusts_errors and error.diag.severity_nonlocalized == "ERROR"
    if broken and not answered:
        # An ERROR is the answer of a statement that was aborted, whatever happened afterwards.
        # A FATAL is none: a session can be ended between its commit record and its answer.
        return OutcomeUnknown(f"the connection to PostgreSQL was lost: {words(error)}")
    state = error.sqlstate or ""
    if state in AGAIN:
        return Again(words(error))
    if state.startswith(dialect.unknown):
        return OutcomeUnknown(f"the database does not know what became of it: {words(error)}")
    if state in _UNAVAILABLE or state[:2] in _UNAVAILABLE_CLASSES:
        return StorageUnavailable(f"PostgreSQL cannot work now: {words(error)}")
    return BatchRefused(words(error))


def of_harmless(error: psycopg.Error, doing: str) -> Exception:
    """What the error of something means that is safe to repeat."""
    if error.sqlstate in AGAIN:
        return Again(words(error))
    return StorageUnavailable(f"PostgreSQL cannot {doing} now: {words(error)}")


def words(error: psycopg.Error) -> str:
    """The error in one line, without the values that were sent."""
    message = error.diag.message_primary or str(error).strip().partition("\n")[0]
    state = f" ({error.sqlstate})" if error.sqlstate else ""
    return f"{message or type(error).__name__}{state}"
