"""One thread that writes and one that reads: SQLite has one writer anyway, and blocks."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from goverse.storage.api import OutcomeUnknown, StorageUnavailable

T = TypeVar("T")

Transaction = Callable[[sqlite3.Connection], T]

MAX_WAITING = 1024

#: Steps of SQLite's machine between two looks at the clock: some milliseconds.
_STEPS = 100_000


class Threads:
    """Runs transactions on one file.

    :param writer: where those that write run, one after the other; None: a thread of our own.
    """

    def __init__(self, path: Path, limit_s: float, writer: Executor | None = None) -> None:
        self._path = path
        self._limit_s = limit_s
        self._writer = writer or ThreadPoolExecutor(1, "sqlite-writer")
        self._reader = ThreadPoolExecutor(1, "sqlite-reader")
        # Each belongs to its thread.
        self._write_connection: sqlite3.Connection | None = None
        self._read_connection: sqlite3.Connection | None = None
        self._waiting = 0
        self._closed = False

    @property
    def connections(self) -> int:
        return sum(c is not None for c in (self._write_connection, self._read_connection))

    async def write(self, transaction: Transaction[T]) -> T:
        """The result of ``transaction``, once it is on disk.

        Raises `StorageUnavailable`, `OutcomeUnknown`, and what ``transaction`` raises.
        """
        return await self._run(self._writer, partial(self._write, transaction), OutcomeUnknown)

    async def read(self, transaction: Transaction[T]) -> T:
        return await self._run(self._reader, partial(self._read, transaction), StorageUnavailable)

    async def _run(self, executor: Executor, work: Callable[[], T], silence: type[Exception]) -> T:
        if self._closed:
            raise StorageUnavailable("this store is closed")
        if self._waiting >= MAX_WAITING:
            raise StorageUnavailable(f"{MAX_WAITING} operations wait for SQLite already")
        self._waiting += 1
        try:
            # Not cancelled with its waiter: what a thread has begun it ends.
            running = asyncio.get_running_loop().run_in_executor(executor, work)
            done, _ = await asyncio.wait([running], timeout=self._limit_s)
        finally:
            self._waiting -= 1
        if not done:
            running.add_done_callback(_forget)
            raise silence(f"SQLite did not answer within {self._limit_s:g} s")
        return await running

    def _write(self, transaction: Transaction[T]) -> T:
        connection = self._write_connection
        try:
            if connection is None:
                connection = self._write_connection = self._connect()
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise StorageUnavailable(f"SQLite: {error}") from error
        try:
            result = transaction(connection)
        except BaseException as error:
            connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise StorageUnavailable(f"SQLite: {error}") from error
            raise
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._write_connection = None
            if connection.in_transaction:
                # It says that it did not commit.
                connection.rollback()
                connection.close()
                raise StorageUnavailable(f"SQLite: {error}") from error
            connection.close()
            raise OutcomeUnknown(f"SQLite: {error}") from error
        return result

    def _read(self, transaction: Transaction[T]) -> T:
        try:
            if self._read_connection is None:
                self._read_connection = self._connect()
            # Nobody waits for it past the limit, and the next reader waits for its thread.
            ends_at = time.monotonic() + self._limit_s
            late = partial(_passed, ends_at)
            self._read_connection.set_progress_handler(late, _STEPS)
            return transaction(self._read_connection)
        except sqlite3.Error as error:
            raise StorageUnavailable(f"SQLite: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        # Half the limit: who waits for the file's lock is told that it is locked, and not nothing.
        connection = sqlite3.connect(
            self._path, timeout=self._limit_s / 2, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    async def close(self) -> None:
        """Wait for what is under way, as long as one operation may take."""
        if self._closed:
            return
        self._closed = True
        if await self._ended(self._writer) and self._write_connection is not None:
            self._write_connection.close()
        if await self._ended(self._reader) and self._read_connection is not None:
            self._read_connection.close()

    async def _ended(self, executor: Executor) -> bool:
        """Whether its thread has ended. A connection that is still used must not be closed: that
        ends the process."""
        ending = asyncio.get_running_loop().run_in_executor(executor, _nothing)
        done, _ = await asyncio.wait([ending], timeout=self._limit_s)
        executor.shutdown(wait=False)
        return bool(done)


def _passed(moment: float) -> bool:
    return time.monotonic() > moment


def _nothing() -> None:
    """What runs last, so that everything before it has run."""


def _forget(future: asyncio.Future[T]) -> None:
    """Its outcome has nobody who waits for it; that is no error of the event loop's."""
    if not future.cancelled():
        future.exception()
