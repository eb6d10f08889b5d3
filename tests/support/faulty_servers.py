"""PostgreSQL and MariaDB as servers that fail: what tests of the faults of both need of each."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pymysql

from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.storage.api import Store
from goverse.storage.migrations import Migration
from goverse.storage.mysql import MysqlStore
from goverse.storage.mysql import schema as mysql_schema
from goverse.storage.mysql.running import BEGIN
from goverse.storage.postgres import PostgresStore
from goverse.storage.postgres import schema as postgres_schema
from goverse.storage.postgres.dialect import POSTGRES, Dialect
from goverse.testing.conformance.store_kit import Owner, fresh_epoch
from tests.support import mariadb, postgres
from tests.support.eventually import eventually
from tests.support.holding_proxy import HoldingProxy
from tests.support.mysql_proxy import MysqlProxy
from tests.support.serializable import SERIALIZABLE

#: How a statement locks a fence as a commit does, and as whoever opens its slot does.
SHARED, ALONE = "shared", "alone"

#: Servers whose owners wait for locks of a fence.
LOCKING = ("postgresql-15", "postgresql-18", "mariadb")

#: And one that decides without such locks.
ALL = (*LOCKING, "serializable")

_CLIENTS = Path(__file__).parent


class Beside(ABC):
    """A transaction beside the stores."""

    @abstractmethod
    def execute(self, statement: str) -> Any:
        """The rows."""

    @abstractmethod
    def end(self, how: str = "ROLLBACK") -> None:
        """Raises `FaultyServer.ended` if somebody has ended the session."""


class FaultyServer(ABC):
    """A server with the tables of the first database, and the stores that are on it."""

    #: What it is called in errors, and how it refuses a password.
    name: ClassVar[str]
    wrong_password: ClassVar[str]
    #: Words of its locks, by what they are for.
    locks: ClassVar[dict[str, str]]
    #: What is raised in a session that somebody has ended.
    ended: ClassVar[type[Exception]]
    proxy_type: ClassVar[type[HoldingProxy]]
    scheme: ClassVar[str]
    database: ClassVar[str]
    process: postgres.PostgresServer | mariadb.MariadbServer

    @abstractmethod
    def store(self, settings: StorageSettings | None = None) -> PostgresStore | MysqlStore:
        """A store on the first database, or where ``settings`` say; to be closed."""

    @abstractmethod
    def migrations(self) -> tuple[Migration, ...]:
        """What a new database is given, in order."""

    @abstractmethod
    def beside(self) -> Beside:
        """A transaction that has begun, to be ended."""

    @abstractmethod
    def in_database(self, name: str, statement: str) -> None:
        """Carry out one statement in another database."""

    @abstractmethod
    def _waiting(self) -> int:
        """How many statements wait for a lock."""

    @abstractmethod
    def _frozen(self, slot: int, where: str) -> tuple[list[str], dict[str, str]]:
        """Arguments and environment of its client that stops."""

    def place(self) -> str:
        """What a store says of where it is."""
        return f"{self.scheme}://127.0.0.1:{self.process.options.port}/{self.database}"

    async def someone_waits(self) -> None:
        """Until a statement waits for a lock."""
        await eventually(lambda: self._waiting() >= 1)

    def hold(self, slot: int, how: str) -> Beside:
        """A transaction that has locked the fence of ``slot``, to be ended."""
        beside = self.beside()
        beside.execute(f"SELECT 1 FROM goverse_fences WHERE slot = {slot} {self.locks[how]}")
        return beside

    @asynccontextmanager
    async def proxy(self) -> AsyncIterator[HoldingProxy]:
        proxy = await self.proxy_type(self.process.options.port).start()
        try:
            yield proxy
        finally:
            await proxy.close()

    @asynccontextmanager
    async def frozen_owner(self, slot: int, where: str) -> AsyncIterator[None]:
        """An owner of ``slot`` that has stopped there, and goes on at the end, until it is over."""
        arguments, environment = self._frozen(slot, where)
        frozen = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            env={**os.environ, **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert frozen.stdout is not None
        try:
            assert await frozen.stdout.readline() == b"stopping\n"
            await self._reached()
            yield
        finally:
            frozen.send_signal(signal.SIGCONT)
            await frozen.wait()

    @abstractmethod
    async def _reached(self) -> None:
        """Return once the server has locked what a frozen owner asked for."""


# -- PostgreSQL


class PostgresBeside(Beside):
    def __init__(self, server: postgres.PostgresServer) -> None:
        self._session = server.connect()
        self._session.execute("BEGIN")

    def execute(self, statement: str) -> Any:
        found = self._session.execute(statement.encode())
        return found.fetchall() if found.description else ()

    def end(self, how: str = "ROLLBACK") -> None:
        self._session.execute(how.encode())
        self._session.close()


class FaultyPostgres(FaultyServer):
    name = "PostgreSQL"
    wrong_password = "password authentication failed"
    locks: ClassVar = {SHARED: "FOR SHARE", ALONE: "FOR UPDATE"}
    ended = psycopg.OperationalError
    proxy_type = HoldingProxy
    scheme, database = "postgresql", postgres.DATABASE

    def __init__(self, process: postgres.PostgresServer, dialect: Dialect) -> None:
        self.process = process
        self._dialect = dialect

    def store(self, settings: StorageSettings | None = None) -> PostgresStore:
        return PostgresStore(settings or self.process.settings(), Runtime(), self._dialect)

    def migrations(self) -> tuple[Migration, ...]:
        return postgres_schema.known()

    def beside(self) -> PostgresBeside:
        return PostgresBeside(self.process)

    def in_database(self, name: str, statement: str) -> None:
        with self.process.connect(database=name) as session:
            session.execute(statement.encode())

    def _waiting(self) -> int:
        [[found]] = self.process.query(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        )
        return int(found)

    def _frozen(self, slot: int, where: str) -> tuple[list[str], dict[str, str]]:
        arguments = [str(_CLIENTS / "frozen_client.py"), self.process.url, str(slot), where]
        return arguments, {"PGPASSWORD": self.process.password}

    async def _reached(self) -> None:
        # Its first two statements have run: it has a transaction id.
        text = "SELECT 1 FROM pg_stat_activity WHERE backend_xid IS NOT NULL"
        await eventually(lambda: self.process.query(text))


# -- MariaDB


class MariadbBeside(Beside):
    """Tells the server that it may write, as our transactions do."""

    def __init__(self, server: mariadb.MariadbServer, user: str) -> None:
        self._session = server.connect(user=user)
        self._cursor = self._session.cursor()
        self.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        for statement in BEGIN:
            self.execute(statement)

    def execute(self, statement: str) -> Any:
        self._cursor.execute(statement)
        return self._cursor.fetchall()

    def end(self, how: str = "ROLLBACK") -> None:
        self._cursor.execute(how)
        self._session.close()


class FaultyMariadb(FaultyServer):
    name = "MariaDB"
    wrong_password = "Access denied"
    locks: ClassVar = {SHARED: "LOCK IN SHARE MODE", ALONE: "FOR UPDATE"}
    ended = pymysql.Error
    proxy_type = MysqlProxy
    scheme, database = "mysql", mariadb.DATABASE

    def __init__(self, process: mariadb.MariadbServer) -> None:
        self.process: mariadb.MariadbServer = process

    def store(self, settings: StorageSettings | None = None) -> MysqlStore:
        return MysqlStore(settings or self.process.settings(), Runtime())

    def migrations(self) -> tuple[Migration, ...]:
        return mysql_schema.known()

    def beside(self, user: str = mariadb.USER) -> MariadbBeside:
        return MariadbBeside(self.process, user)

    def in_database(self, name: str, statement: str) -> None:
        with self.process.connect(database=name) as session, session.cursor() as cursor:
            cursor.execute(statement)

    def _waiting(self) -> int:
        # The tables of locks are no help: they are refreshed only when nobody asked for 0.1 s. So
        # these are the statements of nodes that have not got on for a while.
        [[found]] = self.process.query(
            "SELECT count(*) FROM information_schema.processlist "
            f"WHERE user = '{mariadb.USER}' AND command = 'Query' AND time_ms > 100"
        )
        return int(found)

    def _frozen(self, slot: int, where: str) -> tuple[list[str], dict[str, str]]:
        script = str(_CLIENTS / "frozen_mysql_client.py")
        arguments = [script, str(self.process.options.port), mariadb.DATABASE, str(slot), where]
        return arguments, {"MYSQL_PASSWORD": self.process.password}

    async def _reached(self) -> None:
        # It says so after the answer to its statement.
        return None


_slots = itertools.count(1000)


def fresh_slot() -> int:
    """One that nobody in this process has opened."""
    return next(_slots)


async def fresh_owner(store: Store) -> Owner:
    """Of a slot of its own, which it has opened."""
    return await Owner(store, fresh_slot(), fresh_epoch(), "first").open()


@contextmanager
def serving(kind: str) -> Iterator[FaultyServer]:
    """A server of its own, gone at the end; for fixtures of a module.

    :param kind: one of `ALL`.
    """
    if kind == "mariadb":
        with mariadb.serving() as process:
            asyncio.run(process.migrate())
            yield FaultyMariadb(process)
        return
    version = kind.removeprefix("postgresql-") if kind in LOCKING else "18"
    with postgres.serving(version) as server:
        asyncio.run(server.migrate())
        yield FaultyPostgres(server, POSTGRES if kind in LOCKING else SERIALIZABLE)
