"""The client over real sockets, and its synchronous face."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
import threading
from collections.abc import AsyncIterator

import pytest

import goverse
import goverse.client
from goverse.errors import ApplicationError, Conflict, GoverseError, Unavailable
from goverse.transport.tcp_network import TcpNetwork
from tests.support.eventually import eventually
from tests.support.hosted import Counter, Hosted, hosted


@pytest.fixture
async def gate() -> AsyncIterator[Hosted]:
    network = TcpNetwork()
    async with hosted(network, "127.0.0.1:0") as gate:
        yield gate
        await eventually(lambda: gate.sessions.snapshot().sessions == 0)
        assert gate.ingress.snapshot().doors == 0
    await network.close()


async def test_calls_over_tcp(gate: Hosted) -> None:
    async with goverse.client.connect(gate.listener.address) as client:
        counter = client.get(Counter, "a")
        assert sorted(await asyncio.gather(*(counter.add() for _ in range(200)))) == list(
            range(1, 201)
        )
        assert client.snapshot().session.links == 1


async def test_large_values_travel_both_ways(gate: Hosted) -> None:
    async with goverse.client.connect(gate.listener.address) as client:
        text = "x" * 3_000_000
        assert await client.get(Counter, "a").echo(text) == text


async def test_where_nobody_listens_connecting_fails_at_once() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        async with asyncio.timeout(5):
            async with goverse.client.connect("127.0.0.1:9"):
                pass


@pytest.mark.parametrize("address", ["", "http://localhost:49000", "localhost:port", "a b"])
async def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError):
        async with goverse.client.connect(address):
            pass


def sync_calls(address: str) -> None:
    with goverse.client.connect_sync(address) as client:
        counter = client.get(Counter, "a")
        assert client.run(counter.add(5)) == 5
        assert client.run(client.get("Counter", "a").add(amount=1)) == 6
        assert client.run(goverse.options(counter, timeout_s=5).add()) == 7
        with pytest.raises(Conflict):
            client.create(Counter, "a")
        client.delete(Counter, "a")
        assert client.run(client.create(Counter, "a").add()) == 1
        with pytest.raises(ApplicationError):
            client.run(counter.refuse("no_money"))
        with pytest.raises(TimeoutError):
            client.run(goverse.options(counter, timeout_s=0.05).wait())
        threads = [threading.Thread(target=client.run, args=(counter.add(),)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.run(counter.add()) == 7
        assert client.snapshot().session.waiting == 0
    with pytest.raises(RuntimeError, match="closed"):
        client.run(counter.add())
    client.close()
    assert "goverse-client" not in {thread.name for thread in threading.enumerate()}


async def test_the_synchronous_client(gate: Hosted) -> None:
    await asyncio.to_thread(sync_calls, gate.listener.address)


async def test_the_synchronous_client_refuses_to_stop_an_event_loop(gate: Hosted) -> None:
    connect = functools.partial(goverse.client.connect_sync, gate.listener.address)
    with pytest.raises(RuntimeError, match=r"async with goverse\.client\.connect"):
        connect()
    client = await asyncio.to_thread(connect)
    with pytest.raises(RuntimeError, match="event loop"):
        client.run(client.get(Counter, "a").add())
    await asyncio.to_thread(client.close)


async def test_the_synchronous_client_says_when_nobody_listens() -> None:
    with pytest.raises(GoverseError, match="no gate could be reached"):
        await asyncio.to_thread(goverse.client.connect_sync, "127.0.0.1:9")
    assert "goverse-client" not in {thread.name for thread in threading.enumerate()}


async def test_a_program_that_never_closes_its_client_ends(gate: Hosted) -> None:
    program = (
        "import goverse.client as g; "
        f"c = g.connect_sync('{gate.listener.address}'); "
        "print(c.run(c.get('Counter', 'a').add(amount=5)))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert (out, err, process.returncode) == (b"5\n", b"", 0)
