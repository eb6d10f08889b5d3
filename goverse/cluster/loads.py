"""What the leader knows of the load of nodes and shards: it asks, and takes a mean over time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from goverse.cluster.records import MemberRecord
from goverse.errors import GoverseError
from goverse.ids import MemberId
from goverse.sharding.loads import NodeLoad, NodeShares, shard_loads

log = logging.getLogger(__name__)

#: Longest wait for one node. Who is silent keeps what it said before.
ASK_TIMEOUT_S = 2.0
#: How much the newest report counts. With `cluster.load_interval` of 5 s, what has changed is
#: believed to two thirds after 15 s.
_NEWEST = 0.3
#: A node that has never answered is waited for so often; then its shards count as the mean.
_PATIENCE = 3


class LoadSource(Protocol):
    """Asks nodes."""

    async def load_of(self, node: MemberRecord) -> NodeLoad | None:
        """None: it never will, being of an earlier version. Raises an error of `goverse.errors`."""
        ...


class NoLoads:
    """Knows of none."""

    async def load_of(self, node: MemberRecord) -> NodeLoad | None:
        return None


class Loads:
    """Kept by the leader alone, and in its memory alone: who leads next asks for itself."""

    def __init__(self, source: LoadSource) -> None:
        self._source = source
        self._reports: dict[MemberId, NodeLoad] = {}
        self._shares: dict[str, NodeShares] = {}
        self._shards: tuple[float, ...] = ()
        #: How often a node was asked in vain that has never answered.
        self._unheard: dict[MemberId, int] = {}

    async def refresh(
        self,
        nodes: Iterable[MemberRecord],
        owners: Sequence[str | None],
        weights: Mapping[str, float],
    ) -> None:
        """Ask all ``nodes`` at the same time, and bring the means up to date."""
        asked = tuple(nodes)
        found = await asyncio.gather(*(self._ask(node) for node in asked))
        reports, self._reports = self._reports, {}
        unheard, self._unheard = self._unheard, {}
        for node, load in zip(asked, found, strict=True):
            who = node.member
            if isinstance(load, NodeLoad):
                self._reports[who] = load
            elif who in reports:
                self._reports[who] = reports[who]
            elif not load:
                self._unheard[who] = unheard.get(who, 0) + 1
        if not self._shards and any(times < _PATIENCE for times in self._unheard.values()):
            return
        self._shares = {who.name: load.shares() for who, load in self._reports.items()}
        if not self._shares:
            return
        newest = shard_loads(owners, self._shares, weights)
        if len(newest) != len(self._shards):
            self._shards = newest
        else:
            self._shards = tuple(
                known + _NEWEST * (load - known)
                for known, load in zip(self._shards, newest, strict=True)
            )

    async def _ask(self, node: MemberRecord) -> NodeLoad | bool:
        """False: there was no answer. True: it is one of those that never say."""
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                return await self._source.load_of(node) or True
        except (GoverseError, TimeoutError) as error:
            log.info("%s does not say its load: %s", node.member, error)
            return False

    def clear(self) -> None:
        """Somebody else leads."""
        self._reports, self._shares, self._shards, self._unheard = {}, {}, (), {}

    @property
    def shards(self) -> tuple[float, ...]:
        """By shard, in units of the nodes' weights; empty before anything is known."""
        return self._shards

    def own(self, node: str) -> float:
        """What stays with ``node`` whatever moves, as a part of what it has."""
        found = self._shares.get(node)
        return found.own if found is not None else 0.0

    def full(self, node: str) -> bool:
        found = self._shares.get(node)
        return found is not None and found.full

    def reports(self) -> dict[str, NodeLoad]:
        """The last report of each node."""
        return {member.name: load for member, load in self._reports.items()}
