"""What a node or a gate starts to be part of a cluster: view, membership and, on nodes,
leadership and ownership, in the order in which they need each other."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from goverse.aio.limits import Limit
from goverse.aio.runtime import Runtime
from goverse.cluster.claims import ClaimWriter
from goverse.cluster.keys import Keys
from goverse.cluster.leadership import Leadership, LeadershipSnapshot
from goverse.cluster.loads import Loads, LoadSource, NoLoads
from goverse.cluster.membership import Membership, MembershipSnapshot
from goverse.cluster.opening import ShardHost
from goverse.cluster.ownership import Ownership, OwnershipSnapshot
from goverse.cluster.records import MemberState
from goverse.cluster.registration import Identity, Registration
from goverse.cluster.signals import watch_leadership, watch_ownership
from goverse.cluster.view import ClusterView, ViewSnapshot
from goverse.config.settings import ClusterSettings, LimitSettings
from goverse.coordination.api import Coordinator, CoordinatorUnavailable
from goverse.observability.metrics import Metrics

log = logging.getLogger(__name__)


class LeaveMode(enum.Enum):
    """What becomes of a node's shards when it stops."""

    PERMANENT = "permanent"
    """Others take them, while it still serves."""
    RESTART = "restart"
    """They wait for it, for `restart_grace_s`."""


@dataclass(frozen=True)
class MemberSnapshot:
    """The facts behind readiness, made anew each time: nothing in it latches."""

    view: ViewSnapshot
    membership: MembershipSnapshot
    leadership: LeadershipSnapshot | None
    ownership: OwnershipSnapshot | None


class GateMember:
    """A gate's part: it is registered, and follows the cluster."""

    def __init__(
        self,
        coordinator: Coordinator,
        settings: ClusterSettings,
        limits: LimitSettings,
        runtime: Runtime,
    ) -> None:
        self._coordinator = coordinator
        self._settings = settings
        self._runtime = runtime
        self.keys = Keys(settings.etcd.prefix)
        self.view = ClusterView(
            coordinator,
            self.keys,
            runtime,
            stale_after_s=settings.lease_ttl_s,
            max_waiting=limits.max_waiting_calls,
        )
        self.membership = Membership(coordinator, self.view, self.keys, settings, runtime)

    def valid(self) -> bool:
        """The guard: see `Membership.valid`."""
        return self.membership.valid()

    async def start_view(self) -> None:
        """Follow the cluster; returns when the first listing is there."""
        self.view.start()
        await self.view.wait_loaded()

    async def start(self, identity: Identity) -> Registration:
        """Join; returns once registered. Call `start_view` first."""
        self.membership.start(identity)
        return await self.membership.wait_joined()

    async def stop(self) -> None:
        """Leave. The last thing that others see of this process is that its key goes."""
        await self.membership.leave()
        await self.view.close()

    def watch(self, metrics: Metrics) -> None:
        """Feed the gauges of what this member knows and holds; read when somebody asks."""

        def members() -> dict[tuple[str, ...], float]:
            state = self.view.state
            return {("node",): len(state.nodes), ("gate",): len(state.gates)}

        metrics.members.watch(members)
        metrics.waiting_calls.watch(lambda: self.view.snapshot().waiting)
        metrics.lease_remaining_seconds.watch(lambda: self.membership.snapshot().lease_remaining_s)

    def snapshot(self) -> MemberSnapshot:
        return MemberSnapshot(self.view.snapshot(), self.membership.snapshot(), None, None)

    def limits(self) -> Iterator[Limit]:
        return self.view.limits()


class NodeMember(GateMember):
    """A node's part: it also owns shards, and may lead.

    The order of an orderly stop: `drain`; then the caller ends its objects and says goodbye on
    its links; then `stop`.
    """

    leadership: Leadership
    ownership: Ownership

    def prepare(
        self,
        host: ShardHost,
        metrics: Metrics,
        *,
        drain_timeout_s: float = 2.0,
        max_hold_s: float = 30.0,
        loads: LoadSource | None = None,
    ) -> None:
        """Join the parts; ``host`` often needs `view` and `valid`, so it comes after them.

        :param loads: who is asked for the load of nodes, with the strategy that wants to know.
        """
        writer = ClaimWriter(
            self._coordinator, self.keys, metrics, answer_limit_s=self._settings.lease_ttl_s / 2
        )
        self.leadership = Leadership(
            self._coordinator,
            self.view,
            self.membership,
            self.keys,
            self._settings,
            self._runtime,
            metrics,
            Loads(loads or NoLoads()),
        )
        self.ownership = Ownership(
            self.view,
            self.membership,
            writer,
            host,
            self._runtime,
            metrics,
            drain_timeout_s=drain_timeout_s,
            max_hold_s=max_hold_s,
        )

    async def start(self, identity: Identity) -> Registration:
        """Join; returns once registered, before any shard is claimed. Call `prepare` first."""
        self.ownership.start()
        self.leadership.start()
        return await super().start(identity)

    async def drain(self, mode: LeaveMode, *, timeout_s: float) -> bool:
        """Give up every shard, losing no call if there is time. False: some are still held."""
        try:
            if mode is LeaveMode.RESTART:
                await self.membership.announce_restart()
            await self.membership.set_state(MemberState.LEAVING)
        except CoordinatorUnavailable as error:
            log.warning("leaving without telling the others: %s", error)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        if mode is LeaveMode.PERMANENT:
            await self.ownership.hand_over(timeout_s=timeout_s)
        # Even when the time is over: what is idle closes at once, and is released properly.
        return await self.ownership.close_all(timeout_s=max(deadline - loop.time(), 1.0))

    async def stop(self) -> None:
        await self.ownership.close()
        await self.leadership.close()
        await super().stop()

    def watch(self, metrics: Metrics) -> None:
        super().watch(metrics)

        watch_ownership(metrics, self.ownership)
        watch_leadership(metrics, self.leadership)

    def snapshot(self) -> MemberSnapshot:
        return MemberSnapshot(
            self.view.snapshot(),
            self.membership.snapshot(),
            self.leadership.snapshot(),
            self.ownership.snapshot(),
        )

    def limits(self) -> Iterator[Limit]:
        yield from super().limits()
        yield from self.ownership.limits()
