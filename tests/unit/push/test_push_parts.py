"""Messages, buffers, the registry of clients and the client's inbox, each alone."""

from __future__ import annotations

import asyncio
import datetime
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from google.protobuf import any_pb2, struct_pb2
from hypothesis import given
from hypothesis import strategies as st

import goverse
from goverse.call import Call, Codec, Reply
from goverse.client.inbox import Inbox
from goverse.config.settings import LimitSettings
from goverse.errors import InvalidArgument, Overloaded, PermissionDenied, Unavailable
from goverse.ids import gate_tag, new_client_id, tag_of_client
from goverse.objects.messages import decoder_of, message_name
from goverse.observability.metrics import Metrics
from goverse.transport.pushes import (
    Deliveries,
    Delivery,
    Outcome,
    Push,
    deliveries_of,
    delivery_call,
    push_call,
    pushes_of,
    tally_of,
)
from goverse_gate.attachment import Transport
from goverse_gate.buffer import KEPT_MESSAGES, Buffer, Message, Pool
from goverse_gate.clients import Clients
from goverse_gate.ingress import Ingress
from goverse_gate.pushes import PushTarget
from tests.support.eventually import eventually
from tests.support.room import Note, outcomes

# -- messages


def test_a_message_class_is_a_frozen_struct_with_a_name() -> None:
    assert message_name(Note) == "Note"
    assert Note(1, text="x") == Note(number=1, text="x")
    with pytest.raises(AttributeError):
        Note(1).number = 2  # type: ignore[misc]

    @goverse.message(name="chat.Said")
    class Said(msgspec.Struct):
        at: datetime.datetime

    assert message_name(Said) == "chat.Said"


def test_what_is_no_message_is_refused_by_name() -> None:
    class Plain:
        x: int

    @goverse.message
    class Base(msgspec.Struct):
        x: int

    class Derived(Base):
        pass

    for kind in (Plain, int, Derived, dict):
        with pytest.raises(TypeError, match=f"{kind.__qualname__} is no message"):
            message_name(kind)
    with pytest.raises(TypeError, match="base class"):
        goverse.message(type("Other", (Plain,), {}))
    with pytest.raises(TypeError, match="for classes"):
        goverse.message(5)  # type: ignore[call-overload]


def test_a_message_survives_the_way_to_its_handler() -> None:
    @goverse.message
    class Rich:
        when: datetime.datetime
        data: bytes
        tags: dict[str, list[int]]

    rich = Rich(datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC), b"\0\xff", {"a": [1, 2]})
    assert decoder_of(Rich)(Codec.JSON, msgspec.json.encode(rich)) == rich
    with pytest.raises(ValueError, match="data: expected"):
        decoder_of(Rich)(Codec.JSON, b'{"when": "2024-05-01T00:00:00Z", "data": 5, "tags": {}}')


def test_outside_of_an_object_nothing_can_be_pushed() -> None:
    with pytest.raises(RuntimeError, match="inside an object's method only"):
        goverse.push("x", Note(1))
    with pytest.raises(RuntimeError, match=r"goverse.broadcast\(\)"):
        goverse.broadcast(Note(1))


def test_a_client_id_leads_to_its_gate_and_names_no_host() -> None:
    source = random.Random(1)
    ids = [new_client_id("gate-7.internal:49000", source) for _ in range(100)]
    assert len(set(ids)) == 100
    assert {tag_of_client(id) for id in ids} == {gate_tag("gate-7.internal:49000")}
    assert all(len(id) == 48 and "internal" not in id for id in ids)
    assert len({gate_tag(f"gate-{n}") for n in range(1_000)}) == 1_000


@given(st.binary(max_size=60))
def test_no_bytes_break_whoever_takes_pushes(payload: bytes) -> None:
    call = Call("", "", "push", payload, 1.0)
    for read in (pushes_of, deliveries_of):
        try:
            read(call)
        except InvalidArgument:
            pass
    try:
        tally_of(Reply(payload))
    except InvalidArgument:
        pass


@pytest.mark.parametrize(
    ("json", "kind"),
    [
        (b'{"a": [1, {"b": null}]}', "Struct"),
        (b"[1, 2]", "StringValue"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "StringValue"),
        (b'{"a": "\xff"}', "StringValue"),
    ],
)
def test_every_message_has_a_form_for_existing_clients(json: bytes, kind: str) -> None:
    message = Message("Odd", json)
    packed = any_pb2.Any.FromString(message.as_any())
    assert packed.type_url == f"type.googleapis.com/google.protobuf.{kind}"
    assert message.as_any() is message.as_any()


