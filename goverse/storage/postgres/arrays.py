"""Columns of a batch as PostgreSQL's binary arrays.

psycopg looks at each element, and chooses an array's type by what it finds: for tables of twenty
columns that took longer than all else that a node does for a call. Here a column has the type that
its statement says, also if it is empty or all NULL, so that one plan serves every batch.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain, repeat

from psycopg import AsyncConnection
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEADER = struct.Struct("!iiIii")
_LENGTH = struct.Struct("!i").pack
_NULL = _LENGTH(-1)


class Array(bytes):
    """One column; ``oid`` and ``element`` are types of PostgreSQL's catalog."""

    oid = 0
    element = 0


class Int2s(Array):
    oid, element = 1005, 21


class Int4s(Array):
    oid, element = 1007, 23


class Int8s(Array):
    oid, element = 1016, 20


class Texts(Array):
    oid, element = 1009, 25


class Blobs(Array):
    oid, element = 1001, 17


def int2s(numbers: Sequence[int | None]) -> Int2s:
    return Int2s(_integers(Int2s.element, "h", 2, numbers))


def int4s(numbers: Sequence[int | None]) -> Int4s:
    return Int4s(_integers(Int4s.element, "i", 4, numbers))


def int8s(numbers: Sequence[int | None]) -> Int8s:
    return Int8s(_integers(Int8s.element, "q", 8, numbers))


def texts(values: Sequence[str | None]) -> Texts:
    return Texts(_blobs(Texts.element, [v if v is None else v.encode() for v in values]))


def blobs(values: Sequence[bytes | None]) -> Blobs:
    return Blobs(_blobs(Blobs.element, values))


def _integers(element: int, code: str, size: int, numbers: Sequence[int | None]) -> bytes:
    count = len(numbers)
    if None in numbers:
        pack = struct.Struct(f"!i{code}").pack
        cells = [_NULL if number is None else pack(size, number) for number in numbers]
        return b"".join((_header(element, count, True), *cells))
    cells = chain.from_iterable(zip(repeat(size), numbers))  # type: ignore[assignment]
    return _header(element, count, False) + struct.pack("!" + f"i{code}" * count, *cells)


def _blobs(element: int, values: Sequence[bytes | None]) -> bytes:
    count = len(values)
    if count and values.count(values[0]) == count and values[0] is not None:
        # Most columns of a batch say the same in each row.
        cell = _LENGTH(len(values[0])) + values[0]
        return _header(element, count, False) + cell * count
    parts = [_header(element, count, None in values)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            parts.append(_LENGTH(len(value)))
            parts.append(value)
    return b"".join(parts)


def _header(element: int, count: int, has_null: bool) -> bytes:
    if not count:
        return struct.pack("!iiI", 0, 0, element)
    return _HEADER.pack(1, has_null, element, count, 1)


class _Encoded(Dumper):
    """Sends what is encoded already."""

    format = Format.BINARY

    def dump(self, array: Array) -> bytes:
        return array


_DUMPERS = {
    kind: type(f"{kind.__name__}Dumper", (_Encoded,), {"oid": kind.oid})
    for kind in (Int2s, Int4s, Int8s, Texts, Blobs)
}


def register(connection: AsyncConnection) -> None:
    """Let ``connection`` take arrays as parameters."""
    for kind, dumper in _DUMPERS.items():
        connection.adapters.register_dumper(kind, dumper)


def numbered(statement: str) -> bytes:
    """``statement`` with its parameters numbered in their order, as a raw cursor wants them."""
    parts = statement.replace("%b", "%s").split("%s")
    text = parts[0]
    for number, part in enumerate(parts[1:], 1):
        text += f"${number}{part}"
    return text.encode()
