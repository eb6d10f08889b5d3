from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goverse.sharding import Cordon, Hold, Plan, PlanInput, PlanNode, Reason, Strategy, plan
from goverse.sharding.rendezvous import choices

NAMES = ("n1", "n2", "n3", "n4")
SHARDS = 64
LOADS = st.floats(0.001, 10)


def settle(state: PlanInput, found: Plan) -> PlanInput:
    """The state after the changes were written and every node did as it was told."""
    targets = list(state.targets)
    for change in found.changes:
        assert targets[change.shard] == change.previous
        targets[change.shard] = change.node
    return replace(state, targets=tuple(targets), claims=tuple(targets))


def placed(*nodes: PlanNode, shards: int = SHARDS) -> PlanInput:
    """A cluster at rest on ``nodes``."""
    empty = PlanInput(nodes, (None,) * shards, (None,) * shards)
    return settle(empty, plan(empty))


def nodes_of(*names: str) -> tuple[PlanNode, ...]:
    return tuple(map(PlanNode, names))


@st.composite
def states(draw: st.DrawFn) -> PlanInput:
    nodes = tuple(
        PlanNode(
            name,
            draw(st.sampled_from([0.0, 1.0, 2.5])),
            draw(st.booleans()),
            max_new=draw(st.sampled_from([0, 1, 1 << 30])),
            cordon=draw(st.sampled_from([None, None, *Cordon])),
        )
        for name in draw(st.lists(st.sampled_from(NAMES), unique=True))
    )
    somebody = st.sampled_from([*NAMES, "gone", None])
    shards = draw(st.integers(1, 24))
    row = st.lists(somebody, min_size=shards, max_size=shards).map(tuple)
    return PlanInput(
        nodes,
        targets=draw(row),
        claims=draw(row),
        pins=draw(st.dictionaries(st.integers(0, shards - 1), st.sampled_from([*NAMES, "gone"]))),
        restarting=tuple(draw(st.lists(st.sampled_from([*NAMES, "gone"]), unique=True))),
        stable=draw(st.booleans()),
        stalled=tuple(draw(st.lists(st.integers(0, shards - 1), unique=True))),
        avoided=draw(
            st.dictionaries(
                st.integers(0, shards - 1), st.frozensets(st.sampled_from(NAMES), min_size=1)
            )
        ),
        max_moves=draw(st.integers(0, 6)),
        max_new_moves=draw(st.integers(0, 6)),
        max_changes=draw(st.integers(0, 30)),
        strategy=draw(st.sampled_from(Strategy)),
        loads=draw(st.just(()) | st.lists(LOADS, min_size=shards, max_size=shards).map(tuple)),
        threshold=draw(st.sampled_from([0.02, 0.1, 0.5])),
        cooling=tuple(draw(st.lists(st.integers(0, shards - 1), unique=True))),
    )


@given(states())
@settings(max_examples=300, deadline=None)
def test_every_plan_keeps_the_rules(state: PlanInput) -> None:
    found = plan(state)
    usable = [node for node in state.nodes if node.accepts and node.weight > 0]
    accepting = {node.name for node in usable if node.cordon is None}
    # With nobody else left: first those that keep what they have, then those that are emptied.
    cordoned = {node.name for node in usable if node.cordon is Cordon.CORDONED}
    takers = accepting or cordoned or {node.name for node in usable}
    serving = {node.name for node in state.nodes if node.accepts}
    kept = {node.name for node in state.nodes if node.accepts and node.cordon is Cordon.CORDONED}
    live = {node.name for node in state.nodes}
    assert len(found.changes) <= state.max_changes
    for_balance = [change for change in found.changes if change.reason is Reason.BALANCE]
    assert len(for_balance) <= min(state.max_moves, state.max_new_moves)
    if for_balance:
        assert set(state.targets) <= live, "every shard has a target that is there"
        assert not {change.shard for change in for_balance} & set(state.cooling)
    assert len({change.shard for change in found.changes}) == len(found.changes)
    for change in found.changes:
        assert change.node in takers
        assert change.node != change.previous == state.targets[change.shard]
        pin = state.pins.get(change.shard)
        avoided = state.avoided.get(change.shard, ())
        distrusted = pin in avoided or any(n.name == pin and n.max_new < 9 for n in state.nodes)
        assert pin not in takers or change.node == pin or distrusted
        if change.reason is Reason.UNCLAIMED:
            assert change.previous in avoided
            assert state.claims[change.shard] != change.previous
            continue
        if not accepting:
            assert change.previous not in serving, "whoever serves a shard keeps it"
        if change.previous in kept:
            assert change.node == pin and change.reason is Reason.PIN
        if change.previous not in serving:
            assert change.previous not in state.restarting
        if change.previous in accepting and pin not in accepting:
            assert state.stable and change.reason is Reason.BALANCE
        if change.reason is Reason.FAILOVER:
            assert change.previous not in live
        if change.previous is None:
            assert state.stable
    # Whatever is wanted and not done has its reason.
    for change in found.waiting:
        assert change not in found.changes
        assert change.shard in found.reasons
    assert sum(found.held.values()) >= len(found.waiting)
    # And whoever can be emptied, or has gone, keeps nothing for long.
    if takers and state.stable and state.max_changes >= len(found.changes) + 1:
        moved = {change.shard for change in found.changes}
        for shard, target in enumerate(state.targets):
            if target not in serving and target not in state.restarting:
                assert shard in moved, "a shard without a node is given one"


