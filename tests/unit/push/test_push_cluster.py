"""Pushes through a whole cluster in virtual time: nodes, gates and clients, and their faults."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from goverse.call import Call
from goverse.client import Client
from goverse.config.settings import LimitSettings
from goverse.errors import ApplicationError
from goverse.ids import gate_tag
from goverse.sharding import shard_of
from goverse.testing import COORDINATOR, Cluster, SimLoop, run_virtual
from goverse.testing.cluster import TEST_SETTINGS
from tests.support.room import Note, Room
from tests.support.virtual import elapse

Test = Callable[[SimLoop, Cluster], Awaitable[None]]


def virtually(test: Test, **options: object) -> None:
    async def main(loop: SimLoop) -> None:
        async with Cluster(Room, seed=1, **options) as cluster:  # type: ignore[arg-type]
            await test(loop, cluster)

    run_virtual(main, seed=1, max_time_s=600)


def listen(client: Client) -> list[Note]:
    got: list[Note] = []
    client.on(Note, got.append)
    return got


def counted(cluster: Cluster, name: str) -> dict[str, float]:
    """What a member says became of pushes."""
    member = cluster.member(name)
    metrics = member.metrics
    return {outcome: n for (outcome,), n in metrics.pushes.children().items()}


def owner_of(cluster: Cluster, id: str) -> str:
    return cluster.owners()[shard_of(id, cluster.settings.cluster.initial_num_shards)]


def room_call(id: str, method: str) -> Call:
    return Call("Room", id, method, b"", asyncio.get_running_loop().time() + 5)


def gate_losses(cluster: Cluster) -> int:
    gate = cluster.member("g1").gate
    assert gate is not None
    return gate.snapshot().member.membership.losses


def test_a_push_reaches_every_member_of_a_room_through_two_gates() -> None:
    async def test(loop: SimLoop, cluster: Cluster) -> None:
        clients = [await cluster.client(gate, name=f"c-{gate}") for gate in ("g1", "g1", "g2")]
        heard = [listen(client) for client in clients]
        for client in clients:
            assert await client.get(Room, "a").join() == client.client_id
        for number in range(1, 21):
            assert await clients[0].get(Room, "a").say(f"line {number}") == number
        wanted = [Note(number, f"line {number}") for number in range(1, 21)]
        await cluster.wait_until(lambda: heard == [wanted] * 3)
        total = sum(counted(cluster, gate).get("delivered", 0) for gate in ("g1", "g2"))
        assert total == 60

    virtually(test, nodes=2, gates=2)


def test_a_broadcast_reaches_every_client_of_every_gate() -> None:
    async def test(loop: SimLoop, cluster: Cluster) -> None:
        clients = [await cluster.client(gate, name=f"c-{gate}") for gate in ("g1", "g2", "g2")]
        heard = [listen(client) for client in clients]
        await clients[0].get(Room, "a").shout("all")
        await cluster.wait_until(lambda: heard == [[Note(0, "all")]] * 3)

    virtually(test, nodes=1, gates=2)


def test_a_failed_turn_pushes_nothing() -> None:
    async def test(loop: SimLoop, cluster: Cluster) -> None:
        client = await cluster.client()
        heard = listen(client)
        room = client.get(Room, "a")
        await room.join()
        for _ in range(3):
            try:
                await room.say("lost", fail=True)
            except ApplicationError:
                pass
        await room.say("kept")
        await cluster.wait_until(lambda: bool(heard))
        await elapse(1)
        assert heard == [Note(1, "kept")]

    virtually(test, nodes=1)


def test_the_order_of_one_object_is_kept_however_much_it_pushes() -> None:
    async def test(loop: SimLoop, cluster: Cluster) -> None:
        client = await cluster.client()
        heard = listen(client)
        room = client.get(Room, "a")
        await room.join()
        await asyncio.gather(*(room.burst(100) for _ in range(8)))
        await cluster.wait_until(lambda: len(heard) == 800)
        assert [note.number for note in heard] == list(range(100)) * 8

    virtually(test, nodes=1, latency_s=(0.001, 0.005))


def test_large_messages_are_not_overtaken_by_small_ones() -> None:
    async def test(loop: SimLoop, cluster: Cluster) -> None:
        client = await cluster.client()
        heard = listen(client)
        room = client.get(Room, "a")
        await room.join()
        for size in (200_000, 1, 200_000, 1, 200_000, 1):
            await room.say("x" * size)
        await cluster.wait_until(lambda: len(heard) == 6)
        assert [note.number for note in heard] == [1, 2, 3, 4, 5, 6]

    limits = replace(TEST_SETTINGS.limits, max_chunk_bytes=10_000)
    settings = replace(TEST_SETTINGS, limits=limits)
    virtually(test, nodes=1, settings=settings, latency_s=(0.001, 0.003))


def test_L26_pushes_to_whoever_is_not_there_are_counted_and_harm_nobody() -> None:
    async def test(loop: SimLoop, cluster: Cluster) -> None:
        client = await cluster.client()
        heard = listen(client)
        room = client.get(Room, "a")
        await room.tell(client.client_id[:16] + "0" * 32, "a gate that is there")
        await room.tell("f" * 48, "no gate")
        await room.tell("nonsense", "no gate")
        await room.tell(client.client_id, "me")
        await cluster.wait_until(lambda: heard == [Note(0, "me")])
        await cluster.wait_until(lambda: counted(cluster, "n1").get("sent") == 2)
        assert counted(cluster, "n1") == {"no_gate": 2, "sent": 2}
        assert counted(cluster, "g1") == {"unknown_client": 1, "delivered": 1}

    virtually(test, nodes=1)


def test_L26_a_client_that_takes_nothing_loses_what_does_not_fit_and_is_told() -> None:
    async def test(loop: SimLoop, cluster: Cluster) -> None:
        client = await cluster.client(limits=LimitSettings(max_push_messages=10))
        fast = await cluster.client(name="fast")
        free = asyncio.Event()
        got: list[Note] = []

        async def slow(note: Note) -> None:
            got.append(note)
            await free.wait()

        client.on(Note, slow)
        heard = listen(fast)
        room = client.get(Room, "a")
        await room.join()
        await fast.get(Room, "a").join()
        for _ in range(30):
            await room.burst(1)
        await cluster.wait_until(lambda: len(heard) == 30)
        snapshot = client.snapshot().inbox
        assert (snapshot.waiting, snapshot.dropped) == (10, 19)
        assert counted(cluster, "g1") == {"delivered": 41, "buffer_full": 19}
        free.set()
        await cluster.wait_until(lambda: client.snapshot().inbox.waiting == 0)
        assert client.snapshot().inbox.handled == 11

    virtually(test, nodes=1)


def test_L19_a_client_that_leaves_in_mid_push_breaks_nothing() -> None:
    async def test(loop: SimLoop, cluster: Cluster) -> None:
        stays = await cluster.client()
        heard = listen(stays)
        await stays.get(Room, "a").join()
        async with cluster.connect(name="leaves") as leaves:
            listen(leaves)
            await leaves.get(Room, "a").join()
            cluster.cut("leaves", "g1")
            for _ in range(5):
                await stays.get(Room, "a").say()
            await elapse(5)
            cluster.heal()
        for _ in range(5):
            await stays.get(Room, "a").say()
        await cluster.wait_until(lambda: len(heard) == 10)
        await elapse(10)
        gone = counted(cluster, "g1")
        assert gone["delivered"] == 10
        assert sum(gone.values()) == 20 and gone["unknown_client"] == 5, gone
        gate = cluster.member("g1").gate
        assert gate is not None
        assert gate.snapshot().clients.waiting == 0
        assert gate.snapshot().clients.bytes == 0

    virtually(test, nodes=1)


def test_a_client_whose_gate_dies_joins_again_by_its_hook() -> None:
    async def test(loop: SimLoop, cluster: Cluster) -> None:
        client = await cluster.client("g1,g2")
        heard = listen(client)
        room = client.get(Room, "a")
        ids = [await room.join()]

        async def join_again(client_id: str) -> None:
            ids.append(await room.join())
            assert ids[-1] == client_id

        client.on_reconnect(join_again)
        await room.say("one")
        await cluster.wait_until(lambda: len(heard) == 1)
        used, other = ("g1", "g2") if ids[0][:16] == gate_tag("g1") else ("g2", "g1")
        cluster.kill(used)
        watching = await cluster.client(other, name="watching")
        await watching.get(Room, "a").say("two, to a gate that is gone")
        await cluster.wait_until(lambda: len(ids) == 2)
        await elapse(10)
        await room.say("three")
        await cluster.wait_until(lambda: bool(heard[1:]) and heard[-1].text == "three")
        assert ids[0] != ids[1]
        counts = counted(cluster, "n1")
        assert counts["no_gate"] >= 1, "the push to the old id, once its gate's key is gone"
        lost = counts.get("unknown", 0) + counts.get("no_link", 0) + counts["no_gate"]
        assert lost >= 2 and counts["sent"] == len(heard)

    virtually(test, nodes=1, gates=2)


def test_pushes_go_on_through_the_next_owner_of_an_object() -> None:
    async def test(loop: SimLoop, cluster: Cluster) -> None:
        client = await cluster.client()
        heard = listen(client)
        owner = owner_of(cluster, "a")
        room = client.get(Room, "a")
        await room.tell(client.client_id, "before")
        await cluster.wait_until(lambda: len(heard) == 1)
        cluster.kill(owner)
        await room.tell(client.client_id, "after")
        await cluster.wait_until(lambda: len(heard) == 2)
        assert [note.text for note in heard] == ["before", "after"]

    virtually(test, nodes=2)


def test_L26_a_node_that_lost_its_lease_pushes_nothing_that_waited() -> None:
    """L02's relative: a paused owner resumes, and what its turns pushed must not leave it."""

    async def test(loop: SimLoop, cluster: Cluster) -> None:
        client = await cluster.client()
        heard = listen(client)
        room = client.get(Room, "a")
        await room.join()
        cluster.cut("n1", "g1")
        node = cluster.member("n1").node
        assert node is not None
        # Not through the gate, which is cut off: a call on the node itself.
        await node.local.invoke(room_call("a", "say"))
        assert node.snapshot().pushes.queues[0].messages == 1
        cluster.pause("n1")
        await elapse(4)
        cluster.heal()
        cluster.resume("n1")
        await cluster.wait_all_claimed()
        await cluster.wait_until(lambda: node.snapshot().pushes.at_rest)
        await elapse(10)
        assert heard == []
        counts = counted(cluster, "n1")
        assert counts == {"lease_lost": 1}, counts

    virtually(test, nodes=1)


