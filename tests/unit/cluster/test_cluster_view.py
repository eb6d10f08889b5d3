from __future__ import annotations

import asyncio
import logging

import pytest

from goverse.cluster import Keys, Kind
from goverse.cluster.records import (
    BadValue,
    MemberValue,
    PinValue,
    decode_layout,
    encode,
    shard_number,
)
from goverse.cluster.state import ClusterState, ViewChange
from goverse.cluster.view import MAX_IDS
from goverse.coordination import Changes, Delete, KeyValue, Put
from goverse.errors import Overloaded
from goverse.ids import NO_EPOCH, Epoch, MemberId
from goverse.testing.loop import SimLoop, run_virtual
from tests.support.fed_view import KEYS, Story, claim, layout, node, told
from tests.support.members import World, in_world


@told
async def test_owners_follow_claims_and_members(story: Story) -> None:
    await story.begin()
    view = story.view
    assert view.num_shards == 16 and view.owner(3) is None
    await story.step(claim(3, "n1"))
    owner = view.owner(3)
    assert owner is not None
    assert (owner.member, owner.address) == (MemberId("n1", "a"), "n1:1")
    assert owner.epoch == Epoch(1, story.revision)
    assert view.owner_of_id("shard#3/x") is owner
    # A claim of an incarnation that is not registered makes nobody an owner.
    await story.step(claim(4, "n1", "old"))
    assert view.owner(4) is None
    await story.step(Delete(KEYS.claim(3)))
    assert view.owner(3) is None


@told
async def test_the_owner_of_an_id_is_that_of_the_last_step(story: Story) -> None:
    await story.begin()

    def owner_name() -> str:
        owner = story.view.owner_of_id("shard#11/x")
        return owner.member.name if owner is not None else ""

    assert owner_name() == ""
    await story.step(claim(11, "n1"), claim(3, "n2"))
    assert owner_name() == owner_name() == "n1"
    await story.step(claim(11, "n2"))
    assert owner_name() == "n2"
    seen: list[str] = []
    story.view.subscribe(lambda _: seen.append(owner_name()))
    await story.step(Delete(KEYS.claim(11)))
    assert owner_name() == "" and seen == [""]
    await story.step(claim(11, "n1"))
    assert owner_name() == "n1"
    await story.step(layout(8))
    assert owner_name() == "n2", "it is in shard 3 now"
    await story.step(Delete(KEYS.member(Kind.NODE, "n2")))
    assert owner_name() == ""


@told
async def test_only_so_many_owners_are_kept_by_id(story: Story) -> None:
    await story.begin()
    await story.step(claim(3, "n1"))
    view = story.view
    owner = view.owner(3)
    for number in range(MAX_IDS + 2):
        assert view.owner_of_id(f"shard#3/{number}") is owner
    assert 0 < len(view._by_id) <= MAX_IDS
    assert view.owner_of_id("shard#3/0") is owner


@told
async def test_a_revision_is_seen_whole_or_not_at_all(story: Story) -> None:
    await story.begin()
    await story.step(claim(1, "n1"), claim(2, "n1"))
    seen: list[tuple[ViewChange, int]] = []
    story.view.subscribe(lambda change: seen.append((change, len(story.view.state.owners))))
    await story.step(
        Delete(KEYS.member(Kind.NODE, "n1")), Delete(KEYS.claim(1)), Delete(KEYS.claim(2))
    )
    [(change, owners)] = seen
    assert owners == 0
    assert change.nodes and change.gone == (MemberId("n1", "a"),)
    assert sorted(change.shards) == sorted(change.owners) == [1, 2]


@told
async def test_the_gone_are_announced_before_anybody_is_sent_to_a_new_owner(story: Story) -> None:
    await story.begin()
    order: list[str] = []
    story.view.on_member_gone(lambda member: order.append(f"gone {member}"))

    async def call() -> None:
        owner = await story.view.wait_owner("shard#3/x", newer_than=NO_EPOCH)
        order.append(f"to {owner.member}")

    task = asyncio.create_task(call())
    await story.step(Put(KEYS.pin(1), encode(PinValue("n1"))))
    await story.step(Delete(KEYS.member(Kind.NODE, "n1")), claim(3, "n2"))
    await task
    assert order == ["gone n1@a", "to n2@a"]