@given(states())
@settings(max_examples=200, deadline=None)
def test_a_plan_is_determined_by_its_input(state: PlanInput) -> None:
    shuffled = replace(state, nodes=state.nodes[::-1])
    assert plan(state) == plan(shuffled)


def at_rest(state: PlanInput, found: Plan) -> PlanInput:
    """As `settle`, with nothing that holds a change back: who was on probation has claimed."""
    state = settle(state, found)
    nodes = tuple(replace(n, max_new=1 << 30) if n.max_new else n for n in state.nodes)
    return replace(
        state, nodes=nodes, cooling=(), max_moves=100, max_new_moves=100, max_changes=100
    )


@given(states())
@settings(max_examples=200, deadline=None)
def test_planning_the_result_comes_to_rest(state: PlanInput) -> None:
    state = replace(state, max_moves=100, max_new_moves=100, max_changes=100)
    # First what is urgent, then what waited for that, then what a shard too large had barred.
    for _ in range(6):
        state = at_rest(state, plan(state))
    assert plan(state).changes == ()


@given(states())
@settings(max_examples=100, deadline=None)
def test_bounded_plans_arrive_at_the_same_place(state: PlanInput) -> None:
    whole = replace(state, claims=state.targets, max_moves=100, max_new_moves=9, max_changes=100)
    whole = replace(whole, strategy=Strategy.RENDEZVOUS, cooling=(), avoided={})
    whole = replace(whole, nodes=tuple(replace(node, max_new=1 << 30) for node in whole.nodes))
    small = replace(whole, max_moves=2, max_changes=3)
    for _ in range(40):
        small = settle(small, plan(small))
        whole = settle(whole, plan(whole))
    assert small.targets == whole.targets


def test_the_first_plan_waits_for_stability() -> None:
    empty = PlanInput(nodes_of("n1", "n2"), (None,) * SHARDS, (None,) * SHARDS, stable=False)
    assert plan(empty) == Plan((), {Hold.NOT_STABLE: SHARDS}, ())
    found = plan(replace(empty, stable=True))
    assert {change.reason for change in found.changes} == {Reason.FIRST}
    assert {change.node for change in found.changes} == {"n1", "n2"}


def test_only_the_shards_of_a_dead_node_move_and_at_once() -> None:
    before = placed(*nodes_of("n1", "n2", "n3"))
    found = plan(replace(before, nodes=nodes_of("n1", "n2"), stable=False))
    orphans = [shard for shard, node in enumerate(before.targets) if node == "n3"]
    assert [change.shard for change in found.changes] == orphans
    assert {change.reason for change in found.changes} == {Reason.FAILOVER}


def test_a_restarting_node_keeps_its_shards_until_its_grace_ends() -> None:
    before = placed(*nodes_of("n1", "n2"))
    away = replace(before, nodes=nodes_of("n1"), restarting=("n2",))
    mine = before.targets.count("n2")
    assert plan(away) == Plan((), {Hold.RESTARTING: mine}, ())
    assert len(plan(replace(away, restarting=())).changes) == mine
    # The same while it is still there and winds up.
    leaving = replace(away, nodes=(PlanNode("n1"), PlanNode("n2", accepts=False)))
    assert plan(leaving).changes == ()


def test_a_draining_node_is_emptied_without_waiting_for_stability() -> None:
    before = placed(*nodes_of("n1", "n2"))
    found = plan(
        replace(before, nodes=(PlanNode("n1"), PlanNode("n2", accepts=False)), stable=False)
    )
    assert len(found.changes) == before.targets.count("n2")
    assert {(change.node, change.reason) for change in found.changes} == {("n1", Reason.DRAIN)}


