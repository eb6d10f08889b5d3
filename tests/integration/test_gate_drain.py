"""A gate stops while clients of every kind call through it: each is sent to the other gate."""

from __future__ import annotations

import asyncio
import random
from collections import Counter as Count
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc.aio
import httpx
import pytest
import websockets
from google.protobuf import any_pb2, empty_pb2, struct_pb2

import goverse
import goverse.client
from goverse.errors import Executed, Unavailable
from goverse.transport.pb.gate import gate_pb2 as pb
from goverse.transport.pb.gate.gate_pb2_grpc import GateServiceStub
from tests.support.event_stream import EventStream
from tests.support.eventually import eventually
from tests.support.two_gates import TwoGates, two_gates


class Counter(goverse.Object):
    """A counter per id."""

    value: int = 0

    @goverse.method
    async def add(self) -> int:
        self.value += 1
        return self.value


class Slow(goverse.Object):
    """Answers when the test says so."""

    @goverse.method
    async def wait(self) -> str:
        RUNNING.set()
        await LET_GO.wait()
        return "done"


RUNNING, LET_GO = asyncio.Event(), asyncio.Event()


@pytest.fixture(autouse=True)
def fresh_events() -> None:
    global RUNNING, LET_GO
    RUNNING, LET_GO = asyncio.Event(), asyncio.Event()


@asynccontextmanager
async def steadily(
    call: Callable[[int], Awaitable[int]], callers: int
) -> AsyncIterator[Count[str]]:
    """Each caller calls again and again; what became of the calls, by outcome."""
    seen: Count[str] = Count()
    over = asyncio.Event()
    last = [0] * callers

    async def caller(number: int) -> None:
        while not over.is_set():
            try:
                found = await call(number)
            except Exception as error:
                seen[f"{type(error).__name__}: {error}"] += 1
                continue
            assert found == last[number] + 1, "a call was lost, or ran twice"
            last[number] = found
            seen["ok"] += 1

    tasks = [asyncio.ensure_future(caller(number)) for number in range(callers)]
    try:
        yield seen
    finally:
        over.set()
        await asyncio.gather(*tasks)


async def grows(seen: Count[str], by: int = 200) -> None:
    wanted = seen["ok"] + by
    await eventually(lambda: seen["ok"] >= wanted or len(seen) > 1)


def first(gates: TwoGates, address: str) -> tuple[str, str]:
    """The name of the gate at ``address``, and the other."""
    names = [name for name, gate in gates.gates.items() if gate.address == address]
    return names[0], "g2" if names[0] == "g1" else "g1"


async def test_L14_no_call_of_our_client_fails_while_one_of_its_gates_drains() -> None:
    async with two_gates(Counter) as gates:
        addresses = [gate.address for gate in gates.gates.values()]
        async with goverse.client.connect(*addresses) as client:
            refs = [client.get(Counter, f"c{n}") for n in range(20)]
            async with steadily(lambda n: refs[n].add(), 20) as seen:
                await grows(seen)
                stopped, stays = first(gates, client.snapshot().session.gate)
                stopping = gates.stop(stopped)
                await eventually(lambda: gates.gates[stopped].stopping)
                assert not gates.gates[stopped].readiness().ready
                await stopping
                await grows(seen)
            assert list(seen) == ["ok"], seen
            assert client.snapshot().session.gate == gates.gates[stays].address


async def test_L14_a_call_in_flight_is_answered_by_the_gate_that_stops() -> None:
    async with two_gates(Counter, Slow) as gates:
        addresses = [gate.address for gate in gates.gates.values()]
        async with goverse.client.connect(*addresses) as client:
            waiting = asyncio.ensure_future(client.get(Slow, "s").wait())
            await RUNNING.wait()
            stopped, stays = first(gates, client.snapshot().session.gate)
            stopping = gates.stop(stopped)
            await eventually(lambda: client.snapshot().session.gate == gates.gates[stays].address)
            assert await client.get(Counter, "c").add() == 1
            assert not stopping.done() and not waiting.done()
            LET_GO.set()
            assert await waiting == "done"
            await stopping


async def test_L19_a_call_that_never_ends_holds_a_gate_up_no_longer_than_its_timeout() -> None:
    async with two_gates(Slow, shutdown_timeout_s=0.3) as gates:
        addresses = [gate.address for gate in gates.gates.values()]
        async with goverse.client.connect(*addresses) as client:
            waiting = asyncio.ensure_future(client.get(Slow, "s").wait())
            await RUNNING.wait()
            stopped, _ = first(gates, client.snapshot().session.gate)
            await asyncio.wait_for(gates.stop(stopped), 5.0)
            with pytest.raises(Unavailable) as caught:
                await waiting
            assert caught.value.executed is Executed.UNKNOWN
            LET_GO.set()


