from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextvars import Context

import pytest

from goverse.cluster import Kind, LeaveMode, pin_shard
from goverse.cluster.holdings import Action, Here, Holding, HoldingState, decide
from goverse.cluster.records import Claim, ClaimValue, encode
from goverse.coordination import Delete, Put
from goverse.ids import Epoch, MemberId
from goverse.sharding import NODE_SHARD
from tests.support.members import TTL_S, Process, World, in_world

ME = MemberId("n1", "a")
HERE = Here(ME, revision=100, claiming=True, closing=False, accepting=("n1", "n2"))
MINE = Claim(ME, 1, 50, 7)


def held(state: HoldingState) -> Holding:
    return Holding(3, Epoch(1, 50), state)


@pytest.mark.parametrize(
    ("holding", "claim", "target", "action"),
    [
        (None, None, "n1", Action.CLAIM),
        (None, None, "n2", Action.NOTHING),
        (None, None, None, Action.NOTHING),
        (None, MINE, "n1", Action.ADOPT),
        (None, MINE, "n2", Action.RELEASE),
        (None, Claim(MemberId("n1", "before"), 1, 50, 7), "n1", Action.NOTHING),
        (None, Claim(MemberId("n2", "a"), 1, 50, 7), "n1", Action.NOTHING),
        (held(HoldingState.OPEN), MINE, "n1", Action.NOTHING),
        (held(HoldingState.OPEN), MINE, "n2", Action.CLOSE),
        (held(HoldingState.OPEN), MINE, "dead", Action.NOTHING),
        (held(HoldingState.OPEN), MINE, None, Action.NOTHING),
        (held(HoldingState.OPENING), MINE, "n2", Action.NOTHING),
        (held(HoldingState.CLOSING), MINE, "n1", Action.NOTHING),
        (held(HoldingState.OPEN), None, "n1", Action.LOST),
        (held(HoldingState.OPENING), None, "n1", Action.LOST),
        (held(HoldingState.CLOSING), None, "n1", Action.LOST),
        (held(HoldingState.OPEN), Claim(ME, 1, 60, 7), "n1", Action.LOST),
        (held(HoldingState.RELEASING), MINE, "n1", Action.NOTHING),
        (held(HoldingState.RELEASING), None, "n1", Action.FORGET),
        (held(HoldingState.RELEASED), MINE, "n1", Action.NOTHING),
        (held(HoldingState.RELEASED), None, "n1", Action.FORGET),
    ],
)
def test_decisions(
    holding: Holding | None, claim: Claim | None, target: str | None, action: Action
) -> None:
    assert decide(holding, claim, target, HERE) is action


def test_a_view_that_is_behind_the_claim_says_nothing_about_it() -> None:
    behind = Here(ME, revision=49, claiming=True, closing=False, accepting=("n1",))
    assert decide(held(HoldingState.OPEN), None, "n1", behind) is Action.NOTHING


def test_a_node_that_leaves_takes_nothing_more() -> None:
    leaving = Here(ME, revision=100, claiming=False, closing=True, accepting=("n2",))
    assert decide(None, None, "n1", leaving) is Action.NOTHING
    assert decide(None, MINE, "n1", leaving) is Action.RELEASE
    assert decide(held(HoldingState.OPEN), MINE, "n1", leaving) is Action.CLOSE


@pytest.mark.parametrize("now", list(HoldingState))
@pytest.mark.parametrize("then", list(HoldingState))
def test_an_illegal_transition_is_loud(now: HoldingState, then: HoldingState) -> None:
    legal = {
        ("opening", "open"),
        ("open", "closing"),
        ("closing", "open"),
        ("closing", "releasing"),
        ("releasing", "released"),
    }
    holding = held(now)
    if (now.value, then.value) in legal:
        holding.become(then)
        assert holding.state is then
    else:
        with pytest.raises(RuntimeError, match="shard 3"):
            holding.become(then)


@in_world(shards=1024)
async def test_one_node_claims_everything_in_batches(world: World) -> None:
    n1 = await world.node("n1")
    await world.until(world.all_open)
    facts = n1.node.ownership.snapshot()
    assert (facts.targeted, facts.claimed, facts.open) == (1024, 1024, 1024)
    assert facts.oldest_unclaimed_s == 0
    # 1024 / 62, and a few batches that were begun before all targets were there.
    assert facts.transactions <= 20
    revisions = Counter(epoch.revision for shard, epoch in n1.host.opened if shard >= 0)
    assert max(revisions.values()) == 62