@told
async def test_a_member_that_joined_again_within_one_revision_is_gone_too(story: Story) -> None:
    await story.begin()
    gone: list[MemberId] = []
    story.view.on_member_gone(gone.append)
    del story.kept[KEYS.member(Kind.NODE, "n1")]
    await story.step(node("n1", "b"))
    assert gone == [MemberId("n1", "a")]


@told
async def test_waiting_callers_go_in_order_of_arrival(story: Story) -> None:
    await story.begin()
    order: list[int] = []

    async def call(number: int, id: str) -> None:
        await story.view.wait_owner(id, newer_than=NO_EPOCH)
        order.append(number)

    ids = ("shard#3/x", "shard#19/y", "shard#3/z")
    tasks = [asyncio.create_task(call(number, id)) for number, id in enumerate(ids)]
    await story.step(Put(KEYS.pin(1), encode(PinValue("n1"))))
    assert story.view.waiting_shards() == (3,)
    await story.step(claim(3, "n1"))
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]
    assert story.view.snapshot().waiting == 0


@told
async def test_a_caller_waits_for_a_newer_epoch_than_the_one_it_tried(story: Story) -> None:
    await story.begin()
    await story.step(claim(3, "n1"))
    tried = story.view.owner(3)
    assert tried is not None
    task = asyncio.create_task(story.view.wait_owner("shard#3/x", newer_than=tried.epoch))
    await story.step(Delete(KEYS.claim(3)))
    assert not task.done()
    await story.step(claim(3, "n2"))
    assert (await task).member.name == "n2"


@told
async def test_callers_wait_before_the_layout_is_known_and_for_named_nodes(story: Story) -> None:
    first = asyncio.create_task(story.view.wait_owner("shard#3/x", newer_than=NO_EPOCH))
    third = asyncio.create_task(story.view.wait_owner("node#n3/x", newer_than=NO_EPOCH))
    await story.step(node("n1"), claim(3, "n1"), snapshot=True)
    assert not first.done()  # how many shards there are is not known: nobody is the owner
    assert story.view.num_shards == 0
    await story.step(layout())
    assert (await first).member.name == "n1"
    await story.step(node("n3"))
    found = await third
    assert found.epoch == Epoch(1, story.revision)


def test_too_many_waiting_callers_are_refused_and_leave_nothing_behind() -> None:
    async def main(loop: SimLoop) -> None:
        story = Story(loop, max_waiting=2)
        await story.begin()
        tasks = [
            asyncio.create_task(story.view.wait_owner(f"shard#{n}/x", newer_than=NO_EPOCH))
            for n in range(2)
        ]
        await story.step(Put(KEYS.pin(1), encode(PinValue("n1"))))
        with pytest.raises(Overloaded):
            await story.view.wait_owner("shard#5/x", newer_than=NO_EPOCH)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert story.view.snapshot().waiting == 0

    run_virtual(main)


@told
async def test_a_snapshot_replaces_everything(story: Story) -> None:
    await story.begin()
    await story.step(claim(3, "n1"), claim(4, "n2"))
    gone: list[MemberId] = []
    changes: list[ViewChange] = []
    story.view.on_member_gone(gone.append)
    story.view.subscribe(changes.append)
    for key in (KEYS.member(Kind.NODE, "n1"), KEYS.claim(3)):
        del story.kept[key]
    await story.step(snapshot=True)
    assert gone == [MemberId("n1", "a")]
    assert story.view.owner(3) is None and story.view.owner(4) is not None
    [change] = changes
    assert change.replaced and not change.lost_history and change.owners == (3,)


