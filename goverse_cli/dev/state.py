"""Where development mode keeps durable objects: a folder that outlives the session.

The coordinator of a session does not: it begins with nothing every time. The store says which
cluster it belongs to and which epochs it has seen, and the new coordinator goes on from there.
"""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from goverse.aio.runtime import Runtime
from goverse.cluster.keys import Keys
from goverse.cluster.layout import ensure_layout
from goverse.cluster.records import Layout
from goverse.config.settings import ClusterSettings, StorageSettings
from goverse.coordination.api import Coordinator
from goverse.ids import new_token
from goverse.storage.api import Store, StoreRefused
from goverse_node.durability import open_store

#: Of the ids of clusters that development mode makes. No other cluster's store is gone on with:
#: that would shut its nodes out.
_OURS = "dev-"


class StateFault(StoreRefused):
    """The folder of the state cannot be used; says what to do."""


class StateFolder:
    """Held by one session at a time, until it is closed or its process ends.

    Raises `StateFault`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            # The state is nobody's to commit by accident.
            (path / ".gitignore").write_text("*\n")
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateFault(
                f"{path} cannot hold the state of durable objects ({error.strerror}); name "
                "another folder with --data-dir"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise StateFault(
                f"another session keeps its state in {path}: stop it, or name another folder "
                "with --data-dir"
            ) from None

    @property
    def sqlite(self) -> StorageSettings:
        return StorageSettings(url=f"sqlite:///{self.path / 'objects.db'}")

    def close(self) -> None:
        os.close(self._lock)


@asynccontextmanager
async def going_on(
    settings: StorageSettings, cluster: ClusterSettings, coordinator: Coordinator, *, migrate: bool
) -> AsyncGenerator[Store, None]:
    """The store that ``settings`` name, with ``coordinator`` made to go on from it.

    :param migrate: whether the store is the session's own, and its schema brought up to date.

    Raises `StoreRefused`, `StorageUnavailable`, `CoordinatorUnavailable`.
    """
    store = await open_store(settings, Runtime())
    try:
        if migrate:
            await store.migrate()
        await store.check()
        await _go_on(store, cluster, coordinator)
        yield store
    finally:
        await store.close()


async def _go_on(store: Store, cluster: ClusterSettings, coordinator: Coordinator) -> None:
    known = await store.cluster_id()
    if known and not known.startswith(_OURS):
        raise StoreRefused(
            f"the store belongs to the cluster {known}, which development mode did not make; "
            "set storage.url to another store"
        )
    highest = await store.highest_epoch()
    wanted = Layout(
        known or _OURS + new_token(random.SystemRandom()),
        highest.generation + 1,
        cluster.initial_num_shards,
    )
    layout, _ = await ensure_layout(coordinator, Keys(cluster.etcd.prefix), wanted)
    if known and layout.cluster_id != known:
        # The session began without a store. Its nodes raise the generation when they meet the
        # epochs of the last one.
        await store.adopt(layout.cluster_id)
