"""Balance by moving as little as possible: the strategies ``count`` and ``load``.

Both start from where the shards are. What has no node goes to the emptiest; then, if some node is
too far from its share, shards go from the fullest node to the emptiest, the largest that fits
first, until nothing is gained. Every shard moves at most once.

A node whose shards are pinned, or too large for anybody else, cannot be brought to its share: it
is left aside, and the others are levelled among themselves.

That it comes to rest: every move lowers the sum over all nodes of load squared by weight, for it
moves less than twice what would make the two nodes equal. That it does not swing with loads that
are measured, and so never twice the same: it begins beyond `threshold` and ends within half of
it, and a move that overshoots may leave at most half of the difference that it found, the other
way round; so a small error does not make the way back worth while.

Sources: longest processing time first, R. Graham, "Bounds on Multiprocessing Timing Anomalies"
(1969); the potential is that of E. Even-Dar and others, "Convergence Time to Nash Equilibria in
Load Balancing" (2007).
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: How much more than what makes two nodes equal a move may carry. Below 2.
_OVERSHOOT = 1.5


@dataclass(frozen=True, slots=True)
class Site:
    """A node that accepts shards. ``full``: it may be given what has no node, but no more; ``own``
    is load that it has beside that of its shards."""

    name: str
    weight: float
    full: bool = False
    own: float = 0.0


@dataclass(frozen=True, slots=True)
class Placed:
    """The node of each shard, empty for what is neither on a node nor to be given to one;
    ``moved`` are those that were taken from a node for balance, in the order in which they should
    go."""

    nodes: list[str]
    moved: Mapping[int, None]


def level(
    sites: Sequence[Site],
    homes: Sequence[str | None],
    loads: Sequence[float],
    fixed: Mapping[int, str],
    homeless: Sequence[int],
    threshold: float,
) -> Placed:
    """Where every shard should be.

    :param sites: the nodes, at least one.
    :param homes: the node that a shard is on; one that is not among the sites takes no part.
    :param loads: of each shard, above 0.
    :param fixed: shards that must be on these nodes, whatever that does to the balance.
    :param homeless: shards to be given to some node.
    :param threshold: see `goverse.sharding.PlanInput`.
    """
    pool = {site.name: _Node(site) for site in sites}
    nodes = [""] * len(homes)
    for shard, home in enumerate(homes):
        node = pool.get(fixed.get(shard) or home or "")
        if node is None:
            continue
        nodes[shard] = node.name
        node.load += loads[shard]
        if shard not in fixed:
            node.shards.append(shard)
    _settle(pool, nodes, loads, [shard for shard in homeless if shard not in fixed])
    return Placed(nodes, _Levelling(pool, nodes, loads, threshold).run())


def imbalance(
    owners: Sequence[str | None],
    loads: Sequence[float],
    weights: Mapping[str, float],
    own: Mapping[str, float] | None = None,
) -> float:
    """How far the node that is farthest from its share is from it, as a part of that.

    :param owners: by shard. :param loads: by shard.
    :param weights: of the nodes that take shards; others are left out, with what they have.
    :param own: load that these have beside that of their shards.
    """
    have = dict.fromkeys(weights, 0.0) if own is None else dict(own)
    for owner, load in zip(owners, loads, strict=True):
        if owner in have:
            have[owner] += load
    share = sum(have.values()) / (sum(weights.values()) or 1.0)
    if share <= 0:
        return 0.0
    return max(abs(have[node] / (share * weight) - 1.0) for node, weight in weights.items())


class _Node:
    __slots__ = ("full", "load", "name", "ordered", "shards", "weight")

    def __init__(self, site: Site) -> None:
        self.name = site.name
        self.weight = site.weight
        self.full = site.full
        self.load = site.own
        #: Those that may be taken from it.
        self.shards: list[int] = []
        #: The same by load, smallest first, with their loads; made when first needed.
        self.ordered: tuple[list[float], list[int]] | None = None

    @property
    def level(self) -> float:
        return self.load / self.weight

    def by_load(self, loads: Sequence[float]) -> tuple[list[float], list[int]]:
        if self.ordered is None:
            # Of equal ones the first goes first: it stands last.
            ordered = sorted(self.shards, key=lambda shard: (loads[shard], -shard))
            self.ordered = [loads[shard] for shard in ordered], ordered
        return self.ordered


def _settle(
    pool: dict[str, _Node], nodes: list[str], loads: Sequence[float], homeless: list[int]
) -> None:
    """Give what has no node to whoever is emptiest with it, the largest first."""
    if not homeless:
        return
    mean = sum(loads) / len(loads)
    heap = [((node.load + mean) / node.weight, name) for name, node in sorted(pool.items())]
    heapq.heapify(heap)
    for shard in sorted(homeless, key=lambda shard: -loads[shard]):
        name = heap[0][1]
        node = pool[name]
        nodes[shard] = name
        node.load += loads[shard]
        # It has come this moment, and goes no further in the same plan.
        heapq.heapreplace(heap, ((node.load + mean) / node.weight, name))


class _Levelling:
    def __init__(
        self,
        pool: dict[str, _Node],
        nodes: list[str],
        loads: Sequence[float],
        threshold: float,
    ) -> None:
        self._pool = [node for _, node in sorted(pool.items())]
        self._nodes = nodes
        self._loads = loads
        self._begin = threshold
        self._end = threshold / 2
        self._moved: dict[int, None] = {}

    def run(self) -> dict[int, None]:
        levelling = False
        while len(self._pool) > 1:
            share = sum(node.load for node in self._pool) / sum(n.weight for n in self._pool)
            fullest = max(self._pool, key=lambda node: node.level)
            emptiest = min(self._pool, key=lambda node: node.level)
            allowed = (self._end if levelling else self._begin) * share
            if fullest.level - share <= allowed and share - emptiest.level <= allowed:
                break
            levelling = self._take_from(fullest, share)
            if not levelling:
                # Nothing that can be taken from it makes anything better.
                self._pool.remove(fullest)
        return self._moved

    def _take_from(self, giver: _Node, share: float) -> bool:
        """Move one shard from ``giver`` to the emptiest node to which that is worth while."""
        loads, shards = giver.by_load(self._loads)
        if not shards:
            return False
        takers = [node for node in self._pool if node.level < share and not node.full]
        for taker in sorted(takers, key=lambda node: node.level):
            place = self._choice(giver, taker, share, loads)
            if place >= 0:
                load, shard = loads.pop(place), shards.pop(place)
                giver.load -= load
                taker.load += load
                self._nodes[shard] = taker.name
                self._moved[shard] = None
                return True
        return False

    def _choice(self, giver: _Node, taker: _Node, share: float, loads: list[float]) -> int:
        """The place of the shard to move, -1 for none."""
        equal = (giver.load * taker.weight - taker.load * giver.weight) / (
            giver.weight + taker.weight
        )
        room = share * (1 + self._end) * taker.weight - taker.load
        excess = giver.load - share * (1 - self._end) * giver.weight
        place = bisect_right(loads, min(equal, room, excess)) - 1
        if place < 0 and loads[0] <= equal * _OVERSHOOT:
            return 0
        return place