# -- buffers


def buffer(*, keeps: bool = True, pool: int = 10_000, **limits: int) -> Buffer:
    chosen = {"max_push_messages": 5, "max_push_queue_bytes": 1_000, **limits}
    return Buffer(LimitSettings(**chosen), Pool(pool), keeps)  # type: ignore[arg-type]


def text(size: int = 10) -> Message:
    return Message("Note", b"x" * size)


def numbers(buffer: Buffer) -> list[int]:
    return [item.number for item in buffer.waiting]


def test_L26_a_buffer_drops_what_does_not_fit_and_says_how_much() -> None:
    full = buffer()
    assert [full.put(text()) for _ in range(7)] == [True] * 5 + [False] * 2
    batch = full.take(1_000)
    assert ([item.number for item in batch.items], batch.lost) == ([1, 2, 3, 4, 5], 2)
    assert not full.take(1_000)
    assert not buffer(max_push_queue_bytes=25).put(text(26))
    small = buffer(pool=15)
    assert small.put(text()) and not small.put(text())


def test_what_was_sent_gives_way_to_what_was_not() -> None:
    keeping = buffer(max_push_queue_bytes=50)
    for _ in range(5):
        keeping.put(text())
    keeping.done(keeping.take(1_000).items)
    assert (len(keeping.kept), keeping.bytes) == (5, 50)
    assert keeping.put(text())
    assert (len(keeping.kept), keeping.bytes) == (0, 10)


def test_who_comes_back_gets_what_came_after_what_it_saw() -> None:
    keeping = buffer()
    for _ in range(4):
        keeping.put(text())
    keeping.done(keeping.take(35).items)
    assert numbers(keeping) == [4]
    keeping.rewind(1)
    assert numbers(keeping) == [2, 3, 4]
    assert not keeping.kept


def test_what_is_kept_has_a_limit() -> None:
    keeping = buffer(max_push_queue_bytes=10**6, pool=10**6)
    for _ in range(3 * KEPT_MESSAGES):
        assert keeping.put(text())
        keeping.done(keeping.take(1_000).items)
    assert len(keeping.kept) == KEPT_MESSAGES
    assert keeping.bytes == keeping.pool.bytes == 10 * KEPT_MESSAGES


@given(st.lists(st.sampled_from("PTDBRC"), max_size=60), st.booleans())
def test_a_buffer_returns_every_byte(steps: list[str], keeps: bool) -> None:
    pool = Pool(500)
    one = Buffer(LimitSettings(max_push_messages=6, max_push_queue_bytes=100), pool, keeps)
    taken: list[Any] = []
    for step in steps:
        if step == "P":
            one.put(text())
        elif step == "T":
            taken.append(one.take(25))
        elif step == "D" and taken:
            one.done(taken.pop(0).items)
        elif step == "B" and taken:
            one.put_back(taken.pop())
        elif step == "R":
            one.rewind(2)
        elif step == "C":
            one.clear()
    for batch in taken:
        one.drop(batch.items)
    one.clear()
    assert (one.bytes, pool.bytes) == (0, 0)


def test_a_message_in_many_buffers_counts_once() -> None:
    pool = Pool(100)
    buffers = [Buffer(LimitSettings(), pool, keeps=False) for _ in range(10)]
    shared = text(60)
    assert all(each.put(shared) for each in buffers)
    assert pool.bytes == 60
    assert not buffers[0].put(text(60))
    for each in buffers:
        each.clear()
    assert pool.bytes == 0


# -- the registry


class Registry:
    def __init__(self, **limits: int) -> None:
        self.metrics = Metrics()
        chosen = LimitSettings(**limits)  # type: ignore[arg-type]
        self.ingress = Ingress(Nobody(), chosen, self.metrics)
        self.clients = Clients(
            self.ingress, "g1", chosen, random.Random(1), self.metrics, resume_grace_s=0.05
        )
        self.target = PushTarget(self.clients)

    async def push(self, *pushes: Push) -> dict[str, int]:
        deadline = asyncio.get_running_loop().time() + 5
        return tally_of(await self.target.invoke(push_call(pushes, deadline)))


