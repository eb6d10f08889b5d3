"""Rebalancing under ten minutes of steady load: ``python -m tests.migration.soak``.

Half of the time by number: nodes come and go, with capacities of 1, 2 and 4, and in between all
must be at rest. Half of it by load: five hot shards on five nodes, first all on one of them, then
five others; the last of the time nothing may move.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

from goverse.errors import GoverseError
from tests.migration.balancing import COUNT, SHIPPED, SLOW_S, Balance, balancing
from tests.migration.opening import Setup, open_scene
from tests.migration.report import TrialReport

#: Of all: to start, and to come to an end.
SLACK_S = 180.0
#: How long nothing may move once all is as it should be.
REST_S = 20.0
HOT_WITHIN_S = 90.0
PINNED = 20
FIVE = ("n1", "n2", "n3", "n4", "n5")


async def by_number(balance: Balance, seconds: float) -> None:
    """Up and down, by weight and without, until the time is over."""
    until = time.monotonic() + seconds
    await balance.settle()
    first = dict(balance.capacities)
    mine = [shard for shard, node in balance.follower.owners.items() if node == "n1"]
    await balance.pin_here(balance.scene.chance.sample(mine, PINNED))
    number = 2
    while time.monotonic() < until:
        for what, coming in (
            ("a node of weight 4 comes, and then goes", {f"n{number + 1}": 4.0}),
            ("two nodes come at once, and then go", {f"n{number + 1}": 1.0, f"n{number + 2}": 2.0}),
        ):
            await balance.resized(f"{what}: up", first | coming)
            await balance.rests(REST_S / 2)
            await balance.resized(f"{what}: down", first)
            await balance.rests(REST_S / 2)
    await balance.rests(REST_S)


async def by_load(balance: Balance, seconds: float) -> None:
    began = time.monotonic()
    await balance.settle(by_number=False)
    owners = balance.follower.owners
    chance = balance.scene.chance
    for what in ("five hot shards on one node", "five others"):
        home = chance.choice(FIVE)
        mine = [s for s, node in owners.items() if node == home and s not in balance.pinned]
        hot = dict.fromkeys(chance.sample(mine, 5), 1.0)
        # One of them may not move: the others must.
        await balance.pin_here([next(iter(hot))])
        left_s = seconds - (time.monotonic() - began)
        rest_s = max(REST_S, left_s - HOT_WITHIN_S) if what == "five others" else REST_S
        await balance.heated(what, hot, rest_s=rest_s, within_s=HOT_WITHIN_S)


async def play(
    name: str,
    seed: int,
    folder: Path,
    setup: Setup,
    act: Callable[[Balance, float], Coroutine[object, object, None]],
    seconds: float,
) -> TrialReport:
    report = TrialReport(name, seed)
    try:
        async with (
            asyncio.timeout(seconds + SLACK_S),
            open_scene(folder, report, setup) as scene,
            balancing(scene, {node: float(c) for node, c in setup.nodes.items()}) as balance,
        ):
            await act(balance, seconds)
            await scene.judge()
    except (AssertionError, RuntimeError, TimeoutError, GoverseError) as error:
        report.violations.append(f"the run did not come to its end: {error!r}")
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.migration.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, help="default: a new one")
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    seconds = given.minutes * 60 / 2
    folder = Path(tempfile.mkdtemp(prefix="goverse-soak."))
    number = Setup({"n1": "1", "n2": "2"}, stored=False, durable=0, environment=COUNT)
    load = Setup(
        dict.fromkeys(FIVE, "1"),
        stored=False,
        volatile=12,
        durable=0,
        pause_s=SLOW_S,
        one_processor=True,
        environment=SHIPPED,
    )
    good = True
    for name, setup, act in (("rebalancing", number, by_number), ("hot-shards", load, by_load)):
        (folder / name).mkdir()
        report = asyncio.run(play(name, seed, folder / name, setup, act, seconds))
        report.write(given.reports)
        print(report, flush=True)
        good &= report.ok
    if good:
        shutil.rmtree(folder)
    else:
        print(f"the logs of all processes are in {folder}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
