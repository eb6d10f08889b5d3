"""The loopback network behaves like a network: order, back-pressure, cuts, ends, contexts."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from goverse.testing.loop import current_process, run_virtual
from goverse.transport.carrier import Carrier, CarrierClosed
from goverse.transport.loopback import LoopbackHub
from goverse.transport.loopback_carrier import MAX_UNREAD_BYTES
from tests.support.eventually import eventually
from tests.support.virtual import virtual


async def connected(hub: LoopbackHub, address: str = "b:0") -> tuple[Carrier, Carrier, Any]:
    arrived: asyncio.Future[Carrier] = asyncio.get_running_loop().create_future()

    async def accept(carrier: Carrier) -> None:
        arrived.set_result(carrier)
        await asyncio.Event().wait()

    listener = await hub.network("b").listen(address, accept)
    mine = await hub.network("a").connect(listener.address, timeout_s=5)
    return mine, await arrived, listener


@virtual
async def test_messages_keep_their_order_whatever_the_delays() -> None:
    hub = LoopbackHub()
    near, far, _ = await connected(hub)
    delays = [3.0, 0.0, 1.0, 0.5, 0.0, 2.0]
    waiting = iter([delay for delay in delays for _ in range(2)])
    hub.set_policy(lambda source, target: next(waiting, 0.0))
    for n in range(len(delays)):
        await near.send(b"%d" % n)
    assert [await far.receive() for _ in delays] == [b"%d" % n for n in range(len(delays))]
    await far.send(b"back")
    assert await near.receive() == b"back"
    assert (near.peer, far.peer) == ("b:40001", "loopback:a")


@virtual
async def test_what_was_sent_before_the_end_is_received() -> None:
    hub = LoopbackHub()
    near, far, _ = await connected(hub)
    hub.set_policy(lambda source, target: 0.3)
    await near.send(b"1")
    await near.send(b"2")
    near.abort("bye")
    assert [await far.receive(), await far.receive()] == [b"1", b"2"]
    for operation in (far.receive(), far.send(b"x")):
        with pytest.raises(CarrierClosed, match="bye"):
            await operation
    with pytest.raises(CarrierClosed, match="bye"):
        await near.receive()
    far.abort("too")
    assert hub.connections() == 0


@virtual
async def test_pending_operations_end_with_the_carrier() -> None:
    hub = LoopbackHub()
    near, far, _ = await connected(hub)
    big = bytes(MAX_UNREAD_BYTES)
    await near.send(big)
    sending = asyncio.create_task(near.send(b"x"))
    receiving = asyncio.create_task(near.receive())
    await asyncio.wait([sending, receiving], timeout=1)
    assert not sending.done()
    near.abort("enough")
    for task in (sending, receiving):
        with pytest.raises(CarrierClosed, match="enough"):
            await task
    far.abort("too")


@virtual
async def test_sending_waits_for_a_slow_reader() -> None:
    hub = LoopbackHub()
    near, far, _ = await connected(hub)
    sent = 0

    async def fill() -> None:
        nonlocal sent
        while True:
            await near.send(bytes(1 << 20))
            sent += 1

    filling = asyncio.create_task(fill())
    await asyncio.wait([filling], timeout=5)
    assert sent == MAX_UNREAD_BYTES >> 20
    await far.receive()
    await eventually(lambda: sent == 5)
    far.abort("gone")
    with pytest.raises(CarrierClosed):
        await filling


@virtual
async def test_a_cut_holds_everything_back_and_tells_nobody() -> None:
    hub = LoopbackHub()
    near, far, _ = await connected(hub)
    hub.set_policy(lambda source, target: 1.0)
    await near.send(b"under way")
    hub.set_policy(lambda source, target: None)
    await near.send(b"after")
    near.abort("unheard")
    receiving = asyncio.create_task(far.receive())
    await asyncio.wait([receiving], timeout=60)
    assert not receiving.done()
    hub.set_policy(None)
    assert await receiving == b"under way"
    assert await far.receive() == b"after"
    with pytest.raises(CarrierClosed, match="unheard"):
        await far.receive()


@virtual
async def test_a_cut_connection_that_both_sides_gave_up_leaves_no_timer() -> None:
    hub = LoopbackHub()
    near, far, _ = await connected(hub)
    hub.set_policy(lambda source, target: None)
    await near.send(b"x")
    await far.send(b"y")
    near.abort("a")
    far.abort("b")
    loop: Any = asyncio.get_running_loop()
    assert [handle for handle in loop._scheduled if not handle.cancelled()] == []
    assert hub.connections() == 0


@virtual
async def test_connecting_across_a_cut_takes_its_time_and_fails() -> None:
    hub = LoopbackHub()
    _, _, listener = await connected(hub)
    hub.set_policy(lambda source, target: None)
    loop: Any = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(CarrierClosed, match="no answer"):
        await hub.network("a").connect(listener.address, timeout_s=2)
    assert loop.time() - began == pytest.approx(2, abs=0.01)
    assert hub.connections() == 2
    assert [handle for handle in loop._scheduled if not handle.cancelled()] == []
    task = asyncio.create_task(hub.network("a").connect(listener.address, timeout_s=2))
    await asyncio.wait([task], timeout=0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert hub.connections() == 2


@virtual
async def test_listeners() -> None:
    hub = LoopbackHub()
    near, far, listener = await connected(hub, "b:77")
    assert listener.address == "b:77"
    with pytest.raises(OSError, match="in use"):
        await hub.network("c").listen("b:77", lambda carrier: asyncio.Event().wait())  # type: ignore[arg-type, return-value]
    await listener.close()
    with pytest.raises(CarrierClosed, match="the server has stopped"):
        await near.receive()
    with pytest.raises(CarrierClosed):
        await far.receive()
    with pytest.raises(CarrierClosed, match="refused"):
        await hub.network("a").connect("b:77", timeout_s=1)


@virtual
async def test_closing_a_network_closes_all_of_it() -> None:
    hub = LoopbackHub()
    near, far, _ = await connected(hub)
    network = hub.network("a")
    await network.close()
    with pytest.raises(CarrierClosed, match="network is closed"):
        await near.receive()
    with pytest.raises(CarrierClosed):
        await far.receive()


@virtual
async def test_a_server_that_is_done_ends_the_connection() -> None:
    hub = LoopbackHub()

    async def accept(carrier: Carrier) -> None:
        await carrier.send(await carrier.receive())

    listener = await hub.network("b").listen("b:0", accept)
    near = await hub.network("a").connect(listener.address, timeout_s=1)
    await near.send(b"echo")
    assert await near.receive() == b"echo"
    with pytest.raises(CarrierClosed, match="done"):
        await near.receive()


# -- processes ----------------------------------------------------------------------------------


def test_each_end_runs_in_the_context_of_its_process() -> None:
    seen: list[tuple[str, str]] = []

    async def main(loop: Any) -> None:
        hub = LoopbackHub()
        hub.set_policy(lambda source, target: 0.1)

        async def server() -> None:
            async def accept(carrier: Carrier) -> None:
                seen.append(("accept", current_process.get()))
                await carrier.receive()
                seen.append(("received", current_process.get()))
                await carrier.send(b"pong")

            await hub.network("b").listen("b:1", accept)
            await asyncio.Event().wait()

        async def client() -> None:
            carrier = await hub.network("a").connect("b:1", timeout_s=5)
            await carrier.send(b"ping")
            await carrier.receive()
            seen.append(("answer", current_process.get()))

        server_task = loop.spawn("b", server())
        await eventually(lambda: hub.find("b:1") is not None)
        await loop.spawn("a", client())
        server_task.cancel()

    run_virtual(main)
    assert seen == [("accept", "b"), ("received", "b"), ("answer", "a")]


def test_a_paused_process_receives_nothing_and_a_killed_one_never_again() -> None:
    async def main(loop: Any) -> None:
        hub = LoopbackHub()
        got: list[bytes] = []

        async def server() -> None:
            async def accept(carrier: Carrier) -> None:
                while True:
                    got.append(await carrier.receive())

            await hub.network("b").listen("b:1", accept)
            await asyncio.Event().wait()

        loop.spawn("b", server())
        await eventually(lambda: hub.find("b:1") is not None)
        carrier = await hub.network("a").connect("b:1", timeout_s=5)
        await carrier.send(b"1")
        await eventually(lambda: got == [b"1"])
        loop.pause("b")
        await carrier.send(b"2")
        receiving = asyncio.create_task(carrier.receive())
        await asyncio.wait([receiving], timeout=5)
        assert got == [b"1"]
        with pytest.raises(CarrierClosed, match="no answer"):
            await hub.network("a").connect("b:1", timeout_s=1)
        loop.resume("b")
        await eventually(lambda: got == [b"1", b"2"])
        loop.kill("b")
        hub.kill("b")
        with pytest.raises(CarrierClosed, match="b was killed"):
            await receiving
        with pytest.raises(CarrierClosed, match="refused"):
            await hub.network("a").connect("b:1", timeout_s=1)

    run_virtual(main)


def test_contexts_are_copied_not_shared() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    @virtual
    async def body() -> None:
        hub = LoopbackHub()
        seen: list[int] = []

        async def accept(carrier: Carrier) -> None:
            seen.append(variable.get())
            variable.set(7)
            await asyncio.Event().wait()

        listener = await hub.network("b").listen("b:0", accept)
        for _ in range(2):
            await hub.network("a").connect(listener.address, timeout_s=1)
        await eventually(lambda: len(seen) == 2)
        assert seen == [0, 0]

    body()