def test_L27_what_keeps_a_thousand_shards_from_opening_is_said_once_a_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @in_world(shards=1024)
    async def run(world: World) -> None:
        n1 = await world.node("n1")
        n1.host.away = True
        await world.until(lambda: n1.host.refusals > 3000)
        told = [line for line in caplog.messages if "waits to be opened, one of" in line]
        assert 1 <= len(told) <= 1 + asyncio.get_running_loop().time()
        n1.host.away = False
        await world.until(world.all_open)

    run()


@in_world()
async def test_the_node_shard_is_opened_at_the_member_keys_revision(world: World) -> None:
    n1 = await world.node("n1")
    await world.until(lambda: NODE_SHARD in n1.host.open)
    created = world.items("nodes")["n1"].create_revision
    assert n1.host.open[NODE_SHARD] == Epoch(1, created)
    await world.until(lambda: n1.member.view.owner_of_id("node#n1/x") is not None)
    owner = n1.member.view.owner_of_id("node#n1/x")
    assert owner is not None and owner.epoch == Epoch(1, created)
    world.delete(world.keys.member(Kind.NODE, "n1"))
    await world.until(lambda: n1.host.open.get(NODE_SHARD, Epoch(0, 0)) > Epoch(1, created))


@in_world(shards=64)
async def test_shards_follow_the_nodes(world: World) -> None:
    n1, n2, n3 = [await world.node(name) for name in ("n1", "n2", "n3")]
    await world.until(world.settled)
    assert all(process.host.shards for process in (n1, n2, n3))
    n4 = await world.node("n4")
    await world.until(lambda: bool(n4.host.shards) and world.settled())
    assert all(process.host.discarded == [] for process in world.processes)


@in_world(shards=256)
async def test_failover_takes_the_ttl_and_little_more(world: World) -> None:
    nodes = [await world.node(name) for name in ("n1", "n2", "n3")]
    await world.until(world.settled)
    for victim in nodes[:2]:  # the leader is among them
        victim.kill()
        assert await world.until(world.all_open) < TTL_S + 2


def claims_of(operations: object) -> bool:
    assert isinstance(operations, (list, tuple))
    return "/claims/" in operations[0].key


@in_world(shards=256)
async def test_claims_whose_answers_are_lost_are_found_in_the_view(world: World) -> None:
    n1 = world.spawn("n1")
    n1.coordinator.lose = claims_of
    await world.until(world.all_open)
    assert n1.coordinator.lost >= 5
    # Found, not made again: every shard has been opened once, at the first claim.
    assert Counter(shard for shard, _ in n1.host.opened).most_common(1)[0][1] == 1
    assert n1.host.discarded == []


@in_world(shards=64)
async def test_releases_whose_answers_are_lost_are_not_undone(world: World) -> None:
    n1 = await world.node("n1")
    await world.until(world.settled)
    n1.coordinator.lose = claims_of
    await world.node("n2")
    await world.until(lambda: n1.coordinator.lost > 0)
    await world.until(lambda: world.settled() and len(n1.host.shards) < 64)
    assert n1.host.discarded == []


@in_world(shards=16)
async def test_a_release_due_before_its_claim_is_answered_is_not_forgotten(world: World) -> None:
    """The watch shows a claim, and then that its shard belongs elsewhere, while the answer of
    the claim's transaction is still on its way. When it comes, the release is still due."""
    n1 = await world.node("n1")
    await world.until(world.settled)
    n2 = world.spawn("n2")
    held: list[int] = []
    answer = asyncio.Event()

    async def hold_back(operations: Sequence[Put | Delete]) -> None:
        if claims_of(operations) and not held:
            held.extend(int(world.keys.parse(one.key).name) for one in operations)
            await answer.wait()

    n2.coordinator.answers = hold_back
    await world.until(lambda: bool(held) and held[0] in n2.host.open)
    await pin_shard(n1.coordinator, world.keys, held[0], "n1")
    await world.until(lambda: held[0] not in n2.host.open)
    world.loop.call_soon(answer.set)
    await world.until(lambda: held[0] in n1.host.open)
    await world.until(world.settled)


@in_world()
async def test_a_claim_of_mine_that_belongs_elsewhere_is_released(world: World) -> None:
    n1, n2 = await world.node("n1"), await world.node("n2")
    await world.until(world.settled)
    registration = n1.member.membership.registration
    assert registration is not None
    shard = n2.host.shards[0]
    # As if a claim of n1, sent long ago, arrived between n2's release and its next claim.
    n2.host.broken[shard] = True
    member = registration.member
    value = ClaimValue(member.name, member.incarnation, 1)

    def intrude(operations: object) -> None:
        key = world.keys.claim(shard)
        if claims_of(operations) and world.store.get(key) is None:
            world.put(key, encode(value), registration.lease.id)

    n2.coordinator.before = intrude
    n2.cut()
    await world.until(lambda: not n2.member.valid())
    n2.mend()
    n2.host.broken.clear()
    await world.until(world.settled)
    assert n1.host.discarded == []


