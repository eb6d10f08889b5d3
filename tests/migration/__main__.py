"""Trials of shard migration in full: ``python -m tests.migration``.

For each seed a cluster of real processes, which begins as one of the version before: the rolling
upgrade, shards to and fro, every shard at once between every pair of nodes, a turn of 25 s in a
draining shard, the coordinator lost for less and for longer than the leases, a transfer called off
whose owner dies, and a source and a target that die. The trials of the second seed and those after
it come in an order of chance.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import random
import shutil
import sys
import tempfile
from pathlib import Path

from goverse.errors import GoverseError
from tests.migration import trials
from tests.migration.older import older_version
from tests.migration.opening import Setup, open_scene
from tests.migration.report import TrialReport

LIMIT_S = 600.0
LONG_TURN_S = 25.0
LONG_OUTAGE_S = 6.0


def chosen(seed: int, *, first: bool, rounds: int) -> list[trials.Trial]:
    """The upgrade, and then the others."""
    found: list[trials.Trial] = [
        functools.partial(trials.to_and_fro, rounds=rounds),
        functools.partial(trials.many_pairs, rounds=rounds),
        trials.coordinator_lost,
        trials.called_off,
        trials.both_die,
        functools.partial(trials.coordinator_lost, outage_s=LONG_OUTAGE_S),
    ]
    if first:
        found.append(functools.partial(trials.long_turn, work_s=LONG_TURN_S))
    else:
        random.Random(seed).shuffle(found)
    return [trials.upgrade, *found]


async def play(seed: int, folder: Path, *, first: bool, rounds: int) -> TrialReport:
    report = TrialReport("migrations", seed)
    older = older_version(folder / "older")
    try:
        async with (
            asyncio.timeout(LIMIT_S),
            open_scene(folder, report, Setup(older=older)) as scene,
        ):
            for trial in chosen(seed, first=first, rounds=rounds):
                await trial(scene)
            await scene.judge()
    except (AssertionError, RuntimeError, TimeoutError, GoverseError) as error:
        report.violations.append(f"the run did not come to its end: {error}")
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.migration", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many (default 3)")
    parser.add_argument("--seed", type=int, help="the first of them; default: a new one")
    parser.add_argument("--rounds", type=int, default=10, help="of pins (default 10)")
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    given = parser.parse_args()
    first = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    good = True
    for seed in range(first, first + given.seeds):
        folder = Path(tempfile.mkdtemp(prefix="goverse-migrations."))
        report = asyncio.run(play(seed, folder, first=seed == first, rounds=given.rounds))
        report.write(given.reports)
        print(report, flush=True)
        if report.ok:
            shutil.rmtree(folder)
        else:
            print(f"the logs of all processes are in {folder}", flush=True)
        good &= report.ok
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
