"""The strategies that level: how little they move, how even it becomes, and that they rest."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goverse.sharding import Hold, PlanInput, PlanNode, Reason, Strategy, plan
from tests.unit.sharding.test_planner import nodes_of, settle

EVERY = 65_536
LEVELLING = (Strategy.COUNT, Strategy.LOAD)


def run(state: PlanInput, *, most: int = 500) -> tuple[PlanInput, int]:
    """Plan until nothing changes; the state, and how many targets have changed."""
    moved = 0
    for _ in range(most):
        found = plan(state)
        if not found.changes:
            return state, moved
        state = settle(state, found)
        moved += len(found.changes)
    raise AssertionError("it does not come to rest")


def cluster(
    strategy: Strategy, weights: Sequence[float], shards: int, loads: Sequence[float] = ()
) -> PlanInput:
    nodes = tuple(PlanNode(f"n{place}", weight) for place, weight in enumerate(weights))
    none = (None,) * shards
    return PlanInput(
        nodes,
        none,
        none,
        strategy=strategy,
        loads=tuple(loads) or (1.0,) * shards,
        max_moves=EVERY,
        max_changes=EVERY,
    )


def levels(state: PlanInput) -> dict[str, float]:
    """How full each node is, 1 being its share."""
    loads = state.loads or (1.0,) * state.num_shards
    held = dict.fromkeys([node.name for node in state.nodes], 0.0)
    for shard, target in enumerate(state.targets):
        assert target is not None
        held[target] += loads[shard]
    share = sum(loads) / sum(node.weight for node in state.nodes)
    return {node.name: held[node.name] / node.weight / share for node in state.nodes}


def assert_even(state: PlanInput, tolerance: float = 0.1) -> None:
    for name, found in levels(state).items():
        assert abs(found - 1) <= tolerance, (name, found)


@pytest.mark.parametrize("strategy", LEVELLING)
@pytest.mark.parametrize("weights", [(1, 2, 4), (1,) * 10, (0.5, 0.5, 8)])
def test_shares_follow_the_weights(strategy: Strategy, weights: tuple[float, ...]) -> None:
    rnd = random.Random(1)
    loads = [rnd.expovariate(1) + 0.05 for _ in range(2048)] if strategy is Strategy.LOAD else ()
    state, _ = run(cluster(strategy, weights, 2048, loads))
    assert_even(state)


@pytest.mark.parametrize("strategy", LEVELLING)
def test_a_new_node_takes_its_share_and_nothing_else_moves(strategy: Strategy) -> None:
    before, _ = run(cluster(strategy, (1,) * 9, 1024))
    grown = replace(before, nodes=(*before.nodes, PlanNode("new")))
    after, moved = run(grown)
    assert_even(after)
    assert moved == Counter(after.targets)["new"] <= 1024 / 10 * 1.2
    # And when it goes, only its own shards move.
    gone, moved = run(replace(after, nodes=before.nodes))
    assert_even(gone)
    assert moved == Counter(after.targets)["new"]


@pytest.mark.parametrize("strategy", Strategy)
def test_movement_is_within_a_fifth_of_the_least(strategy: Strategy) -> None:
    before, _ = run(cluster(strategy, (1,) * 20, 8192))
    for weights, least in (
        ((1,) * 21, 8192 / 21),
        ((1,) * 20 + (3,), 8192 * 3 / 23),
        ((1,) * 19 + (2,), 8192 * 2 / 21 - 8192 / 20),
    ):
        nodes = tuple(PlanNode(f"n{place}", weight) for place, weight in enumerate(weights))
        after, moved = run(replace(before, nodes=nodes))
        assert moved <= least * 1.2, (weights, moved, least)
        if strategy is not Strategy.RENDEZVOUS:
            assert_even(after)


def test_five_hot_shards_on_one_node_are_spread() -> None:
    loads = [1.0] * 1000 + [100.0] * 5
    state = cluster(Strategy.LOAD, (1,) * 5, 1005, loads)
    home = [f"n{shard % 5}" for shard in range(1000)] + ["n0"] * 5
    state = replace(state, targets=tuple(home), claims=tuple(home))
    after, moved = run(state)
    assert_even(after)
    assert moved < 50
    assert max(Counter(after.targets[1000:]).values()) <= 2


def test_what_is_too_hot_to_share_is_left_and_the_others_are_even() -> None:
    loads = [1.0] * 300 + [5000.0]
    home = ["n0", "n1", "n1"] * 100 + ["n0"]
    state = cluster(Strategy.LOAD, (1,) * 4, 301, loads)
    after, _ = run(replace(state, targets=tuple(home), claims=tuple(home)))
    assert after.targets[300] == "n0"
    assert Counter(after.targets)["n0"] == 1
    others = Counter(after.targets[:300])
    assert max(others.values()) - min(others.values()) <= 10


@pytest.mark.parametrize("strategy", LEVELLING)
def test_L17_pinned_shards_stay_and_the_others_make_up_for_them(strategy: Strategy) -> None:
    state, _ = run(cluster(strategy, (1,) * 4, 400))
    pins = dict.fromkeys(range(0, 160, 2), "n1")
    state, _ = run(replace(state, pins=pins))
    assert_even(state)
    found = plan(state)
    assert found.held == {Hold.PINNED: 80} and found.balanced
    # More than its share: it keeps them, and nothing else.
    pins = dict.fromkeys(range(0, 400, 2), "n1")
    state, _ = run(replace(state, pins=pins))
    assert Counter(state.targets) == {"n1": 200, "n0": 67, "n2": 67, "n3": 66} or all(
        abs(count - 66.7) < 4 for node, count in Counter(state.targets).items() if node != "n1"
    )
    assert all(state.targets[shard] == "n1" for shard in pins)


def test_a_node_without_memory_left_is_given_nothing_for_balance() -> None:
    before, _ = run(cluster(Strategy.LOAD, (1, 1), 100, [1.0] * 100))
    nodes = (*nodes_of("n0", "n1"), PlanNode("n2", full=True), PlanNode("n3"))
    after, _ = run(replace(before, nodes=nodes))
    assert Counter(after.targets)["n2"] == 0 and Counter(after.targets)["n3"] > 20
    # What has no node at all goes to it rather than nowhere.
    alone, _ = run(replace(after, nodes=(PlanNode("n2", full=True),)))
    assert set(alone.targets) == {"n2"}


def test_within_the_threshold_nothing_moves_and_beyond_it_less_than_all() -> None:
    home = ["n0"] * 54 + ["n1"] * 46
    state = cluster(Strategy.COUNT, (1, 1), 100)
    state = replace(state, targets=tuple(home), claims=tuple(home))
    assert plan(state).decisions == ("balanced",)
    tipped = ["n0"] * 56 + ["n1"] * 44
    _, moved = run(replace(state, targets=tuple(tipped), claims=tuple(tipped)))
    assert 0 < moved <= 6


def test_without_loads_nothing_moves_for_balance_and_nothing_is_left_without_a_node() -> None:
    state = replace(cluster(Strategy.LOAD, (1, 1, 1), 90), loads=())
    placed = settle(state, plan(state))
    assert set(placed.targets) == {"n0", "n1", "n2"}
    grown = replace(placed, nodes=(*placed.nodes, PlanNode("n3")))
    found = plan(grown)
    assert found.changes == () and not found.balanced
    assert found.held == {Hold.LOADS_UNKNOWN: 90}
    # The one with the fewest may be the one with the most to do: it is not given them all.
    lost = plan(replace(grown, nodes=grown.nodes[1:])).changes
    assert {change.previous for change in lost} == {"n0"}
    assert {change.node for change in lost} == {"n1", "n2", "n3"}


def test_the_largest_gain_goes_first() -> None:
    loads = [1.0] * 100 + [30.0, 20.0]
    home = ["n0"] * 102
    state = replace(cluster(Strategy.LOAD, (1, 1), 102, loads), max_moves=1)
    found = plan(replace(state, targets=tuple(home), claims=tuple(home)))
    assert [change.shard for change in found.changes] == [100]
    assert found.held[Hold.BATCH_LIMIT] == len(found.waiting)


@st.composite
def crowds(draw: st.DrawFn) -> PlanInput:
    """A cluster in which everybody accepts, with shards anywhere."""
    nodes = draw(st.integers(1, 7))
    shards = draw(st.integers(1, 80))
    weights = draw(st.lists(st.sampled_from([0.5, 1, 2, 4]), min_size=nodes, max_size=nodes))
    rnd = random.Random(draw(st.integers(0, 10_000)))
    spread = draw(st.sampled_from([0.3, 1.0, 3.0]))
    home = tuple(f"n{rnd.randrange(nodes)}" for _ in range(shards))
    pinned = {s: f"n{rnd.randrange(nodes)}" for s in range(shards) if rnd.random() < 0.1}
    state = cluster(
        draw(st.sampled_from(Strategy)),
        weights,
        shards,
        [rnd.lognormvariate(0, spread) for _ in range(shards)],
    )
    moves = draw(st.sampled_from([1, 7, EVERY]))
    return replace(state, targets=home, claims=home, pins=pinned, max_moves=moves)


@given(crowds())
@settings(max_examples=150, deadline=None)
def test_it_comes_to_rest_and_stays(state: PlanInput) -> None:
    after, _ = run(state)
    assert plan(after).balanced
    assert all(after.targets[shard] == pin for shard, pin in state.pins.items())


@given(crowds())
@settings(max_examples=150, deadline=None)
def test_every_move_brings_the_nodes_nearer_to_each_other(state: PlanInput) -> None:
    state = replace(state, strategy=Strategy.LOAD, max_moves=1)
    weight = {node.name: node.weight for node in state.nodes}

    def unevenness(targets: Sequence[str | None]) -> float:
        held = dict.fromkeys(weight, 0.0)
        for shard, target in enumerate(targets):
            assert target is not None
            held[target] += state.loads[shard]
        return sum(load * load / weight[name] for name, load in held.items())

    state = settle(state, plan(replace(state, max_moves=0)))  # the pins
    for _ in range(200):
        found = plan(state)
        if not found.changes:
            return
        assert {change.reason for change in found.changes} == {Reason.BALANCE}
        before, state = state, settle(state, found)
        assert unevenness(state.targets) < unevenness(before.targets)
    raise AssertionError("it does not come to rest")


@given(crowds(), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_no_swinging_while_measured_loads_are_a_little_wrong(state: PlanInput, seed: int) -> None:
    """Every load is off by up to a fiftieth at each plan, with a threshold of a tenth. What is
    moved may be corrected once; nothing goes on moving. Shares that are nearly a threshold apart
    may seem to be further apart at any time, once: then one plan more moves something."""
    state = replace(state, strategy=Strategy.LOAD, max_moves=EVERY)
    true, rnd = state.loads, random.Random(seed)
    moves: Counter[int] = Counter()
    plans = 0
    for _ in range(40):
        state = replace(state, loads=tuple(load * rnd.uniform(0.98, 1.02) for load in true))
        found = plan(state)
        state = settle(state, found)
        moves.update(change.shard for change in found.changes)
        plans += bool(found.changes)
    assert plans <= 5 and max(moves.values(), default=0) <= 3


def test_what_has_no_node_is_dealt_out_the_largest_first() -> None:
    loads = [1.0] * 8 + [8.0]
    found = plan(cluster(Strategy.LOAD, (1, 1), 9, loads))
    by_node = Counter({change.node: 0.0 for change in found.changes})
    for change in found.changes:
        by_node[change.node] += loads[change.shard]
    assert set(by_node.values()) == {8.0}