def cordoned(state: PlanInput, name: str, cordon: Cordon | None) -> PlanInput:
    nodes = tuple(replace(n, cordon=cordon) if n.name == name else n for n in state.nodes)
    return replace(state, nodes=nodes)


@pytest.mark.parametrize("strategy", Strategy)
def test_a_cordoned_node_keeps_what_it_has_and_gets_nothing(strategy: Strategy) -> None:
    before = placed(*nodes_of("n1", "n2", "n3"))
    loads = (1.0,) * SHARDS if strategy is Strategy.LOAD else ()
    before = replace(before, strategy=strategy, loads=loads)
    for _ in range(3):
        before = at_rest(before, plan(before))
    mine = [shard for shard, node in enumerate(before.targets) if node == "n2"]
    state = cordoned(before, "n2", Cordon.CORDONED)
    assert plan(state).changes == ()
    # Another node dies: its shards go to the third, and none to the cordoned one.
    dead = replace(state, nodes=tuple(node for node in state.nodes if node.name != "n3"))
    assert {change.node for change in plan(dead).changes} == {"n1"}
    # A new node comes: balance takes from the others, and nothing from the cordoned one.
    grown = replace(state, nodes=(*state.nodes, PlanNode("n4")))
    found = plan(grown)
    assert found.changes and {change.previous for change in found.changes} <= {"n1", "n3"}
    assert all(found.reasons.get(shard) is Hold.CORDONED for shard in mine)
    # It leaves, and does not say that it comes back: its shards go as those of any other.
    leaving = tuple(replace(n, accepts=n.name != "n2") for n in state.nodes)
    gone = plan(replace(state, nodes=leaving))
    assert sorted(change.shard for change in gone.changes) == mine
    assert plan(replace(state, nodes=leaving, restarting=("n2",))).changes == ()


@pytest.mark.parametrize("strategy", Strategy)
def test_a_drained_node_is_emptied_and_gets_nothing_until_it_is_uncordoned(
    strategy: Strategy,
) -> None:
    before = replace(placed(*nodes_of("n1", "n2", "n3")), strategy=strategy, stable=False)
    state = cordoned(before, "n2", Cordon.DRAINING)
    found = plan(state)
    assert len(found.changes) == before.targets.count("n2") > 0
    assert {change.reason for change in found.changes} == {Reason.DRAIN}
    # Nor does it wait for the grace of a restart that is over.
    assert plan(replace(state, restarting=("n2",))).changes == found.changes
    empty = replace(settle(state, found), stable=True)
    for _ in range(3):
        empty = at_rest(empty, plan(empty))
    assert "n2" not in empty.targets
    back = cordoned(empty, "n2", None)
    if strategy is not Strategy.LOAD:  # which has been told no loads
        assert {change.node for change in plan(back).changes} == {"n2"}


def test_with_only_cordoned_nodes_left_a_failover_finds_a_home_and_nothing_else_moves() -> None:
    state = placed(*nodes_of("n1", "n2", "n3", "n4"))
    state = cordoned(cordoned(state, "n1", Cordon.DRAINING), "n2", Cordon.CORDONED)
    two = replace(state, nodes=state.nodes[:2], stable=False)
    found = plan(two)
    orphans = [s for s, node in enumerate(state.targets) if node in ("n3", "n4")]
    assert sorted(change.shard for change in found.changes) == orphans
    assert {(c.node, c.reason) for c in found.changes} == {("n2", Reason.FAILOVER)}
    assert found.held[Hold.NO_NODE] == state.targets.count("n1"), "nobody may empty it into n2"
    assert found.held[Hold.CORDONED] == state.targets.count("n2")
    # Only the one that is drained is there: better it than nobody.
    last = replace(state, nodes=state.nodes[:1], stable=False)
    assert {change.node for change in plan(last).changes} == {"n1"}
    # A node that leaves is none to go to, and is left all the same.
    leaving = (replace(state.nodes[0], accepts=False), state.nodes[1])
    off = plan(replace(state, nodes=leaving))
    assert {change.node for change in off.changes} == {"n2"}
    assert {change.previous for change in off.changes} == {"n1", "n3", "n4"}
    # As soon as a node takes shards again, the drained one is emptied into that.
    again = plan(replace(two, nodes=(*two.nodes, PlanNode("n5"))))
    assert {change.node for change in again.changes} == {"n5"}


def test_a_pin_is_stronger_than_a_cordon_of_the_node_it_leaves_and_not_of_the_one_it_names() -> (
    None
):
    state = cordoned(placed(*nodes_of("n1", "n2")), "n2", Cordon.CORDONED)
    there = state.targets.index("n2")
    here = state.targets.index("n1")
    found = plan(replace(state, pins={there: "n1", here: "n2"}))
    assert [(c.shard, c.node, c.reason) for c in found.changes] == [(there, "n1", Reason.PIN)]
    assert found.lost_pins == (here,)


