"""Real MariaDB servers for tests."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pymysql

from goverse.aio.children import free_port, tied_to_this_process
from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.storage.mysql import MysqlStore
from tests.support.postgres import PASSWORD, ROOT, open_folder

DATABASE = "goverse"
USER = "goverse"
READY_S = 30.0
STOP_S = 10.0

_numbers = itertools.count(1)


@cache
def installation() -> Path:
    """Debian's MariaDB 10.11, unpacked."""
    found = subprocess.run([ROOT / "scripts/fetch-mariadb"], check=True, stdout=subprocess.PIPE)
    return Path(found.stdout.decode().strip())


@dataclass(frozen=True)
class MariadbOptions:
    """As `goverse.storage.supervised.PostgresOptions`; the server runs as nobody where it can."""

    data_dir: Path
    root: Path = field(default_factory=installation)
    password: str = field(default=PASSWORD, repr=False)
    port: int = 0
    settings: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()


class MariadbServer:
    """A server whose first database belongs to the tests of a module. Nodes connect as a user with
    the rights that the documentation asks for, and no others."""

    def __init__(self, options: MariadbOptions) -> None:
        self.options = replace(options, port=options.port or free_port())
        self._process: subprocess.Popen[bytes] | None = None
        self._user = "nobody" if os.geteuid() == 0 else ""

    @property
    def password(self) -> str:
        return self.options.password

    @property
    def url(self) -> str:
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        far = "" if self.options.host == MariadbOptions.host else "?sslmode=disable"
        return f"mysql://{USER}@{self.options.host}:{self.options.port}/{database}{far}"

    @property
    def log_file(self) -> Path:
        return self.options.data_dir.with_name(self.options.data_dir.name + ".log")

    @property
    def pid(self) -> int:
        return self._running().pid

    async def start(self) -> None:
        """Make the system's tables if there are none, start the server and wait until it serves."""
        fresh = not (self.options.data_dir / "mysql").exists()
        if fresh:
            await asyncio.to_thread(self._prepare)
        self.spawn()
        await self.wait_ready()
        if fresh:
            await asyncio.to_thread(self._make_user)

    def _prepare(self) -> None:
        """What mariadb-install-db does, without help texts and time zones: a third of a second."""
        data_dir = self.options.data_dir
        data_dir.mkdir(parents=True)
        if self._user:
            entry = pwd.getpwnam(self._user)
            os.chown(data_dir, entry.pw_uid, entry.pw_gid)
        share = self.options.root / "usr/share/mysql"
        digest = hashlib.sha1(hashlib.sha1(self.password.encode()).digest()).hexdigest().upper()
        script = "\n".join(
            (
                "SET sql_mode = '';",
                "CREATE DATABASE mysql;",
                "USE mysql;",
                (share / "mysql_system_tables.sql").read_text(),
                (share / "mysql_performance_tables.sql").read_text(),
                "REPLACE INTO mysql.global_priv VALUES ('%', 'root', "
                '\'{"access":18446744073709551615,"version_id":101100,'
                f'"plugin":"mysql_native_password","authentication_string":"*{digest}"}}\');\n',
            )
        )
        done = subprocess.run(
            self._command("--bootstrap", "--innodb-flush-log-at-trx-commit=0"),
            input=script.encode(),
            capture_output=True,
            cwd="/",
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"bootstrap failed:\n{done.stderr.decode()[-2000:]}")

    def _command(self, *arguments: str) -> list[str]:
        share = self.options.root / "usr/share/mysql"
        return tied_to_this_process(
            [
                str(self.options.root / "usr/sbin/mariadbd"),
                "--no-defaults",
                f"--datadir={self.options.data_dir}",
                f"--lc-messages-dir={share}",
                f"--character-sets-dir={share}/charsets",
                "--plugin-dir=/nonexistent",
                "--innodb-log-file-size=64M",
                "--innodb-buffer-pool-size=128M",
                "--skip-name-resolve",
                *arguments,
            ],
            user=self._user,
        )

    def _make_user(self) -> None:
        with self.connect(database="") as session:
            cursor = session.cursor()
            for statement in (
                f"CREATE DATABASE {DATABASE}",
                f"CREATE USER {USER}@'%' IDENTIFIED BY '{self.password}'",
                f"GRANT ALL ON `{DATABASE}%`.* TO {USER}@'%'",
                f"GRANT PROCESS ON *.* TO {USER}@'%'",
            ):
                cursor.execute(statement)

    def spawn(self) -> None:
        """Start the server without waiting."""
        if self._process is not None and self._process.poll() is None:
            raise RuntimeError("MariaDB runs already")
        data_dir = self.options.data_dir
        arguments = [
            f"--bind-address={self.options.host}",
            f"--port={self.options.port}",
            f"--socket={data_dir}/socket",
            f"--pid-file={data_dir}/pid",
            "--max-allowed-packet=256M",
            "--default-time-zone=+05:30",
            *(f"--{setting}" for setting in self.options.settings),
        ]
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(
                [*self.options.prefix, *self._command(*arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )

    async def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Wait until it takes connections. Raises RuntimeError."""
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._is_ready():
                    if self._running().poll() is not None:
                        raise RuntimeError(f"MariaDB ended while starting:\n{self._log_tail()}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise RuntimeError(
                f"MariaDB is not ready after {timeout_s:.0f} s:\n{self._log_tail()}"
            ) from None

    async def _is_ready(self) -> bool:
        """It greets whoever connects; before it is ready it does not listen."""
        socket = self.options.data_dir / "socket"
        try:
            reader, writer = await asyncio.open_unix_connection(str(socket))
        except OSError:
            return False
        try:
            return bool(await reader.read(1))
        except OSError:
            return False
        finally:
            writer.transport.abort()

    def _log_tail(self) -> str:
        return self.log_file.read_text(errors="replace")[-2000:]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("MariaDB was not started")
        return self._process

    async def wait(self) -> int:
        while True:
            status = self._running().poll()
            if status is not None:
                return status
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Ask it to end, rolling back what runs, and kill it if it does not."""
        if self._process is None or self._process.poll() is not None:
            return
        self.resume()
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await self.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End it as a crash does."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.kill()
        await self.wait()

    def pause(self) -> None:
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def settings(
        self, *, database: str = DATABASE, port: int = 0, operation_timeout_s: float = 10.0
    ) -> StorageSettings:
        url = self.url_of(database)
        if port:
            url = url.replace(f":{self.options.port}/", f":{port}/")
        return StorageSettings(
            url=url, password=self.password, operation_timeout_s=operation_timeout_s
        )

    def connect(self, *, database: str = DATABASE, user: str = "root") -> pymysql.Connection[Any]:
        """A session beside the store, for looking and for interfering."""
        return pymysql.connect(
            host=self.options.host,
            port=self.options.port,
            user=user,
            password=self.password,
            database=database or None,
            autocommit=True,
            connect_timeout=10,
        )

    def query(self, statement: str) -> tuple[tuple[Any, ...], ...]:
        """The rows of one statement of the administrator's."""
        with self.connect() as session, session.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()  # type: ignore[return-value]

    async def new_database(self) -> StorageSettings:
        """Settings of an empty database."""
        name = f"{DATABASE}{next(_numbers)}"
        with self.connect(database="") as session:
            session.cursor().execute(f"CREATE DATABASE {name}")
        return self.settings(database=name)

    async def migrated_database(self) -> StorageSettings:
        """Settings of a new database with a schema."""
        settings = await self.new_database()
        await _migrate(settings)
        return settings

    async def migrate(self) -> None:
        await _migrate(self.settings())


async def _migrate(settings: StorageSettings) -> None:
    store = MysqlStore(settings, Runtime())
    await store.migrate()
    await store.close()


@contextmanager
def serving(*settings: str) -> Iterator[MariadbServer]:
    """A server of its own, gone at the end; for fixtures of a module."""
    with open_folder() as folder:
        server = MariadbServer(MariadbOptions(folder / "data", settings=settings))
        try:
            asyncio.run(server.start())
            yield server
        finally:
            asyncio.run(server.kill())
