"""Values as they stand in a statement.

Whatever is text or bytes goes as a hexadecimal literal: it needs no escaping, so that nothing that
a client sends can end it, and it is bytes, whatever the session thinks of characters. Ids are
therefore compared byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

#: Microseconds since 1970 by the server's clock, in whatever time zone it lives.
NOW = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))"

#: Rows of one statement; a longer value has a statement of its own.
MAX_STATEMENT_CHARS = 4 * 1024 * 1024


def blob(value: bytes | None) -> str:
    return "NULL" if value is None else f"x'{value.hex()}'"


def text(value: str) -> str:
    return f"x'{value.encode().hex()}'"


def number(value: int | None) -> str:
    return "NULL" if value is None else str(int(value))


def listed(values: Iterable[str]) -> str:
    return f"({', '.join(values)})"


def texts(values: Iterable[str]) -> str:
    """A list of the different values, ascending byte by byte, as they are locked."""
    return listed(f"x'{value.hex()}'" for value in sorted({v.encode() for v in values}))


def numbers(values: Iterable[int]) -> str:
    return listed(str(int(value)) for value in sorted(set(values)))


def statements(head: str, rows: Sequence[str], tail: str = "") -> list[str]:
    """``head VALUES rows tail``, in as many statements as the rows need; none for no rows."""
    found: list[str] = []
    part: list[str] = []
    size = 0
    for row in rows:
        if part and size + len(row) > MAX_STATEMENT_CHARS:
            found.append(f"{head} VALUES {', '.join(part)}{tail}")
            part, size = [], 0
        part.append(row)
        size += len(row)
    if part:
        found.append(f"{head} VALUES {', '.join(part)}{tail}")
    return found