class Nobody:
    async def invoke(self, call: Call) -> Reply:
        raise AssertionError("no call is expected")


def nothing() -> None:
    pass


async def test_a_gate_says_of_every_client_what_became_of_a_push() -> None:
    here = Registry(max_push_messages=1, max_push_bytes=100)
    one = here.clients.connect(Transport.GRPC, nothing)
    two = here.clients.connect(Transport.GRPC, nothing)
    ids = (one.client_id, two.client_id, "0" * 48)
    assert await here.push(Push("Note", b"{}", b"", ids)) == {"waiting": 2, "unknown_client": 1}
    one.confirm(one.take(1_000).items)
    tally = await here.push(Push("Note", b"{}"), Push("Note", b"x" * 101, b"", ids[:1]))
    assert tally == {"waiting": 1, "buffer_full": 1, "too_large": 1}
    one.detach()
    two.detach()
    assert outcomes(here.metrics) == {
        "unknown_client": 1,
        "delivered": 1,
        "buffer_full": 1,
        "too_large": 1,
        "disconnected": 2,
    }
    assert here.ingress.snapshot().doors == 0
    assert here.clients.snapshot().bytes == 0


async def test_L19_a_push_for_a_client_that_just_left_is_counted_and_no_more() -> None:
    here = Registry()
    one = here.clients.connect(Transport.SESSION, nothing)
    await here.push(Push("Note", b"{}"))
    batch = one.take(1_000)
    one.detach()
    one.put_back(batch)
    one.detach()
    assert await here.push(Push("Note", b"{}", b"", (one.client_id,))) == {"unknown_client": 1}
    assert outcomes(here.metrics) == {"disconnected": 1, "unknown_client": 1}
    assert here.clients.snapshot().bytes == 0


async def test_the_registry_is_full_and_makes_room_only_of_who_is_away() -> None:
    here = Registry(max_sessions=2)
    first = here.clients.connect(Transport.EVENTS, nothing, resumable=True)
    here.clients.connect(Transport.EVENTS, nothing, resumable=True)
    with pytest.raises(Overloaded, match="2 clients"):
        here.clients.connect(Transport.SESSION, nothing)
    first.detach()
    here.clients.connect(Transport.SESSION, nothing)
    assert here.clients.resume(first.client.token, 0, Transport.EVENTS, nothing) is None
    here.clients.close("stopping")
    with pytest.raises(Unavailable, match="stopping"):
        here.clients.connect(Transport.SESSION, nothing)


async def test_L30_only_a_token_that_stands_makes_a_caller() -> None:
    here = Registry()
    one = here.clients.connect(Transport.EVENTS, nothing, resumable=True)
    session = here.clients.connect(Transport.SESSION, nothing)
    assert here.clients.caller(one.client.token, "") is one.client.door
    for token, client_id in (
        ("", one.client_id),
        ("", ""),
        (one.client_id, ""),
        (one.client.token, session.client_id),
        (session.client.token, session.client_id),
    ):
        with pytest.raises(PermissionDenied):
            here.clients.caller(token, client_id)
    one.detach()
    await eventually(lambda: one.client_id not in here.clients)
    with pytest.raises(PermissionDenied):
        here.clients.caller(one.client.token, one.client_id)


async def test_L30_an_id_is_honoured_on_its_own_connection_only() -> None:
    here = Registry()
    one = here.clients.connect(Transport.GRPC, nothing)
    one.client.peer = "127.0.0.1:1001"
    other = here.clients.connect(Transport.SESSION, nothing)
    assert here.clients.of_connection(one.client_id, "127.0.0.1:1001") is one.client.door
    refusals = set()
    for client_id, peer in (
        (one.client_id, "127.0.0.1:1002"),
        ("c77", "127.0.0.1:1001"),
        ("", "127.0.0.1:1001"),
        (other.client_id, ""),
    ):
        with pytest.raises(PermissionDenied) as caught:
            here.clients.of_connection(client_id, peer)
        refusals.add(caught.value.message)
    assert len(refusals) == 1, "an id of another is told from one that does not exist"
    one.detach()
    with pytest.raises(PermissionDenied):
        here.clients.of_connection(one.client_id, "127.0.0.1:1001")


