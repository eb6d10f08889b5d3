"""Protobuf messages and pydantic models through a real gate and node, by every way in."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
import httpx
import pydantic
import pytest
from google.protobuf import json_format, struct_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.type_pb2 import Field, Option, Type

import goverse
import goverse.client
from goverse.transport.pb.gate import gate_pb2 as pb
from goverse.transport.pb.gate.gate_pb2_grpc import GateServiceStub
from tests.support.real_gate import real_gate


class Address(pydantic.BaseModel):
    street: str


class Person(pydantic.BaseModel):
    name: str
    homes: list[Address] = []
    age: int | None = pydantic.Field(None, alias="ageInYears")


@dataclasses.dataclass
class Parcel:
    shape: Type
    owner: Person | None = None
    waits: list[Duration] = dataclasses.field(default_factory=list)


class Desk(goverse.Object):
    last: Type = Type()
    owner: Person = Person(name="nobody")

    @goverse.method
    async def put(self, shape: Type) -> Type:
        self.last.CopyFrom(shape)
        self.last.name += "!"
        return self.last

    @goverse.method
    async def own(self, owner: Person) -> Person:
        self.owner = owner
        return owner

    @goverse.method
    async def send(self, parcel: Parcel, after: Duration | None = None) -> Parcel:
        if after is not None:
            parcel.waits.append(after)
        return parcel

    @goverse.method
    async def fail(self, shape: Type) -> None:
        self.last.CopyFrom(shape)
        self.owner.homes.append(Address(street="gone"))
        raise goverse.ApplicationError("no")

    @goverse.method(read_only=True)
    async def state(self) -> tuple[Type, Person]:
        return self.last, self.owner


SHAPE = Type(name="t", fields=[Field(name="f", number=3)], options=[Option(name="o")])
SHAPE_JSON = json_format.MessageToDict(SHAPE)
OWNER = Person(name="Ann", homes=[Address(street="x")], ageInYears=7)
OWNER_JSON = {"name": "Ann", "homes": [{"street": "x"}], "ageInYears": 7}


@dataclass
class Ways:
    client: Any
    http: httpx.AsyncClient
    grpc: Any

    async def post(self, method: str, body: Any) -> httpx.Response:
        return await self.http.post(f"/v1/objects/Desk/d/{method}", json=body)

    async def by_name(self, method: str, **arguments: Any) -> Any:
        struct, answer = struct_pb2.Struct(), struct_pb2.Value()
        struct.update(arguments)
        request = pb.CallObjectRequest(type="Desk", id="d", method=method)
        request.request.Pack(struct)
        assert (await self.grpc.CallObject(request, timeout=10)).response.Unpack(answer)
        return json_format.MessageToDict(answer)


@asynccontextmanager
async def ways() -> AsyncIterator[Ways]:
    async with (
        real_gate(Desk) as running,
        goverse.client.connect(running.gate.address) as client,
        httpx.AsyncClient(base_url=f"http://{running.gate.http_address}") as http,
        grpc.aio.insecure_channel(running.gate.address) as channel,
    ):
        yield Ways(client, http, GateServiceStub(channel))


async def test_a_whole_protobuf_message_and_state_that_is_one() -> None:
    async with ways() as way:
        desk = way.client.get(Desk, "d")
        shouted = Type()
        shouted.CopyFrom(SHAPE)
        shouted.name = "t!"
        assert await desk.put(SHAPE) == shouted
        answer = await way.post("put", SHAPE_JSON)
        assert (answer.status_code, answer.json()) == (200, json_format.MessageToDict(shouted))
        request = pb.CallObjectRequest(type="Desk", id="d", method="put")
        request.request.Pack(SHAPE)
        packed = (await way.grpc.CallObject(request, timeout=10)).response
        assert Type.FromString(packed.value) == shouted
        assert await desk.state() == (shouted, Person(name="nobody"))
        with pytest.raises(goverse.ApplicationError):
            await desk.fail(Type(name="else"))
        assert await desk.state() == (shouted, Person(name="nobody"))


async def test_pydantic_models() -> None:
    async with ways() as way:
        desk = way.client.get(Desk, "d")
        assert await desk.own(OWNER) == OWNER
        answer = await way.post("own", {"owner": OWNER_JSON})
        assert (answer.status_code, answer.json()) == (200, OWNER_JSON)
        assert await way.by_name("own", owner=OWNER_JSON) == OWNER_JSON
        assert (await desk.state())[1] == OWNER


async def test_fields_list_items_and_optionals() -> None:
    parcel = Parcel(SHAPE, OWNER, [Duration(seconds=1)])
    told = {"shape": SHAPE_JSON, "owner": OWNER_JSON, "waits": ["1s"]}
    async with ways() as way:
        desk = way.client.get(Desk, "d")
        assert await desk.send(parcel) == parcel
        more = dataclasses.replace(parcel, waits=[*parcel.waits, Duration(seconds=2)])
        assert await desk.send(parcel, Duration(seconds=2)) == more
        answer = await way.post("send", {"parcel": told, "after": "2s"})
        assert answer.json() == {**told, "waits": ["1s", "2s"]}
        assert await way.by_name("send", parcel=told, after="2s") == answer.json()
        answer = await way.post("send", {"parcel": {"shape": {}, "owner": None}, "after": None})
        assert answer.json() == {"shape": {}, "owner": None, "waits": []}


@pytest.mark.parametrize(
    ("method", "body", "path"),
    [
        ("put", {"fields": [{"name": "a"}, {"nmae": "b"}]}, "fields[1].nmae"),
        ("own", {"owner": {"name": "a", "homes": [{}]}}, "owner.homes[0].street"),
        ("send", {"parcel": {"shape": {}, "waits": ["1s", "soon"]}}, "parcel.waits[1]"),
    ],
)
async def test_a_fault_is_named_by_its_path(method: str, body: Any, path: str) -> None:
    async with ways() as way:
        answer = await way.post(method, body)
        told = answer.json()
        assert (answer.status_code, told["code"]) == (400, "invalid_argument")
        assert (told["details"], told["executed"]) == ({"path": path}, "no")
