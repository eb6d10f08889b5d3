"""What this process may use, and what it uses: processors and memory, on Linux with its cgroups.

Sources: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/{cpusets,memory}.rst of the kernel;
the limits of a group hold for everything below it, so that the smallest on the way up counts. In a
container the path that ``/proc/self/cgroup`` names may be the host's: what is not there is looked
for at the root of the mount, which is the container's own group.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MOUNT = "sys/fs/cgroup"
#: Of version 1, where no limit is a very large one.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class Quota:
    """
    :param processors: how many it may keep busy, above 0.
    :param memory_bytes: how much it may have; of the machine if there is no limit. 0: not known.
    """

    processors: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """
    :param cpu_s: processor time since the process began.
    :param memory_bytes: resident now; 0: not known.
    """

    cpu_s: float
    memory_bytes: int


class Machine:
    """Where this process runs. A simulation has another."""

    def quota(self) -> Quota:
        return measure_quota()

    def usage(self) -> Usage:
        return measure_usage()


def measure_quota(root: Path = Path("/")) -> Quota:
    """By affinity and cgroup. Nothing that is missing or strange raises."""
    groups = tuple(_groups(root))
    processors = min([float(_affinity()), *_cpu_limits(groups)])
    memory = min([limit for limit in (_machine_memory(), *_memory_limits(groups)) if limit] or [0])
    return Quota(max(round(processors, 2), 0.01), memory)


def measure_usage(root: Path = Path("/")) -> Usage:
    """Two system calls and a file of one line: some 20 us."""
    return Usage(time.process_time(), _resident(root))


def _affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on macOS
        return os.cpu_count() or 1


def _machine_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0


def _resident(root: Path) -> int:
    pages = (_text(root / "proc/self/statm") or "").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else 0


def _groups(root: Path) -> Iterator[Path]:
    """The folders of the groups that this process is in, and those above them."""
    mount = root / _MOUNT
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        # Version 2 has one tree and no names; a hybrid keeps it in a folder of its own.
        names = controllers.split(",") if controllers else ["", "unified"]
        for top in dict.fromkeys([mount / name for name in (controllers, *names)]):
            parts = [part for part in path.split("/") if part not in ("", "..")]
            for length in range(len(parts), -1, -1):
                yield top.joinpath(*parts[:length])


def _cpu_limits(groups: tuple[Path, ...]) -> Iterator[float]:
    for group in dict.fromkeys(groups):
        quota, _, period = (_text(group / "cpu.max") or "").partition(" ")
        if not quota:
            quota = _text(group / "cpu.cfs_quota_us") or ""
            period = _text(group / "cpu.cfs_period_us") or ""
        limit, length = _number(quota), _number(period)
        if limit > 0 and length > 0:
            yield limit / length


def _memory_limits(groups: tuple[Path, ...]) -> Iterator[int]:
    for group in dict.fromkeys(groups):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _number(_text(group / name) or "")
            if 0 < limit < _NO_LIMIT:
                yield limit


def _number(text: str) -> int:
    """0 for ``max``, -1 and whatever else is no number."""
    return int(text) if text.isascii() and text.isdigit() else 0


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
