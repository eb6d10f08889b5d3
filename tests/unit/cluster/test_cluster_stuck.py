"""Shards that do not arrive: in which step, by whose doing, and what the leader does about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pytest

from goverse.cluster import Kind, LeaveMode, Step, pin_shard
from goverse.cluster.migrations import Migrations
from goverse.cluster.records import Claim, MemberRecord, MemberState, Target
from goverse.cluster.stuck import StuckLog, StuckShard
from goverse.cluster.trust import NO_LIMIT, Trust
from goverse.coordination import CoordinatorUnavailable, Delete, Put
from goverse.ids import MemberId
from goverse.testing.loop import SimLoop, run_virtual
from tests.support.members import Process, World, in_world

N1, N2 = (Claim(MemberId(name, "a"), 1, 5, 7) for name in ("n1", "n2"))
TO_N2 = Target("n2", 4)
BOTH = ("n1", "n2")


def newer(claim: Claim, revision: int) -> Claim:
    return Claim(claim.member, claim.generation, revision, claim.lease)


# -- which step, and since when -----------------------------------------------------------------


def test_a_shard_is_stuck_when_it_was_on_its_way_for_too_long_whatever_happened_meanwhile() -> None:
    moves = Migrations(stuck_after_s=10.0)
    targets = {1: TO_N2, 2: TO_N2, 3: Target("n1", 4)}
    moves.update(targets, {1: N1, 3: N1}, 100.0, takers=BOTH)
    assert len(moves) == 2
    assert moves.next_stuck_at(100.0) == 110.0
    moves.update(targets, {1: N1, 2: N1, 3: N1}, 105.0, takers=BOTH)
    first, second = moves.stuck(110.0)
    assert (first.shard, first.age_s, first.step_s, first.stalled) == (1, 10.0, 10.0, True)
    # Its owner is another since 105: no reason to plan around it yet.
    assert (second.shard, second.age_s, second.step_s, second.stalled) == (2, 10.0, 5.0, False)
    assert moves.next_stuck_at(110.0) == 115.0
    assert moves.stuck(115.0)[1].stalled
    assert moves.update(targets, {1: N2, 2: N2, 3: N1}, 120.0, takers=BOTH) == [20.0, 20.0]
    assert moves.stuck(200.0) == () and moves.next_stuck_at(120.0) is None


def test_a_shard_whose_target_goes_back_has_not_migrated() -> None:
    moves = Migrations(stuck_after_s=10.0)
    moves.update({1: TO_N2}, {1: N1}, 100.0, takers=BOTH)
    assert moves.update({1: Target("n1", 9)}, {1: N1}, 105.0, takers=BOTH) == []
    assert len(moves) == 0


def test_a_shard_that_waits_for_a_restart_is_not_stuck() -> None:
    moves = Migrations(stuck_after_s=10.0)
    moves.update({1: TO_N2}, {}, 100.0, takers=("n1",), restarting=("n2",))
    assert len(moves) == 0


@pytest.mark.parametrize(
    ("claim", "takers", "step", "culprit", "said"),
    [
        (N1, BOTH, Step.HANDING_OVER, "n1", "n1 holds on to it"),
        (None, BOTH, Step.CLAIMING, "n2", "nobody has claimed it, and n2 does not"),
        (N1, ("n1",), Step.NO_TAKER, "n2", "n1 keeps it, and n2 takes no shards"),
        (None, (), Step.NO_TAKER, "n2", "nobody has claimed it, and n2 takes no shards"),
    ],
)
def test_the_step_and_the_culprit_follow_from_the_view(
    claim: Claim | None, takers: Sequence[str], step: Step, culprit: str, said: str
) -> None:
    moves = Migrations(stuck_after_s=10.0)
    claims = {} if claim is None else {1: claim}
    moves.update({1: TO_N2}, claims, 0.0, takers=takers)
    (found,) = moves.stuck(12.0)
    assert (found.step, found.culprit) == (step, culprit)
    assert str(found) == f"it has been on its way to n2 for 12 s: {said}"


def test_a_node_that_claims_others_has_a_queue_and_is_not_to_blame() -> None:
    moves = Migrations(stuck_after_s=10.0)
    targets = {1: TO_N2, 2: TO_N2, 3: TO_N2}
    moves.update(targets, {3: N2}, 0.0, takers=BOTH)
    moves.update(targets, {2: newer(N2, 6), 3: N2}, 8.0, takers=BOTH)
    (found,) = moves.stuck(10.0)
    assert found.shard == 1 and not found.stalled
    assert moves.next_stuck_at(10.0) == 18.0
    assert moves.stuck(18.0)[0].stalled


def test_what_an_old_view_does_not_show_is_nobodys_fault() -> None:
    moves = Migrations(stuck_after_s=10.0)
    moves.update({1: TO_N2}, {}, 0.0, takers=BOTH)
    moves.update({1: TO_N2}, {}, 9.0, takers=BOTH, blind=True)
    assert [found.stalled for found in moves.stuck(18.0)] == [False]
    assert [found.stalled for found in moves.stuck(19.0)] == [True]


# -- who gets no more ---------------------------------------------------------------------------


def nodes(*incarnations: str) -> dict[str, MemberRecord]:
    return {
        f"n{number}": MemberRecord(
            MemberId(f"n{number}", incarnation),
            *(Kind.NODE, "", "", 1.0, "", MemberState.ACTIVE, 1, 7, 5),
        )
        for number, incarnation in enumerate(incarnations, 1)
    }


def unclaimed(*shards: int) -> list[StuckShard]:
    return [StuckShard(shard, "", "n2", 10.0, Step.CLAIMING, 10.0) for shard in shards]


def test_a_node_that_leaves_a_few_unclaimed_gets_no_more_for_a_while() -> None:
    trust = Trust(max_unclaimed=3, pause_s=60.0)
    there, targets = nodes("a", "a"), dict.fromkeys(range(6), TO_N2)
    claims = {5: N2}
    assert trust.update(unclaimed(0, 1), there, claims, 0.0) == []
    assert trust.max_new("n2", targets, claims, 0.0) == NO_LIMIT
    assert trust.avoided(targets, claims, 0.0) == {shard: {"n2"} for shard in (0, 1)}

    assert trust.update(unclaimed(2), there, claims, 5.0) == ["n2"]
    assert trust.shunned(5.0) == ("n2",) and trust.next_at(61.0) == 65.0
    assert trust.max_new("n2", targets, claims, 5.0) == 0
    # All that wait for it go elsewhere at once; what it has it keeps.
    assert trust.avoided(targets, claims, 5.0) == {shard: {"n2"} for shard in range(5)}

    # On probation: one at a time, and one more failure is enough, for twice as long.
    assert trust.update([], there, claims, 66.0) == []
    assert trust.avoided(targets, claims, 66.0) == {}
    assert trust.max_new("n2", {5: TO_N2}, claims, 66.0) == 1
    assert trust.max_new("n2", {4: TO_N2, 5: TO_N2}, claims, 66.0) == 0
    assert trust.update(unclaimed(4), there, claims, 80.0) == ["n2"]
    assert trust.shunned(199.0) == ("n2",) and trust.shunned(200.0) == ()


@pytest.mark.parametrize(
    ("there", "claims"), [(nodes("a", "b"), {}), (nodes("a"), {}), (nodes("a", "a"), {5: N2})]
)
def test_a_node_that_claims_or_registers_anew_is_trusted_again(
    there: dict[str, MemberRecord], claims: dict[int, Claim]
) -> None:
    trust = Trust(max_unclaimed=1, pause_s=60.0)
    targets = dict.fromkeys(range(6), TO_N2)
    assert trust.update(unclaimed(0), nodes("a", "a"), {}, 0.0) == ["n2"]
    trust.update([], there, claims, 1.0)
    assert trust.max_new("n2", targets, claims, 1.0) == NO_LIMIT
    assert trust.avoided(targets, claims, 1.0) == {}


def test_only_claiming_is_held_against_a_node() -> None:
    trust = Trust(max_unclaimed=1, pause_s=60.0)
    others = [StuckShard(0, "n1", "n2", 10.0, step) for step in Step if step is not Step.CLAIMING]
    slow = StuckShard(1, "", "n2", 10.0, Step.CLAIMING, 10.0, stalled=False)
    assert trust.update([*others, slow], nodes("a", "a"), {}, 0.0) == []
    assert trust.avoided({0: TO_N2, 1: TO_N2}, {}, 0.0) == {}


# -- what is said -------------------------------------------------------------------------------


def test_each_shard_is_told_of_once_and_many_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def held(*shards: int) -> list[StuckShard]:
        return [StuckShard(shard, "n1", "n2", 10.0 + shard) for shard in shards]

    async def main(loop: SimLoop) -> None:
        log = StuckLog()
        assert log.tell([]) and log.tell(held(*range(2000)))
        assert log.tell(held(*range(2000)))  # nothing new
        assert not log.tell([*held(*range(2000)), *unclaimed(5000)])  # too soon
        await world_second(loop)
        assert log.tell([*held(*range(1, 2000)), *unclaimed(5000)])
        await world_second(loop)
        assert log.tell(held(0))  # it had arrived, and is stuck again

    run_virtual(main, seed=1, max_time_s=60)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 3
    assert said[0] == (
        "2000 shards 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... are stuck, step handing_over, at n1: "
        "on the way from n1 to n2 for 2009 s"
    )
    assert said[1].startswith("shard 5000 is stuck, step claiming, at n2: on the way from nobody")
    assert said[2].startswith("shard 0 is stuck")


async def world_second(loop: SimLoop) -> None:
    done = loop.create_future()
    loop.call_later(1.0, done.set_result, None)
    await done


# -- the whole, in virtual time -----------------------------------------------------------------


def claims_nothing(process: Process) -> Callable[[], None]:
    """Let every claim of ``process`` fail, while it keeps its lease; returns what mends it."""

    def refuse(operations: Sequence[Put | Delete]) -> None:
        if isinstance(operations[0], Put) and "/claims/" in operations[0].key:
            raise CoordinatorUnavailable("it hangs")

    process.coordinator.before = refuse

    def mend() -> None:
        process.coordinator.before = lambda operations: None

    return mend


@in_world(shards=64, rebalance_batch_size=8)
async def test_L17_a_node_that_claims_nothing_gets_no_more_and_what_it_was_given_is_served(
    world: World,
) -> None:
    n1 = await world.node("n1")
    await world.until(world.settled)
    n2 = world.spawn("n2")
    mend = claims_nothing(n2)
    given: set[int] = set()
    leadership = n1.node.leadership

    def look() -> bool:
        given.update(shard for shard, node in world.targets().items() if node == "n2")
        found = leadership.snapshot()
        if found.shunned == ("n2",):
            return True
        assert all(
            s.step is Step.CLAIMING and s.culprit == "n2" and not s.owner for s in found.stuck
        )
        return False

    await world.until(look, 30)
    await world.until(lambda: world.settled() and leadership.snapshot().stuck == (), 5)
    assert len(given) == 8 and n2.host.shards == []
    # When the pause is over it is tried with one shard, and then no more for two minutes.
    await world.until(lambda: "n2" in world.targets().values(), 70)
    await world.passes(5)
    assert list(world.targets().values()).count("n2") == 1
    await world.until(world.settled, 20)
    await world.passes(100)
    assert "n2" not in world.targets().values()
    mend()
    await world.until(lambda: len(n2.host.shards) > 20 and world.settled(), 60)
    assert leadership.snapshot().shunned == ()


@in_world(shards=64, rebalance_batch_size=4)
async def test_an_owner_that_does_not_let_go_is_the_culprit_and_others_move_on(
    world: World,
) -> None:
    n1 = await world.node("n1")
    await world.until(world.settled)
    n1.host.busy = dict.fromkeys(range(64), True)
    n2 = await world.node("n2")
    leadership = n1.node.leadership
    await world.until(lambda: len(leadership.snapshot().stuck) == 4)
    for stuck in leadership.snapshot().stuck:
        assert (stuck.step, stuck.culprit, stuck.stalled) == (Step.HANDING_OVER, "n1", True)
        assert str(stuck) in [*leadership.why(stuck.shard)]
    held = [stuck.shard for stuck in leadership.snapshot().stuck]
    n1.host.busy = dict.fromkeys(held, True)
    await world.until(lambda: len(n2.host.shards) > 10)
    assert leadership.snapshot().shunned == ()


@in_world(shards=16, restart_grace_s=60.0)
async def test_a_shard_whose_target_restarts_waits_for_that_and_not_for_its_owner(
    world: World,
) -> None:
    n1, n2 = await world.node("n1"), await world.node("n2")
    await world.until(lambda: bool(n2.host.shards) and world.settled())
    shard = n1.host.shards[0]
    n1.host.busy[shard] = True
    await pin_shard(n1.coordinator, world.keys, shard, "n2")
    await world.until(lambda: world.targets()[shard] == "n2")
    assert await n2.drain(LeaveMode.RESTART)
    await n2.stop()
    n2.kill()
    leadership = n1.node.leadership
    await world.until(lambda: bool(leadership.snapshot().stuck), 20)
    (stuck,) = leadership.snapshot().stuck
    assert (stuck.shard, stuck.step, stuck.culprit) == (shard, Step.NO_TAKER, "n2")
