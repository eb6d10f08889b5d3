"""Files that finished calls are exported to: JSON lines, and Parquet.

A record has the same fields in both. In JSON lines bytes are base64 and moments ISO 8601 with
microseconds; Parquet has types for them. pyarrow is known here only, and loaded when it is needed:
it comes with the extra ``archive``.
"""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from goverse.storage.values import StoredCall

Record = dict[str, Any]

#: Of a record: name, and whether it is text, a whole number, seconds, bytes, or a moment. All but
#: those called optional are always there.
FIELDS = (
    ("call_id", "text"),
    ("type", "text"),
    ("id", "text"),
    ("method", "text"),
    ("status", "text"),
    ("reason", "text"),
    ("principal", "text"),
    ("parent", "text"),
    ("slot", "number"),
    ("seq", "number"),
    ("attempts", "number"),
    ("arguments", "bytes"),
    ("arguments_codec", "text"),
    ("digest", "bytes"),
    ("context", "bytes"),
    ("result", "optional bytes"),
    ("result_codec", "text"),
    ("created_at", "moment"),
    ("run_at", "optional moment"),
    ("every_s", "optional seconds"),
    ("catch_up", "text"),
    ("expires_at", "optional moment"),
    ("finished_at", "moment"),
)
_BYTES = tuple(name for name, kind in FIELDS if kind.endswith("bytes"))
_MOMENTS = tuple(name for name, kind in FIELDS if kind.endswith("moment"))

_READ_ROWS = 500


class ArchiveFault(Exception):
    """The file cannot be written or read as an archive. Nothing was deleted."""


def record_of(stored: StoredCall) -> Record:
    call, result, timing = stored.call, stored.result, stored.call.timing
    return {
        "call_id": call.call_id,
        "type": call.object.type,
        "id": call.object.id,
        "method": call.method,
        "status": stored.status.value,
        "reason": stored.reason,
        "principal": call.principal,
        "parent": call.parent,
        "slot": stored.slot,
        "seq": stored.seq,
        "attempts": stored.attempts,
        "arguments": call.arguments.data,
        "arguments_codec": call.arguments.codec.name.lower(),
        "digest": call.digest,
        "context": call.context,
        "result": result.data if result is not None else None,
        "result_codec": result.codec.name.lower() if result is not None else "",
        "created_at": _moment(stored.created_at),
        "run_at": _moment(timing.run_at if timing is not None else None),
        "every_s": (timing.every_s or None) if timing is not None else None,
        "catch_up": timing.catch_up.value if timing is not None else "",
        "expires_at": _moment(call.expires_at),
        "finished_at": _moment(stored.finished_at),
    }


def _moment(seconds: float | None) -> datetime.datetime | None:
    if seconds is None:
        return None
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return epoch + datetime.timedelta(microseconds=round(seconds * 1_000_000))


class Writer(Protocol):
    """An open file."""

    def write(self, records: Sequence[Record]) -> None: ...

    def close(self) -> None: ...


class Format(Protocol):
    def create(self, path: Path) -> Writer:
        """Raises OSError."""
        ...

    def read(self, path: Path) -> Iterator[list[Record]]:
        """The records, some at a time. Raises `ArchiveFault`, OSError."""
        ...


class JsonLines:
    def create(self, path: Path) -> Writer:
        return _JsonLinesWriter(path)

    def read(self, path: Path) -> Iterator[list[Record]]:
        rows: list[Record] = []
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    rows.append(_from_json(json.loads(line)))
                except (ValueError, KeyError, TypeError) as error:
                    raise ArchiveFault(f"{path}, line {number}: {error}") from None
                if len(rows) >= _READ_ROWS:
                    yield rows
                    rows = []
        if rows:
            yield rows


class _JsonLinesWriter:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def write(self, records: Sequence[Record]) -> None:
        for record in records:
            self._file.write(json.dumps(_to_json(record), ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


def _to_json(record: Record) -> Record:
    told = dict(record)
    for name in _BYTES:
        if told[name] is not None:
            told[name] = base64.b64encode(told[name]).decode()
    for name in _MOMENTS:
        if told[name] is not None:
            told[name] = told[name].isoformat(timespec="microseconds")
    return told


def _from_json(told: Record) -> Record:
    record = {name: told[name] for name, _ in FIELDS}
    for name in _BYTES:
        if record[name] is not None:
            record[name] = base64.b64decode(record[name], validate=True)
    for name in _MOMENTS:
        if record[name] is not None:
            record[name] = datetime.datetime.fromisoformat(record[name])
    return record


class Parquet:
    """Raises `ArchiveFault` if pyarrow is not installed."""

    def __init__(self) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ArchiveFault(
                f"a Parquet file needs pyarrow ({error}): pip install 'goverse[archive]', or "
                "write JSON lines, to a file named .jsonl"
            ) from None
        self._arrow = pyarrow
        self._parquet = pyarrow.parquet
        types = {
            "text": pyarrow.string(),
            "number": pyarrow.int64(),
            "seconds": pyarrow.float64(),
            "bytes": pyarrow.binary(),
            "moment": pyarrow.timestamp("us", tz="UTC"),
        }
        self._schema = pyarrow.schema(
            [
                pyarrow.field(name, types[kind.split()[-1]], nullable=kind.startswith("optional"))
                for name, kind in FIELDS
            ]
        )

    def create(self, path: Path) -> Writer:
        return _ParquetWriter(self._arrow, self._parquet, self._schema, path)

    def read(self, path: Path) -> Iterator[list[Record]]:
        try:
            with self._parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=_READ_ROWS):
                    yield batch.to_pylist()
        except self._arrow.ArrowException as error:
            raise ArchiveFault(f"{path}: {error}") from None


class _ParquetWriter:
    def __init__(self, arrow: Any, parquet: Any, schema: Any, path: Path) -> None:
        self._arrow = arrow
        self._schema = schema
        self._file = parquet.ParquetWriter(path, schema, compression="zstd")

    def write(self, records: Sequence[Record]) -> None:
        table = self._arrow.Table.from_pylist(list(records), schema=self._schema)
        self._file.write_table(table)

    def close(self) -> None:
        self._file.close()


def format_of(name: str) -> Format:
    """``jsonl`` or ``parquet``. Raises `ArchiveFault`."""
    if name == "jsonl":
        return JsonLines()
    if name == "parquet":
        return Parquet()
    raise ArchiveFault(f"{name!r} is no format of an archive; there are jsonl and parquet")
