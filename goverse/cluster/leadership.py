"""One node leads: it writes the targets that the planner wants.

Every node runs this. Who leads is read from the view; who sees no leader tries to become one.
The leader is in no way special for its own shards: its claims are its ownership's business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.cluster.keys import Keys
from goverse.cluster.loads import Loads
from goverse.cluster.membership import Membership
from goverse.cluster.migrations import Migrations
from goverse.cluster.planning import Planning
from goverse.cluster.records import LeaderValue, MemberState, TargetValue, encode
from goverse.cluster.registration import Registration
from goverse.cluster.standing import Standing, standing
from goverse.cluster.state import ViewChange
from goverse.cluster.stuck import StuckLog, StuckShard
from goverse.cluster.trust import Trust
from goverse.cluster.view import ClusterView
from goverse.config.settings import ClusterSettings
from goverse.coordination.api import (
    MAX_TXN_OPERATIONS,
    Compare,
    Coordinator,
    CoordinatorUnavailable,
    Put,
)
from goverse.ids import MemberId
from goverse.observability.metrics import Metrics
from goverse.sharding import Change, Hold, Plan, PlanInput, Strategy, plan
from goverse.sharding.loads import NodeLoad

log = logging.getLogger(__name__)

#: One operation is left for whoever reads etcd's limit as exclusive.
MAX_TARGETS = MAX_TXN_OPERATIONS - 1
#: Claims arrive in bursts; planning after each of them would say the same again and again.
_BETWEEN_PLANS_S = 0.05


@dataclass(frozen=True)
class LeadershipSnapshot:
    """
    :param held: of the last plan made here, why shards do not move.
    :param stuck: shards that do not arrive at their target.
    :param lost_pins: pinned shards whose node takes none.
    :param shunned: nodes that are given no shards, as they did not claim those that they were.
    """

    leader: MemberId | None
    leading: bool
    stable: bool
    plans: int
    moving: int
    held: Mapping[Hold, int]
    stuck: tuple[StuckShard, ...]
    lost_pins: tuple[int, ...]
    shunned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proposal:
    """
    :param state: what was planned from. :param loads: the last report of each node, where the
        strategy asks for them.
    """

    state: PlanInput
    plan: Plan
    loads: Mapping[str, NodeLoad]


class Leadership:
    def __init__(
        self,
        coordinator: Coordinator,
        view: ClusterView,
        membership: Membership,
        keys: Keys,
        settings: ClusterSettings,
        runtime: Runtime,
        metrics: Metrics,
        loads: Loads,
    ) -> None:
        self._coordinator = coordinator
        self._moves = metrics.shard_moves
        self._decisions = metrics.plan_decisions
        self._migration_seconds = metrics.migration_seconds
        self._loads = loads
        self._trust = Trust(max_unclaimed=settings.max_unclaimed, pause_s=settings.stuck_pause_s)
        self._planning = Planning(view, settings, loads, self._trust)
        self._view = view
        self._membership = membership
        self._keys = keys
        self._settings = settings
        self._tasks = Tasks("leadership")
        self._backoff = Backoff(runtime.random)
        # Before a lease has ended nobody can tell a dead node from a slow one.
        self._stuck_after_s = max(settings.lease_ttl_s, settings.stuck_after_s)
        self._migrations = Migrations(stuck_after_s=self._stuck_after_s)
        self._stuck_log = StuckLog()
        self._wake = asyncio.Event()
        self._written = 0  # revision of the last write; older views would plan it again
        self._again_at: float | None = None  # when the last plan would come out differently
        self._last_plan = Plan((), {}, ())
        self._plans = 0
        self._asked = False
        self._warned_pins: tuple[int, ...] = ()
        view.subscribe(self._on_view)
        membership.on_joined(lambda _: self._wake.set())

    def start(self) -> None:
        self._tasks.spawn("planner", self._run())
        if self._planning.strategy is Strategy.LOAD:
            self._tasks.spawn("loads", self._follow_loads())

    async def close(self) -> None:
        await self._tasks.close()

    @property
    def leading(self) -> bool:
        """Whether the view shows this member as the leader. Writes are checked again."""
        registration, leader = self._membership.registration, self._view.state.leader
        return (
            registration is not None
            and leader is not None
            and leader.lease == registration.lease.id
            and self._membership.valid()
        )

    @property
    def stable(self) -> bool:
        """Whether the nodes have been the same for long enough. Gates do not count."""
        return self._stable_at() <= asyncio.get_running_loop().time()

    def _stable_at(self) -> float:
        return self._view.nodes_changed_at + self._settings.stability_duration_s

    def _on_view(self, change: ViewChange) -> None:
        if change.lost_history:
            self._written = 0
        if change.shards and self.leading:
            # A shard may have come and gone before the next plan.
            self._follow(asyncio.get_running_loop().time(), change.shards)
        # A gate's key changes none of these, and so wakes nobody and delays nothing.
        if (
            change.shards
            or change.nodes
            or change.leader
            or change.restarts
            or change.cordons
            or change.layout
            or change.replaced
        ):
            self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wait()
            try:
                await self._step()
                self._backoff.reset()
            except CoordinatorUnavailable as error:
                log.warning("the leader's write has no answer: %s", error)
                await asyncio.sleep(self._backoff.next_s())
                self._wake.set()
            except Exception:
                # Without a planner the cluster never recovers; say so and try again.
                log.exception("planning failed")
                await asyncio.sleep(self._backoff.next_s())
                self._wake.set()

    async def _wait(self) -> None:
        """Until something changed, or time alone has made the last plan an old one."""
        try:
            async with asyncio.timeout_at(self._again_at):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _step(self) -> None:
        self._again_at = None
        registration = self._membership.registration
        state = self._view.state
        if registration is None or state.revision < registration.create_revision:
            return  # this member, or the view of it, is not there yet
        if not self._membership.valid():
            return
        if state.leader is None:
            await self._campaign(registration)
        elif self.leading:
            if state.revision >= self._written:
                await self._plan(registration)
        else:
            self._migrations.clear()
            self._trust.clear()

    async def _campaign(self, registration: Registration) -> None:
        """Become leader if nobody is; the view tells whether that worked."""
        value = LeaderValue(registration.member.name, registration.member.incarnation)
        won = await self._coordinator.transact(
            # No lease is that of an absent key, or of one that a person left behind.
            [Compare.has_lease(self._keys.leader, 0), registration.compare()],
            [Put(self._keys.leader, encode(value), registration.lease.id)],
        )
        if won.succeeded:
            log.info("%s leads", registration.member)

    async def _plan(self, registration: Registration) -> None:
        now = asyncio.get_running_loop().time()
        self._follow(now)
        stuck = self._stuck(now)
        stable_at, stuck_at = self._stable_at(), self._migrations.next_stuck_at(now)
        asked, self._asked = self._asked, False
        found = plan(self._planning.input(stuck, now, stable=stable_at <= now, asked=asked))
        self._last_plan = found
        # From the same reading of the clock as the plan: what lies between that and a later one
        # would otherwise be in neither.
        tell_at = None if self._stuck_log.tell(stuck) else now + 1.0
        times = (stable_at, stuck_at, tell_at, self._planning.next_at(found, now))
        self._again_at = min((t for t in times if t is not None and t > now), default=None)
        self._plans += 1
        for decision in found.decisions:
            self._decisions.inc(decision)
        self._warn(found)
        if found.changes:
            log.info("plan: %s", _summary(found))
            await self._write(registration, found.changes)
        await asyncio.sleep(_BETWEEN_PLANS_S)

    def _follow(self, now: float, shards: Iterable[int] | None = None) -> None:
        """Take note of ``shards``, or of all, on their way."""
        state = self._view.state
        took = self._migrations.update(
            state.targets,
            state.claims,
            now,
            takers={n for n, record in state.nodes.items() if record.state is MemberState.ACTIVE},
            restarting=state.restarts,
            blind=not self._view.current,
            shards=shards,
        )
        for seconds in took:
            self._migration_seconds.observe(seconds)

    def _stuck(self, now: float) -> tuple[StuckShard, ...]:
        """What does not arrive; and who is to get no more, if that is a node's doing."""
        state = self._view.state
        stuck = self._migrations.stuck(now)
        for node in self._trust.update(stuck, state.nodes, state.claims, now):
            log.error(
                "%s has not claimed what it was given for %.0f s: it gets no more shards for a "
                "while, and those that wait for it go elsewhere",
                node,
                self._stuck_after_s,
            )
        return stuck

    async def _write(self, registration: Registration, changes: Sequence[Change]) -> None:
        """Write targets in batches; stops when somebody else leads."""
        for start in range(0, len(changes), MAX_TARGETS):
            if not self.leading:
                return
            batch = changes[start : start + MAX_TARGETS]
            puts = [
                Put(self._keys.target(change.shard), encode(TargetValue(change.node)))
                for change in batch
            ]
            result = await self._coordinator.transact(
                [Compare.has_lease(self._keys.leader, registration.lease.id)], puts
            )
            if not result.succeeded:
                log.warning("%s does not lead any more", registration.member)
                return
            self._written = result.revision
            self._planning.wrote(batch, asyncio.get_running_loop().time())
            for change in batch:
                self._moves.inc(change.reason.value)

    def _warn(self, found: Plan) -> None:
        """Once for each set of shards, not at every plan."""
        if found.lost_pins and found.lost_pins != self._warned_pins:
            pins = self._view.state.pins
            named = ", ".join(f"{shard} to {pins.get(shard)}" for shard in found.lost_pins[:10])
            log.warning(
                "%d shards are pinned to nodes that take none, and are elsewhere until those "
                "are back: %s",
                len(found.lost_pins),
                named,
            )
        self._warned_pins = found.lost_pins

    async def _follow_loads(self) -> None:
        """Ask for the loads again and again while this node leads."""
        while True:
            await asyncio.sleep(self._settings.load_interval_s)
            if not self.leading:
                self._loads.clear()
                continue
            state, shards = self._view.state, range(self._view.num_shards)
            owners = [o.member.name if (o := state.owners.get(s)) else None for s in shards]
            try:
                await self._loads.refresh(state.nodes.values(), owners, state.weights())
            except Exception:
                log.exception("the loads of the nodes could not be gathered")
            self._wake.set()

    # -- for operators ------------------------------------------------------------------------

    def proposal(self, *, asked: bool = False) -> Proposal:
        """What would be planned at this moment, from what, and where that would lead."""
        now = asyncio.get_running_loop().time()
        state = self._planning.input(
            self._migrations.stuck(now), now, stable=self.stable, asked=asked
        )
        return Proposal(state, plan(state), self._loads.reports())

    def rebalance(self) -> Proposal:
        """Plan now, waiting neither for stability nor for the cooldown: what that plan is."""
        found = self.proposal(asked=True)
        self._asked = True
        self._wake.set()
        return found

    def why(self, shard: int) -> Iterator[str]:
        """Why ``shard`` is not moved, or does not arrive; nothing on a node that does not lead."""
        if not self.leading:
            return
        hold = self._last_plan.reasons.get(shard)
        if hold is None and Hold.NO_NODE in self._last_plan.held:
            hold = Hold.NO_NODE
        if hold is not None:
            yield _WHY[hold]
        for stuck in self._migrations.stuck(asyncio.get_running_loop().time()):
            if stuck.shard == shard:
                yield str(stuck)

    def standing(self) -> Standing | None:
        """The shards of all nodes at this moment; None on a node that does not lead."""
        return standing(self._view, self._loads) if self.leading else None

    def snapshot(self) -> LeadershipSnapshot:
        leader = self._view.state.leader
        return LeadershipSnapshot(
            leader.member if leader is not None else None,
            self.leading,
            self.stable,
            self._plans,
            len(self._migrations),
            self._last_plan.held,
            self._migrations.stuck(asyncio.get_running_loop().time()),
            self._last_plan.lost_pins,
            self._trust.shunned(asyncio.get_running_loop().time()),
        )