def test_a_push_waits_for_the_link_of_its_gate_for_a_while() -> None:
    async def test(loop: SimLoop, cluster: Cluster) -> None:
        client = await cluster.client()
        heard = listen(client)
        await client.get(Room, "a").join()
        node = cluster.member("n1").node
        assert node is not None
        cluster.cut("n1", "g1")
        await elapse(4)  # the link is dead, the leases stand
        await node.local.invoke(room_call("a", "say"))
        await elapse(2)
        cluster.heal()
        await cluster.wait_until(lambda: heard == [Note(1)])
        cluster.cut("n1", "g1")
        await elapse(4)
        await node.local.invoke(room_call("a", "say"))
        await elapse(6)
        cluster.heal()
        await elapse(5)
        assert heard == [Note(1)]
        assert counted(cluster, "n1") == {"sent": 1, "no_link": 1}

    virtually(test, nodes=1)


def test_a_gate_that_joined_again_still_reaches_its_clients() -> None:
    async def test(loop: SimLoop, cluster: Cluster) -> None:
        client = await cluster.client()
        heard = listen(client)
        room = client.get(Room, "a")
        mine = await room.join()
        cluster.cut("g1", COORDINATOR)
        await elapse(6)
        cluster.heal()
        await cluster.wait_until(lambda: gate_losses(cluster) == 1)
        await elapse(3)
        assert client.client_id == mine, "its session was not touched"
        await room.say()
        await cluster.wait_until(lambda: heard == [Note(1)])

    virtually(test, nodes=1)


def test_pushes_of_a_nested_turn_leave_in_the_order_in_which_turns_succeed() -> None:
    async def test(loop: SimLoop, cluster: Cluster) -> None:
        client = await cluster.client()
        heard = listen(client)
        room = client.get(Room, "a")
        await room.join()
        await room.say_through("b")
        with pytest.raises(ApplicationError):
            await room.say_through("b", fail=True)
        await cluster.wait_until(lambda: len(heard) == 4)
        await elapse(1)
        texts = [note.text for note in heard]
        assert texts == ["inner", "before", "after", "inner"]

    virtually(test, nodes=1)


def test_a_node_stops_with_its_pushes_delivered() -> None:
    async def test(loop: SimLoop, cluster: Cluster) -> None:
        client = await cluster.client()
        heard = listen(client)
        room = client.get(Room, "a")
        await room.join()
        owner = owner_of(cluster, "a")
        bursts = [asyncio.ensure_future(room.burst(200)) for _ in range(5)]
        await asyncio.gather(*bursts)
        await cluster.stop(owner)
        await cluster.wait_until(lambda: len(heard) == 1_000)
        assert [note.number for note in heard] == list(range(200)) * 5

    virtually(test, nodes=2, latency_s=(0.001, 0.003))