async def test_a_broadcast_to_many_lets_others_have_their_turn() -> None:
    here = Registry()
    for _ in range(2_000):
        here.clients.connect(Transport.GRPC, nothing)
    reached: list[int] = []

    async def others() -> None:
        reached.append(here.clients.snapshot().waiting)

    other = asyncio.create_task(others())
    assert await here.push(Push("Note", b"{}")) == {"waiting": 2_000}
    await other
    assert 0 < reached[0] < 2_000


# -- the inbox


async def deliver(inbox: Inbox, *deliveries: Delivery, lost: int = 0) -> dict[str, int]:
    deadline = asyncio.get_running_loop().time() + 5
    return tally_of(await inbox.invoke(delivery_call(Deliveries(deliveries, lost), deadline)))


def note(number: int) -> Delivery:
    return Delivery("Note", Codec.JSON, b'{"number": %d}' % number)


async def test_handlers_get_one_message_after_the_other_in_order() -> None:
    inbox = Inbox(LimitSettings())
    seen: list[str] = []
    moment = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, moment.set)

    async def slow(note: Note) -> None:
        await moment.wait()
        seen.append(f"slow {note.number}")

    inbox.on(Note, slow)
    inbox.on(Note, lambda note: seen.append(f"fast {note.number}"))
    assert await deliver(inbox, note(1), note(2), lost=4) == {"delivered": 2}
    await eventually(lambda: inbox.snapshot().handled == 2)
    assert seen == ["slow 1", "fast 1", "slow 2", "fast 2"]
    assert inbox.snapshot().lost_before == 4
    await inbox.close()


async def test_L26_what_an_inbox_cannot_hold_is_dropped_and_seen() -> None:
    inbox = Inbox(LimitSettings(max_push_messages=2))
    free = asyncio.Event()

    async def wait(note: Note) -> None:
        await free.wait()

    inbox.on(Note, wait)
    told = await deliver(inbox, *map(note, range(5)), Delivery("Other", Codec.JSON, b"{}"))
    assert told == {"delivered": 2, "buffer_full": 3, "no_handler": 1}
    snapshot = inbox.snapshot()
    assert (snapshot.waiting, snapshot.dropped, snapshot.unhandled) == (2, 3, 1)
    free.set()
    await eventually(lambda: inbox.snapshot().handled == 2)
    await inbox.close()


@pytest.mark.parametrize("bad", [b"{", b'{"number": "x"}', b"\xff", b"[" * 5_000])
async def test_bad_messages_and_bad_handlers_stop_nobody(bad: bytes) -> None:
    inbox = Inbox(LimitSettings())
    seen: list[int] = []

    def fail(note: Note) -> None:
        raise KeyError(note.number)

    inbox.on(Note, fail)
    inbox.on(Note, lambda note: seen.append(note.number))
    await deliver(inbox, Delivery("Note", Codec.JSON, bad), note(2))
    await eventually(lambda: seen == [2])
    snapshot = inbox.snapshot()
    assert (snapshot.undecodable, snapshot.failed, snapshot.handled) == (1, 1, 0)
    await inbox.close()


async def test_protobuf_messages_come_as_their_class() -> None:
    inbox = Inbox(LimitSettings())
    seen: list[Any] = []
    inbox.on(struct_pb2.Value, seen.append)
    sent = struct_pb2.Value(string_value="hello")
    from goverse.objects.foreign import pack_any

    await deliver(
        inbox,
        Delivery("google.protobuf.Value", Codec.ANY, pack_any(sent)),
        Delivery("google.protobuf.Value", Codec.ANY, pack_any(struct_pb2.Struct())),
        Delivery("google.protobuf.Value", Codec.ANY, b"\xff\xff"),
    )
    await eventually(lambda: inbox.snapshot().undecodable == 2)
    assert seen == [sent]
    await inbox.close()


def test_one_name_is_one_class() -> None:
    def other() -> type:
        @goverse.message(name="Note")
        class Other:
            x: int

        return Other

    async def main(on: Callable[..., None]) -> None:
        on(Note, print)
        with pytest.raises(TypeError, match="handled as"):
            on(other(), print)
        with pytest.raises(TypeError, match="no message"):
            on(int, print)
        with pytest.raises(TypeError, match="called"):
            on(Note, None)

    asyncio.run(main(Inbox(LimitSettings()).on))


def test_every_outcome_is_in_the_help_of_its_metric() -> None:
    help = Metrics().pushes.help
    assert [outcome.value for outcome in Outcome if outcome.value not in help] == []