def test_moves_for_balance_are_few_at_a_time_and_wait_for_stability() -> None:
    before = replace(placed(*nodes_of("n1")), nodes=nodes_of("n1", "n2"), max_moves=5)
    misplaced = choices(SHARDS, (("n1", 1.0), ("n2", 1.0))).count("n2")
    held = plan(replace(before, stable=False))
    assert held == Plan((), {Hold.NOT_STABLE: misplaced}, ())
    found = plan(before)
    assert len(found.changes) == 5
    assert found.held == {Hold.BATCH_LIMIT: misplaced - 5}
    # Written, but not moved yet: nothing more may start.
    moving = replace(settle(before, found), claims=before.claims)
    assert plan(moving).changes == ()
    # Two owners do not let go. They must not stop the rest for ever.
    stuck = tuple(change.shard for change in found.changes[:2])
    assert len(plan(replace(moving, stalled=stuck)).changes) == 2


def test_L17_a_pinned_shard_fails_over_and_returns() -> None:
    pinned = replace(placed(*nodes_of("n1", "n2", "n3")), pins={7: "n2"}, stable=False)
    there = settle(pinned, plan(pinned))
    assert there.targets[7] == "n2"

    dead = replace(there, nodes=nodes_of("n1", "n3"))
    found = plan(dead)
    assert found.lost_pins == (7,)
    assert found.held[Hold.PIN_UNAVAILABLE] == 1
    elsewhere = settle(dead, found)
    assert elsewhere.targets[7] in ("n1", "n3")

    back = settle(
        replace(elsewhere, nodes=there.nodes), plan(replace(elsewhere, nodes=there.nodes))
    )
    assert back.targets[7] == "n2"
    unpinned = replace(back, pins={}, stable=True)
    free = settle(unpinned, plan(unpinned))
    assert free.targets == choices(SHARDS, (("n1", 1.0), ("n2", 1.0), ("n3", 1.0)))


def test_a_pinned_shard_waits_for_its_restarting_node_without_a_warning() -> None:
    pinned = replace(placed(*nodes_of("n1", "n2")), pins={7: "n2"})
    there = settle(pinned, plan(pinned))
    away = plan(replace(there, nodes=nodes_of("n1"), restarting=("n2",)))
    assert (away.changes, away.lost_pins) == ((), ())


def test_the_most_urgent_changes_come_first() -> None:
    before = placed(*nodes_of("n1", "n2", "n3"))
    nodes = (PlanNode("n1", accepts=False), *nodes_of("n2", "n3", "n4"))
    found = plan(replace(before, nodes=nodes, max_changes=1_000))
    kinds = [change.reason for change in found.changes]
    assert kinds == sorted(kinds, key=list(Reason).index)
    assert {Reason.DRAIN, Reason.BALANCE} <= set(kinds)


def test_moves_for_balance_wait_until_every_shard_has_a_node() -> None:
    before = placed(*nodes_of("n1", "n2", "n3"))
    state = replace(before, nodes=nodes_of("n2", "n3", "n4"))
    found = plan(state)
    assert {change.reason for change in found.changes} == {Reason.FAILOVER}
    assert found.held[Hold.NOT_ALL_ASSIGNED] == len(found.waiting) > 0
    assert not found.balanced and found.decisions == ("failover", "not_all_assigned")
    found = plan(settle(state, found))
    assert {change.reason for change in found.changes} == {Reason.BALANCE}


def test_what_stands_in_the_way_is_said_of_every_shard() -> None:
    state = replace(placed(*nodes_of("n1")), nodes=nodes_of("n1", "n2"))
    wanted = {change.shard for change in plan(state).changes}
    cooling = (min(wanted), max(wanted))
    found = plan(replace(state, cooling=cooling, max_moves=9, max_new_moves=4))
    assert len(found.changes) == 4
    assert found.held == {Hold.COOLDOWN: 2, Hold.RATE_LIMIT: len(wanted) - 6}
    assert {change.shard for change in (*found.changes, *found.waiting)} == wanted
    assert {found.reasons[shard] for shard in cooling} == {Hold.COOLDOWN}
    at_rest = plan(settle(state, plan(state)))
    assert at_rest.balanced and at_rest.decisions == ("balanced",)


def test_without_a_node_nothing_moves() -> None:
    before = placed(*nodes_of("n1"))
    assert plan(replace(before, nodes=())) == Plan((), {Hold.NO_NODE: SHARDS}, ())


