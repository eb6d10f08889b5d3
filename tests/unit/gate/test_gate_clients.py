"""Registered clients: who they are, and what waits for them."""

from __future__ import annotations

import asyncio
import itertools
from typing import cast

import pytest

from goverse.call import CallTarget
from goverse.config.settings import LimitSettings
from goverse.errors import Overloaded, PermissionDenied, Unavailable
from goverse.observability.metrics import Metrics
from goverse_gate.clients import ClientLimits, Clients
from goverse_gate.ingress import Ingress
from tests.support.eventually import eventually

HERE, THERE = "127.0.0.1:1001", "127.0.0.1:1002"


def some(**limits: int) -> tuple[Clients, Ingress]:
    ingress = Ingress(cast(CallTarget, None), LimitSettings(), Metrics())
    number = itertools.count(1)
    made = Clients(ingress, lambda: f"c{next(number)}", ClientLimits(**limits))
    return made, ingress


class Writer:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.may = asyncio.Event()
        self.may.set()

    async def write(self, message: bytes) -> None:
        await self.may.wait()
        self.written.append(message)


async def test_L30_an_id_is_honoured_on_its_own_connection_only() -> None:
    clients, _ = some()
    client = clients.register(HERE)
    assert clients.of_connection(client.client_id, HERE) is client
    refusals = []
    for client_id, peer in ((client.client_id, THERE), ("c77", HERE), ("", HERE)):
        with pytest.raises(PermissionDenied) as caught:
            clients.of_connection(client_id, peer)
        refusals.append(caught.value.message)
    assert len(set(refusals)) == 1, "an id of another is told from one that does not exist"
    clients.remove(client)
    with pytest.raises(PermissionDenied):
        clients.of_connection(client.client_id, HERE)


async def test_a_client_has_a_door_for_as_long_as_it_is_there() -> None:
    clients, ingress = some()
    client = clients.register(HERE)
    assert client.door.client_id == client.client_id
    assert ingress.snapshot().doors == 1
    clients.remove(client)
    clients.remove(client)
    assert ingress.snapshot().doors == 0


async def test_there_is_a_largest_number_of_clients() -> None:
    clients, _ = some(max_clients=2)
    first = clients.register(HERE)
    clients.register(HERE)
    with pytest.raises(Overloaded):
        clients.register(THERE)
    clients.remove(first)
    clients.register(THERE)
    assert clients.snapshot().clients == 2


async def test_messages_are_written_in_order_and_told_of() -> None:
    clients, _ = some()
    client, writer = clients.register(HERE), Writer()
    told: list[tuple[int, bool]] = []
    drain = asyncio.create_task(client.drain(writer.write))
    for number in range(3):
        assert client.offer(b"%d" % number, lambda taken, n=number: told.append((n, taken)))
    await eventually(lambda: len(told) == 3)
    assert writer.written == [b"0", b"1", b"2"]
    assert told == [(0, True), (1, True), (2, True)]
    client.end()
    await drain
    assert not client.offer(b"late")


async def test_a_client_that_does_not_read_fills_its_queue_and_no_more() -> None:
    clients, _ = some(max_messages=3, max_bytes=10)
    client, writer = clients.register(HERE), Writer()
    writer.may.clear()
    drain = asyncio.create_task(client.drain(writer.write))
    told: list[bool] = []
    assert [client.offer(b"x", told.append) for _ in range(5)] == [True] * 3 + [False] * 2
    assert clients.snapshot().messages == 3 and clients.snapshot().queued_bytes == 3
    await eventually(lambda: not drain.done())
    assert clients.snapshot().messages == 3, "what is being written still waits"
    drain.cancel()
    await asyncio.gather(drain, return_exceptions=True)
    clients.remove(client)
    assert told == [False] * 3
    assert clients.snapshot().messages == clients.snapshot().queued_bytes == 0


async def test_bytes_have_a_limit_too() -> None:
    clients, _ = some(max_bytes=10)
    client = clients.register(HERE)
    assert client.offer(b"x" * 8)
    assert not client.offer(b"x" * 3)
    assert client.offer(b"x" * 2)


async def test_L19_a_push_that_races_a_disconnect_is_refused_and_harms_nobody() -> None:
    clients, _ = some()
    client = clients.register(HERE)
    clients.remove(client)
    assert not client.offer(b"x")
    assert clients.get(client.client_id) is None and clients.all() == ()


async def test_closing_ends_streams_and_does_not_wait_for_who_does_not_read() -> None:
    clients, _ = some()
    good, bad = clients.register(HERE), clients.register(THERE)
    writer, stuck = Writer(), Writer()
    stuck.may.clear()

    async def serve(client: object, write: Writer) -> None:
        try:
            await client.drain(write.write)  # type: ignore[attr-defined]
        finally:
            clients.remove(client)  # type: ignore[arg-type]

    tasks = [asyncio.create_task(serve(good, writer)), asyncio.create_task(serve(bad, stuck))]
    good.offer(b"last")
    bad.offer(b"never")
    await clients.close(0.05)
    assert writer.written == [b"last"]
    assert clients.all() == (bad,)
    with pytest.raises(Unavailable):
        clients.register(HERE)
    stuck.may.set()
    await clients.close(5)
    assert clients.all() == ()
    await asyncio.gather(*tasks)
