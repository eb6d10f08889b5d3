"""What the leader plans from: the view, the settings, the loads, and what it did a moment ago."""

from __future__ import annotations

from collections.abc import Sequence

from goverse.cluster.loads import Loads
from goverse.cluster.records import MemberState
from goverse.cluster.stuck import StuckShard
from goverse.cluster.trust import Trust
from goverse.cluster.view import ClusterView
from goverse.config.settings import ClusterSettings
from goverse.sharding import Change, Hold, Plan, PlanInput, PlanNode, Reason, Strategy

#: With nothing left of the rate: how long until some moves may begin.
_RATE_STEP_S = 0.25


class Planning:
    """Makes `PlanInput`, and remembers the moves for balance: for the cooldown and the rate.

    Rendezvous knows no cooldown: its choice follows from the nodes alone, and cannot swing.
    """

    def __init__(
        self, view: ClusterView, settings: ClusterSettings, loads: Loads, trust: Trust
    ) -> None:
        self._view = view
        self._settings = settings
        self._loads = loads
        self._trust = trust
        self.strategy = Strategy(settings.strategy)
        self._cooled_at: dict[int, float] = {}
        # A second's worth at once, and never less than one: a rate below 1 is slow, not none.
        self._most = max(settings.rebalance_per_s, 1.0)
        self._allowed = self._most
        self._allowed_at = 0.0

    def input(
        self, stuck: Sequence[StuckShard], now: float, *, stable: bool, asked: bool = False
    ) -> PlanInput:
        """
        :param asked: an operator wants it now: neither stability nor the cooldown is waited for.
        """
        self._refill(now)
        view, settings = self._view, self._settings
        state = view.state
        weights = state.weights()
        targets, claims = state.targets.get, state.claims.get
        shards = range(view.num_shards)
        by_load = self.strategy is Strategy.LOAD
        loads = self._loads.shards if by_load else ()
        trust = self._trust
        return PlanInput(
            nodes=tuple(
                PlanNode(
                    name,
                    weights[name],
                    record.state is MemberState.ACTIVE,
                    full=by_load and self._loads.full(name),
                    own=self._loads.own(name) * weights[name] if loads else 0.0,
                    max_new=trust.max_new(name, state.targets, state.claims, now),
                    cordon=state.cordons.get(name),
                )
                for name, record in state.nodes.items()
            ),
            targets=tuple([t.node if (t := targets(shard)) else None for shard in shards]),
            claims=tuple([c.member.name if (c := claims(shard)) else None for shard in shards]),
            pins=dict(state.pins),
            restarting=tuple(state.restarts),
            stable=stable or asked,
            stalled={shard.shard: None for shard in stuck if shard.stalled},
            avoided=trust.avoided(state.targets, state.claims, now),
            max_moves=settings.rebalance_batch_size,
            max_new_moves=int(self._allowed),
            strategy=self.strategy,
            loads=loads if len(loads) == len(shards) else (),
            threshold=settings.imbalance_threshold,
            cooling=() if asked else self._cooled_at,
        )

    def _refill(self, now: float) -> None:
        self._cooled_at = {s: until for s, until in self._cooled_at.items() if until > now}
        gained = max(0.0, now - self._allowed_at) * self._settings.rebalance_per_s
        self._allowed = min(self._most, self._allowed + gained)
        self._allowed_at = now

    def wrote(self, changes: Sequence[Change], now: float) -> None:
        """The targets of ``changes`` are written."""
        moves = [change for change in changes if change.reason is Reason.BALANCE]
        self._allowed -= len(moves)
        if self.strategy is not Strategy.RENDEZVOUS:
            until = now + self._settings.rebalance_cooldown_s
            self._cooled_at.update((change.shard, until) for change in moves)

    def next_at(self, plan: Plan, now: float) -> float | None:
        """When something that ``plan`` held back may go, although nothing else changes."""
        times = []
        if (trusted_at := self._trust.next_at(now)) is not None:
            times.append(trusted_at)
        if Hold.RATE_LIMIT in plan.held:
            # Whole moves only: at a rate below 1 in a step it takes longer than that.
            times.append(now + max(_RATE_STEP_S, 1.0 / self._settings.rebalance_per_s))
        if Hold.COOLDOWN in plan.held:
            times += [self._cooled_at.get(change.shard, now) for change in plan.waiting]
        return min((time for time in times if time > now), default=None)
