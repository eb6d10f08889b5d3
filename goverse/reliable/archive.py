"""Finished calls, exported to a file that is read back before anything of it is deleted.

What is deleted is what the file holds: the ids come from the file, and a call that finished anew
since, under an id that somebody else had cleaned up, is not the one that was exported.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from goverse.objects import encoding
from goverse.reliable.archive_files import FIELDS, ArchiveFault, Format, Record, record_of
from goverse.reliable.cleanup import (
    DEFAULT_BATCH,
    DEFAULT_PAUSE_S,
    Deleted,
    Progress,
    Selection,
    rest,
)
from goverse.storage.api import Store
from goverse.storage.listing import START, ListedCall
from goverse.storage.values import CallStatus

#: Calls that are looked at, and bytes of arguments and results that are read, at a time.
_PAGE = 500
_MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Archive:
    """A file that was read back.

    :param digest: of all records in their order, whatever the format.
    """

    path: Path
    calls: int
    digest: str


async def export(
    store: Store, selection: Selection, format: Format, path: Path, progress: Progress | None = None
) -> Archive:
    """Write what ``selection`` means to ``path``, which must not be there yet, and read it back.

    The file is its owner's alone, and has its name only once it is whole and on disk. Raises
    `ArchiveFault`, OSError, `StorageUnavailable`; then there is no such file.
    """
    part = path.with_name(path.name + ".part")
    _make(part, path)
    try:
        written = await _write(store, selection, format, part, progress)
        archive = await asyncio.to_thread(_read_back, format, part, path)
        if archive != written:
            raise ArchiveFault(
                f"{path} does not hold what was written: {archive.calls} calls with the digest "
                f"{archive.digest}, and not {written.calls} with {written.digest}"
            )
        await asyncio.to_thread(_keep, part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return archive


def _make(part: Path, path: Path) -> None:
    if path.exists():
        raise ArchiveFault(f"{path} is there already; name another file")
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


async def _write(
    store: Store, selection: Selection, format: Format, part: Path, progress: Progress | None
) -> Archive:
    count, digest = 0, hashlib.sha256()
    writer = format.create(part)
    try:
        for status in selection.statuses:
            async for records in _records(store, status, selection.before):
                await asyncio.to_thread(writer.write, records)
                for record in records:
                    digest.update(_encoded(record))
                count += len(records)
                if progress is not None:
                    progress(count)
    finally:
        writer.close()
    return Archive(part.with_name(part.name.removesuffix(".part")), count, digest.hexdigest())


async def _records(store: Store, status: CallStatus, before: float) -> AsyncIterator[list[Record]]:
    after = START
    while True:
        page = await store.list_calls(status, after=after, limit=_PAGE)
        old = [call for call in page if call.finished_at is not None and call.finished_at < before]
        standing = await store.deliveries([call.call_id for call in old]) if old else {}
        for part in _parts([call for call in old if call.call_id not in standing]):
            stored = await store.get_calls(part)
            # What somebody else has cleaned up meanwhile is not there, or is another call.
            yield [
                record_of(call)
                for call_id in part
                if (call := stored.get(call_id)) is not None
                and call.finished_at is not None
                and call.finished_at < before
            ]
        if len(old) < _PAGE:
            return
        after = page[-1].position


def _parts(calls: Sequence[ListedCall]) -> list[list[str]]:
    parts: list[list[str]] = []
    size = _MAX_BYTES
    for call in calls:
        size += call.argument_bytes + call.result_bytes
        if size > _MAX_BYTES:
            parts.append([])
            size = call.argument_bytes + call.result_bytes
        parts[-1].append(call.call_id)
    return parts


def _encoded(record: Record) -> bytes:
    values = [record[name] for name, _ in FIELDS]
    return encoding.encode([v.isoformat() if hasattr(v, "isoformat") else v for v in values])


def _read_back(format: Format, part: Path, path: Path) -> Archive:
    count, digest = 0, hashlib.sha256()
    for records in format.read(part):
        for record in records:
            digest.update(_encoded(record))
        count += len(records)
    return Archive(path, count, digest.hexdigest())


def _keep(part: Path, path: Path) -> None:
    """Its name, and its bytes, outlive a crash; a file that came meanwhile is not replaced."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.link(part, path)
    part.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


async def delete_archived(
    store: Store,
    archive: Archive,
    format: Format,
    before: float,
    deleted: Deleted,
    *,
    batch: int = DEFAULT_BATCH,
    pause_s: float = DEFAULT_PAUSE_S,
    progress: Progress | None = None,
) -> None:
    """Delete what the file holds, in batches with rests. May be cancelled at any await; ``deleted``
    says what was done. Raises `StorageUnavailable`, `OutcomeUnknown`, `ArchiveFault`."""
    now = asyncio.get_running_loop().time
    for records in format.read(archive.path):
        for start in range(0, len(records), batch):
            part = records[start : start + batch]
            began = now()
            gone = dict.fromkeys(
                await store.delete_finished([record["call_id"] for record in part], before)
            )
            for record in part:
                if record["call_id"] in gone:
                    status = CallStatus(record["status"])
                    deleted.by_status[status] = deleted.by_status.get(status, 0) + 1
            if progress is not None:
                progress(deleted.calls)
            await rest(pause_s, now() - began)
