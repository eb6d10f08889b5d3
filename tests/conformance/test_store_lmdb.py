"""A backend written by following docs/how-to/write-a-store.md does what every store does."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.ids import Epoch
from goverse.storage.api import StorageUnavailable, Store
from goverse.storage.values import Verdict
from goverse.testing.conformance.store import StoreBackend, StoreConformance, WriteGate
from goverse.testing.conformance.store_kit import Owner, fresh_epoch
from tests.support.gated_executor import GatedExecutor
from tests.support.lmdb_store import LmdbStore

_numbers = itertools.count(1)


class LmdbBackend(StoreBackend):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def settings(self, name: str = "store", limit_s: float = 10) -> StorageSettings:
        return StorageSettings(url=f"lmdb:///{self._folder}/{name}", operation_timeout_s=limit_s)

    async def connect(self) -> Store:
        return LmdbStore(self.settings(), Runtime())

    async def connect_new(self) -> Store:
        return LmdbStore(self.settings(f"new-{next(_numbers)}"), Runtime())

    async def connect_gated(self) -> tuple[Store, WriteGate]:
        gate = GatedExecutor()
        return LmdbStore(self.settings(limit_s=0.3), Runtime(), gate), gate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("lmdb")

    async def migrate() -> None:
        store = await LmdbBackend(folder).connect()
        await store.migrate()
        await store.close()

    asyncio.run(migrate())
    yield folder


class TestLmdb(StoreConformance):
    @pytest.fixture
    async def backend(self, folder: Path) -> StoreBackend:
        return LmdbBackend(folder)


SCRIPT = """
import asyncio, sys
from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.ids import Epoch
from goverse.testing.conformance.store_kit import Owner
from tests.support.lmdb_store import LmdbStore

async def main(url, slot):
    store = LmdbStore(StorageSettings(url=url), Runtime())
    owner = await Owner(store, int(slot), Epoch(1, 10**12), "another process", name="p").open()
    for version in range(1_000_000):
        result = await owner.commit(b"x", version=version)
        print(result.verdict.value, result.version, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_two_processes_fence_each_other_and_a_kill_loses_nothing_confirmed(
    folder: Path,
) -> None:
    backend = LmdbBackend(folder)
    mine = Owner(await backend.connect(), 50_000, fresh_epoch(), "this one", name="p")
    await mine.open()
    assert (await mine.commit(b"0", id="before")).verdict is Verdict.DONE
    other = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SCRIPT,
        backend.settings().url,
        "50000",
        stdout=asyncio.subprocess.PIPE,
    )
    assert other.stdout is not None
    confirmed = 0
    while confirmed < 20:
        verdict, _, version = (await other.stdout.readline()).decode().partition(" ")
        assert verdict == "done"
        confirmed = int(version)
    assert (await mine.commit(b"1", version=1, id="before")).verdict is Verdict.FENCED
    other.kill()
    await other.wait()
    *lines, _ = (await other.stdout.read()).decode().split("\n")  # the last may be half of one
    for line in lines:
        confirmed = int(line.split()[1])
    # What the killed process held is free, and what it confirmed is there; so may one more be. That
    # one is seen by readers from the next write on, as LMDB tells them of a commit after it:
    # an owner writes its fence before it reads.
    next_owner = Owner(mine.store, 50_000, Epoch(2, 1), "this one", name="p")
    await next_owner.open()
    stored = await next_owner.stored()
    assert stored is not None and stored.version in (confirmed, confirmed + 1)
    assert (await next_owner.commit(b"2", version=stored.version)).verdict is Verdict.DONE
    await mine.store.close()


async def test_a_file_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    store = LmdbStore(StorageSettings(url=f"lmdb:///{tmp_path}/no/folder"), Runtime())
    with pytest.raises(StorageUnavailable, match="LMDB"):
        await store.check()
    await store.close()
