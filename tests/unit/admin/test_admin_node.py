"""A node's answers: pins, calls, and the objects of all nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from goverse.admin.api import Admin, ClusterStatus, Held, Lock, ObjectInfo, Warning
from goverse.call import Call, Codec, Reply, Verb
from goverse.cluster.state import ClusterState
from goverse.errors import (
    ApplicationError,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from goverse.objects.description import TypesDescription, describe_type
from goverse.sharding import Cordon
from goverse_node.admin.assembly import node_types
from goverse_node.admin.operations import NodeAdmin, Parts
from tests.support.cluster_state import cluster_state
from tests.support.every_kind import Chain


class View:
    def __init__(self, state: ClusterState) -> None:
        self.state = state
        self.current = True


class World:
    """Several nodes' admin services that reach each other without a network."""

    def __init__(self, objects: dict[str, Iterable[ObjectInfo]], **state: Any) -> None:
        self.view = View(cluster_state(nodes=tuple(objects), **state))
        self.ended: list[str] = []
        self.pins: list[tuple[int, str | None]] = []
        self.calls: list[Call] = []
        self.outcome: Reply | Exception = Reply(b"5", Codec.JSON)
        self.asked: list[str] = []
        self.silent: list[str] = []
        self.plan = ClusterStatus(
            held=(Held(reason="pinned", shards=1),),
            warnings=(Warning(code="shard_stuck", message="5", shards=(5,)),),
        )
        self.nodes = {
            name: NodeAdmin(
                name,
                self.view,
                Parts(
                    set_pin=self.set_pin,
                    objects=lambda found=found: found,
                    router=self,
                    peers=self.peer,
                    leading=lambda: self.plan,
                    set_cordon=self.set_cordon,
                    decommission=lambda name=name: self.ended.append(name),
                ),
            )
            for name, found in objects.items()
        }

    async def set_pin(self, shard: int, node: str | None) -> None:
        self.pins.append((shard, node))
        self.view.state.pins.pop(shard, None)
        if node:
            self.view.state.pins[shard] = node

    async def set_cordon(self, node: str, cordon: Cordon | None) -> None:
        self.view.state.cordons.pop(node, None)
        if cordon is not None:
            self.view.state.cordons[node] = cordon

    async def invoke(self, call: Call) -> Reply:
        self.calls.append(call)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    @asynccontextmanager
    async def peer(self, address: str) -> AsyncIterator[Admin]:
        name = address.partition(":")[0]
        self.asked.append(name)
        if name in self.silent:
            raise Unavailable("silent")
        yield self.nodes[name]


def objects(*ids: str, type: str = "Counter") -> list[ObjectInfo]:
    return [ObjectInfo(type=type, id=id) for id in ids]


async def all_pages(admin: Admin, **question: Any) -> tuple[list[str], int]:
    found, token, pages = [], "", 0
    while pages == 0 or token:
        page = await admin.list_objects(page_token=token, **question)
        found += [f"{o.node}:{o.type}/{o.id}" for o in page.objects]
        token, pages = page.next_page_token, pages + 1
        assert pages < 50
    return found, pages


@pytest.mark.parametrize("asked", ["n1", "n2"])
async def test_the_leader_tells_why_shards_do_not_move_whoever_is_asked(asked: str) -> None:
    world = World({"n1": [], "n2": []}, leader="n2")
    found = await world.nodes[asked].get_status()
    assert found.source == asked
    assert found.held == world.plan.held
    assert found.warnings[-1].code == "shard_stuck"
    assert [w.code for w in found.warnings].count("shards_without_owner") == 1
    assert world.asked == (["n2"] if asked == "n1" else [])


async def test_a_silent_leader_is_reported_and_the_rest_is_answered() -> None:
    world = World({"n1": [], "n2": []}, leader="n2")
    world.silent.append("n2")
    found = await world.nodes["n1"].get_status()
    assert found.num_shards == 8
    assert found.warnings[-1].code == "leader_silent"


async def test_who_is_asked_by_another_node_asks_nobody() -> None:
    world = World({"n1": [], "n2": []}, leader="n2")
    found = await world.nodes["n1"].get_status(local_only=True)
    assert (found.held, world.asked) == ((), [])


async def test_a_node_is_cordoned_and_drained_whoever_is_asked_and_uncordoned_again() -> None:
    world = World({"n1": [], "n2": []}, targets={0: "n2"}, claims={0: "n2"})
    n1 = world.nodes["n1"]
    assert (await n1.cordon_node("n2")).state == "cordoned"
    assert (await n1.cordon_node("n2", drain=True)).state == "draining"
    assert (await n1.uncordon_node("n2")).state == "active"
    assert world.view.state.cordons == {}


