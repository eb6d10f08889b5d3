"""The benchmark's side of a peer: its environment, its driver process, its runs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load import Load
from benchmarks.processes import kill, output, start, tail
from benchmarks.report import ROOT

CACHE = ROOT / ".cache" / "peers"
REQUIREMENTS = Path(__file__).parent
START_S = 120.0
#: For an answer beyond the length of the run itself.
ANSWER_S = 60.0
STOP_S = 15.0

#: What packages would run when they are installed is not needed.
_NPM_OPTIONS = ("--ignore-scripts", "--no-audit", "--no-fund", "--silent", "--no-package-lock")


class PeerFailed(RuntimeError):
    """A peer could not be installed or started, or gave up."""


@dataclass
class Peer:
    """A running driver.

    :param about: its versions and settings, as it told them.
    """

    name: str
    about: dict[str, Any]
    _process: asyncio.subprocess.Process
    _log: Path

    async def run(
        self, callers: int, warmup_s: float, seconds: float, *, work: str = "calls"
    ) -> Load:
        """One run. Raises PeerFailed.

        :param work: for drivers that know several.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{work} {callers} {warmup_s} {seconds}\n".encode())
        return Load(**await _line(self.name, self._process, self._log, seconds + ANSWER_S))


@contextlib.asynccontextmanager
async def running(name: str, folder: Path, command: Sequence[str]) -> AsyncIterator[Peer]:
    """Start a driver; asked to end afterwards, and killed if it does not. Raises PeerFailed."""
    log = folder / f"{name}.log"
    process = await start(command, log)
    try:
        about = await _line(name, process, log, START_S)
        yield Peer(name, about, process, log)
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await process.wait()
    finally:
        await kill(process)


async def started(
    stack: contextlib.AsyncExitStack, folder: Path, commands: Mapping[str, Sequence[str]]
) -> tuple[list[Peer], list[str]]:
    """The peers that run now, until ``stack`` ends, and what is wrong with the others."""
    peers: list[Peer] = []
    faults: list[str] = []
    for name, command in commands.items():
        try:
            peers.append(await stack.enter_async_context(running(name, folder, command)))
        except PeerFailed as error:
            faults.append(f"peer {error}")
    return peers, faults


async def _line(
    name: str, process: asyncio.subprocess.Process, log: Path, timeout_s: float
) -> dict[str, Any]:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timeout_s):
            line = await process.stdout.readline()
    except TimeoutError:
        raise PeerFailed(f"{name} said nothing for {timeout_s:g} s:\n{tail(log)}") from None
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise PeerFailed(f"{name} ended instead of answering:\n{tail(log)}")
    return found


async def driver_commands(names: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The commands of the peers that are installed now, and what is wrong with the others."""
    commands: dict[str, list[str]] = {}
    faults: list[str] = []
    for name in names:
        try:
            commands[name] = await _driver_command(name)
        except PeerFailed as error:
            faults.append(f"peer {name} {error}")
    return commands, faults


async def _driver_command(name: str) -> list[str]:
    """The command of a peer's driver, whose environment is made if need be.

    :param name: the peer's, or PEER-VARIANT: its driver is told which.
    """
    peer, _, variant = name.partition("-")
    requirements = REQUIREMENTS / f"{peer}.txt"
    packages = REQUIREMENTS / f"{peer}.json"
    python = await installed(requirements, CACHE / peer, packages if packages.exists() else None)
    return [str(python), "-m", f"benchmarks.peers.{peer}_calls", *filter(None, [variant])]


async def installed(requirements: Path, folder: Path, packages: Path | None = None) -> Path:
    """The Python of the environment in ``folder``, which has exactly ``requirements``.

    Made again when those change. Raises PeerFailed.

    :param packages: a package.json of what comes from npm, into ``node_modules`` there.
    """
    python = folder / "bin" / "python"
    stamp = folder / "requirements.sha256"
    wanted = requirements.read_bytes() + (packages.read_bytes() if packages else b"")
    digest = hashlib.sha256(wanted).hexdigest()
    if stamp.exists() and stamp.read_text() == digest and python.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The environment that runs this has no pip; the Python that it was made from has.
    base: str = getattr(sys, "_base_executable", sys.executable)
    _say(f"making {folder}")
    pip = [base, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    try:
        await output([base, "-m", "venv", "--without-pip", str(folder)])
        _say(f"installing what {requirements} names (a minute or two)")
        await output([*pip, "install", "--quiet", "--progress-bar", "off", "-r", str(requirements)])
        if packages is not None:
            shutil.copy(packages, folder / "package.json")
            await output([_npm(), "install", *_NPM_OPTIONS, "--prefix", str(folder)])
    except RuntimeError as error:
        raise PeerFailed(f"could not be installed: {error}") from None
    stamp.write_text(digest)
    _say(f"{folder} is ready")
    return python


def _npm() -> str:
    """By its path, as children are started."""
    found = shutil.which("npm")
    if found is None:
        raise RuntimeError("npm is missing, and the peer comes from there")
    return found


def _say(text: str) -> None:
    print(f"peers: {text}", file=sys.stderr, flush=True)
