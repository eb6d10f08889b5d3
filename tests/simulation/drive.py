"""Worker processes for many seeds, and reports that say how to repeat a failure."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPEAT = "python -m tests.simulation --seed"

#: Of the calls of durable objects, how many must overlap with another of the same object: a history
#: without concurrency is linearizable whatever the product does.
REQUIRED_OVERLAP = 0.1


@dataclass(frozen=True)
class Result:
    """One played seed. ``violations`` is empty for a good one."""

    seed: int
    digest: str
    violations: tuple[str, ...]
    stats: dict[str, float]
    real_s: float

    def as_dict(self) -> dict[str, object]:
        return {
            "seed": self.seed,
            "digest": self.digest,
            "violations": list(self.violations),
            "stats": self.stats,
            "real_s": round(self.real_s, 3),
        }

    @staticmethod
    def from_line(line: str) -> Result:
        raw = json.loads(line)
        return Result(
            raw["seed"], raw["digest"], tuple(raw["violations"]), raw["stats"], raw["real_s"]
        )


def worker(
    seeds: list[int], *, root: Path, hash_seed: int = 0, data_file: str = ""
) -> Generator[Result, None, None]:
    """Play ``seeds`` in a new process; closing the iterator ends it. Raises RuntimeError."""
    command = [sys.executable, "-m", "tests.simulation", "--worker", json.dumps(seeds)]
    if data_file:
        command += ["--data-file", data_file]
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    finished = False
    try:
        for line in process.stdout:
            yield Result.from_line(line)
        finished = True
    finally:
        if not finished:
            process.kill()
        process.stdout.close()
        process.wait()
    if process.returncode:
        raise RuntimeError(f"a worker for the seeds {seeds} ended with {process.returncode}")


def report(result: Result) -> None:
    """Print what broke, and the command that shows it again."""
    for violation in result.violations[:3]:
        print(f"seed {result.seed}: {violation}")
    if len(result.violations) > 3:
        print(f"seed {result.seed}: ... and {len(result.violations) - 3} more")
    if result.violations:
        print(f"  again: {REPEAT} {result.seed}", flush=True)


def play_all(seeds: list[int], *, jobs: int, root: Path, data_file: str) -> bool:
    """Play every seed; print each violation and a summary. True: all good."""
    started = time.monotonic()
    results: list[Result] = []

    def share(number: int) -> None:
        for result in worker(seeds[number::jobs], root=root, data_file=data_file):
            results.append(result)
            report(result)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(share, range(min(jobs, len(seeds)))))
    broken = sorted(result.seed for result in results if result.violations)
    seconds = [result.real_s for result in results]
    calls = sum(result.stats.get("calls", 0) for result in results)
    faults = sum(result.stats.get("steps", 0) for result in results)
    played = sum(result.stats.get("played", 0) for result in results)
    overlap = sum(result.stats.get("overlapping", 0) for result in results) / max(played, 1)
    if overlap < REQUIRED_OVERLAP:
        print(f"too few calls of durable objects overlap: {overlap:.0%} of {played:.0f}")
    print(
        f"{len(results)} seeds in {time.monotonic() - started:.1f} s "
        f"(a seed: median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s), "
        f"{calls:.0f} calls, "
        f"{played:.0f} of durable objects ({overlap:.0%} overlap), {faults:.0f} faults: "
        + (f"BROKEN by seeds {broken}" if broken else "every invariant held")
    )
    return not broken and len(results) == len(seeds) and overlap >= REQUIRED_OVERLAP


def compare_traces(seeds: list[int], *, root: Path) -> bool:
    """Play seeds in two processes with different hash seeds and compare. True: equal."""
    first = {result.seed: result.digest for result in worker(seeds, root=root, hash_seed=1)}
    second = {result.seed: result.digest for result in worker(seeds, root=root, hash_seed=2)}
    for seed in seeds:
        same = "the same" if first[seed] == second[seed] else "DIFFERENT"
        print(f"seed {seed}: trace {first[seed]} is {same} in a process with other hashes")
    return first == second


def show(seed: int) -> int:
    """Play one seed here and print its plan, its violations and the end of its trace."""
    from tests.simulation.run import play
    from tests.simulation.scenario import generate

    print(generate(seed))
    result = play(seed, show=True)
    for violation in result.violations:
        print(violation)
    print(f"trace {result.digest}, {result.stats}, {result.real_s:.2f} s")
    return 1 if result.violations else 0