async def test_the_last_node_that_takes_shards_cannot_be_drained() -> None:
    world = World({"n1": [], "n2": []})
    n1 = world.nodes["n1"]
    await n1.cordon_node("n2")
    with pytest.raises(FailedPrecondition, match="no other node takes shards"):
        await n1.cordon_node("n1", drain=True)
    assert world.view.state.cordons == {"n2": Cordon.CORDONED}
    await n1.cordon_node("n1")  # which moves nothing


async def test_only_a_node_itself_can_end_and_only_once_it_is_drained_and_empty() -> None:
    world = World({"n1": [], "n2": []}, targets={0: "n2"}, claims={0: "n2"})
    n1, n2 = world.nodes["n1"], world.nodes["n2"]
    with pytest.raises(FailedPrecondition, match="only n2 itself can end: ask it at n2:48000"):
        await n1.decommission_node("n2")
    with pytest.raises(NotFound, match="n7"):
        await n1.decommission_node("n7")
    with pytest.raises(FailedPrecondition, match="n2 is active, not drained"):
        await n2.decommission_node("n2")
    await n1.cordon_node("n2", drain=True)
    with pytest.raises(FailedPrecondition, match="n2 has 1 shards, and 1 are meant for it"):
        await n2.decommission_node("n2")
    assert world.ended == []
    world.view.state.owners.clear()
    world.view.state.targets.clear()
    assert (await n2.decommission_node("n2")).state == "drained"
    assert world.ended == ["n2"]


async def test_a_pin_is_written_and_shown() -> None:
    world = World({"n1": [], "n2": []})
    shard = await world.nodes["n1"].pin_shard(3, node="n2")
    assert (shard.pinned, shard.pinned_node) == (True, "n2")
    shard = await world.nodes["n2"].unpin_shard(3)
    assert not shard.pinned
    assert world.pins == [(3, "n2"), (3, None)]


async def test_a_pin_that_makes_no_sense_is_not_written() -> None:
    world = World({"n1": []})
    with pytest.raises(NotFound):
        await world.nodes["n1"].pin_shard(8, node="n1")
    with pytest.raises(InvalidArgument):
        await world.nodes["n1"].pin_shard(1, node="")
    assert world.pins == []


async def test_a_call_goes_through_the_router_as_json() -> None:
    world = World({"n1": []})
    answer = await world.nodes["n1"].call_object("Counter", "a", "add", b'{"amount": 5}')
    (call,) = world.calls
    assert (call.type, call.id, call.method, call.codec) == ("Counter", "a", "add", Codec.JSON)
    assert json.loads(call.payload) == {"amount": 5}
    assert call.deadline > asyncio.get_running_loop().time()
    assert answer.result == b"5"


async def test_errors_of_a_call_come_back_as_they_are() -> None:
    world = World({"n1": []})
    world.outcome = ApplicationError("too_poor", "no money")
    with pytest.raises(ApplicationError, match="no money"):
        await world.nodes["n1"].call_object("Counter", "a", "add")


@pytest.mark.parametrize(
    ("type", "id", "args"), [("no type", "a", b""), ("Counter", "", b""), ("Counter", "a", b"[5]")]
)
async def test_a_call_that_names_no_object_is_refused(type: str, id: str, args: bytes) -> None:
    world = World({"n1": []})
    with pytest.raises(InvalidArgument):
        await world.nodes["n1"].call_object(type, id, "add", args)
    assert world.calls == []


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100])
async def test_objects_of_all_nodes_come_each_once_whatever_the_page(size: int) -> None:
    world = World({"n1": objects("b", "a"), "n2": [], "n3": objects("c", "d", "e")})
    found, pages = await all_pages(world.nodes["n2"], page_size=size)
    assert found == [
        "n1:Counter/a",
        "n1:Counter/b",
        "n3:Counter/c",
        "n3:Counter/d",
        "n3:Counter/e",
    ]
    assert pages <= 5 // size + 2


async def test_objects_are_found_by_node_type_and_prefix() -> None:
    world = World({"n1": objects("a", "b") + objects("a", type="Room"), "n2": objects("ab")})
    admin = world.nodes["n1"]
    assert (await all_pages(admin, node="n2"))[0] == ["n2:Counter/ab"]
    assert (await all_pages(admin, type="Room"))[0] == ["n1:Room/a"]
    assert (await all_pages(admin, id_prefix="a", type="Counter"))[0] == [
        "n1:Counter/a",
        "n2:Counter/ab",
    ]
    with pytest.raises(NotFound):
        await admin.list_objects(node="n9")


