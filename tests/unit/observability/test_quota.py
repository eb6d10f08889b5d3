from __future__ import annotations

import os
from pathlib import Path

import pytest

from goverse.observability import quota
from goverse.observability.quota import measure_quota, measure_usage

GIB = 1 << 30


def tree(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A machine with what ``/proc`` and ``/sys`` say."""
    for name, text in {"proc/self/cgroup": cgroup, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "_affinity", lambda: 8)
    monkeypatch.setattr(quota, "_machine_memory", lambda: 16 * GIB)


CG = "sys/fs/cgroup"

MACHINES = [
    ("no groups", "", {}, 8.0, 16 * GIB),
    (
        "version 2, seen from the host",
        "0::/kubepods/pod1/c1",
        {
            f"{CG}/kubepods/pod1/c1/cpu.max": "150000 100000",
            f"{CG}/kubepods/pod1/c1/memory.max": str(2 * GIB),
        },
        1.5,
        2 * GIB,
    ),
    (
        "version 2, from inside a container",
        "0::/",
        {f"{CG}/cpu.max": "50000 100000", f"{CG}/memory.max": "max"},
        0.5,
        16 * GIB,
    ),
    (
        "version 2, the path is the host's and not there",
        "0::/docker/abc",
        {f"{CG}/cpu.max": "200000 100000"},
        2.0,
        16 * GIB,
    ),
    (
        "version 2, a group above has less",
        "0::/slice/service",
        {f"{CG}/slice/cpu.max": "300000 100000", f"{CG}/slice/service/cpu.max": "max 100000"},
        3.0,
        16 * GIB,
    ),
    (
        "version 1",
        "4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n0::/init",
        {
            f"{CG}/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000",
            f"{CG}/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
            f"{CG}/memory/docker/x/memory.limit_in_bytes": str(GIB),
        },
        2.5,
        GIB,
    ),
    (
        "version 1 in a container, without limits",
        "4:cpu,cpuacct:/docker/x\n3:memory:/docker/x",
        {
            f"{CG}/cpu/cpu.cfs_quota_us": "-1",
            f"{CG}/cpu/cpu.cfs_period_us": "100000",
            f"{CG}/memory/memory.limit_in_bytes": "9223372036854771712",
        },
        8.0,
        16 * GIB,
    ),
    ("more than there are", "0::/", {f"{CG}/cpu.max": "6400000 100000"}, 8.0, 16 * GIB),
    ("nonsense", "what\n::\n0::/", {f"{CG}/cpu.max": "a b", f"{CG}/memory.max": "-5"}, 8, 16 * GIB),
]


@pytest.mark.parametrize(("name", "cgroup", "files", "processors", "memory"), MACHINES)
def test_the_quota_is_the_smallest_limit(
    tmp_path: Path, name: str, cgroup: str, files: dict[str, str], processors: float, memory: int
) -> None:
    found = measure_quota(tree(tmp_path, cgroup, files))
    assert (found.processors, found.memory_bytes) == (processors, memory)


def test_this_process_uses_something() -> None:
    first = measure_usage()
    sum(number * number for number in range(200_000))
    second = measure_usage()
    assert second.cpu_s > first.cpu_s
    if os.path.exists("/proc/self/statm"):
        assert second.memory_bytes > 10_000_000
    assert 0 < measure_quota().processors <= (os.cpu_count() or 1) * 8
