"""What an error of asyncmy means: the one place that reads error numbers."""

from __future__ import annotations

from asyncmy.errors import MySQLError

from goverse.storage.api import OutcomeUnknown, StorageUnavailable
from goverse.storage.halving import BatchRefused

#: Deadlock, and a row that changed under a statement: rolled back, may be sent again as it is.
AGAIN = (1213, 1020)
DUPLICATE = 1062
#: What the statement about fences raises on purpose: see `goverse.storage.mysql.locks.fences`.
MORE_THAN_ONE_ROW = 1242

#: A lock was waited for in vain, or a statement was interrupted while it waited.
LOCK_TIMEOUTS = (1205, 1969)

#: No answer came: the connection is gone. The last is what MariaDB tells a session that it ends.
_LOST = (0, 2006, 2013, 2014, 2055, 1927)

#: About the server and not about what was sent: rights, resources, limits of time, read-only,
#: shutting down, a schema that is not there.
_UNAVAILABLE = frozenset(
    (
        *(1021, 1023, 1026, 1030, 1037, 1038, 1040, 1041, 1053, 1114, 1135, 1180),  # resources
        *(1044, 1045, 1046, 1049, 1142, 1143, 1227, 1698, 1820),  # rights
        *(1054, 1064, 1146, 1305, 1932),  # the schema is another one
        *(1047, 1207, 1223, 1290, 1598, 1665, 1792, 1836, 3100),  # nothing can be written now
        *(1158, 1159, 1160, 1161, 1205, 1206, 1317, 1907, 1969, 3024),  # time is up, or interrupted
    )
)


class Again(Exception):
    """A definite abort that has nothing to do with what was sent."""


class Raced(Again):
    """Somebody else inserted a key since this transaction looked for it."""


def number(error: BaseException) -> int:
    """The server's or the driver's number of the error; 0: it has none."""
    first = error.args[0] if error.args else 0
    return first if isinstance(first, int) else 0


def is_lost(error: BaseException) -> bool:
    return number(error) in _LOST


def of_write(error: MySQLError, *, lost: bool, committing: bool) -> Exception:
    """What a write's error means.

    :param lost: its connection is gone.
    :param committing: it is the answer to COMMIT itself.
    """
    if lost or is_lost(error):
        return OutcomeUnknown(f"the connection to MariaDB was lost: {words(error)}")
    if committing:
        return OutcomeUnknown(f"MariaDB failed to commit: {words(error)}")
    if number(error) == DUPLICATE:
        return Raced(words(error))
    if number(error) in AGAIN:
        return Again(words(error))
    if number(error) in _UNAVAILABLE:
        return StorageUnavailable(f"MariaDB cannot work now: {words(error)}")
    return BatchRefused(words(error))


def of_read(error: MySQLError) -> StorageUnavailable:
    return StorageUnavailable(f"MariaDB cannot be read now: {words(error)}")


def words(error: BaseException) -> str:
    """The error in one line, without the values that were sent."""
    code = number(error)
    message = str(error.args[1]) if len(error.args) > 1 else str(error)
    if code == DUPLICATE:
        # The server repeats the key, and so what clients call their objects.
        message = f"duplicate entry for key {message.rpartition(' for key ')[2]}"
    elif code == 1064:
        message = "it does not understand a statement"
    line = message.strip().partition("\n")[0][:300]
    return f"{line or type(error).__name__} ({code})" if code else line or type(error).__name__
