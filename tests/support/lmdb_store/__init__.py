"""A store on LMDB, written by following docs/how-to/write-a-store.md: its tests are the page's.

LMDB keeps one file of ordered keys. One transaction writes at a time, whatever process it is of,
and is on disk when it has returned; readers see a snapshot. So it serves all processes of one
machine. It imports what the page names, and nothing else of Goverse.
"""

from __future__ import annotations

from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from tests.support.lmdb_store.store import LmdbStore

__all__ = ["LmdbStore", "open"]


async def open(settings: StorageSettings, runtime: Runtime) -> LmdbStore:
    return LmdbStore(settings, runtime)