_WHY = {
    Hold.NO_NODE: "no node takes shards",
    Hold.LOADS_UNKNOWN: "the leader does not know all nodes' loads yet",
    Hold.RESTARTING: "its node announced a restart, and it waits for it (cluster.restart_grace)",
    Hold.CORDONED: "its node is cordoned: it keeps what it has (goverse-cli node uncordon)",
    Hold.NOT_STABLE: "it is to move, once no node has come or gone for cluster.stability_duration",
    Hold.NOT_ALL_ASSIGNED: "it is to move for balance, once every shard has a node that is there",
    Hold.COOLDOWN: "it is to move for balance, and has just done so (cluster.rebalance_cooldown)",
    Hold.BATCH_LIMIT: "it is to move for balance, after others (cluster.rebalance_batch_size)",
    Hold.RATE_LIMIT: "it is to move for balance, after others (cluster.rebalance_per_s)",
    Hold.CHANGES_LIMIT: "it is to move, with the next plan",
    Hold.NOT_CLAIMING: "the node that it should go to does not claim what it is given",
    Hold.PINNED: "its pin keeps it where it is, whatever balance says",
    Hold.PIN_UNAVAILABLE: "its pin names a node that takes no shards",
}


def _summary(found: Plan) -> str:
    counts: dict[str, int] = {}
    for change in found.changes:
        counts[change.reason.value] = counts.get(change.reason.value, 0) + 1
    changes = ", ".join(f"{count} for {reason}" for reason, count in counts.items())
    held = ", ".join(f"{count} {hold.value}" for hold, count in found.held.items())
    return f"{changes}; held: {held}" if held else changes
