"""This process's place in the cluster: it joins, holds its lease, fences itself, joins again.

::

             registered                  lose(): silence | own key gone | TTL 0 | other layout
    JOINING ────────────> MEMBER ─────────────────────────────────────────────────┐
       ^                    │ leave()                                             │
       │                    v                                                     v
       │                  LEFT                       callbacks, synchronous; then the lease
       └───────────────────────────────────────────────── is given back
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.cluster.keys import Keys
from goverse.cluster.records import BadValue, Kind, Layout, MemberState, RestartValue, encode
from goverse.cluster.registration import Identity, Registrar, Registration, member_value
from goverse.cluster.state import ViewChange
from goverse.cluster.view import ClusterView
from goverse.config.settings import ClusterSettings
from goverse.coordination.api import (
    Compare,
    Coordinator,
    CoordinatorUnavailable,
    Lease,
    Put,
)
from goverse.ids import MemberId

log = logging.getLogger(__name__)


class Phase(enum.Enum):
    IDLE = "idle"
    JOINING = "joining"
    MEMBER = "member"
    LEFT = "left"


@dataclass(frozen=True)
class MembershipSnapshot:
    """``lease_remaining_s`` is what is left before this process fences itself; 0 without one."""

    phase: Phase
    member: MemberId | None
    state: MemberState
    valid: bool
    lease_remaining_s: float
    joins: int
    losses: int
    last_loss: str


class Membership:
    """Keeps one process registered, for ever, until `leave`.

    Each registration has a fresh incarnation, although the process is the same: peers drop what
    a member whose key went still sends, and must not drop what its successor sends.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        view: ClusterView,
        keys: Keys,
        settings: ClusterSettings,
        runtime: Runtime,
    ) -> None:
        self._coordinator = coordinator
        self._view = view
        self._keys = keys
        self._settings = settings
        self._runtime = runtime
        self._clock = runtime.clock
        self._margin_s = settings.lease_ttl_s / 5
        self._registrar = Registrar(coordinator, view, keys, settings, runtime)
        self._tasks = Tasks("membership")
        self._identity: Identity | None = None
        self._state = MemberState.ACTIVE
        self._phase = Phase.IDLE
        self._registration: Registration | None = None
        self._lease: Lease | None = None
        self._restart_lease: Lease | None = None
        self._on_joined: list[Callable[[Registration], None]] = []
        self._on_lost: list[Callable[[str], None]] = []
        self._next = asyncio.Event()  # set and replaced whenever the phase changes
        self._joins = self._losses = 0
        self._last_loss = self._trouble = ""
        view.subscribe(self._look_for_own_key)

    # -- what everybody asks ------------------------------------------------------------------

    def valid(self) -> bool:
        """The guard: asked immediately before anything leaves an activation.

        Reads the clock every time: a process that was stopped gets the right answer from its
        first instruction on, before any timer or message has told it.
        """
        lease = self._lease
        return lease is not None and self._clock.now() < lease.deadline - self._margin_s

    @property
    def registration(self) -> Registration | None:
        """The one that holds now; None while joining."""
        return self._registration

    @property
    def member(self) -> MemberId | None:
        return self._registration.member if self._registration is not None else None

    def on_joined(self, callback: Callable[[Registration], None]) -> None:
        self._on_joined.append(callback)

    def on_lost(self, callback: Callable[[str], None]) -> None:
        """Call ``callback(reason)`` when the lease is lost: synchronously, and before another
        is asked for. In order of registration."""
        self._on_lost.append(callback)

    # -- its life -----------------------------------------------------------------------------

    def start(self, identity: Identity) -> None:
        """Begin to join. `wait_joined` tells when that is done."""
        if self._phase is not Phase.IDLE:
            raise RuntimeError(f"membership is {self._phase.value}")
        self._identity = identity
        self._phase = Phase.JOINING
        self._tasks.spawn("lease", self._live(identity))

    async def wait_joined(self) -> Registration:
        while self._registration is None:
            await self._next.wait()
        return self._registration

    async def set_state(self, state: MemberState) -> None:
        """Tell the cluster; kept over a loss. Raises CoordinatorUnavailable."""
        self._state = state
        registration, identity = self._registration, self._identity
        if registration is None or identity is None:
            return
        generation = registration.layout.generation
        value = member_value(identity, registration.member, state, generation)
        await self._coordinator.transact(
            [
                registration.compare(),
                Compare.created_at(registration.key, registration.create_revision),
            ],
            [Put(registration.key, encode(value), registration.lease.id)],
        )

    async def announce_restart(self) -> None:
        """Ask that this node's targets stay for ``restart_grace_s`` after it has left.

        The announcement has a lease of its own, renewed until `leave`.
        """
        registration = self._registration
        if registration is None:
            return
        lease = await self._coordinator.grant(self._settings.restart_grace_s)
        self._restart_lease = lease
        value = RestartValue(registration.member.incarnation)
        key = self._keys.restart(registration.member.name)
        await self._coordinator.transact(
            [registration.compare()], [Put(key, encode(value), lease.id)]
        )

    async def leave(self) -> None:
        """Give up the lease, and with it the key: the last thing of an orderly stop."""
        self._phase = Phase.LEFT
        registration, self._registration, self._lease = self._registration, None, None
        await self._tasks.close()
        if self._restart_lease is not None:
            await self._restart_lease.abandon()
        if registration is not None:
            await self._give_back(registration.lease)

    def lose(self, reason: str) -> None:
        """The lease is lost: everything built on it ends here and now, synchronously."""
        registration = self._registration
        if registration is None:
            return
        self._registration = self._lease = None  # first: `valid` is false for the callbacks too
        self._phase = Phase.JOINING
        self._losses += 1
        self._last_loss = reason
        log.error("%s lost its lease: %s", registration.member, reason)
        for callback in self._on_lost:
            try:
                callback(reason)
            except Exception:
                log.exception("a callback failed after the lease was lost")
        self._announce()

    # -- inside -------------------------------------------------------------------------------

    async def _live(self, identity: Identity) -> None:
        backoff = Backoff(self._runtime.random)
        while True:
            registration = await self._register(identity)
            if registration is not None:
                # A later loss must not wait longer because of an earlier one.
                backoff.reset()
                self._joined(registration)
                try:
                    await self._hold(registration)
                finally:
                    if self._phase is not Phase.LEFT:
                        await self._give_back(registration.lease)
            await asyncio.sleep(backoff.next_s())

    async def _register(self, identity: Identity) -> Registration | None:
        try:
            return await self._registrar.register(identity, self._state)
        except (CoordinatorUnavailable, BadValue) as error:
            if str(error) != self._trouble:  # once, not at every attempt
                self._trouble = str(error)
                log.warning("%s cannot join yet: %s", identity.name, error)
        except Exception:
            # Whatever it is, a process that stops trying to join is worse.
            log.exception("%s cannot join yet", identity.name)
        return None

    def _joined(self, registration: Registration) -> None:
        self._registration = registration
        self._lease = registration.lease
        self._phase = Phase.MEMBER
        self._trouble = ""
        self._joins += 1
        log.info("joined as %s, lease %x", registration.member, registration.lease.id)

        def over() -> None:
            if self._registration is registration:
                self.lose("the coordinator says that it is over")

        registration.lease.on_lost(over)
        for callback in self._on_joined:
            try:
                callback(registration)
            except Exception:
                log.exception("a callback failed after %s joined", registration.member)
        self._announce()

    async def _hold(self, registration: Registration) -> None:
        """Tick the lease as long as it holds; returns once it is lost."""
        step_s = min(self._settings.lease_ttl_s / 20, self._settings.loop_stall_limit_s / 4)
        lease = registration.lease
        while self._registration is registration:
            lease.tick()
            if self._restart_lease is not None:
                self._restart_lease.tick()
            left_s = lease.deadline - self._margin_s - self._clock.now()
            if left_s <= 0:
                self.lose("no answer from the coordinator in time")
                return
            try:
                async with asyncio.timeout(min(step_s, left_s)):
                    await self._next.wait()
            except TimeoutError:
                pass

    async def _give_back(self, lease: Lease) -> None:
        """End a lease on which nothing runs any more, so that its keys go now and not later."""
        try:
            async with asyncio.timeout(self._margin_s):
                await lease.revoke()
        except TimeoutError:
            await lease.abandon()

    def _look_for_own_key(self, change: ViewChange) -> None:
        registration, identity = self._registration, self._identity
        if registration is None or identity is None:
            return
        state = self._view.state
        if state.revision < registration.create_revision and not change.lost_history:
            return  # the view has yet to arrive at the registration
        table = state.nodes if identity.kind is Kind.NODE else state.gates
        record = table.get(identity.name)
        if record is None or record.create_revision != registration.create_revision:
            self.lose("its key in the coordinator is gone")
        elif not _same_shape(state.layout, registration.layout):
            self.lose(f"the layout changed from {registration.layout} to {state.layout}")

    def _announce(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

    def snapshot(self) -> MembershipSnapshot:
        lease = self._lease
        left_s = lease.deadline - self._margin_s - self._clock.now() if lease is not None else 0.0
        return MembershipSnapshot(
            self._phase,
            self.member,
            self._state,
            self.valid(),
            max(0.0, left_s),
            self._joins,
            self._losses,
            self._last_loss,
        )


def _same_shape(seen: Layout | None, followed: Layout) -> bool:
    return seen is not None and (seen.cluster_id, seen.generation, seen.num_shards) == (
        followed.cluster_id,
        followed.generation,
        followed.num_shards,
    )