@in_world(shards=128)
async def test_a_claim_that_fails_does_not_stop_the_others_of_its_batch(world: World) -> None:
    # Somebody with the wrong tool made a key that looks like nothing: only they can remove it.
    world.put(world.keys.claim(5), b"not a claim")
    n1 = await world.node("n1")
    await world.until(lambda: len(n1.host.shards) == 127)
    assert n1.node.ownership.snapshot().transactions < 40
    await world.passes(3)
    facts = n1.node.ownership.snapshot()
    assert facts.oldest_unclaimed_s > 2
    world.delete(world.keys.claim(5))
    await world.until(world.all_open)


@in_world(shards=256)
async def test_a_lease_that_is_lost_while_claiming_leaves_nothing_open(world: World) -> None:
    n1 = await world.node("n1")
    await world.until(lambda: len(n1.host.shards) > 60)
    registration = n1.member.membership.registration
    assert registration is not None
    world.store.revoke(registration.lease.id)
    await world.until(lambda: bool(n1.host.discarded))
    assert n1.host.open == {}
    assert n1.node.ownership.snapshot().claimed == 0
    await world.until(world.all_open)


@in_world()
async def test_a_claim_that_vanishes_ends_everything(world: World) -> None:
    n1 = await world.node("n1")
    await world.until(world.all_open)
    world.delete(world.keys.claim(7))
    await world.until(lambda: bool(n1.host.discarded))
    assert n1.host.discarded == ["its claim of shard 7 is gone"]
    await world.until(world.all_open)


@in_world()
async def test_L23_a_shard_that_cannot_be_opened_is_seen_and_tried_again(world: World) -> None:
    n1 = world.spawn("n1")
    n1.host.broken[3] = True
    await world.until(lambda: len(n1.host.shards) == 15)
    await world.passes(5)
    facts = n1.node.ownership.snapshot()
    assert (facts.targeted, facts.claimed, facts.open) == (16, 16, 15)
    assert facts.oldest_unclaimed_s > 4.5
    n1.host.broken.clear()
    await world.until(world.all_open)
    assert n1.node.ownership.snapshot().oldest_unclaimed_s == 0


@in_world()
async def test_L23_no_fact_of_readiness_latches(world: World) -> None:
    n1 = await world.node("n1")
    await world.until(world.all_open)
    good = n1.node.snapshot()
    assert good.membership.valid and good.view.current and good.ownership is not None
    assert good.ownership.open == 16
    n1.cut()
    await world.passes(2 * TTL_S)
    bad = n1.node.snapshot()
    assert bad.ownership is not None
    assert (bad.membership.valid, bad.view.current, bad.ownership.open) == (False, False, 0)
    assert bad.view.contact_age_s > TTL_S
    n1.mend()
    await world.until(world.all_open)
    again = n1.node.snapshot()
    assert again.membership.valid and again.view.current


@in_world(shards=64)
async def test_L17_an_owner_that_does_not_let_go_is_reported_and_stops_nobody_else(
    world: World,
) -> None:
    n1 = await world.node("n1", rebalance_batch_size=2)
    await world.until(world.settled)
    n1.host.busy = dict.fromkeys(range(64), True)
    n2 = await world.node("n2")
    stuck = n1.node.leadership.snapshot
    await world.until(lambda: len(stuck().stuck) == 2)
    assert all(s.owner == "n1" and s.target == "n2" and s.age_s >= 10 for s in stuck().stuck)
    assert n1.node.ownership.snapshot().called_off == tuple(s.shard for s in stuck().stuck)
    assert len(n1.host.shards) == 64  # called off: it still serves them
    first = [s.shard for s in stuck().stuck]
    n1.host.busy = dict.fromkeys(first, True)
    await world.until(lambda: len(n2.host.shards) > 10)  # the two take no place among the moves
    n1.host.busy.clear()
    await world.until(world.settled, 120)
    assert stuck().stuck == ()


