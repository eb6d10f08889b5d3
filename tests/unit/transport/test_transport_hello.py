"""Greetings: who is let in, who is turned away and told why, who is given up."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from goverse.call import Codec, Reply
from goverse.errors import (
    FailedPrecondition,
    GoverseError,
    LinkBroken,
    Overloaded,
    PermissionDenied,
)
from goverse.ids import MemberId
from goverse.transport.carrier import Carrier
from goverse.transport.hello import Hello, Role, our_hello
from goverse.transport.link import Link, open_link
from goverse.transport.loopback import LoopbackHub
from goverse.transport.wire import (
    CallFrame,
    HelloFrame,
    PingFrame,
    ReplyFrame,
    encode,
)
from tests.support.accepting import accept_links
from tests.support.eventually import eventually
from tests.support.links import SERVER, Target, call, call_frame, config, hello, raw_pair
from tests.support.virtual import virtual


async def dial(hub: LoopbackHub, mine: Hello, serve: Any = None, **options: Any) -> Link:
    carrier = await hub.network("near").connect(SERVER, timeout_s=5)
    serve = serve or (lambda theirs, link: Target())
    return await open_link(carrier, mine, serve, config("near"), **options)


async def serving(hub: LoopbackHub, serve: Any = None, **options: Any) -> None:
    accept = accept_links(
        hello(Role.GATE, "gate"),
        serve or (lambda theirs, link: Target()),
        config("gate"),
        **options,
    )
    await hub.network("gate").listen(SERVER, accept)


@virtual
async def test_both_sides_know_each_other() -> None:
    hub = LoopbackHub()
    seen: list[Hello] = []

    def serve(theirs: Hello, link: Link) -> Target:
        seen.append(theirs)
        assert link.peer == theirs
        return Target()

    await serving(hub, serve)
    mine = our_hello(Role.NODE, MemberId("n1", "abc"), types_digest="d1")
    link = await dial(hub, mine)
    await eventually(lambda: seen == [mine])
    assert (link.peer.role, link.peer.member) == (Role.GATE, MemberId("gate", "1"))
    assert link.peer_address == SERVER
    link.abort("done")


@virtual
async def test_an_acceptor_can_answer_by_what_it_is_told() -> None:
    hub = LoopbackHub()

    def greet(theirs: Hello) -> Hello:
        assert theirs.role is Role.CLIENT
        return our_hello(Role.GATE, MemberId("gate", "1"), client_id="c-17")

    await serving(hub, on_hello=greet)
    link = await dial(hub, hello(Role.CLIENT, "", "random"))
    assert link.peer.client_id == "c-17"
    await link.invoke(call())
    link.abort("done")


def refuse(error: GoverseError) -> Any:
    def raising(*_: Any) -> Any:
        raise error

    return raising


@pytest.mark.parametrize("where", ["on_hello", "serve"])
def test_whoever_is_refused_is_told_why(where: str) -> None:
    @virtual
    async def body() -> None:
        hub = LoopbackHub()
        await serving(hub, **{where: refuse(PermissionDenied("clients only"))})
        if where == "on_hello":
            with pytest.raises(PermissionDenied, match="clients only"):
                await dial(hub, hello(Role.NODE, "n1"))
        else:  # the hello had gone already: the refusal ends an open link
            link = await dial(hub, hello(Role.NODE, "n1"))
            assert "refused the link: clients only" in await link.wait_closed()
        await eventually(lambda: hub.connections() == 0)

    body()


@virtual
async def test_a_dialler_can_refuse_as_well() -> None:
    hub = LoopbackHub()
    links: list[Link] = []
    await serving(hub, on_link=links.append)
    with pytest.raises(FailedPrecondition):
        await dial(hub, hello(Role.NODE, "n1"), refuse(FailedPrecondition("you are a gate")))
    assert "you are a gate" in await links[0].wait_closed()
    await eventually(lambda: hub.connections() == 0)


@virtual
async def test_a_server_that_fails_ends_the_link() -> None:
    hub = LoopbackHub()
    await serving(hub)

    def broken(theirs: Hello, link: Link) -> Target:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await dial(hub, hello(Role.NODE, "n1"), broken)
    await eventually(lambda: hub.connections() == 0)


@virtual
async def test_an_old_protocol_is_turned_away_and_a_newer_one_is_not() -> None:
    hub = LoopbackHub()
    await serving(hub)
    old = msgspec.structs.replace(hello(Role.NODE, "n1"), protocol=0)
    refused = await dial(hub, old)
    assert "speaks protocol 0" in await refused.wait_closed()
    link, peer, _ = await raw_pair(protocol=99, features=("levitation",))
    await peer.send(call_frame(1))
    assert isinstance(await peer.next_of(ReplyFrame), ReplyFrame)
    link.abort("done")


async def listen_raw(hub: LoopbackHub, *messages: bytes) -> list[Carrier]:
    """A server that says ``messages`` and nothing else."""
    carriers: list[Carrier] = []

    async def accept(carrier: Carrier) -> None:
        carriers.append(carrier)
        for message in messages:
            await carrier.send(message)
        await asyncio.Event().wait()

    await hub.network("raw").listen(SERVER, accept)
    return carriers


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\xff", "array"),
        (b"", "truncated"),
        (encode([]), "one hello"),
        (encode([PingFrame()]), "one hello"),
        (encode([HelloFrame(1, (), "node", "n", "1"), PingFrame()]), "one hello"),
        (encode([HelloFrame(1, (), "pope", "n", "1")]), "pope"),
        (encode([HelloFrame(1, (), "node", "../n", "1")]), "member id"),
        (encode([HelloFrame(1, (), "node", "", "1")]), "member id"),
        (encode([HelloFrame(1, (), "node", "n", "1" * 1_000)]), "longer than"),
        (encode([HelloFrame(1, ("x" * 100_000,), "node", "n", "1")]), "limit"),
    ],
)
def test_nonsense_is_not_a_hello(message: bytes, reason: str) -> None:
    @virtual
    async def body() -> None:
        hub = LoopbackHub()
        await listen_raw(hub, message)
        with pytest.raises(LinkBroken, match=reason) as caught:
            await dial(hub, hello(Role.NODE, "n1"))
        assert caught.value.sent is False

    body()


@virtual
async def test_no_hello_in_time() -> None:
    hub = LoopbackHub()
    await listen_raw(hub)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(LinkBroken, match="no hello within 3 s") as caught:
        await dial(hub, hello(Role.NODE, "n1"))
    assert caught.value.sent is False
    assert loop.time() - began == pytest.approx(3, abs=0.1)


@virtual
async def test_an_acceptor_does_not_wait_for_ever_either() -> None:
    hub = LoopbackHub()
    await serving(hub, on_hello=lambda theirs: theirs)
    await hub.network("near").connect(SERVER, timeout_s=5)
    assert hub.connections() == 2
    await eventually(lambda: hub.connections() == 1)


@virtual
async def test_who_is_turned_away_and_does_not_go_is_left() -> None:
    hub = LoopbackHub()
    await serving(hub, on_hello=refuse(Overloaded("full")))
    carrier = await hub.network("near").connect(SERVER, timeout_s=5)
    await carrier.send(encode([HelloFrame(1, (), "client", "", "1")]))
    await eventually(lambda: hub.connections() == 1)


@virtual
async def test_giving_up_a_greeting_ends_the_stream() -> None:
    hub = LoopbackHub()
    await listen_raw(hub)
    task = asyncio.create_task(dial(hub, hello(Role.NODE, "n1")))
    await eventually(lambda: hub.connections() == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert hub.connections() == 1


@virtual
async def test_unknown_frames_are_skipped_only_if_both_agreed() -> None:
    strange = msgspec.msgpack.encode([[99, "new"]])
    link, peer, _ = await raw_pair(features=("skip-unknown-frames",))
    await peer.send_bytes(strange)
    task = asyncio.create_task(link.invoke(call()))
    sent = await peer.next_of(CallFrame)
    await peer.send(ReplyFrame(sent.number, b"ok", Codec.JSON))
    assert await task == Reply(b"ok", Codec.JSON)
    link.abort("done")
    link, peer, _ = await raw_pair()
    await peer.send_bytes(strange)
    assert "bad message: Invalid value 99" in await link.wait_closed()
