"""Protobuf messages and pydantic models as parameter, field, list item, Optional and state."""

# ruff: noqa: B008

import dataclasses
import datetime
import math
from typing import Annotated, Any

import msgspec
import pydantic
import pytest
from google.protobuf import struct_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import StringValue
from objects_kit import make_call, running, value_of

import goverse
from goverse.call import Codec
from goverse.objects.encoding import EncodingFault
from tests.support.messages import classes

Line, Order = classes(
    "cart",
    {
        "Line": ((1, "sku", "string"), (2, "amount", "int64")),
        "Order": ((1, "note", "string"), (2, "lines", "repeated cart.Line"), (3, "blob", "bytes")),
    },
)


class Address(pydantic.BaseModel):
    street: str
    since: datetime.date = datetime.date(2020, 1, 1)


class Person(pydantic.BaseModel, extra="forbid"):
    name: str
    homes: list[Address] = []
    zip_code: int = pydantic.Field(0, alias="zipCode")

    @pydantic.computed_field
    def greeting(self) -> str:
        return f"Hello {self.name}"


class Exact(pydantic.BaseModel, strict=True):
    when: datetime.datetime
    share: float = 1.0


@dataclasses.dataclass
class Parcel:
    order: Order
    person: Person | None = None
    more: list[Order] = dataclasses.field(default_factory=list)


class Shop(goverse.Object):
    order: Order = Order(note="new")
    person: Person = Person(name="nobody")
    parcels: dict[str, Order] = {}

    @goverse.method
    async def place(self, order: Order) -> Order:
        return order

    @goverse.method
    async def ship(self, parcel: Parcel, person: Person | None = None) -> Parcel:
        parcel.person = person or parcel.person
        return parcel

    @goverse.method
    async def maybe(self, order: Order | None = None) -> Order | None:
        return order

    @goverse.method
    async def usual(self, order: Annotated[Order, "doc"] = Order(note="usual")) -> str:
        return order.note

    @goverse.method
    async def greet(self, person: Person) -> Person:
        return person

    @goverse.method
    async def exact(self, exact: Exact) -> Exact:
        return exact

    @goverse.method
    async def struct(self, value: struct_pb2.Struct) -> struct_pb2.Struct:
        return value

    @goverse.method
    async def text(self, value: StringValue) -> Timestamp:
        return Timestamp(seconds=len(value.value))

    @goverse.method
    async def change(self, note: str, fail: bool) -> str:
        self.order.note = note
        self.order.lines.append(Line(sku=note))
        self.person.homes.append(Address(street=note))
        self.parcels[note] = Order(note=note)
        if fail:
            raise goverse.ApplicationError("no")
        return f"{self.order.note} {len(self.order.lines)} {len(self.parcels)}"

    @goverse.method
    async def state(self) -> list[Any]:
        return [self.order, self.person, len(self.parcels)]


ORDER = Order(note="n", lines=[Line(sku="a", amount=2**60)], blob=b"\xff")
JSON = {"note": "n", "lines": [{"sku": "a", "amount": str(2**60)}], "blob": "/w=="}


async def post(node, method, body, type="Shop"):
    """As a client of the gate's HTTP would: the body goes to the node as it came."""
    payload = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return value_of(
        await node.send(make_call(type, "s", method, codec=Codec.JSON, payload=payload))
    )


async def test_every_place_over_our_client():
    person = Person(name="Ann", homes=[Address(street="x")], zipCode=7)
    async with running(Shop) as node:
        shop = node.get(Shop, "s")
        assert await shop.place(ORDER) == ORDER
        assert await shop.maybe() is None and await shop.maybe(ORDER) == ORDER
        assert await shop.usual() == "usual" and await shop.usual(Order()) == ""
        assert await shop.greet(person) == person
        parcel = Parcel(order=ORDER, more=[Order(), ORDER])
        assert await shop.ship(parcel, person) == dataclasses.replace(parcel, person=person)


async def test_the_only_parameter_is_the_whole_body_in_protojson():
    async with running(Shop) as node:
        assert await post(node, "place", JSON) == JSON
        assert await post(node, "place", b"") == {} == await post(node, "place", {})
        assert await post(node, "maybe", b"") is None is await post(node, "maybe", None)
        assert await post(node, "maybe", JSON) == JSON
        assert await post(node, "usual", b"") == "usual" and await post(node, "usual", {}) == ""
        assert await post(node, "struct", {"a": [1, {"b": None}]}) == {"a": [1, {"b": None}]}
        assert await post(node, "text", "four") == "1970-01-01T00:00:04Z"


