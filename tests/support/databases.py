"""The databases that the long runs can be made on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from goverse.config.settings import StorageSettings
from goverse.storage.supervised import PostgresOptions
from tests.support.mariadb import MariadbOptions, MariadbServer
from tests.support.postgres import PASSWORD, PostgresServer, installation

#: PostgreSQL by its version, and MariaDB.
DATABASES = ("15", "18", "mariadb")


class DatabaseServer(Protocol):
    """What both have in common."""

    @property
    def url(self) -> str: ...

    async def start(self) -> None: ...

    async def migrate(self) -> None: ...

    async def stop(self) -> None: ...

    async def kill(self) -> None: ...

    def spawn(self) -> None: ...

    async def wait_ready(self) -> None: ...

    def settings(self, *, port: int = 0) -> StorageSettings: ...

    def query(self, statement: str) -> Sequence[Sequence[Any]]: ...


def database(
    kind: str,
    data_dir: Path,
    *,
    port: int = 0,
    host: str = "127.0.0.1",
    prefix: tuple[str, ...] = (),
) -> DatabaseServer:
    """:param kind: one of `DATABASES`."""
    if kind == "mariadb":
        return MariadbServer(MariadbOptions(data_dir, port=port, host=host, prefix=prefix))
    return PostgresServer(
        PostgresOptions(data_dir, installation(kind), PASSWORD, port, host=host, prefix=prefix)
    )