@in_world(shards=2)
async def test_L17_the_host_is_told_for_how_long_a_shard_is_wanted_until_it_is_not(
    world: World,
) -> None:
    """Over attempts that were called off, the last of them when the patience of 30 s is over."""
    n1 = await world.node("n1")
    await world.until(world.settled)
    n1.host.busy = {0: True, 1: True}
    await world.node("n2")
    wanted = n1.host.wanted
    await world.until(lambda: len(wanted) > 4 and wanted[-1][1] >= 30.0, 60)
    shard = wanted[-1][0]
    waits = [seconds for number, seconds in wanted if number == shard]
    assert waits[0] < 0.1 and waits == sorted(waits) and len(waits) > 3
    assert waits[-1] < 30.1, "the last attempt comes when it is due, not at the next backoff"
    wanted[:] = [(number, seconds) for number, seconds in wanted if number == shard]
    n1.host.busy = {shard: True}
    count = len(wanted)
    await pin_shard(n1.coordinator, world.keys, shard, "n1")
    await world.passes(130.0)

    def again() -> list[float]:
        return [seconds for number, seconds in wanted[count:] if number == shard]

    assert again() == []
    await pin_shard(n1.coordinator, world.keys, shard, "n2")
    await world.until(lambda: bool(again()), 120)
    assert again()[0] < 1.0, "nobody had waited for it meanwhile"
    n1.host.busy.clear()
    await world.until(world.settled, 120)


@in_world()
async def test_shards_that_callers_wait_for_are_claimed_first(world: World) -> None:
    waiting = ("shard#9/x", "shard#4/x")
    n1 = world.spawn("n1", stability_duration_s=3.0)
    await world.until(lambda: n1.member.view.loaded)
    tasks = [
        world.loop.spawn(n1.process, n1.member.view.wait_owner(id, newer_than=Epoch(0, 0)), name=id)
        for id in waiting
    ]
    # One shard each time, so that the order shows.
    await world.until(lambda: n1.member.view.snapshot().waiting == 2)
    n1.node.ownership._queue._batch = 1
    await world.until(world.all_open)
    opened = [shard for shard, _ in n1.host.opened if shard >= 0]
    assert opened[:2] == [9, 4]
    assert all(task.done() for task in tasks)


@pytest.mark.parametrize("seed", range(12))
@in_world(shards=32)
async def test_L04_L13_no_two_owners_whatever_happens(world: World, seed: int) -> None:
    """Each opening checks that nobody else serves the shard under a lease he believes in."""
    for name in ("n1", "n2", "n3"):
        await world.node(name)
    for _ in range(25):
        await world.passes(world.random.uniform(0.0, 2.0))
        await _trouble(world, world.random.choice(world.live))
    world.faults.heal()
    for process in world.live:
        process.resume()
    await world.until(world.settled, 90)


async def _trouble(world: World, process: Process) -> None:
    what = world.random.choice(
        ["kill", "pause", "resume", "cut", "mend", "heal", "lose", "slow", "stop", "compact"]
    )
    if what == "kill" or (what == "stop" and world.loop.is_paused(process.process)):
        process.kill()
        world.spawn(process.name)
    elif what == "stop":
        world.loop.spawn(process.process, _stop(process))
        world.spawn(process.name)
    elif what == "pause":
        process.pause()
    elif what == "resume":
        for each in world.live:
            each.resume()
    elif what == "cut":
        process.cut()
    elif what == "mend":
        process.mend()
    elif what == "heal":
        world.faults.heal()
    elif what == "lose":
        world.faults.lose("coordinator", process.process, 0.5)
    elif what == "slow":
        world.faults.slow("coordinator", process.process, 0.3)
    else:
        world.store.compact(world.store.revision)


async def _stop(process: Process) -> None:
    await process.node.drain(LeaveMode.PERMANENT, timeout_s=2.0)
    await process.node.stop()
    process.kill()


@pytest.mark.parametrize("seed", range(6))
@in_world()
async def test_an_answer_that_is_read_after_a_stop_opens_nothing(world: World, seed: int) -> None:
    """The claim was made; the process was stopped before it knew, and the lease has ended."""
    n1 = world.spawn("n1")
    world.faults.slow("coordinator", n1.process, 0.2)
    stopped = []

    def stop_soon(operations: object) -> None:
        if claims_of(operations) and not stopped:
            stopped.append(True)
            world.loop.call_later(0.3, n1.pause, context=Context())

    n1.coordinator.before = stop_soon
    await world.until(lambda: bool(world.items("claims")))
    await world.until(lambda: world.loop.is_paused(n1.process))
    await world.node("n2")
    await world.until(lambda: len(world.live[1].host.shards) == 16)
    world.faults.heal()
    n1.resume()
    await world.until(lambda: n1.member.membership.snapshot().joins == 2)
    await world.until(world.settled)  # and no opening was noted that should not have been