@pytest.mark.parametrize(
    ("body", "path", "text"),
    [
        ({"order": JSON}, "order", "unknown field"),
        ({"lines": [{}, {"amout": 1}]}, "lines[1].amout", "unknown field"),
        ({"lines": [{"amount": "x"}]}, "lines.amount", "invalid literal"),
        ({"lines": [{"amount": 2**70}]}, "lines.amount", "out of range"),
        ({"blob": "a"}, "blob", "base64|padding|padded|invalid"),
        ({"note": 5}, "note", "expected string"),
        (5, None, "not the ProtoJSON of a Order: int"),
        (None, None, "not the ProtoJSON of a Order: NoneType"),
        ({"lines": 5}, "lines", "must be in"),
        (b"{", None, "truncated"),
        (b'{"note": "\xff"}', None, "utf-8"),
        (b'{"note": ' * 5000, None, "deep|truncated"),
    ],
)
async def test_a_body_that_is_no_such_message_is_refused_with_its_path(body, path, text):
    async with running(Shop) as node:
        with pytest.raises(goverse.InvalidArgument, match=f"(?i){text}") as caught:
            await post(node, "place", body)
        assert caught.value.details == ({"path": path} if path else {})
        assert caught.value.executed is goverse.Executed.NO


async def test_in_other_places_messages_are_protojson_and_models_their_json():
    home = {"street": "x", "since": "2021-02-03"}
    ann = {"name": "Ann", "homes": [home], "zipCode": 7}
    async with running(Shop) as node:
        answer = await post(node, "ship", {"parcel": {"order": JSON, "more": [{}]}, "person": ann})
        told = {**ann, "greeting": "Hello Ann"}
        assert answer == {"order": JSON, "person": told, "more": [{}]}
        assert await post(node, "greet", {"person": ann}) == told


@pytest.mark.parametrize("codec", [Codec.MSGPACK, Codec.JSON])
@pytest.mark.parametrize(
    ("arguments", "path", "text"),
    [
        ({"parcel": {"order": {"lines": [{"x": 1}]}}}, "parcel.order.lines[0].x", "unknown field"),
        ({"parcel": {"order": {}, "more": [{"note": 1}]}}, "parcel.more[0].note", "expected"),
        ({"parcel": {"order": {}}, "person": {"homes": []}}, "person.name", "Field required"),
        (
            {"parcel": {"order": {}, "person": {"name": "a", "homes": [{"street": 5}, {}]}}},
            "parcel.person.homes[0].street",
            r"valid string \(and 1 more faults\)",
        ),
        ({"parcel": {"order": {}, "person": {"name": "a", "x - at `$.y`": 1}}}, None, "not perm"),
        ({"parcel": {"order": {}, "person": 5}}, "parcel.person", "should be an object"),
    ],
)
async def test_a_fault_within_a_message_is_named_from_the_argument_on(codec, arguments, path, text):
    async with running(Shop) as node:
        with pytest.raises(goverse.InvalidArgument, match=text) as caught:
            await node.send(make_call("Shop", "s", "ship", codec=codec, **arguments))
        assert caught.value.details["path"] == (path or "parcel.person.x - at `$.y`")


async def test_strict_models_read_what_they_wrote():
    exact = Exact(when=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC))
    async with running(Shop) as node:
        assert await node.get(Shop).exact(exact) == exact
        assert math.isnan(
            (await node.get(Shop).exact(Exact(when=exact.when, share=math.nan))).share
        )
        with pytest.raises(goverse.InvalidArgument, match="share"):
            await post(node, "exact", {"exact": {"when": "2026-01-02T00:00:00Z", "share": "1"}})


def test_what_json_cannot_carry_is_found_within_messages_too():
    signature = Shop.__goverse__.methods["exact"].signature
    exact = Exact(when=datetime.datetime(2026, 1, 2), share=math.nan)
    with pytest.raises(EncodingFault, match="share: JSON has no nan"):
        signature.encode_result(exact, Codec.JSON)
    value = struct_pb2.Struct(fields={"a": struct_pb2.Value(number_value=math.inf)})
    with pytest.raises(EncodingFault):
        signature.encode_result([value], Codec.JSON)


async def test_declared_state_of_messages_is_kept_and_rolled_back():
    async with running(Shop) as node:
        shop = node.get(Shop, "s")
        assert await shop.change("a", False) == "a 1 1"
        before = await shop.state()
        with pytest.raises(goverse.ApplicationError):
            await shop.change("b", True)
        assert await shop.state() == before
        assert await shop.change("c", False) == "c 2 2"
        # Every object begins with its own copy of the defaults.
        assert await node.get(Shop, "other").change("d", False) == "d 1 1"


def test_state_of_messages_survives_its_encoding():
    codec = Shop.__goverse__.state
    one, two = Shop(), Shop()
    one.order, one.person = ORDER, Person(name="Ann", zipCode=3)
    one.parcels = {"x": ORDER}
    codec.restore(two, codec.encode(one))
    assert (two.order, two.person, two.parcels) == (one.order, one.person, one.parcels)
    assert codec.encode(two) == codec.encode(one)
