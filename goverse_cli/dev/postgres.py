"""The embedded PostgreSQL of a session with several nodes. Its data stays, where it can."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from goverse.aio.backoff import Backoff
from goverse.config.settings import StorageSettings
from goverse.storage.supervised import (
    UNPRIVILEGED,
    PostgresOptions,
    PostgresProcess,
    bundled_postgres,
    closed_folder,
)
from goverse_cli.dev.processes import Console, describe_exit
from goverse_cli.dev.state import StateFault, StateFolder


class DevelopmentPostgres:
    """Keeps PostgreSQL running from `start` until `stop`.

    :param asked: the folder of the state was named by the user, so that there is no other.

    Raises `StateFault`.
    """

    def __init__(
        self, folder: StateFolder, port: int, console: Console, backoff: Backoff, *, asked: bool
    ) -> None:
        self._console = console
        self._backoff = backoff
        self._stopping = asyncio.Event()
        self._cleanup = contextlib.ExitStack()
        self.place = self._place(folder.path, asked)
        try:
            installation = bundled_postgres()
        except FileNotFoundError as error:
            raise StateFault(
                f"durable objects on several nodes need PostgreSQL: {error}; or set "
                "GOVERSE_STORAGE__URL"
            ) from None
        self._process = PostgresProcess(
            PostgresOptions(
                data_dir=self.place / "postgres",
                installation=installation,
                password=_password(self.place),
                port=port,
            )
        )

    def _place(self, folder: Path, asked: bool) -> Path:
        if os.geteuid() != 0 or (closed := closed_folder(folder)) is None:
            return folder
        why = f"PostgreSQL runs as {UNPRIVILEGED}, who cannot enter {closed}"
        if asked:
            raise StateFault(f"{why}: chmod o+x {closed}, or name another --data-dir")
        self._console.say(
            f"{why}: durable objects are gone with this session. To keep them, name a folder "
            "with --data-dir"
        )
        temporary = tempfile.TemporaryDirectory(prefix="goverse-dev-postgres-")
        self._cleanup.callback(temporary.cleanup)
        os.chmod(temporary.name, 0o711)
        return Path(temporary.name)

    @property
    def settings(self) -> StorageSettings:
        return StorageSettings(url=self._process.url, password=self._process.password)

    async def start(self) -> None:
        """Return once it serves. Raises `StateFault`."""
        try:
            await self._process.start()
        except (RuntimeError, OSError) as error:
            first, *rest = str(error).splitlines()
            last = f" {rest[-1].strip()[:300]}" if rest else ""
            raise StateFault(
                f"{first}{last} (log: {self._process.log_file}; to begin afresh, remove "
                f"{self.place})"
            ) from None

    async def run(self) -> None:
        """Start it again whenever it ends, until `stop`."""
        while True:
            status = await self._process.wait()
            if self._stopping.is_set():
                return
            delay_s = self._backoff.next_s()
            self._console.say(
                f"postgres {describe_exit(status)}; starts again in {delay_s:.1f} s. "
                f"Its log: {self._process.log_file}"
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._stopping.wait()
                    return
            self._process.spawn()

    async def stop(self) -> None:
        self._stopping.set()
        await self._process.stop()
        self._cleanup.close()

    async def kill(self) -> None:
        self._stopping.set()
        await self._process.kill()
        self._cleanup.close()


def _password(place: Path) -> str:
    """That of the database which is there, or of the one to be made."""
    file = place / "password"
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return file.read_text().strip()
    with os.fdopen(descriptor, "w") as output:
        output.write(password := secrets.token_urlsafe(24))
    return password
