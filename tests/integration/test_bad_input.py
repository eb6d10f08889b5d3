"""Bad input to reliable calls over every way in, on real PostgreSQL and MariaDB: each is
refused with an error that says what is wrong, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import grpc.aio
import httpx
import pytest
from google.protobuf import any_pb2, struct_pb2

import goverse
import goverse.client
from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.errors import (
    Conflict,
    Executed,
    FailedPrecondition,
    GoverseError,
    InvalidArgument,
    NotFound,
    ObjectFailed,
    TooLarge,
)
from goverse.storage.mysql import MysqlStore
from goverse.storage.postgres import PostgresStore
from goverse.transport.grpc_status import error_of
from goverse.transport.pb.gate import gate_pb2 as pb
from goverse.transport.pb.gate.gate_pb2_grpc import GateServiceStub
from tests.support import mariadb
from tests.support.eventually import eventually
from tests.support.postgres import PostgresServer, serving
from tests.support.real_gate import Running, real_gate

MIB = 1024 * 1024
SQL = "x'); DROP TABLE goverse_reliable_calls; --"


class Ledger(goverse.Object, durability="acknowledged"):
    total: int = 0
    pages: list[str] = []

    @goverse.method
    async def add(self, amount: int = 1) -> int:
        self.total += amount
        return self.total

    @goverse.method(read_only=True)
    async def get(self) -> int:
        return self.total

    @goverse.method
    async def fill(self, mebibytes: int) -> int:
        self.total += 1000
        self.pages = ["x" * MIB] * mebibytes
        return mebibytes

    @goverse.method
    async def unencodable(self) -> Any:
        self.total += 1000
        return object()

    @goverse.method
    async def surrogate(self) -> str:
        self.total += 1000
        return "\ud800"

    @goverse.method
    async def complain(self, what: str) -> None:
        self.total += 1000
        raise goverse.ApplicationError("odd", {"nul": "a\0b", "surrogate": "a\ud800b"}[what])

    @goverse.method
    async def echo(self, text: str) -> str:
        return text


class Volatile(goverse.Object):
    @goverse.method
    async def ping(self) -> str:
        return "pong"


class Kept:
    """Stores of one database, closed together."""

    def __init__(self, settings: StorageSettings) -> None:
        self._settings = settings
        self._stores: list[PostgresStore | MysqlStore] = []

    def connect(self) -> PostgresStore | MysqlStore:
        kind = MysqlStore if self._settings.url.startswith("mysql:") else PostgresStore
        self._stores.append(kind(self._settings, Runtime()))
        return self._stores[-1]

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


@pytest.fixture(scope="module", params=["18", "mariadb"])
def database(request: pytest.FixtureRequest) -> Any:
    with serving("18") if request.param == "18" else mariadb.serving() as server:
        asyncio.run(server.migrate())
        yield server


#: A call over one way in: type, id, method, call id, arguments.
Way = Callable[..., Awaitable[Any]]


def over_python(client: goverse.client.Client) -> Way:
    async def call(type: str, id: str, method: str, call_id: str, **arguments: Any) -> Any:
        target = goverse.options(client.get(type, id), call_id=call_id, timeout_s=20)
        return await getattr(target, method)(**arguments)

    return call


def over_http(client: httpx.AsyncClient) -> Way:
    from urllib.parse import quote

    async def call(type: str, id: str, method: str, call_id: str, **arguments: Any) -> Any:
        path = "/".join(quote(part, safe="", errors="surrogatepass") for part in (type, id, method))
        response = await client.post(
            f"/v1/objects/{path}",
            json=arguments,
            headers={"Goverse-Call-Id": call_id.encode(errors="surrogatepass")},
        )
        if response.status_code == 200:
            return response.json()
        problem = response.json()
        raise Told(problem["code"], problem["executed"], problem["detail"], problem.get("details"))

    return call


def over_grpc(stub: Any) -> Way:
    async def call(type: str, id: str, method: str, call_id: str, **arguments: Any) -> Any:
        struct, packed = struct_pb2.Struct(), any_pb2.Any()
        struct.update(arguments)
        packed.Pack(struct)
        request = pb.ReliableCallObjectRequest(
            call_id=call_id, type=type, id=id, method=method, request=packed
        )
        try:
            answer = await stub.ReliableCallObject(request, timeout=20)
        except grpc.aio.AioRpcError as error:
            raise error_of(error.code(), error.details() or "", error.trailing_metadata()) from None
        if answer.status != "SUCCESS":
            raise Told(answer.status, "yes", answer.error, None)
        value = struct_pb2.Value()
        assert answer.response.Unpack(value)
        return getattr(value, str(value.WhichOneof("kind")))

    return call


class Told(Exception):
    """An error as a foreign client reads it."""

    def __init__(self, code: str, executed: str, text: str, details: Any) -> None:
        super().__init__(f"{code}: {text}")
        self.code, self.executed, self.text = code, executed, text
        self.details = details or {}


@dataclass(frozen=True)
class World:
    running: Running
    store: PostgresStore | MysqlStore
    ways: dict[str, Way]

    async def at_rest(self) -> None:
        """Nothing is stuck: not in the ledger, and not in memory."""

        async def resting() -> bool:
            node = self.running.node
            assert node.reliability is not None and node.durability is not None
            calls, kept = node.reliability.snapshot(), node.durability.snapshot()
            return (
                not any(asdict(await self.store.census()).values())
                and (calls.entries, calls.bytes, calls.accepting, calls.outbox) == (0, 0, 0, 0)
                and (kept.commits.waiting, kept.commits.in_flight, kept.commits.bytes) == (0, 0, 0)
            )

        await eventually(resting)


@asynccontextmanager
async def world(server: PostgresServer | mariadb.MariadbServer) -> AsyncIterator[World]:
    if isinstance(server, PostgresServer):
        kept = Kept(server.copied_database())
    else:
        kept = Kept(await server.migrated_database())
    store = kept.connect()
    try:
        async with (
            real_gate(Ledger, Volatile, kept=kept) as running,
            goverse.client.connect(running.gate.address) as client,
            httpx.AsyncClient(base_url=f"http://{running.gate.http_address}") as http,
            grpc.aio.insecure_channel(running.gate.address) as channel,
        ):
            ways = {
                "python": over_python(client),
                "http": over_http(http),
                "grpc": over_grpc(GateServiceStub(channel)),
            }
            yield World(running, store, ways)
    finally:
        await kept.close()


def executed_of(error: Exception) -> str:
    found = getattr(error, "executed", Executed.NO)
    return found.value if isinstance(found, Executed) else str(found)


async def refused(way: Way, code: str, field: str, *call: Any, **arguments: Any) -> None:
    """``call`` is refused with ``code``, not executed, and the error names ``field``."""
    with pytest.raises((GoverseError, ValueError, Told)) as caught:
        await way(*call, **arguments)
    error = caught.value
    told = f"{error} {getattr(error, 'message', '')} {getattr(error, 'details', '')}"
    assert field in told, told
    # The Python client refuses what can be no id before it sends anything.
    assert getattr(error, "code", "invalid_argument") == code, told
    assert executed_of(error) == "no", told


WAYS = ("python", "http", "grpc")

#: What is wrong, and where: type, id, method, call id; the code, and what the error names.
REFUSED: dict[str, tuple[tuple[str, str, str, str], str, str]] = {
    "unknown method": (("Ledger", "a", "nope", "c"), "not_found", "nope"),
    "type that nobody hosts": (("Nobody", "a", "add", "c"), "not_found", "Nobody"),
    "class without durability": (("Volatile", "a", "ping", "c"), "failed_precondition", "durab"),
    "NUL in the id": (("Ledger", "a\0b", "add", "c"), "invalid_argument", "id"),
    "NUL in the call id": (("Ledger", "a", "add", "c\0d"), "invalid_argument", "call"),
    "id too long": (("Ledger", "x" * 513, "add", "c"), "invalid_argument", "id"),
    "call id too long": (("Ledger", "a", "add", "x" * 1025), "invalid_argument", "call id"),
    "call id of the system": (("Ledger", "a", "add", "~c"), "invalid_argument", "call id"),
}


@pytest.mark.parametrize("name", WAYS)
async def test_what_cannot_run_leaves_no_row(database: Any, name: str) -> None:
    async with world(database) as here:
        way = here.ways[name]
        for what, (call, code, field) in REFUSED.items():
            if name == "http" and what == "NUL in the call id":
                continue  # no HTTP client sends such a header; the server's parser refuses it
            await refused(way, code, field, *call)
            assert await here.store.get_calls(["c"]) == {}, what
        await refused(way, "invalid_argument", "amount", "Ledger", "a", "add", "c", amount="much")
        await refused(way, "invalid_argument", "other", "Ledger", "a", "add", "c", other=1)
        if name != "grpc":  # a message of protobuf cannot hold one
            for call in (("Ledger", "\ud800", "add", "c"), ("Ledger", "a", "add", "\ud800")):
                await refused(way, "invalid_argument", "", *call)
        # The ids that were refused are as good as new, and so is the object.
        assert await way("Ledger", "a", "add", "c", amount=5) == 5
        assert await way("Ledger", "a", "add", "c", amount=5) == 5
        await here.at_rest()


@pytest.mark.parametrize("name", WAYS)
async def test_sql_in_ids_and_arguments_is_only_text(database: Any, name: str) -> None:
    async with world(database) as here:
        way = here.ways[name]
        for call_id in (SQL, "%s %(x)s $1 \\", "{}", "--"):
            for _ in range(2):
                assert await way("Ledger", call_id, "add", call_id, amount=3) == 3
            # NUL is text as any other where it is no id: arguments and states are bytes.
            for _ in range(2):
                text = f"{SQL}\0\\"
                assert await way("Ledger", call_id, "echo", f"{call_id}e", text=text) == text
        await here.at_rest()


@pytest.mark.parametrize("name", WAYS)
async def test_L06_an_id_with_other_arguments_is_a_conflict_and_costs_nothing(
    database: Any, name: str
) -> None:
    async with world(database) as here:
        way = here.ways[name]
        assert await way("Ledger", "a", "add", "c", amount=5) == 5
        for call, arguments in [
            (("Ledger", "a", "add", "c"), {"amount": 6}),
            (("Ledger", "b", "add", "c"), {"amount": 5}),
            (("Ledger", "a", "get", "c"), {}),
        ]:
            with pytest.raises((Conflict, Told)) as caught:
                await way(*call, **arguments)
            assert getattr(caught.value, "code", "") == "conflict"
            assert "call id c " in str(caught.value)
        assert await way("Ledger", "a", "add", "c", amount=5) == 5
        assert await way("Ledger", "b", "get", "g") == 0  # a read-only one is one like any other
        await here.at_rest()


@pytest.mark.parametrize("name", WAYS)
async def test_L08_what_cannot_be_encoded_or_is_too_large_fails_once_and_undoes_its_turn(
    database: Any, name: str
) -> None:
    async with world(database) as here:
        way = here.ways[name]
        assert await way("Ledger", "a", "add", "c0", amount=5) == 5
        calls: list[tuple[str, dict[str, Any], type[Exception], str]] = [
            ("unencodable", {}, ObjectFailed, "result"),
            ("surrogate", {}, ObjectFailed, "result"),
            ("fill", {"mebibytes": 10}, TooLarge, "max_state_bytes"),
            ("complain", {"what": "nul"}, goverse.ApplicationError, "a\0b"),
            ("complain", {"what": "surrogate"}, goverse.ApplicationError, "a?b"),
        ]
        for number, (method, arguments, kind, text) in enumerate(calls):
            told = []
            for _ in range(2):
                with pytest.raises((kind, Told)) as caught:
                    await way("Ledger", "a", method, f"f{number}", **arguments)
                assert text in str(caught.value), method
                told.append(str(caught.value))
            assert told[0] == told[1]
        assert await way("Ledger", "a", "add", "c1", amount=5) == 10
        await here.at_rest()


async def test_over_python_a_text_that_cannot_be_sent_is_refused_where_it_is_made(
    database: Any,
) -> None:
    async with world(database) as here:
        way = here.ways["python"]
        with pytest.raises((InvalidArgument, TypeError, ValueError)) as caught:
            await way("Ledger", "a", "echo", "c", text="\ud800")
        assert "text" in str(caught.value)
        with pytest.raises((FailedPrecondition, NotFound)):
            await way("Volatile", "a", "ping", "c")
        assert await way("Ledger", "a", "echo", "c", text="") == ""
        await here.at_rest()
