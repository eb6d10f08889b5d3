"""One opened file per process, and the threads in which transactions run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from goverse.storage.api import OutcomeUnknown, StorageUnavailable
from tests.support.lmdb_store.tables import NAMES, Tables

T = TypeVar("T")

Work = Callable[[Tables], T]

MAX_WAITING = 1024
_MAP_BYTES = 64 * 1024**3  # of addresses, not of disk


class _Opened:
    """LMDB refuses to open a file twice in one process: its clients there share it."""

    def __init__(self, path: Path) -> None:
        self.clients = 0
        self.environment = lmdb.open(
            str(path), subdir=False, map_size=_MAP_BYTES, max_dbs=len(NAMES), max_spare_txns=4
        )
        self.databases: dict[str, Any] = {
            name: self.environment.open_db(name.encode()) for name in NAMES
        }


_opened: dict[Path, _Opened] = {}
_opening = threading.Lock()


class Transactions:
    """One client's: those that write run in one thread, those that read in another.

    :param writer: instead of a thread of our own.
    """

    def __init__(self, path: Path, limit_s: float, writer: Executor | None = None) -> None:
        self._path = path.resolve()
        self._limit_s = limit_s
        self._writer = writer or ThreadPoolExecutor(1, "lmdb-writer")
        self._reader = ThreadPoolExecutor(1, "lmdb-reader")
        self._file: _Opened | None = None
        self._waiting = 0
        self._closed = False

    async def write(self, work: Work[T]) -> T:
        """The result of ``work``, once it is on disk. What it raises takes it back.

        Raises `StorageUnavailable`, `OutcomeUnknown`.
        """
        return await self._run(self._writer, lambda: self._write(work), OutcomeUnknown)

    async def read(self, work: Work[T]) -> T:
        return await self._run(self._reader, lambda: self._read(work), StorageUnavailable)

    async def _run(self, executor: Executor, work: Callable[[], T], silence: type[Exception]) -> T:
        if self._closed:
            raise StorageUnavailable("this store is closed")
        if self._waiting >= MAX_WAITING:
            raise StorageUnavailable(f"{MAX_WAITING} operations wait for LMDB already")
        self._waiting += 1
        try:
            # Whoever stops waiting does not stop what is under way.
            running = asyncio.get_running_loop().run_in_executor(executor, work)
            done, _ = await asyncio.wait([running], timeout=self._limit_s)
        finally:
            self._waiting -= 1
        if not done:
            running.add_done_callback(lambda late: late.cancelled() or late.exception())
            raise silence(f"LMDB did not answer within {self._limit_s:g} s")
        return await running

    def _write(self, work: Work[T]) -> T:
        try:
            file = self._shared()
            txn = file.environment.begin(write=True)
        except (lmdb.Error, OSError) as error:
            raise StorageUnavailable(f"LMDB: {error}") from error
        try:
            result = work(Tables(txn, file.databases))
        except BaseException as error:
            txn.abort()
            if isinstance(error, lmdb.Error):
                raise StorageUnavailable(f"LMDB: {error}") from error
            raise
        try:
            txn.commit()
        except lmdb.Error as error:
            # Whether it is on disk, a disk that failed does not say.
            raise OutcomeUnknown(f"LMDB: {error}") from error
        return result

    def _read(self, work: Work[T]) -> T:
        try:
            file = self._shared()
            with file.environment.begin() as txn:
                return work(Tables(txn, file.databases))
        except (lmdb.Error, OSError) as error:
            raise StorageUnavailable(f"LMDB: {error}") from error

    def _shared(self) -> _Opened:
        with _opening:
            if self._file is None:
                if self._path not in _opened:
                    _opened[self._path] = _Opened(self._path)
                self._file = _opened[self._path]
                self._file.clients += 1
            return self._file

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for executor in (self._writer, self._reader):
            ending = asyncio.get_running_loop().run_in_executor(executor, int)
            done, _ = await asyncio.wait([ending], timeout=self._limit_s)
            executor.shutdown(wait=False)
            if not done:
                return  # a thread still uses the file: it must not be closed under it
        with _opening:
            if self._file is not None:
                self._file.clients -= 1
                if not self._file.clients:
                    del _opened[self._path]
                    self._file.environment.close()
