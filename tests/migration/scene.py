"""A cluster of real processes under load, in which trials take place one after the other."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from goverse.cluster import Keys, pin_shard, unpin_shard
from goverse.cluster.state import ClusterState
from goverse.coordination import Coordinator, CoordinatorUnavailable
from goverse.coordination.supervised import EtcdProcess
from goverse.errors import Executed
from goverse.sharding import shard_of
from goverse.sharding.rendezvous import choices
from goverse.testing.processes import ProcessCluster, http_get
from tests.migration.older import Older
from tests.migration.report import TrialRecord, TrialReport
from tests.support.eventually import eventually
from tests.support.postgres import PostgresServer
from tests.support.tally import turns
from tests.support.tallying import Added, Afresh, Tallying

NODES = ("n1", "n2", "n3")
NUM_SHARDS = 256
LEASE_TTL_S = 3.0
#: What is done once a lease has ended.
RECOVERY_S = LEASE_TTL_S + 3.0
DRAIN_TIMEOUT_S = 0.5
#: Where shards belong that are not pinned.
HOMES = choices(NUM_SHARDS, tuple((name, 1.0) for name in NODES))
WITHIN_S = 60.0
_PINS_AT_A_TIME = 32


@dataclass
class Scene:
    """
    :ivar dead: ids of processes that were killed, or lost their lease, each time.
    :ivar lost: how many leases the log of a process says that it lost.
    """

    cluster: ProcessCluster
    etcd: EtcdProcess
    postgres: PostgresServer | None
    coordinator: Coordinator
    load: Tallying
    chance: random.Random
    report: TrialReport
    older: Older | None = None
    keys: Keys = field(default_factory=Keys)
    began: float = field(default_factory=time.monotonic)
    dead: list[int] = field(default_factory=list)
    lost: dict[int, int] = field(default_factory=dict)
    afresh: list[Afresh] = field(default_factory=list)

    # -- looking ------------------------------------------------------------------------------

    async def state(self) -> ClusterState:
        """What the coordinator says now. Raises CoordinatorUnavailable."""
        found = await self.coordinator.list(self.keys.prefix)
        return ClusterState(self.keys).replaced_by(found)[0]

    async def owners(self) -> dict[int, str]:
        """Nodes by shard: those that are there, and hold its claim."""
        return _owners(await self.state())

    async def counted(self, metric: str, **labels: str) -> float:
        """Summed up over all nodes that are there."""
        wanted = [f'{name}="{value}"' for name, value in labels.items()]
        total = 0.0
        for server in self.cluster.servers.values():
            if server.kind != "node":
                continue
            _, text = await http_get(server.ops_address, "/metrics")
            for found in re.finditer(rf"^{metric}\{{([^}}]*)\}} (\S+)$", text, re.M):
                if all(each in found[1] for each in wanted):
                    total += float(found[2])
        return total

    def object_on(self, shard: int, name: str) -> str:
        return f"shard#{shard}/{name}"

    def shards_called(self, count: int) -> list[int]:
        """Shards in which steady callers have volatile objects."""
        names = [called.name for called in self.load.called if called.kind == "volatile"]
        return list(dict.fromkeys(shard_of(name, NUM_SHARDS) for name in names))[:count]

    # -- waiting ------------------------------------------------------------------------------

    async def settled(self, timeout_s: float = WITHIN_S) -> None:
        """Until every shard is owned, and where it is targeted, and every node has some."""

        async def check() -> bool:
            try:
                state = await self.state()
            except CoordinatorUnavailable:
                return False
            owners = _owners(state)
            return (
                len(owners) == NUM_SHARDS
                and set(owners.values()) == set(state.nodes)
                and all(t.node == owners.get(shard) for shard, t in state.targets.items())
            )

        await eventually(check, timeout_s)

    async def at_home(self) -> None:
        """Until every shard is where it belongs while all nodes are there and nothing is pinned.

        That claims and targets agree does not say that the leader has looked at them yet.
        """
        await self.arrived(dict(enumerate(HOMES)))

    async def arrived(self, moves: Mapping[int, str], timeout_s: float = WITHIN_S) -> None:
        async def check() -> bool:
            owners = await self.owners()
            return all(owners.get(shard) == node for shard, node in moves.items())

        await eventually(check, timeout_s)

    async def on_its_way(self, shard: int, node: str) -> None:
        """Until ``shard`` belongs to ``node``, and is not there yet."""

        async def check() -> bool:
            state = await self.state()
            return state.targets[shard].node == node and _owners(state).get(shard) != node

        await eventually(check)

    async def answering(self, since: float, timeout_s: float = WITHIN_S) -> None:
        """Until everything has answered a call that began after that, and is owned."""

        def check() -> bool:
            silent = self.load.silent_since(since)
            assert not silent, f"no answer for too long from {silent}"
            return True

        await eventually(check, timeout_s)
        await self.settled(timeout_s)

    # -- doing --------------------------------------------------------------------------------

    async def pin(self, moves: Mapping[int, str]) -> None:
        some = asyncio.Semaphore(_PINS_AT_A_TIME)

        async def one(shard: int, node: str) -> None:
            async with some:
                await pin_shard(self.coordinator, self.keys, shard, node)

        await asyncio.gather(*(one(shard, node) for shard, node in moves.items()))

    async def unpin(self, shards: Iterable[int]) -> None:
        some = asyncio.Semaphore(_PINS_AT_A_TIME)

        async def one(shard: int) -> None:
            async with some:
                await unpin_shard(self.coordinator, self.keys, shard)

        await asyncio.gather(*map(one, shards))

    async def start_node(self, name: str, capacity: str = "1") -> None:
        """A node of this version. All say their capacity: beside one that takes what its machine
        has, the others would have other shares than before."""
        await self.cluster.start_node(name, GOVERSE_NODE__CAPACITY=capacity)

    async def kill(self, name: str) -> None:
        self.dead.append(self.cluster.servers[name].process.pid)
        await self.cluster.kill(name)

    async def back(self) -> None:
        """Start every node that is not there; everything comes home."""
        for name in NODES:
            if name not in self.cluster.servers:
                await self.start_node(name)
        await self.cluster.wait_ready()
        await self.at_home()

    # -- judging ------------------------------------------------------------------------------

    @asynccontextmanager
    async def trial(
        self, what: str, expected: str, *, within_s: float
    ) -> AsyncIterator[TrialRecord]:
        """One trial. Its block says `undone` and `recovered`.

        If something dies in it, or loses its lease, calls under way there may fail with
        ``unknown``, and volatile objects that lived there begin afresh; otherwise no call may fail.
        Calls that a gate without a lease had sent are on their way to everywhere.
        """
        began = time.monotonic()
        known = len(self.dead)
        record = TrialRecord(
            what,
            what,
            began_s=began - self.began,
            in_flight=self.load.in_flight,
            expected=expected,
            within_s=within_s,
        )
        self.report.faults.append(record)
        try:
            yield record
        finally:
            failed = self.load.failed(began)
            record.failed, record.longest_s = len(failed), self.load.longest_s(began)
            nodes, gates = self._without_lease("node"), self._without_lease("gate")
            record.lost_leases = len(nodes)
            self.dead += nodes
            if len(self.dead) > known:
                self.afresh.append(Afresh(began, time.monotonic()))
                failed = [call for call in failed if not self._excused(call)]
            if gates:
                failed = [call for call in failed if call.executed is not Executed.UNKNOWN]
            self.report.violations += [f"{what}: {call}" for call in failed[:10]]
            print(record.line(), flush=True)
        if record.recovery_s > within_s:
            text = f"{what}: recovered after {record.recovery_s:.2f} s, not {within_s:g}"
            self.report.violations.append(text)

    def _without_lease(self, kind: str) -> set[int]:
        """Processes that have lost their leases: the coordinator was away for too long. They are
        left, as what they discarded is as good as dead."""
        found = set()
        for server in self.cluster.servers.values():
            if server.kind != kind:
                continue
            pid, times = server.process.pid, server.log().count("lost its lease")
            if times > self.lost.get(pid, 0):
                self.lost[pid] = times
                found.add(pid)
        return found

    def _excused(self, call: Added) -> bool:
        """Whether a call was on a node that died, and its caller told that nobody knows."""
        name = call.token.rpartition(":")[0]
        called = next(c for c in self.load.called if c.name == name)
        before = [c.pid for c in called.calls if c.value and c.ended <= call.began]
        return call.executed is Executed.UNKNOWN and (not before or before[-1] in self.dead)

    def undone(self, record: TrialRecord) -> float:
        record.undone_s = time.monotonic() - self.began
        return time.monotonic()

    def recovered(self, record: TrialRecord) -> None:
        record.recovered_s = time.monotonic() - self.began

    async def judge(self) -> None:
        """Once no more is done: what contradicts the promises goes into the report."""
        await self.load.stop()
        self.report.violations += await self.load.lost()
        told = turns(self.cluster.folder)
        self.report.violations += self.load.violations(told, self.afresh)
        self.report.duration_s = time.monotonic() - self.began
        calls = sum(len(called.calls) for called in self.load.called)
        self.report.figures["calls"] = calls
        self.report.figures["calls failed"] = len(self.load.failed())
        self.report.figures["turns"] = sum(told.values())


def _owners(state: ClusterState) -> dict[int, str]:
    standing = {record.member for record in state.nodes.values()}
    return {
        shard: claim.member.name
        for shard, claim in state.claims.items()
        if claim.member in standing
    }