async def test_L14_http_callers_that_keep_their_connections_are_told_with_an_answer() -> None:
    """A pool of connections, and a balancer that knows who is ready, as they are in production."""
    async with two_gates(Counter, shutdown_notice_s=1.5) as gates, httpx.AsyncClient() as http:
        closed = 0

        def ready() -> str:
            names = [name for name, gate in gates.gates.items() if gate.readiness().ready]
            return gates.gates[random.choice(names)].http_address

        async def call(number: int) -> int:
            nonlocal closed
            url = f"http://{ready()}/v1/objects/Counter/c{number}/add"
            answer = await http.post(url, content=b"{}")
            answer.raise_for_status()
            closed += answer.headers.get("connection") == "close"
            found: int = answer.json()
            return found

        async with steadily(call, 8) as seen:
            await grows(seen, 50)
            await gates.stop("g1")
            await grows(seen, 50)
        assert list(seen) == ["ok"], seen
        assert closed, "connections that were in use have been told"


@pytest.mark.parametrize("path", ["/v1/objects/Counter/c/add", "/v1/objects/Counter/c/add?x=1"])
async def test_every_http_answer_of_a_gate_that_stops_is_the_last_on_its_connection(
    path: str,
) -> None:
    """On the quick way, and on that of the application."""
    async with two_gates(Counter, shutdown_timeout_s=20.0, shutdown_notice_s=10.0) as gates:
        host, _, port = gates.gates["g1"].http_address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        request = f"POST {path} HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"connection: close" not in head.lower()
        await reader.readexactly(_length(head))
        stopping = gates.stop("g1")
        await eventually(lambda: gates.gates["g1"].stopping)
        with pytest.raises(TimeoutError):  # it is not closed under a client that is about to ask
            await asyncio.wait_for(reader.read(1), 0.5)
        writer.write(request)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert b"connection: close" in head.lower()
        await reader.readexactly(_length(head))
        assert await asyncio.wait_for(reader.read(), 5) == b""
        await asyncio.wait_for(stopping, 2.0)  # nobody is left: the notice is not waited for
        writer.close()


def _length(head: bytes) -> int:
    lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
    return int(lines[b"content-length"])


async def test_an_idle_http_connection_holds_a_gate_up_no_longer_than_the_notice() -> None:
    async with two_gates(Counter, shutdown_notice_s=0.2) as gates:
        host, _, port = gates.gates["g1"].http_address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        await eventually(lambda: gates.gates["g1"].snapshot().http_server.connections == 1)
        await asyncio.wait_for(gates.stop("g1"), 2.0)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_L25_a_browser_that_comes_to_a_gate_that_stops_is_sent_on_and_not_turned_away() -> (
    None
):
    """A browser whose stream ends comes again; one that gets an error gives up for good."""
    async with two_gates(Counter, Slow, shutdown_notice_s=1.5) as gates:
        address = gates.gates["g1"].http_address
        stream = await EventStream.open(address)
        await stream.register()
        holding = asyncio.ensure_future(_post(address, "Slow/s/wait"))
        await RUNNING.wait()
        stopping = gates.stop("g1")
        assert (await stream.next()).name == "reconnect"
        with pytest.raises(EOFError):
            await stream.next()
        assert await asyncio.wait_for(stream.reader.read(), 5) == b"", "the connection ends with it"
        for path in ("/v1/events", "/api/v1/events/stream"):
            late = await EventStream.open(address, path)
            assert late.status == 200 and "connection" in late.headers
            assert (await late.chunk()).startswith(b"retry: ")
            late.writer.close()
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"ws://{address}/v1/events")
        assert refused.value.response.status_code == 503
        LET_GO.set()
        assert await holding == "done"
        await stopping
        stream.writer.close()


async def _post(address: str, path: str) -> object:
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"http://{address}/v1/objects/{path}", content=b"{}")
        return answer.json()


async def test_L14_a_grpc_client_with_two_addresses_moves_without_a_failed_call() -> None:
    """GOAWAY, and then nobody who answers at that port: what its library does by itself."""
    async with two_gates(Counter) as gates:
        ports = ",".join(gate.address for gate in gates.gates.values())
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"ipv4:{ports}", options=options) as channel:
            stub = GateServiceStub(channel)
            packed = any_pb2.Any()
            packed.Pack(struct_pb2.Struct())

            async def call(number: int) -> int:
                request = pb.CallObjectRequest(
                    type="Counter", id=f"c{number}", method="add", request=packed
                )
                value = struct_pb2.Value()
                assert (await stub.CallObject(request)).response.Unpack(value)
                return int(value.number_value)

            registered = stub.Register(empty_pb2.Empty())
            await registered.read()
            pushes = asyncio.ensure_future(registered.read())
            async with steadily(call, 8) as seen:
                await grows(seen)
                await asyncio.wait_for(gates.stop("g1"), 1.5)  # it waits for nobody
                await grows(seen)
            assert list(seen) == ["ok"], seen
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await pushes
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "connect again" in (ended.value.details() or "")
