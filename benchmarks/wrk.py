"""The load generator for HTTP: wrk, one thread, its figures as a `Load`."""

from __future__ import annotations

import json
import shutil

from benchmarks.load import Load
from benchmarks.processes import output
from benchmarks.report import ROOT

SCRIPT = ROOT / "benchmarks" / "wrk.lua"


def program() -> str:
    """Where wrk is. Raises RuntimeError, saying how to get it."""
    found = shutil.which("wrk")
    if found is None:
        raise RuntimeError(
            "wrk is missing: scripts/setup-test installs it on Debian as root, elsewhere take "
            "your system's package (https://github.com/wg/wrk)"
        )
    return found


async def run(address: str, connections: int, warmup_s: float, seconds: float) -> Load:
    """Load ``address`` over so many keep-alive connections. Raises RuntimeError.

    wrk counts whole seconds. One answer that is not 2xx, or one that does not come, is a failure.
    """
    await _wrk(address, connections, warmup_s)
    return read(await _wrk(address, connections, seconds))


async def _wrk(address: str, connections: int, seconds: float) -> bytes:
    return await output(
        [
            program(),
            "--threads=1",
            f"--connections={connections}",
            f"--duration={max(1, round(seconds))}s",
            "--timeout=10s",
            f"--script={SCRIPT}",
            f"http://{address}",
        ]
    )


def read(printed: bytes) -> Load:
    """What the script printed last. Raises RuntimeError if anything failed."""
    seen = json.loads(printed.strip().rpartition(b"\n")[2])
    failed = {name: count for name, count in seen["errors"].items() if count}
    if failed or not seen["requests"]:
        raise RuntimeError(f"wrk had {seen['requests']} answers and errors {failed}")
    return Load(
        calls=seen["requests"],
        seconds=round(seen["duration_us"] / 1e6, 4),
        p50_ms=round(seen["p50_us"] / 1000, 3),
        p99_ms=round(seen["p99_us"] / 1000, 3),
        all_calls=seen["requests"],
        cpu_s=0.0,
    )
