"""A large cluster in virtual time: ``python -m tests.simulation.large``.

100 nodes and 8,192 shards by default; members without objects (`tests.support.members`), since it
is the leader, the claims and the views that such a number of them strains. Nodes come, go, die,
stand still and are cut off, alone and several at once, and shards are pinned and unpinned. After
each change all is owned again, by one node at a time, under epochs that only rise; and what moved
is compared with what any method must move.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

from benchmarks.planner import MOVEMENT_BOUND, least
from goverse.cluster import LeaveMode, pin_shard, unpin_shard
from goverse.cluster.records import ClaimValue, TargetValue, decode
from goverse.config.settings import ClusterSettings
from goverse.errors import GoverseError
from goverse.testing.channel import FaultyChannel
from goverse.testing.faults import COORDINATOR
from goverse.testing.loop import SimLoop, SimulationError, run_virtual, sim_runtime
from tests.migration.follower import Follower
from tests.support.members import TTL_S, Process, World
from tests.support.virtual import elapse

NODES, SHARDS, CHANGES = 100, 8_192, 9
#: Virtual seconds for everything to be where it belongs after a change.
RECOVERED_S = 120.0
#: Returns how many shards it moves whatever the method, or None for what follows from the nodes.
Act = Callable[[], Coroutine[object, object, float | None]]
STRATEGIES = ("rendezvous", "count")


@dataclass
class Change:
    """:param recovered_s: virtual. :param least: what had to move, whatever the method."""

    what: str
    recovered_s: float
    moved: int
    least: float

    def __str__(self) -> str:
        return f"{self.what}: {self.moved} moved, {self.least:.0f} had to, {self.recovered_s:.2f} s"


@dataclass
class Outcome:
    seed: int
    strategy: str
    changes: list[Change] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    real_s: float = 0.0

    def ratio(self) -> float:
        """Moved to least, over all changes."""
        return sum(c.moved for c in self.changes) / max(sum(c.least for c in self.changes), 1.0)

    def __str__(self) -> str:
        longest = max((c.recovered_s for c in self.changes), default=0.0)
        return (
            f"seed {self.seed}, by {self.strategy}: {len(self.changes)} changes, "
            f"{sum(c.moved for c in self.changes)} shards moved, {self.ratio():.3f} x the least, "
            f"recovered after {longest:.1f} s at most, {self.real_s:.0f} s: "
            + ("FAILED" if self.violations else "ok")
        )


class Churn:
    """One cluster, and what happens to it."""

    def __init__(self, world: World, nodes: int, outcome: Outcome) -> None:
        self.world = world
        self.nodes = nodes
        self.outcome = outcome
        self.chance = random.Random(f"large:{outcome.seed}")
        self.follower = Follower(world.keys, world.loop.time)
        self.names = 0

    async def play(self, changes: int) -> None:
        world = self.world
        runtime = sim_runtime(world.seed, "follower", loop=world.loop)
        looking = world.store.connect(
            runtime, FaultyChannel(world.faults, "follower"), operation_timeout_s=5.0
        )
        following = asyncio.create_task(self.follower.follow(looking))
        try:
            await self._all(changes)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await looking.close()

    async def _all(self, changes: int) -> None:
        for _ in range(self.nodes):
            self._join()
        await self._settled()
        kinds: dict[str, Act] = {
            "a node comes": self._comes,
            "a node leaves": self._leaves,
            "a node dies": self._dies,
            "the leader dies": self._leader_dies,
            "five die at once": self._many_die,
            "five come while two leave": self._come_and_leave,
            "a node stands still": self._pauses,
            "a node is cut off for a moment": self._cut,
            "a hundred shards are pinned to and fro": self._pinned,
        }
        # Each of them at least once, if there is room.
        order = [*kinds, *self.chance.choices(list(kinds), k=max(0, changes - len(kinds)))]
        self.chance.shuffle(order)
        for what in order[:changes]:
            await self._change(what, kinds[what])

    async def _change(self, what: str, act: Act) -> None:
        world, began = self.world, self.world.loop.time()
        old, before = self._there(), self._owners()
        bound = await act()
        await self._settled()
        moved = self.follower.since(began)
        if bound is None:
            bound = least(before, old, self._there())
        self.outcome.changes.append(Change(what, world.loop.time() - began, moved.total(), bound))
        print(f"  {self.outcome.changes[-1]}", file=sys.stderr, flush=True)

    # -- what there is ------------------------------------------------------------------------

    def _there(self) -> dict[str, float]:
        return dict.fromkeys(sorted(p.name for p in self.world.live), 1.0)

    def _owners(self) -> list[str | None]:
        return [self.follower.owners.get(s) for s in range(self._num_shards)]

    @property
    def _num_shards(self) -> int:
        return self.world.settings.initial_num_shards

    async def _settled(self) -> None:
        began = self.world.loop.time()
        while not self._is_settled():
            if self.world.loop.time() - began > RECOVERED_S:
                raise AssertionError(f"not settled within {RECOVERED_S} s: {self._what_is_wrong()}")
            await elapse(0.25)

    def _is_settled(self) -> bool:
        """Every node is a member, has its share, and serves what the leader wants it to."""
        world = self.world
        if any(p.member.membership.member is None or not p.member.valid() for p in world.live):
            return False
        leaders = [p for p in world.live if p.node.leadership.leading]
        if len(leaders) != 1 or not leaders[0].node.leadership.stable:
            return False
        served = {shard: p.name for p in world.live for shard in p.host.shards}
        if len(served) != self._num_shards:
            return False
        targets = {
            int(shard): decode(item, TargetValue).node
            for shard, item in world.items("shards").items()
        }
        # A plan that would change something is one that has not been carried out.
        return served == targets and not leaders[0].node.leadership.proposal().plan.changes

    def _what_is_wrong(self) -> str:
        world = self.world
        served = {shard: p.name for p in world.live for shard in p.host.shards}
        claims = {int(s): decode(i, ClaimValue).node for s, i in world.items("claims").items()}
        without = [p.name for p in world.live if not p.member.valid()]
        return f"{len(served)} served, {len(claims)} claimed, without a lease: {without}"

    # -- what happens -------------------------------------------------------------------------

    def _join(self) -> Process:
        self.names += 1
        return self.world.spawn(f"node-{self.names:03d}")

    def _some(self, count: int) -> list[Process]:
        there = [p for p in self.world.live if p.member.membership.member is not None]
        return self.chance.sample(there, min(count, len(there) - 1))

    async def _comes(self) -> None:
        self._join()

    async def _leave(self, process: Process) -> None:
        await process.drain(LeaveMode.PERMANENT, timeout_s=60.0)
        await process.stop()
        process.kill()

    async def _leaves(self) -> None:
        await self._leave(self._some(1)[0])

    async def _dies(self) -> None:
        self._some(1)[0].kill()

    async def _leader_dies(self) -> None:
        self.world.leader.kill()

    async def _many_die(self) -> None:
        for process in self._some(5):
            process.kill()

    async def _come_and_leave(self) -> float:
        """Two changes: what leaves is given away at once, and does not wait for who comes."""
        old, before = self._there(), self._owners()
        leaving = self._some(2)
        for _ in range(5):
            self._join()
        await asyncio.gather(*map(self._leave, leaving))
        names = [process.name for process in leaving]
        fewer = {name: weight for name, weight in old.items() if name not in names}
        # That many, whoever has them: only counts matter to who comes.
        return least(before, old, fewer) + least([min(fewer)] * len(before), fewer, self._there())

    async def _pauses(self) -> float:
        """Past its lease: its shards go, and its share comes back to it."""
        process = self._some(1)[0]
        mine = len(process.host.shards)
        process.pause()
        await elapse(2 * TTL_S)
        process.resume()
        # They go, and it takes as many again.
        return 2.0 * mine

    async def _cut(self) -> None:
        """For less than its lease: nothing moves."""
        process = self._some(1)[0]
        self.world.faults.cut(process.process, COORDINATOR)
        await elapse(TTL_S / 3)
        self.world.faults.mend(process.process, COORDINATOR)

    async def _pinned(self) -> float:
        world, store = self.world, self.world.leader.coordinator
        shards = self.chance.sample(range(self._num_shards), min(100, self._num_shards // 8))
        names = list(self._there())
        homes = dict(self.follower.owners)
        for shard in shards:
            away = self.chance.choice([name for name in names if name != homes[shard]])
            await pin_shard(store, world.keys, shard, away)
        await self._settled()
        for shard in shards:
            await unpin_shard(store, world.keys, shard)
        # By number a shard may stay where its pin has brought it.
        return (2.0 if world.settings.strategy == "rendezvous" else 1.0) * len(shards)


def play(seed: int, nodes: int, shards: int, changes: int, strategy: str) -> Outcome:
    """One seed. Whatever goes wrong is among the violations."""
    outcome = Outcome(seed, strategy)
    started = time.perf_counter()
    # A hundred views of everything are much to look through, and little of it is ever garbage.
    gc.set_threshold(100_000, 100, 1_000)

    async def main(loop: SimLoop) -> None:
        settings = ClusterSettings(
            initial_num_shards=shards,
            lease_ttl_s=TTL_S,
            stability_duration_s=0.5,
            restart_grace_s=8.0,
            loop_stall_limit_s=TTL_S,
            strategy=strategy,
            rebalance_cooldown_s=1.0,
        )
        world = World(loop, seed, settings)
        try:
            await Churn(world, nodes, outcome).play(changes)
        finally:
            outcome.violations += world.violations + [str(error) for error in loop.errors]

    try:
        run_virtual(main, seed=seed, max_time_s=changes * 2 * RECOVERED_S)
    except (AssertionError, SimulationError, GoverseError, TimeoutError) as error:
        outcome.violations.append(f"{type(error).__name__}: {error}")
    if outcome.ratio() > MOVEMENT_BOUND:
        text = f"{outcome.ratio():.3f} times the least has moved, not {MOVEMENT_BOUND}"
        outcome.violations.append(text)
    outcome.real_s = time.perf_counter() - started
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.large", description=__doc__)
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--shards", type=int, default=SHARDS, help="a power of two")
    parser.add_argument("--changes", type=int, default=CHANGES)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--strategy", choices=STRATEGIES, help="default: one after the other")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    given = parser.parse_args()
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        playing = [
            pool.submit(
                play,
                seed,
                given.nodes,
                given.shards,
                given.changes,
                given.strategy or STRATEGIES[seed % len(STRATEGIES)],
            )
            for seed in range(given.first, given.first + given.seeds)
        ]
        outcomes = []
        for future in playing:
            outcomes.append(future.result())
            print(outcomes[-1], flush=True)
            for text in outcomes[-1].violations[:10]:
                print(f"  WRONG: {text}", flush=True)
    given.reports.mkdir(parents=True, exist_ok=True)
    told = json.dumps([asdict(outcome) for outcome in outcomes], indent=1)
    (given.reports / "large-simulation.json").write_text(told, encoding="utf-8")
    return int(any(outcome.violations for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
