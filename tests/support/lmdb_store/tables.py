"""Rows and indexes in one transaction of LMDB.

A key has at most 511 bytes and an id may have 1,024: rows are found by the digest of their id, and
what is listed in the order of ids has their beginning in its key.

```
meta       cluster, schema, seq, nodes
fences     slot -> epoch, incarnation, opening; none: never raised
nodes      digest of the name -> slot
objects    digest of type and id -> slot, version, state
calls      digest of the id -> the row
outbox     digest of the id -> the row
indexes    see `keys_of_call` and `key_of_delivery` -> digest of the id
```
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import lmdb
import msgspec

from goverse.ids import NO_EPOCH, Epoch, ObjectId
from goverse.storage.values import CallStatus, OutboxRow, State, StoredCall

T = TypeVar("T")

NAMES = ("meta", "fences", "nodes", "objects", "calls", "outbox", "indexes")

_LETTER = {
    CallStatus.PENDING: b"p",
    CallStatus.DELAYED: b"d",
    CallStatus.PARKED: b"k",
    CallStatus.SUCCESS: b"s",
    CallStatus.FAILED: b"f",
    CallStatus.SKIPPED: b"x",
}
_OF_OBJECT, _DUE, _TO_DELIVER, _UNDELIVERED = b"o", b"t", b"m", b"u"
_PREFIX = 400
_DIGEST = 32

#: Above every key with the same beginning.
END = b"\xff" * 16


class FenceRow(NamedTuple):
    epoch: Epoch = NO_EPOCH
    incarnation: str = ""
    opening: int = 0


class ObjectRow(NamedTuple):
    slot: int
    version: int
    state: State | None


def digest(*texts: str) -> bytes:
    """No id holds a NUL, so that no two lists of texts are alike."""
    return hashlib.sha256("\0".join(texts).encode()).digest()


def number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def micros(seconds: float) -> int:
    return round(seconds * 1_000_000)


def beginning(call_id: str) -> bytes:
    """What sorts as the id does. A NUL ends it, so that a shorter one is before a longer one."""
    return call_id.encode()[:_PREFIX] + b"\0"


def listed_key(status: CallStatus, at: int, place: bytes = b"") -> bytes:
    """A place in the list of ``status``: ``at`` is a slot, or the microsecond of a finish."""
    return _LETTER[status] + number(at) + place


def due_key(run_at: float, place: bytes = b"") -> bytes:
    return _DUE + number(micros(run_at)) + place


def object_key(object: ObjectId) -> bytes:
    return _OF_OBJECT + digest(*object)


def delivery_key(parked: bool, slot: int, position: int = 0) -> bytes:
    return (_UNDELIVERED if parked else _TO_DELIVER) + number(slot) + number(position)


def keys_of_call(row: StoredCall) -> dict[bytes, None]:
    """Everything that finds the row, beside its id: two lists of what is unfinished, and one of
    what is delayed."""
    call = row.call
    place = beginning(call.call_id) + digest(call.call_id)
    if row.finished_at is not None:
        return {listed_key(row.status, micros(row.finished_at), place): None}
    if row.status is CallStatus.PENDING:
        keys = [listed_key(row.status, row.slot, number(row.seq))]
    else:
        keys = [listed_key(row.status, row.slot, place)]
    if row.status is CallStatus.DELAYED and call.timing is not None:
        keys.append(due_key(call.timing.run_at, place))
    return dict.fromkeys([*keys, object_key(call.object) + digest(call.call_id)])


class Tables:
    """The rows as one transaction sees them."""

    def __init__(self, txn: lmdb.Transaction, databases: dict[str, Any]) -> None:
        self._txn = txn
        self._databases = databases

    # ---- one row

    def _get(self, name: str, key: bytes, kind: type[T]) -> T | None:
        found = self._txn.get(key, db=self._databases[name])
        return None if found is None else msgspec.msgpack.decode(found, type=kind)

    def _put(self, name: str, key: bytes, row: Any) -> None:
        self._txn.put(key, msgspec.msgpack.encode(row), db=self._databases[name])

    def _delete(self, name: str, key: bytes) -> None:
        self._txn.delete(key, db=self._databases[name])

    def meta(self, name: str, default: T) -> T:
        found = self._get("meta", name.encode(), type(default))
        return default if found is None else found

    def set_meta(self, name: str, value: str | int) -> None:
        self._put("meta", name.encode(), value)

    def next_number(self) -> int:
        seq = self.meta("seq", 0) + 1
        self.set_meta("seq", seq)
        return seq

    def fence(self, slot: int) -> FenceRow:
        return self._get("fences", number(slot), FenceRow) or FenceRow()

    def set_fence(self, slot: int, row: FenceRow) -> None:
        self._put("fences", number(slot), row)

    def fences(self) -> Iterator[tuple[int, FenceRow]]:
        with self._txn.cursor(self._databases["fences"]) as cursor:
            for key, row in cursor:
                yield int.from_bytes(key, "big"), msgspec.msgpack.decode(row, type=FenceRow)

    def node_slot(self, node: str) -> int | None:
        return self._get("nodes", digest(node), int)

    def set_node_slot(self, node: str, slot: int) -> None:
        self._put("nodes", digest(node), slot)

    def object(self, object: ObjectId) -> ObjectRow | None:
        return self._get("objects", digest(*object), ObjectRow)

    def set_object(self, object: ObjectId, row: ObjectRow | None) -> None:
        if row is None:
            self._delete("objects", digest(*object))
        else:
            self._put("objects", digest(*object), row)

    # ---- rows that are listed

    def call(self, call_id: str) -> StoredCall | None:
        return self._call_at(digest(call_id))

    def _call_at(self, key: bytes) -> StoredCall | None:
        return self._get("calls", key, StoredCall)

    def set_call(self, row: StoredCall, before: StoredCall | None = None) -> None:
        key = digest(row.call.call_id)
        self._put("calls", key, row)
        self._index(key, keys_of_call(before) if before else {}, keys_of_call(row))

    def delete_call(self, row: StoredCall) -> None:
        key = digest(row.call.call_id)
        self._delete("calls", key)
        self._index(key, keys_of_call(row), {})

    def delivery(self, call_id: str) -> OutboxRow | None:
        return self._get("outbox", digest(call_id), OutboxRow)

    def set_delivery(self, row: OutboxRow, before: OutboxRow | None = None) -> None:
        key = digest(row.call.call_id)
        self._put("outbox", key, row)
        self._index(key, _key_of_delivery(before) if before else {}, _key_of_delivery(row))

    def delete_delivery(self, row: OutboxRow) -> None:
        key = digest(row.call.call_id)
        self._delete("outbox", key)
        self._index(key, _key_of_delivery(row), {})

    def _index(self, row: bytes, before: dict[bytes, None], after: dict[bytes, None]) -> None:
        for key in before:
            if key not in after:
                self._delete("indexes", key)
        for key in after:
            if key not in before:
                self._txn.put(key, row, db=self._databases["indexes"])

    # ---- lists

    def _scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Entries of the indexes from ``start`` to before ``end``."""
        with self._txn.cursor(self._databases["indexes"]) as cursor:
            if not cursor.set_range(start):
                return
            for key, row in cursor:
                if key >= end:
                    return
                yield key, row

    def calls_between(self, start: bytes, end: bytes) -> Iterator[StoredCall]:
        """In the order of their keys, and where the beginnings of ids are alike, of the ids."""
        for _, alike in groupby(self._scan(start, end), lambda entry: _without_digest(entry[0])):
            rows = [self._call_at(row) for _, row in alike]
            found = [row for row in rows if row is not None]
            yield from sorted(found, key=lambda row: row.call.call_id)

    def calls_of(self, object: ObjectId) -> list[StoredCall]:
        """Those of one object that are not finished."""
        start = object_key(object)
        return list(self.calls_between(start, start + END * 3))  # a digest is shorter

    def all_calls(self, *statuses: CallStatus) -> Iterator[StoredCall]:
        for status in statuses:
            yield from self.calls_between(_LETTER[status], _LETTER[status] + END)

    def deliveries_between(self, start: bytes, end: bytes) -> Iterator[OutboxRow]:
        for _, key in self._scan(start, end):
            row = self._get("outbox", key, OutboxRow)
            if row is not None:
                yield row

    def all_deliveries(self) -> Iterator[OutboxRow]:
        for kind in (_TO_DELIVER, _UNDELIVERED):
            yield from self.deliveries_between(kind, kind + END)


def _key_of_delivery(row: OutboxRow) -> dict[bytes, None]:
    return {delivery_key(bool(row.parked), row.slot, row.position): None}


def _without_digest(key: bytes) -> bytes:
    """What two keys have in common that only their ids can tell apart."""
    return key if key.startswith(_LETTER[CallStatus.PENDING]) else key[:-_DIGEST]