async def test_a_node_that_does_not_answer_is_named_and_the_rest_is_shown() -> None:
    world = World({"n1": objects("a"), "n2": objects("b"), "n3": objects("c")})
    world.silent.append("n2")
    page = await world.nodes["n1"].list_objects()
    assert [o.id for o in page.objects] == ["a", "c"]
    assert page.unreachable == ("n2",)


async def test_a_node_asked_for_its_own_asks_nobody() -> None:
    world = World({"n1": objects("a"), "n2": objects("b")})
    page = await world.nodes["n1"].list_objects(local_only=True)
    assert [o.id for o in page.objects] == ["a"]
    assert world.asked == []


@pytest.mark.parametrize("token", ["x", "AAAA", "WyJhIl0=", "Ww=="])
async def test_a_token_from_elsewhere_is_refused(token: str) -> None:
    world = World({"n1": []})
    with pytest.raises(InvalidArgument, match="page_token"):
        await world.nodes["n1"].list_objects(page_token=token)


async def test_creating_and_deleting_go_through_the_router_and_tell_the_place() -> None:
    world = World({"n1": (), "n2": ()}, targets={0: "n2"}, claims={0: "n2"}, num_shards=1)
    admin = world.nodes["n1"]
    created = await admin.create_object("Counter", "a", timeout_s=3)
    deleted = await admin.delete_object("Counter", "a")
    assert (created.owner, created.owner_address) == ("n2", "n2:48000")
    assert deleted == created
    first, second = world.calls
    now = asyncio.get_running_loop().time()
    assert (first.verb, first.method, first.payload) == (Verb.CREATE, "", b"")
    assert 1 < first.deadline - now < 3.5
    assert second.verb is Verb.DELETE
    assert 20 < second.deadline - now < 31
    world.outcome = Conflict("active")
    with pytest.raises(Conflict):
        await admin.create_object("Counter", "a")
    with pytest.raises(InvalidArgument):
        await admin.create_object("no type", "a")
    with pytest.raises(InvalidArgument):
        await admin.delete_object("Counter", "")
    assert len(world.calls) == 3


async def test_the_types_of_a_node_are_told_field_by_field() -> None:
    told = node_types(TypesDescription("d", {"Chain": describe_type(Chain.__goverse__.complete())}))
    assert told.digest == "d"
    (info,) = told.types
    assert (info.name, info.doc) == ("Chain", "Objects that call each other.")
    assert [field.name for field in info.fields] == ["total"]
    add, pass_on = info.methods
    assert (add.name, add.rollback, add.read_only, add.timeout_s) == ("add", True, False, 0.0)
    assert json.loads(add.arguments)["properties"]["amount"]["maximum"] == 1_000
    assert json.loads(pass_on.result)["type"] == "integer"


async def test_L37_locks_of_all_nodes_are_in_one_list_the_most_urgent_first() -> None:
    world = World({"n1": (), "n2": (), "n3": ()})
    held = {
        "n1": [Lock(shard=1, node="n1", age_s=50.0, object="T/a", holders=1)],
        "n2": [
            Lock(shard=2, node="n2", purpose="hand_over", wanted_s=3.0),
            Lock(shard=3, node="n2", age_s=70.0, object="T/b", holders=1),
        ],
        "n3": [Lock(shard=4, node="n3", purpose="close", wanted_s=9.0)],
    }
    for name, node in world.nodes.items():
        node._parts = replace(node._parts, locks=lambda most, name=name: held[name][:most])
    found = await world.nodes["n1"].list_locks()
    assert [lock.shard for lock in found.locks] == [4, 2, 3, 1] and found.unreachable == ()
    assert [lock.shard for lock in (await world.nodes["n1"].list_locks(limit=1)).locks] == [4]
    assert [lock.shard for lock in (await world.nodes["n1"].list_locks(node="n2")).locks] == [2, 3]
    world.asked.clear()
    assert len((await world.nodes["n2"].list_locks(local_only=True)).locks) == 2
    assert (await world.nodes["n1"].list_locks(node="n1")).locks == tuple(held["n1"])
    assert world.asked == []
    world.silent.append("n3")
    found = await world.nodes["n1"].list_locks()
    assert [lock.shard for lock in found.locks] == [2, 3, 1] and found.unreachable == ("n3",)
    with pytest.raises(NotFound, match="node list"):
        await world.nodes["n1"].list_locks(node="n9")
    with pytest.raises(InvalidArgument):
        await world.nodes["n1"].list_locks(limit=-1)
