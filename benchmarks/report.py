"""What a benchmark says: figures, checks against bounds, and where they were measured."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

#: Whose versions matter to a figure.
_LIBRARIES = ("grpcio", "httptools", "msgspec", "protobuf", "psycopg", "uvicorn", "uvloop")


@dataclass(frozen=True)
class Options:
    """How long to measure, and beside whom.

    :param rounds: runs of every subject, interleaved.
    :param seconds: length of one run, without its warm-up.
    :param peers: names of `benchmarks.peers.PEERS`.
    """

    rounds: int
    seconds: float
    peers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """One bound: ``value`` must be at least ``bound``, or at most that."""

    name: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def ok(self) -> bool:
        # In this order, a value that is not a number is never ok.
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "bound": self.bound,
            "limit": "at most" if self.at_most else "at least",
            "ok": self.ok,
        }


@dataclass
class Report:
    """Filled while a benchmark runs, so that what was measured survives what fails later.

    :param figures: medians and the like, shown in the closing line.
    :param raw: every run's samples, by subject; kept in the file of samples.
    :param settings: of the subjects, and of the peers with their versions.
    :param faults: in words; one is enough for the run not to be ok.
    """

    benchmark: str
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.faults and bool(self.checks) and all(check.ok for check in self.checks)

    def to_json(self, where: dict[str, Any]) -> dict[str, Any]:
        """The closing line."""
        return {
            "benchmark": self.benchmark,
            "ok": self.ok,
            "checks": [check.to_json() for check in self.checks],
            "faults": self.faults,
            "figures": self.figures,
            "settings": self.settings,
            "environment": where,
        }

    def samples(self, options: Options, where: dict[str, Any]) -> dict[str, Any]:
        """What is kept of a run: the closing line, and what it was made from."""
        return {
            **self.to_json(where),
            "options": {
                "rounds": options.rounds,
                "seconds": options.seconds,
                "peers": list(options.peers),
            },
            "samples": self.raw,
        }


def environment() -> dict[str, Any]:
    """The machine and the versions. Taken before a run: the load is that of others."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "goverse": _commit(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    """Version and commit, with a plus sign if files differ from it."""
    ours = _version("goverse")
    try:
        run = ("git", "-C", str(ROOT))
        commit = subprocess.check_output(
            (*run, "rev-parse", "--short", "HEAD"), stderr=subprocess.DEVNULL, text=True
        ).strip()
        changed = subprocess.check_output(
            (*run, "status", "--porcelain", "--untracked-files=no"),
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ours
    return f"{ours} ({commit}{'+' if changed else ''})"
