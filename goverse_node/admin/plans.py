"""From what the leader plans to what operators see. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from goverse.admin.api import MAX_MOVES, Held, NodeShare, ShardMove, ShardPlan
from goverse.cluster.leadership import Proposal
from goverse.sharding import PlanInput, PlanNode, Strategy


def shard_plan(found: Proposal, *, stable: bool) -> ShardPlan:
    """``found`` as an answer: what goes first, then what is held."""
    state, plan = found.state, found.plan
    loads = _loads(state)
    mean = sum(loads) / len(loads) if loads else 1.0
    wanted = [
        *((change, "") for change in plan.changes),
        *((change, plan.reasons[change.shard].value) for change in plan.waiting),
    ]
    moves = tuple(
        ShardMove(
            shard=change.shard,
            source=change.previous or "",
            target=change.node,
            reason=change.reason.value,
            held=held,
            load=round(loads[change.shard] / mean, 3),
        )
        for change, held in wanted[:MAX_MOVES]
    )
    after = {change.shard: change.node for change, _ in wanted}
    return ShardPlan(
        strategy=state.strategy.value,
        stable=stable,
        balanced=plan.balanced,
        decisions=plan.decisions,
        nodes=tuple(_shares(found, loads, after)),
        wanted=len(wanted),
        moves=moves,
        held=tuple(Held(reason=hold.value, shards=count) for hold, count in plan.held.items()),
    )


def _takes(node: PlanNode) -> bool:
    return node.accepts and node.cordon is None


def _loads(state: PlanInput) -> Sequence[float]:
    by_load = state.strategy is Strategy.LOAD and state.loads
    return state.loads if by_load else (1.0,) * state.num_shards


def _shares(
    found: Proposal, loads: Sequence[float], after: Mapping[int, str]
) -> Iterable[NodeShare]:
    state = found.state
    by_load = state.strategy is Strategy.LOAD
    names = {node.name: (node.own if by_load else 0.0) for node in state.nodes}
    shards, shards_after = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    held, held_after = dict(names), dict(names)
    for shard, target in enumerate(state.targets):
        if target is not None and target in names:
            shards[target] += 1
            held[target] += loads[shard]
        following = after.get(shard, target)
        if following is not None and following in names:
            shards_after[following] += 1
            held_after[following] += loads[shard]
    # Of those that take shards: what a node that is emptied still has is not its share.
    takers = sum(node.weight for node in state.nodes if _takes(node)) or 1.0
    share = (sum(loads) + sum(names.values())) / takers
    for node in sorted(state.nodes, key=lambda node: node.name):
        due = share * node.weight
        report = found.loads.get(node.name)
        yield NodeShare(
            node=node.name,
            weight=node.weight,
            accepts=_takes(node),
            shards=shards[node.name],
            shards_after=shards_after[node.name],
            level=round(held[node.name] / due, 3) if due > 0 else 0.0,
            level_after=round(held_after[node.name] / due, 3) if due > 0 else 0.0,
            cpu=round(report.cpu, 3) if report is not None else 0.0,
            memory=round(report.memory, 3) if report is not None else 0.0,
        )
