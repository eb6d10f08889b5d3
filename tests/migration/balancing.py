"""Rebalancing on real clusters: by number while nodes come and go, and by load."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.migration.follower import Follower, following
from tests.migration.scene import NUM_SHARDS, Scene
from tests.support.eventually import eventually
from tests.support.pacing import last
from tests.support.tallying import Added, Called

BALANCED_S = 30.0
UNEVEN = 0.1
#: Shards moved, against what any method would have to move.
MOVEMENT = 1.2

COUNT = {"GOVERSE_CLUSTER__STRATEGY": "count", "GOVERSE_CLUSTER__REBALANCE_COOLDOWN": "1s"}
SHIPPED = {"GOVERSE_CLUSTER__STRATEGY": "load"}
#: The same in a hurry: measures of a second each, which are too noisy for anything to rest.
LOAD = {
    "GOVERSE_CLUSTER__STRATEGY": "load",
    "GOVERSE_CLUSTER__REBALANCE_COOLDOWN": "3s",
    "GOVERSE_CLUSTER__LOAD_INTERVAL": "1s",
}

#: Longer than the cooldown, and what loads take to be believed.
_STILL_S = 35.0
_RATES_S = 3.0
#: Pauses of steady callers beside which a hot shard is one.
SLOW_S = (0.8, 1.2)


@dataclass
class Balance:
    """A scene whose shards somebody follows.

    :ivar capacities: of the nodes that are there.
    :ivar pinned: shards that are pinned to where they are, and since when.
    """

    scene: Scene
    capacities: dict[str, float]
    follower: Follower
    pinned: dict[int, tuple[str, float]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    async def pin_here(self, shards: Sequence[int]) -> None:
        """Pin shards to the nodes that they are on."""
        moves = {shard: self.follower.owners[shard] for shard in shards}
        await self.scene.pin(moves)
        now = time.monotonic()
        self.pinned |= {shard: (node, now) for shard, node in moves.items()}

    async def settle(self, *, by_number: bool = True) -> None:
        """Until every node has its share, and nothing moves for a moment."""
        await eventually(lambda: not by_number or self.even(), BALANCED_S)
        await eventually(lambda: self._still(1.5), BALANCED_S)
        await self.scene.settled()

    def check_pinned(self) -> None:
        for shard, (node, since) in self.pinned.items():
            times = self.follower.since(since)[shard]
            if times or self.follower.owners[shard] != node:
                self._wrong(f"shard {shard}, pinned to {node}, has moved {times} times")

    def _wrong(self, text: str) -> None:
        self.scene.report.violations.append(text)

    # -- by number ----------------------------------------------------------------------------

    def counts(self) -> Counter[str]:
        return Counter(self.follower.owners.values())

    def ideal(self) -> dict[str, float]:
        share = NUM_SHARDS / sum(self.capacities.values())
        return {name: capacity * share for name, capacity in self.capacities.items()}

    def even(self) -> bool:
        counts = self.counts()
        return set(counts) == set(self.capacities) and all(
            abs(counts[name] - ideal) <= UNEVEN * ideal for name, ideal in self.ideal().items()
        )

    async def resized(self, what: str, capacities: Mapping[str, float]) -> None:
        """Start or stop nodes so that these are there; wait until they have their shares."""
        before = self.counts()
        cluster = self.scene.cluster
        async with self.scene.trial(
            what,
            "no call fails; counts within 10 % of each share; at most 1.2 times the least moves",
            within_s=BALANCED_S,
        ) as record:
            coming = [name for name in capacities if name not in self.capacities]
            for name in coming:
                await self.scene.start_node(name, f"{capacities[name]:g}")
            await cluster.wait_ready(*coming)
            began = time.monotonic()
            self.scene.undone(record)
            for name in [name for name in self.capacities if name not in capacities]:
                await cluster.stop(name)
            self.capacities = dict(capacities)
            await eventually(self.even, BALANCED_S)
            await self.scene.settled()
            self.scene.recovered(record)
            await self.scene.answering(time.monotonic())
        moved = self.follower.since(began if not coming else record.began_s + self.scene.began)
        ideal = self.ideal()
        least = sum(max(0.0, ideal[name] - before[name]) for name in ideal)
        counts = dict(sorted(self.counts().items()))
        self.scene.report.figures[f"{what}: shards"] = (
            f"{counts}, shares { ({name: round(share, 1) for name, share in ideal.items()}) }, "
            f"{moved.total()} moved, at least {least:.0f} must"
        )
        # Nodes that start at the same time do not join at the same time.
        changed = len(ideal.keys() ^ before.keys())
        if max(moved.values(), default=0) > changed:
            self._wrong(f"{what}: shards moved more than {changed} times: {moved.most_common(5)}")
        if moved.total() > MOVEMENT * least + 1:
            self._wrong(f"{what}: {moved.total()} shards moved, and {least:.0f} had to")
        self.check_pinned()

    async def rests(self, seconds: float, hot: Collection[int] = ()) -> None:
        """Nothing moves any more. By load, where measures are never twice the same, none of ``hot``
        does, no other shard twice, and few at all."""
        since = time.monotonic()
        await last(seconds)
        moved = self.follower.since(since)
        figures = self.scene.report.figures
        what = "shards moved at rest, and for how long it was looked at, s"
        times, looked = figures.get(what, (0, 0.0))
        figures[what] = (times + moved.total(), looked + seconds)
        swings = moved.keys() & set(hot) or max(moved.values(), default=0) > 1
        if swings or moved.total() > (len(self.follower.owners) // 10 if hot else 0):
            self._wrong(f"at rest for {seconds:g} s, {moved.total()} shards moved: {moved}")
        self.check_pinned()

    # -- by load ------------------------------------------------------------------------------

    def levels(self, hot: Mapping[int, float]) -> dict[str, float]:
        """What each node has of the hot shards."""
        found = dict.fromkeys(self.capacities, 0.0)
        for shard, units in hot.items():
            found[self.follower.owners[shard]] += units
        return found

    def least(self, hot: Mapping[int, float]) -> float:
        """What the busiest node has at least, however whole shards are dealt out."""
        fixed = [self.pinned[shard][0] if shard in self.pinned else "" for shard in hot]
        found = sum(hot.values())
        for nodes in itertools.product(self.capacities, repeat=len(hot)):
            if all(not home or home == node for home, node in zip(fixed, nodes, strict=True)):
                levels = dict.fromkeys(self.capacities, 0.0)
                for node, units in zip(nodes, hot.values(), strict=True):
                    levels[node] += units
                found = min(found, max(levels.values()))
        return found

    def _levelled(self, hot: Mapping[int, float]) -> bool:
        levels, least = self.levels(hot), self.least(hot)
        assert max(levels.values()) <= (1 + UNEVEN) * least, f"not level: {levels}"
        return True

    async def heated(
        self, what: str, hot: Mapping[int, float], *, rest_s: float, within_s: float
    ) -> None:
        """Keep shards busy, each as many units as it says, until the nodes are as level as whole
        shards allow, and then, from when nothing moves any more, for ``rest_s``: 0 for a look."""
        async with _Heat(self, hot) as heat:
            async with self.scene.trial(
                what,
                "no call fails; no node has more than it must, within 10 %; pinned shards stay",
                within_s=within_s,
            ) as record:
                self.scene.undone(record)
                await eventually(lambda: self._levelled(hot), within_s)
                self.scene.recovered(record)
                await self.scene.settled()
            if rest_s > 0:
                # The means follow what has moved, and what has moved rests for the cooldown.
                await eventually(lambda: self._still(_STILL_S), within_s)
            began = time.monotonic()
            await (self.rests(rest_s, hot) if rest_s > 0 else last(_RATES_S))
            self.check_pinned()
            rates = heat.rates(began)
        least = self.least(hot) / sum(hot.values()) * sum(rates.values())
        worst = max(rates.values()) / least - 1
        told = {name: round(rate, 1) for name, rate in sorted(rates.items())}
        self.scene.report.figures[f"{what}: hot calls a second"] = (
            f"{told}; the busiest has {worst:+.1%} of the least possible"
        )
        if worst > UNEVEN:
            self._wrong(f"{what}: the busiest node is {worst:.0%} above the least: {told}")

    def _still(self, seconds: float) -> bool:
        """Whether nothing has moved for so long, of which somebody was looking."""
        now = time.monotonic()
        return now - self.began > seconds and not self.follower.since(now - seconds)


class _Heat:
    """Callers that keep shards busy at a steady rate while the block lasts, however long their
    calls take."""

    #: Of a shard of one unit: a call of `BUSY_S` each so many seconds.
    EVERY_S = 0.02
    BUSY_S = 0.004
    MAX_IN_FLIGHT = 64

    def __init__(self, balance: Balance, hot: Mapping[int, float]) -> None:
        self._balance = balance
        self._hot = hot
        self._called: list[Called] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    async def __aenter__(self) -> _Heat:
        scene = self._balance.scene
        for shard, units in self._hot.items():
            name = scene.object_on(shard, f"hot-{len(scene.load.called)}")
            called = scene.load.beside(name, kind="crowded")
            self._called.append(called)
            self._tasks.append(asyncio.create_task(self._go_on(called, self.EVERY_S / units)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def _go_on(self, called: Called, every_s: float) -> None:
        load = self._balance.scene.load
        under_way: set[asyncio.Task[Added]] = set()
        due = time.monotonic()
        while not self._stopping.is_set():
            if len(under_way) < self.MAX_IN_FLIGHT:
                call = load.call(called, load.clients[0], busy_s=self.BUSY_S)
                task = asyncio.create_task(call)
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            due += every_s
            await last(max(0.0, due - time.monotonic()))
        await asyncio.gather(*under_way)

    def rates(self, since: float) -> dict[str, float]:
        """Answered calls a second, by node."""
        names = {s.process.pid: s.name for s in self._balance.scene.cluster.servers.values()}
        made: list[Added] = [
            call for called in self._called for call in called.calls if call.began > since
        ]
        seconds = time.monotonic() - since
        counted = Counter(names[call.pid] for call in made if call.value)
        return {name: counted[name] / seconds for name in self._balance.capacities}


@asynccontextmanager
async def balancing(scene: Scene, capacities: Mapping[str, float]) -> AsyncIterator[Balance]:
    async with following(scene.coordinator, scene.keys) as follower:
        await eventually(lambda: len(follower.owners) == NUM_SHARDS)
        yield Balance(scene, dict(capacities), follower)