def test_lost_history_is_loud_and_frees_callers_from_old_epochs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story(story: Story) -> None:
        await story.begin()
        await story.step(claim(3, "n1"))
        tried = story.view.owner(3)
        assert tried is not None
        task = asyncio.create_task(story.view.wait_owner("shard#3/x", newer_than=tried.epoch))
        await story.step(Put(KEYS.pin(1), encode(PinValue("n1"))))
        story.revision = 5
        story.kept.clear()
        await story.step(layout(), node("n1", "b"), claim(3, "n1", "b"), snapshot=True)
        assert (await task).member.incarnation == "b"

    told(story)()
    assert [r.levelname for r in caplog.records if "lost its history" in r.getMessage()] == [
        "ERROR"
    ]


@told
async def test_a_watch_that_breaks_is_made_anew(story: Story) -> None:
    await story.begin()
    story.feed.items.put_nowait(RuntimeError("broken"))
    await story.step(claim(3, "n1"))
    assert story.feed.watches == 2 and story.view.owner(3) is not None


@told
async def test_a_callback_that_fails_stops_nobody(story: Story) -> None:
    def fail(change: ViewChange) -> None:
        raise RuntimeError("callback")

    seen: list[ViewChange] = []
    story.view.subscribe(fail)
    story.view.subscribe(seen.append)
    await story.begin()
    assert len(seen) == 1


@told
async def test_the_stability_clock_looks_at_nodes_only(story: Story) -> None:
    await story.begin()
    began = story.view.nodes_changed_at
    story.loop._now += 1
    value = MemberValue("a", "g1:1")
    await story.step(Put(KEYS.member(Kind.GATE, "g1"), encode(value)), claim(1, "n1"))
    await story.step(Delete(KEYS.member(Kind.GATE, "g1")))
    await story.step(snapshot=True)
    assert story.view.nodes_changed_at == began
    await story.step(node("n3"))
    assert story.view.nodes_changed_at > began


def test_a_corrupt_value_is_logged_once_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    state = ClusterState(KEYS)
    bad = KeyValue(KEYS.claim(3), b"{", 5, 5, 0)
    state.apply(Changes(5, {bad.key: bad}))
    state.apply(Changes(6, {KEYS.claim(4): None}))
    assert state.claims == {}
    [record] = caplog.records
    assert "/goverse/claims/3" in record.getMessage()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b'{"cluster_id":"x"}',
        b'{"cluster_id":"x","generation":1,"num_shards":1000}',
        b'{"cluster_id":"x","generation":1,"num_shards":131072}',
        b'{"cluster_id":"x","generation":0,"num_shards":16}',
    ],
)
def test_a_bad_layout_says_what_is_wrong(value: bytes) -> None:
    with pytest.raises(BadValue, match="/goverse/layout: "):
        decode_layout(KeyValue(KEYS.layout, value, 1, 1, 0))


@pytest.mark.parametrize("name", ["", "-1", "01", "1e3", "x", "65536", "٣", "1/2"])
def test_a_key_that_names_no_shard(name: str) -> None:
    with pytest.raises(BadValue):
        shard_number("k", name)


def test_fields_of_newer_versions_are_ignored() -> None:
    value = b'{"cluster_id":"x","generation":2,"num_shards":16,"colour":"red"}'
    assert decode_layout(KeyValue(KEYS.layout, value, 1, 1, 0)).generation == 2


def test_a_prefix_never_matches_its_neighbours() -> None:
    assert Keys("/goverse/").prefix == Keys("/goverse").prefix == "/goverse/"


@in_world()
async def test_a_watch_that_was_cut_and_compacted_lists_again(world: World) -> None:
    n1 = await world.node("n1")
    gate = await world.gate("g1")
    await world.until(world.settled)
    world.faults.cut(gate.process, "coordinator")
    world.delete(world.keys.member(Kind.NODE, "n1"))
    await world.until(lambda: n1.member.membership.snapshot().joins == 2)
    await world.until(world.settled)
    await world.until(lambda: not gate.member.view.current)
    world.store.compact(world.store.revision)
    world.faults.heal()
    await world.until(lambda: gate.member.view.current)
    member = n1.member.membership.member
    await world.until(
        lambda: all(
            (owner := gate.member.view.owner(shard)) is not None and owner.member == member
            for shard in range(16)
        )
    )
