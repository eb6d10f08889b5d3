"""Somebody who operates the cluster meanwhile: looks at everything, cordons, drains, cancels.

What is looked at may be refused, late or gone, but must never fail in another way (I8). Nodes are
asked for what they know themselves: what they ask each other takes gRPC, which is not simulated."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from goverse.errors import GoverseError
from goverse.testing.cluster import Cluster
from goverse.testing.loop import ProcessKilled, SimLoop
from goverse.testing.member import Member
from goverse_node.admin.operations import NodeAdmin
from tests.simulation.history import History
from tests.simulation.scenario import NUM_SHARDS
from tests.support.virtual import elapse

#: As long as anybody would wait for an answer on a screen.
PATIENCE_S = 3.0

Way = Callable[[Member], Awaitable[object]]


class Operator:
    """
    :param delayed: call ids of calls for later, with their objects' ids, that may be cancelled.
    """

    def __init__(
        self,
        loop: SimLoop,
        cluster: Cluster,
        history: History,
        source: random.Random,
        delayed: Callable[[], list[tuple[str, str]]],
    ) -> None:
        self._loop = loop
        self._cluster = cluster
        self._history = history
        self._random = source
        self._delayed = delayed
        self._cordoned = ""
        self._stopping = False

    def stop(self) -> None:
        self._stopping = True

    async def run(self) -> None:
        while not self._stopping:
            await elapse(self._random.uniform(0.05, 0.4))
            nodes = [m for m in self._cluster.members if m.node is not None and not m.paused]
            if nodes:
                await self._ask(self._random.choice(nodes))
        await self._uncordon_in_the_end()

    async def _uncordon_in_the_end(self) -> None:
        """In one run of two; in the others the cluster has to do with what it has."""
        if self._cordoned and self._random.random() < 0.5:
            for member in self._cluster.members:
                if member.node is not None and not member.paused:
                    await self._ask(member, self._uncordon)

    async def _ask(self, member: Member, what: Way | None = None) -> None:
        ways = (self._look, self._look, self._look_closely, self._cordon, self._cancel)
        what = what or self._random.choice(ways)
        try:
            await self._loop.run_in(member.process, self._within(what, member))
        except ProcessKilled:
            pass

    async def _within(self, what: Way, member: Member) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await what(member)
        except (GoverseError, TimeoutError) as error:
            self._history.record(f"operator {type(error).__name__}")
        except Exception as error:
            self._history.violate("I8", f"an operator was told {error!r}")

    async def _look(self, member: Member) -> None:
        admin = _admin(member)
        await admin.get_status(local_only=True)
        await admin.list_shards(page_size=NUM_SHARDS)
        await admin.list_locks(limit=8, local_only=True)

    async def _look_closely(self, member: Member) -> None:
        member.metrics.exposition(member.metrics.sample())
        admin = _admin(member)
        for shard in self._random.sample(range(NUM_SHARDS), 4):
            await admin.get_shard(shard, local_only=True)
        await admin.list_objects(page_size=20, local_only=True)
        await admin.cleanup_calls(older_than_s=3600.0, dry_run=True)
        await admin.plan_shards(local_only=True)

    async def _cordon(self, member: Member) -> None:
        """One node at a time."""
        if self._cordoned:
            await self._uncordon(member)
            return
        names = [member.name for member in self._cluster.members if member.node is not None]
        name = self._random.choice(names)
        self._cordoned = name  # it may have been, whatever is answered
        await _admin(member).cordon_node(name, drain=self._random.random() < 0.5)

    async def _uncordon(self, member: Member) -> None:
        if self._cordoned:
            await _admin(member).uncordon_node(self._cordoned)
            self._cordoned = ""

    async def _cancel(self, member: Member) -> None:
        calls = self._delayed()
        if calls:
            call_id, id = self._random.choice(calls[-8:])
            known = self._random.random() < 0.5
            type, id = ("Hourglass", id) if known else ("", "")
            await _admin(member).cancel_call(call_id, type=type, id=id, reason="an operator's wish")


def _admin(member: Member) -> NodeAdmin:
    assert member.node is not None
    return member.node.admin
