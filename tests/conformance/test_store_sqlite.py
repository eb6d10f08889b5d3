"""The store on SQLite does what every store does."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.storage.api import StorageUnavailable, Store, StoreRefused
from goverse.storage.sqlite import SqliteStore
from goverse.testing.conformance.store import StoreBackend, StoreConformance, WriteGate
from goverse.testing.conformance.store_kit import Owner, fresh_epoch
from tests.support.gated_executor import GatedExecutor

_numbers = itertools.count(1)


class SqliteBackend(StoreBackend):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def settings(self, name: str = "store", limit_s: float = 10) -> StorageSettings:
        path = self._folder / f"{name}.db"
        return StorageSettings(url=f"sqlite:///{path}", operation_timeout_s=limit_s)

    async def connect(self) -> Store:
        return SqliteStore(self.settings(), Runtime())

    async def connect_new(self) -> Store:
        return SqliteStore(self.settings(f"new-{next(_numbers)}"), Runtime())

    async def connect_gated(self) -> tuple[Store, WriteGate]:
        gate = GatedExecutor()
        return SqliteStore(self.settings(limit_s=0.3), Runtime(), gate), gate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("sqlite")

    async def migrate() -> None:
        store = await SqliteBackend(folder).connect()
        await store.migrate()
        await store.close()

    asyncio.run(migrate())
    yield folder


class TestSqlite(StoreConformance):
    @pytest.fixture
    async def backend(self, folder: Path) -> StoreBackend:
        return SqliteBackend(folder)


async def test_a_commit_is_on_disk_when_it_is_confirmed(folder: Path) -> None:
    """Another process that opens the file, without a goodbye of the first, finds it."""
    backend = SqliteBackend(folder)
    store = await backend.connect()
    owner = await Owner(store, 40_000, fresh_epoch(), "one").open()
    await owner.commit(b"1")
    with sqlite3.connect(folder / "store.db") as beside:
        row = beside.execute(
            "SELECT state FROM goverse_objects WHERE object_id = ?", (owner.object().id,)
        ).fetchone()
    beside.close()
    assert row == (b"1",)
    await store.close()


async def test_a_file_that_is_locked_is_unavailable_and_nothing_is_written(folder: Path) -> None:
    backend = SqliteBackend(folder)
    store = SqliteStore(backend.settings(limit_s=5), Runtime())
    owner = await Owner(store, 40_001, fresh_epoch(), "one").open()
    await store.close()
    quick = SqliteStore(backend.settings(limit_s=0.2), Runtime())
    beside = sqlite3.connect(folder / "store.db", isolation_level=None)
    beside.execute("BEGIN IMMEDIATE")
    owner.store = quick
    with pytest.raises(Exception) as caught:
        await owner.commit(b"1")
    assert type(caught.value).__name__ in ("StorageUnavailable", "OutcomeUnknown")
    beside.execute("ROLLBACK")
    beside.close()
    await quick.close()


async def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database, surely" * 100)
    store = SqliteStore(StorageSettings(url=f"sqlite:///{tmp_path}/x.db"), Runtime())
    with pytest.raises(StorageUnavailable, match="not a database"):
        await store.check()
    await store.close()


async def test_a_store_without_a_schema_is_refused(tmp_path: Path) -> None:
    store = SqliteStore(StorageSettings(url=f"sqlite:///{tmp_path}/y.db"), Runtime())
    with pytest.raises(StoreRefused, match=r"no schema.*db migrate"):
        await store.check()
    await store.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite://file", "sqlite:relative"])
def test_a_url_without_a_path_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite:///relative/path"):
        SqliteStore(StorageSettings(url=url), Runtime())


async def test_a_read_past_its_limit_holds_up_no_other_and_ends_no_process(folder: Path) -> None:
    """Closing ends the connection, which must not be done under a statement."""
    store = SqliteStore(SqliteBackend(folder).settings(limit_s=0.2), Runtime())
    endless = (
        "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
    )
    with pytest.raises(StorageUnavailable):
        await store._read(lambda connection: connection.execute(endless).fetchone())

    async def answers() -> bool:
        try:
            await store.check()
        except StorageUnavailable:
            return False
        return True

    assert await answers() or await answers()
    await store.close()
