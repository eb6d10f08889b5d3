"""The node's side of ownership: claim what is targeted here, open it, let go of what is not.

Decisions are made synchronously at each step of the view (`_examine`). One worker writes claims
and releases, one transaction at a time; opening and closing run beside it, a task per shard.
Everything ends the moment the lease is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from goverse.aio.limits import Limit
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.cluster.claim_queue import ClaimQueue
from goverse.cluster.claims import ClaimWriter
from goverse.cluster.closing import ClosingWindow
from goverse.cluster.holdings import Action, Here, Holding, HoldingState, decide
from goverse.cluster.membership import Membership
from goverse.cluster.opening import Opener, ShardHost
from goverse.cluster.records import Claim, MemberState
from goverse.cluster.registration import Registration
from goverse.cluster.state import ViewChange
from goverse.cluster.view import ClusterView
from goverse.ids import NO_EPOCH, Epoch
from goverse.observability.metrics import Metrics
from goverse.sharding import NODE_SHARD

log = logging.getLogger(__name__)

_CALLED_OFF_MIN_S = 2.0
_CALLED_OFF_MAX_S = 60.0


@dataclass(frozen=True)
class OwnershipSnapshot:
    """
    :param targeted: shards that belong here.
    :param claimed: claims of this member that are not being given up.
    :param open: shards that are served.
    :param opening: shards that are claimed and not served yet.
    :param closing: shards whose turns end, or whose state goes to the next node.
    :param waiting: shards that are to close, and served until it is their turn.
    :param releasing: shards that are closed, and whose claim still stands.
    :param oldest_unclaimed_s: how long a shard has belonged here without being served.
    :param called_off: shards whose move was called off because their turns ran too long.
    :param transactions: claims and releases written so far, successfully or not.
    """

    targeted: int
    claimed: int
    open: int
    oldest_unclaimed_s: float
    called_off: tuple[int, ...]
    transactions: int
    opening: int = 0
    closing: int = 0
    waiting: int = 0
    releasing: int = 0


class Ownership:
    """
    :param drain_timeout_s: how long the host may let turns run before a move is called off.
    :param max_hold_s: how long a move may be called off; then the host ends it, whatever runs.
    """

    def __init__(
        self,
        view: ClusterView,
        membership: Membership,
        writer: ClaimWriter,
        host: ShardHost,
        runtime: Runtime,
        metrics: Metrics,
        *,
        drain_timeout_s: float = 2.0,
        max_hold_s: float = 30.0,
    ) -> None:
        self._step_seconds = metrics.shard_step_seconds
        self._moves_called_off = metrics.moves_called_off
        self._view = view
        self._membership = membership
        self._writer = writer
        self._host = host
        self._drain_timeout_s = drain_timeout_s
        self._max_hold_s = max_hold_s
        self._tasks = Tasks("ownership")
        self._holdings: dict[int, Holding] = {}
        self._queue = ClaimQueue(view, membership, writer, runtime, self)
        self._window = ClosingWindow(self._begin_closing)
        self._opener = Opener(
            membership, writer, host, runtime, lambda: self._count(HoldingState.OPENING)
        )
        self._unserved_since: dict[int, float] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._node_task: asyncio.Task[None] | None = None
        self._claiming = True
        self._closing = False
        self._progress = asyncio.Event()
        membership.on_joined(self._on_joined)
        membership.on_lost(self._on_lost)
        view.subscribe(self._on_view)

    # -- its life -----------------------------------------------------------------------------

    def start(self) -> None:
        self._tasks.spawn("claims", self._queue.run())

    def stop_claiming(self) -> None:
        """Take no more shards."""
        self._claiming = False
        self._queue.clear_claims()

    async def hand_over(self, *, timeout_s: float) -> bool:
        """Serve until others have taken every shard. False: not in time, or nobody is there."""
        self.stop_claiming()
        return await self._wait_empty(timeout_s, others_needed=True)

    async def close_all(self, *, timeout_s: float) -> bool:
        """Close and release everything, whoever takes it. False: not in time."""
        self.stop_claiming()
        self._closing = True
        self._window.open_wide()
        self._examine(tuple(self._holdings))
        if self._node_task is not None:
            self._node_task.cancel()
            self._node_task = self._tasks.spawn("close node shard", self._close_node_shard())
        return await self._wait_empty(timeout_s, others_needed=False)

    async def close(self) -> None:
        """Stop. What is still held goes with the lease."""
        self._drop_everything()
        await self._tasks.close()

    # -- events, all synchronous --------------------------------------------------------------

    def _on_joined(self, registration: Registration) -> None:
        if self._closing:
            return
        opening = self._opener.open(Holding(NODE_SHARD, registration.epoch))
        self._node_task = self._tasks.spawn("open node shard", opening)
        self._examine_all()

    def _on_lost(self, reason: str) -> None:
        self._drop_everything()

    def _on_view(self, change: ViewChange) -> None:
        if change.nodes or change.layout or change.replaced:
            # Who can take shards has changed, so any shard that is held may have to go.
            self._examine_all(lost_history=change.lost_history)
        else:
            self._examine(change.shards)
        if change.nodes:
            self._advance()  # who waits to hand over may wait for nobody now

    def _drop_everything(self) -> None:
        for holding in self._holdings.values():
            if holding.task is not None:
                holding.task.cancel()
        for timer in self._timers.values():
            timer.cancel()
        if self._node_task is not None:
            self._node_task.cancel()
            self._node_task = None
        self._holdings.clear()
        self._queue.clear()
        self._window.clear()
        self._unserved_since.clear()
        self._timers.clear()
        self._advance()

    # -- decisions ----------------------------------------------------------------------------

    def _examine_all(self, *, lost_history: bool = False) -> None:
        state = self._view.state
        shards = dict.fromkeys([*state.targets, *state.claims, *self._holdings])
        self._examine(tuple(shards), lost_history=lost_history)

    def _examine(self, shards: Iterable[int], *, lost_history: bool = False) -> None:
        """Compare what is with what should be, and set off what must happen."""
        registration = self._membership.registration
        state = self._view.state
        if registration is None or state.revision < registration.create_revision:
            return  # the view has yet to arrive at this registration
        here = self._here(registration, lost_history)
        for shard in shards:
            target, claim = state.targets.get(shard), state.claims.get(shard)
            holding = self._holdings.get(shard)
            # A target beyond the layout is left over from another one.
            exists = target is not None and shard < registration.layout.num_shards
            node = target.node if target is not None and exists else None
            action = decide(holding, claim, node, here)
            if action is Action.FORGET and holding is not None:
                if holding.state is HoldingState.RELEASING:  # the watch was quicker than the answer
                    self._step(holding, HoldingState.RELEASED, "release")
                del self._holdings[shard]
                self._queue.forget(shard)
                self._window.left(shard)
                self._advance()
                action = decide(None, claim, node, here)
            if action is Action.LOST:
                self._membership.lose(f"its claim of shard {shard} is gone")
                return
            if action is not Action.CLOSE:
                self._window.called_off(shard)
            if action is not Action.NOTHING:
                self._act(action, shard, claim)
            elif holding is not None and holding.state is HoldingState.OPEN:
                holding.wanted_at = None  # nobody waits for it any more
            self._note_service(shard, node == registration.member.name)

    def _here(self, registration: Registration, lost_history: bool) -> Here:
        state = self._view.state
        return Here(
            registration.member,
            # After lost history revisions compare with nothing: what is missing is missing.
            2**63 if lost_history else state.revision,
            self._claiming,
            self._closing,
            {
                name: None
                for name, record in state.nodes.items()
                if record.state is MemberState.ACTIVE
            },
        )

    def _act(self, action: Action, shard: int, claim: Claim | None) -> None:
        if action is Action.CLAIM:
            self._queue.claim(shard)
        elif action is Action.ADOPT and claim is not None:
            self.claimed(shard, claim.epoch)
        elif action is Action.RELEASE and claim is not None:
            now = asyncio.get_running_loop().time()
            releasing = Holding(shard, claim.epoch, HoldingState.RELEASING, since=now)
            self._holdings[shard] = releasing
            self._queue.release(shard, claim.create_revision)
        elif action is Action.CLOSE:
            now = asyncio.get_running_loop().time()
            if self._closing or now >= self._holdings[shard].close_after:
                self._window.ask(shard)
            # Otherwise a timer looks again.

    def claimed(self, shard: int, epoch: Epoch) -> None:
        """A claim of this member stands: open the shard, unless that has begun already."""
        asked_at = self._queue.forget_claim(shard)
        if shard in self._holdings:
            return
        now = asyncio.get_running_loop().time()
        if asked_at is not None:
            self._step_seconds.observe(now - asked_at, "claim")
        # No claim can have come and gone between what the view shows and this one: it compares the
        # target's revision, and that of anybody else would have needed another target.
        released = self._view.state.released.get(shard, NO_EPOCH)
        holding = self._holdings[shard] = Holding(shard, epoch, released=released, since=now)
        holding.task = self._tasks.spawn(f"open shard {shard}", self._open(holding))

    def released(self, shard: int) -> None:
        """The claim is deleted; the view will show it, or has done so already."""
        holding = self._holdings.get(shard)
        if holding is not None:
            self._step(holding, HoldingState.RELEASED, "release")
            self._window.left(shard)
            self._examine((shard,))

    def _begin_closing(self, shard: int) -> None:
        """Its turn has come. Whatever spoke against it meanwhile has withdrawn it."""
        holding = self._holdings[shard]
        if holding.wanted_at is None:
            holding.wanted_at = asyncio.get_running_loop().time()
        self._step(holding, HoldingState.CLOSING)
        holding.task = self._tasks.spawn(f"close shard {shard}", self._close(holding))

    def _count(self, state: HoldingState) -> int:
        return sum(holding.state is state for holding in self._holdings.values())

    def _step(self, holding: Holding, state: HoldingState, done: str = "") -> None:
        """:param done: what that ends, if it is to be counted."""
        now = asyncio.get_running_loop().time()
        if done:
            self._step_seconds.observe(now - holding.since, done)
        holding.become(state)
        holding.since = now

    def _note_service(self, shard: int, belongs_here: bool) -> None:
        holding = self._holdings.get(shard)
        served = holding is not None and holding.state is HoldingState.OPEN
        if belongs_here and not served:
            self._unserved_since.setdefault(shard, asyncio.get_running_loop().time())
        else:
            self._unserved_since.pop(shard, None)

    def look_again(self, shard: int, delay_s: float) -> None:
        """Examine ``shard`` later, also if nothing happens meanwhile."""

        def look() -> None:
            self._timers.pop(shard, None)
            holding = self._holdings.get(shard)
            if holding is not None and holding.state is HoldingState.RELEASING:
                self._queue.release(shard, holding.epoch.revision)
            self._examine((shard,))

        old = self._timers.pop(shard, None)
        if old is not None:
            old.cancel()
        self._timers[shard] = asyncio.get_running_loop().call_later(delay_s, look)

    def _advance(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()

    # -- opening and closing, a task per shard ------------------------------------------------

    async def _open(self, holding: Holding) -> None:
        await self._opener.open(holding)
        if self._holdings.get(holding.shard) is holding:
            self._step(holding, HoldingState.OPEN, "open")
            # The target may have moved, or the whole node be closing, meanwhile.
            self._examine((holding.shard,))

    async def _close(self, holding: Holding) -> None:
        shard = holding.shard
        now = asyncio.get_running_loop().time
        wanted_s = holding.wanted_s(now())
        try:
            closed = await self._host.close_shard(
                shard, drain_timeout_s=self._drain_timeout_s, wanted_s=wanted_s
            )
        except Exception:
            log.exception("shard %d cannot be closed", shard)
            closed = False
        if self._holdings.get(shard) is not holding:
            return
        if closed:
            self._step(holding, HoldingState.RELEASING, "hand_over")
            self._window.releasing(shard)
            self._queue.release(shard, holding.epoch.revision)
            return
        self._step(holding, HoldingState.OPEN)
        self._moves_called_off.inc()
        self._window.left(shard)
        holding.called_off += 1
        delay_s = min(_CALLED_OFF_MIN_S * 2**holding.called_off, _CALLED_OFF_MAX_S)
        if wanted_s < self._max_hold_s:
            # The attempt after that is the last.
            delay_s = min(delay_s, max(0.0, self._max_hold_s - holding.wanted_s(now())))
        holding.close_after = now() + delay_s
        log.warning(
            "the move of shard %d was called off: its turns did not end within %.1f s; "
            "next attempt in %.0f s",
            shard,
            self._drain_timeout_s,
            delay_s,
        )
        self.look_again(shard, delay_s)

    async def _close_node_shard(self) -> None:
        try:
            await self._host.close_shard(NODE_SHARD, drain_timeout_s=self._drain_timeout_s)
        except Exception:
            log.exception("the objects named after this node cannot be closed")

    async def _wait_empty(self, timeout_s: float, *, others_needed: bool) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while self._holdings:
                    if others_needed and not self._others():
                        return False
                    await self._progress.wait()
                if self._closing and self._node_task is not None:
                    await asyncio.wait([self._node_task])
        except TimeoutError:
            return False
        return True

    def _others(self) -> bool:
        member = self._membership.member
        return member is not None and any(
            record.state is MemberState.ACTIVE and record.member != member
            for record in self._view.state.nodes.values()
        )

    def why(self, shard: int) -> Iterator[str]:
        """Why this node holds on to ``shard``, or does not claim or open it, if it should."""
        holding = self._holdings.get(shard)
        if holding is None:
            yield from self._why_unclaimed(shard)
            return
        if holding.state is HoldingState.OPENING and holding.trouble:
            yield f"it is claimed and cannot be opened: {holding.trouble}"
        if holding.state is HoldingState.CLOSING:
            yield self._why_closing(holding)
        elif holding.state is HoldingState.RELEASING:
            yield "its owner has closed it, and waits for the coordinator to delete its claim"
        elif (ahead := self._window.ahead_of(shard)) is not None:
            yield f"its owner gives up others first: it waits for its turn behind {ahead} more"
        elif holding.called_off:
            left_s = max(0.0, holding.close_after - asyncio.get_running_loop().time())
            yield (
                f"its turns ran longer than node.drain_timeout of {self._drain_timeout_s:g} s: its "
                f"move was called off {holding.called_off} times, next attempt in {left_s:.0f} s"
            )

    def _why_unclaimed(self, shard: int) -> Iterator[str]:
        member, state = self._membership.member, self._view.state
        target = state.targets.get(shard)
        if member is None or target is None or target.node != member.name:
            return
        if not self._membership.valid():
            yield "its target does not know whether its lease still holds, and claims nothing"
        elif not self._claiming:
            yield "its target leaves, and claims nothing more"
        elif shard not in state.claims:
            yield self._queue.why(shard)

    def _why_closing(self, holding: Holding) -> str:
        if holding.wanted_s(asyncio.get_running_loop().time()) < self._max_hold_s:
            waits = f"waits {self._drain_timeout_s:g} s for its turns"
        else:
            waits = (
                "waits for its turns until they have held it for node.latch_max_hold of "
                f"{self._max_hold_s:g} s: then they are cut off"
            )
        return f"its owner is closing it, and {waits}"

    def limits(self) -> Iterator[Limit]:
        yield from self._window.limits(self._view.num_shards)
        yield from self._queue.limits()

    @property
    def oldest_unserved_s(self) -> float:
        """How long a shard has belonged here without being served."""
        now = asyncio.get_running_loop().time()
        return now - min(self._unserved_since.values(), default=now)

    def snapshot(self) -> OwnershipSnapshot:
        member = self._membership.member
        targets = self._view.state.targets.values()
        states = [holding.state for holding in self._holdings.values()]
        return OwnershipSnapshot(
            sum(1 for target in targets if member is not None and target.node == member.name),
            sum(1 for state in states if state in _CLAIMED),
            states.count(HoldingState.OPEN),
            self.oldest_unserved_s,
            tuple(h.shard for h in self._holdings.values() if h.called_off),
            self._writer.transactions,
            opening=states.count(HoldingState.OPENING),
            closing=states.count(HoldingState.CLOSING),
            waiting=self._window.waiting,
            releasing=states.count(HoldingState.RELEASING),
        )


_CLAIMED = (HoldingState.OPENING, HoldingState.OPEN, HoldingState.CLOSING)