def test_L17_what_its_target_does_not_claim_goes_elsewhere_at_once() -> None:
    """n3 has come, was given three shards, and claims none: two are released, one is not yet."""
    before = placed(*nodes_of("n1", "n2"))
    nodes = nodes_of("n1", "n2", "n3")
    wanted = choices(SHARDS, tuple((node.name, 1.0) for node in nodes))
    shards = [shard for shard, node in enumerate(wanted) if node == "n3"][:3]
    targets, claims = list(before.targets), list(before.claims)
    for shard in shards:
        targets[shard] = "n3"
    for shard in shards[:2]:
        claims[shard] = None
    waiting = replace(before, nodes=nodes, targets=tuple(targets), claims=tuple(claims))
    waiting = replace(waiting, max_moves=3, stable=False)
    assert plan(waiting).changes == ()
    # Released and not claimed takes a place among the moves, until it is stalled.
    moving = [replace(waiting, stable=True, stalled=shards[:some]) for some in range(4)]
    assert [len(plan(state).changes) for state in moving] == [0, 1, 2, 3]

    shunned = (*nodes[:2], PlanNode("n3", max_new=0))
    avoided = {shard: frozenset({"n3"}) for shard in shards}
    found = plan(replace(waiting, nodes=shunned, avoided=avoided, stable=True))
    assert {change.shard: change.node for change in found.changes} == {
        shard: before.targets[shard] for shard in shards
    }
    assert {change.reason for change in found.changes} == {Reason.UNCLAIMED}
    assert found.held[Hold.NOT_CLAIMING] == wanted.count("n3")


def test_L17_a_node_on_probation_is_given_one_shard_and_keeps_what_it_has() -> None:
    before = placed(*nodes_of("n1", "n2", "n3"))
    nodes = (*nodes_of("n1", "n2"), PlanNode("n3", max_new=0), PlanNode("n4", max_new=1))
    found = plan(replace(before, nodes=nodes))
    assert [change.node for change in found.changes] == ["n4"]
    # Of a node that died the shards go to those that claim; n3 keeps its own.
    found = plan(replace(before, nodes=nodes[1:3]))
    assert {change.node for change in found.changes} == {"n2"}
    assert {change.previous for change in found.changes} == {"n1"}
    # Better than nobody.
    found = plan(replace(before, nodes=nodes[2:3]))
    assert {change.node for change in found.changes} == {"n3"}


def test_L17_a_pin_to_a_node_that_does_not_claim_is_lost_until_it_does() -> None:
    pinned = replace(placed(*nodes_of("n1", "n2")), pins={7: "n2"})
    pinned = settle(pinned, plan(pinned))
    unclaimed = replace(
        pinned, claims=tuple(None if s == 7 else c for s, c in enumerate(pinned.claims))
    )
    found = plan(replace(unclaimed, avoided={7: frozenset({"n2"})}))
    assert [(c.shard, c.node, c.reason) for c in found.changes] == [(7, "n1", Reason.UNCLAIMED)]
    assert found.lost_pins == (7,)
    assert plan(settle(unclaimed, found)).changes[0].node == "n2"


def test_levelling_takes_nothing_to_a_node_that_does_not_claim() -> None:
    before = replace(placed(*nodes_of("n1", "n2")), strategy=Strategy.COUNT)
    nodes = (*nodes_of("n1", "n2"), PlanNode("n3", max_new=0), PlanNode("n4"))
    found = plan(replace(before, nodes=nodes))
    assert {change.node for change in found.changes} == {"n4"}
    assert Hold.NOT_CLAIMING not in found.held


@pytest.mark.parametrize("strategy", Strategy)
def test_L17_a_cordoned_node_that_does_not_claim_what_it_was_given_is_not_waited_for(
    strategy: Strategy,
) -> None:
    before = replace(placed(*nodes_of("n1", "n2", "n3")), strategy=strategy, loads=(1.0,) * SHARDS)
    shard = before.targets.index("n3")
    claims = tuple(None if s == shard else claim for s, claim in enumerate(before.claims))
    nodes = (*nodes_of("n1", "n2"), PlanNode("n3", cordon=Cordon.CORDONED))
    unclaimed = replace(before, nodes=nodes, claims=claims, max_moves=0)
    assert plan(unclaimed).changes == ()
    found = plan(replace(unclaimed, avoided={shard: frozenset({"n3"})}))
    assert [(c.shard, c.reason) for c in found.changes] == [(shard, Reason.UNCLAIMED)]
    assert found.changes[0].node in ("n1", "n2")
