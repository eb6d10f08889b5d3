"""Development mode as a user has it: a terminal that shows lines and sends Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
import sys
import urllib.request
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.eventually import eventually

ROOT = Path(__file__).resolve().parents[2]
_MARK = "DEV_SESSION_OF_A_TEST"


class DevSession:
    """One running ``goverse-cli dev``. ``shown`` is all it has written."""

    def __init__(self, process: asyncio.subprocess.Process, mark: str) -> None:
        self.process = process
        self.shown = ""
        self._mark = mark

    async def read(self) -> None:
        assert self.process.stdout is not None
        while data := await self.process.stdout.read(65_536):
            self.shown += data.decode(errors="replace")

    async def shows(self, text: str, *, times: int = 1, timeout_s: float = 30) -> None:
        """Wait until ``text`` was written so many times, or the session is over."""

        def check() -> bool:
            assert self.process.returncode is None or self.shown.count(text) >= times, self.shown
            return self.shown.count(text) >= times

        try:
            await eventually(check, timeout_s)
        except AssertionError:
            raise AssertionError(f"{text!r} was not shown:\n{self.shown}") from None

    @property
    def ready_s(self) -> float:
        """What the banner says of how long it took."""
        found = re.search(r"is ready \((\d+\.\d) s\)", self.shown)
        assert found is not None
        return float(found[1])

    @property
    def tries(self) -> list[str]:
        """The three lines to try: curl, goverse-cli, Python."""
        after = self.shown.partition("\nTry:\n")[2]
        return [line.strip() for line in after.partition("\n\n")[0].splitlines()]

    @property
    def gate_address(self) -> str:
        """Where client sessions go."""
        found = re.search(r"grpc (localhost:\d+)", self.shown)
        assert found is not None
        return found[1]

    @property
    def http_address(self) -> str:
        """Where HTTP goes."""
        found = re.search(r"gate  (http://localhost:\d+)", self.shown)
        assert found is not None
        return found[1]

    async def run_python(self, file: Path) -> str:
        """Run a program of ours that connects to the usual address; its standard output."""
        code = file.read_text().replace("localhost:49000", self.gate_address)
        return await self.paste(
            f"cd {shlex.quote(str(file.parent))} && "
            f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"
        )

    async def paste(self, line: str) -> str:
        """Run a line in a shell; its standard output. Where there is no curl, do what it does."""
        words = shlex.split(line)
        if words[0] == "curl" and shutil.which("curl") is None:
            _, _, body, address = words
            request = urllib.request.Request(f"http://{address}", body.encode())
            return await asyncio.to_thread(
                lambda: urllib.request.urlopen(request, timeout=30).read().decode()
            )
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", line),
            cwd=ROOT,
            env=_environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, f"{line}\n{err.decode()}"
        return out.decode()

    async def answers(self, line: str, text: str, *, timeout_s: float = 30) -> None:
        """Paste ``line`` until its answer is ``text``: nodes may be on their way."""
        answer = ""
        try:
            async with asyncio.timeout(timeout_s):
                while answer != text:
                    answer = (await self.paste(line)).strip()
        except TimeoutError:
            raise AssertionError(f"{line} answers {answer}, not {text}:\n{self.shown}") from None

    def processes(self) -> list[int]:
        """Every process of this session that runs, its own included."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                environ = (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if f"{_MARK}={self._mark}".encode() in environ.split(b"\0") and state != "Z":
                found.append(int(entry.name))
        return found

    def pid_of(self, *words: str) -> int:
        """The process of this session whose command line has all ``words``."""
        for pid in self.processes():
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if all(word in arguments for word in words):
                return pid
        raise AssertionError(f"no process with {words}")

    async def press_ctrl_c(self) -> int:
        """Send SIGINT as a terminal would; the exit status."""
        self.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(30):
            return await self.process.wait()

    async def leaves_nothing(self) -> None:
        await eventually(lambda: not self.processes())


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GOVERSE_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


@asynccontextmanager
async def dev_session(
    *arguments: str | Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[DevSession]:
    """Run ``goverse-cli dev`` with ``arguments``; whatever is left of it at the end is killed.

    :param env: more of its environment.
    """
    mark = uuid.uuid4().hex
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "goverse_cli", "dev", *map(str, arguments)),
        cwd=ROOT,
        env={**_environment(), **(env or {}), _MARK: mark},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    session = DevSession(process, mark)
    reading = asyncio.get_running_loop().create_task(session.read())
    try:
        yield session
    finally:
        _kill(session.processes())
        await process.wait()
        await reading


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
