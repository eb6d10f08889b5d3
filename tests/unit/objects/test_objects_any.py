"""Codec ANY: what existing clients send and get, and what of it is refused."""

import dataclasses
import datetime
import enum
import math
from typing import Any

import msgspec
import pytest
from google.protobuf import any_pb2, duration_pb2, empty_pb2, struct_pb2, wrappers_pb2
from hypothesis import given
from hypothesis import strategies as st
from objects_kit import make_call, running

import goverse
from goverse.call import Codec, Verb
from goverse.objects import encoding
from goverse.objects.encoding import EncodingFault
from tests.support.messages import classes

Line, Order = classes(
    "shop",
    {
        "Line": ((1, "sku", "string"), (2, "amount", "int64")),
        "Order": ((1, "note", "string"), (2, "lines", "repeated shop.Line")),
    },
)


@dataclasses.dataclass
class Item:
    name: str
    amount: int = 1


class Size(enum.Enum):
    SMALL = "s"


class Plain(goverse.Object):
    total: int = 0

    @goverse.method
    async def order(self, items: list[Item], size: Size = Size.SMALL, price: float = 0) -> str:
        return f"{items} {size} {price!r}"

    @goverse.method
    async def add(self, amount: int = 1) -> int:
        self.total += amount
        return self.total

    @goverse.method
    async def echo(self, value: Any) -> Any:
        return value

    @goverse.method
    async def nothing(self) -> None: ...

    @goverse.method
    async def make(self, what: str) -> Any:
        self.total += 1
        return {"big": {"deep": [1, 2**53]}, "nan": [math.nan], "key": {1: 2}}[what]

    @goverse.method
    async def wide(self, when: datetime.datetime, raw: bytes, by: dict[int, str]) -> dict[int, Any]:
        return {"when": when, "raw": raw, "by": list(by)}

    @goverse.method
    async def two(self, first: Line, second: Line) -> list[Line]:
        return [second, first]


class Typed(goverse.Object):
    @goverse.method
    async def place(self, order: Order) -> Order:
        return Order(note=order.note.upper(), lines=order.lines)

    @goverse.method
    async def maybe(self, order: Order | None = None) -> bool:
        return order is None

    @goverse.method
    async def whatever(self, value: any_pb2.Any) -> any_pb2.Any:
        return value


def pack(message: Any) -> bytes:
    packed = any_pb2.Any()
    # Maps have no order, and the ids of tests are made of this.
    packed.Pack(message, deterministic=True)
    return packed.SerializeToString()


def struct(**fields: Any) -> bytes:
    made = struct_pb2.Struct()
    made.update(fields)
    return pack(made)


async def send(node: Any, method: str, payload: bytes, type: str = "Plain") -> any_pb2.Any:
    reply = await node.send(make_call(type, "x", method, codec=Codec.ANY, payload=payload))
    assert reply.codec is Codec.ANY
    return any_pb2.Any.FromString(reply.payload)


def value(packed: any_pb2.Any) -> Any:
    made = struct_pb2.Value()
    assert packed.Unpack(made), packed.type_url
    return msgspec.json.decode(_json(made))


def _json(made: Any) -> str:
    from google.protobuf import json_format

    return json_format.MessageToJson(made)


async def test_a_struct_names_the_arguments_and_a_value_answers():
    async with running(Plain) as node:
        answer = await send(
            node, "order", struct(items=[{"name": "a", "amount": 2}], size="s", price=2)
        )
        assert value(answer) == "[Item(name='a', amount=2)] Size.SMALL 2.0"
        assert value(await send(node, "add", struct(amount=5))) == 5
        assert value(await send(node, "nothing", struct())) is None


@pytest.mark.parametrize("payload", [b"", pack(empty_pb2.Empty()), struct()])
async def test_no_arguments(payload):
    async with running(Plain) as node:
        assert value(await send(node, "add", payload)) == 1
        with pytest.raises(goverse.InvalidArgument, match="items: missing argument"):
            await send(node, "order", payload)


@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (5.0, 5),
        (-5.0, -5),
        (2.0**53 - 1, 2**53 - 1),
        (-(2.0**53 - 1), -(2**53 - 1)),
        (2.0**53, "whole numbers below 2\\^53"),
        (1e300, "whole numbers below 2\\^53"),
        (5.5, "expected int, got float"),
        (math.nan, "a Struct has no nan"),
        (math.inf, "a Struct has no inf"),
    ],
)
async def test_a_whole_double_is_an_int_where_it_is_exact(number, outcome):
    async with running(Plain) as node:
        if isinstance(outcome, int):
            assert value(await send(node, "add", struct(amount=number))) == outcome
            return
        with pytest.raises(goverse.InvalidArgument, match=outcome) as caught:
            await send(node, "add", struct(amount=number))
        assert caught.value.details == {"path": "amount"}
        assert value(await send(node, "add", struct(amount=0))) == 0


@pytest.mark.parametrize(
    ("payload", "path", "text"),
    [
        (struct(amount=1, more=2), "more", "unknown argument"),
        (struct(amount="x"), "amount", "expected int, got str"),
        (pack(wrappers_pb2.Int64Value(value=5)), None, "google.protobuf.Struct, got google.pro"),
        (b"\xff\xff", None, "not a serialized Any"),
        (
            any_pb2.Any(
                type_url="type.googleapis.com/google.protobuf.Struct", value=b"\xff"
            ).SerializeToString(),
            None,
            "not a serialized Struct",
        ),
        (any_pb2.Any(type_url="Struct").SerializeToString(), None, "names no type"),
        (any_pb2.Any(value=b"x").SerializeToString(), None, "names no type"),
        (
            pack(struct_pb2.Struct(fields={"amount": struct_pb2.Value()})),
            "amount",
            "Value without a value",
        ),
    ],
)
async def test_what_a_plainly_typed_method_refuses(payload, path, text):
    async with running(Plain) as node:
        with pytest.raises(goverse.InvalidArgument, match=text) as caught:
            await send(node, "add", payload)
        assert caught.value.executed is goverse.Executed.NO
        assert caught.value.details == ({"path": path} if path else {})
        assert value(await send(node, "add", struct(amount=0))) == 0


async def test_a_path_leads_through_lists_and_structs():
    async with running(Plain) as node:
        with pytest.raises(goverse.InvalidArgument) as caught:
            await send(node, "order", struct(items=[{"name": "a"}, {"name": "b", "amount": 1.5}]))
        assert caught.value.details == {"path": "items[1].amount"}
        with pytest.raises(goverse.InvalidArgument) as caught:
            await send(node, "two", struct(first={"sku": "a"}, second={"amount": "x"}))
        assert caught.value.details == {"path": "second.amount"}


async def test_what_json_writes_as_text_is_text():
    async with running(Plain) as node:
        answer = await send(
            node, "wide", struct(when="2026-01-02T03:04:05Z", raw="YQ==", by={"7": "x"})
        )
        assert value(answer) == {"when": "2026-01-02T03:04:05Z", "raw": "YQ==", "by": [7]}
        first = {"sku": "a", "amount": "9007199254740993"}
        answer = await send(node, "two", struct(first=first, second={"sku": "b"}))
        assert value(answer) == [{"sku": "b"}, first]


@pytest.mark.parametrize(
    ("what", "text"),
    [("big", r"deep\[1\]: .* 2\^53"), ("nan", r"\[0\]: JSON has no nan"), ("key", "key 1")],
)
async def test_a_result_that_a_value_cannot_carry_fails_the_turn(what, text):
    async with running(Plain) as node:
        with pytest.raises(goverse.ObjectFailed, match=text) as caught:
            await send(node, "make", struct(what=what))
        assert caught.value.details["rolled_back"] is True
        assert value(await send(node, "add", struct(amount=0))) == 0


async def test_a_message_is_the_whole_argument_and_the_whole_answer():
    order = Order(note="hi", lines=[Line(sku="a", amount=2**60)])
    async with running(Typed) as node:
        answer = await send(node, "place", pack(order), "Typed")
        assert answer.type_url == "type.googleapis.com/shop.Order"
        assert Order.FromString(answer.value) == Order(note="HI", lines=order.lines)
        empty = await send(node, "place", b"", "Typed")
        assert Order.FromString(empty.value) == Order()
        assert value(await send(node, "maybe", b"", "Typed")) is True
        assert value(await send(node, "maybe", pack(Order()), "Typed")) is False


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (pack(duration_pb2.Duration()), "expected shop.Order, got google.protobuf.Duration"),
        (struct(order={}), "expected shop.Order, got google.protobuf.Struct"),
        (
            any_pb2.Any(type_url="a/shop.Order", value=b"\xff").SerializeToString(),
            "not a serialized Order",
        ),
    ],
)
async def test_another_message_is_refused_by_the_name_of_the_parameter(payload, text):
    async with running(Typed) as node:
        with pytest.raises(goverse.InvalidArgument, match=f"order: {text}") as caught:
            await send(node, "place", payload, "Typed")
        assert caught.value.details == {"path": "order"}


async def test_a_method_that_takes_an_any_gets_it_as_it_came():
    async with running(Typed) as node:
        sent = pack(duration_pb2.Duration(seconds=3))
        assert (await send(node, "whatever", sent, "Typed")).SerializeToString() == sent


async def test_create_and_delete_answer_null():
    async with running(Plain) as node:
        for verb in (Verb.CREATE, Verb.DELETE, Verb.DELETE):
            call = make_call("Plain", "y", "", codec=Codec.ANY, verb=verb)
            reply = await node.send(call)
            assert value(any_pb2.Any.FromString(reply.payload)) is None


async def test_nesting_ends_where_protobuf_ends():
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    async with running(Plain) as node:
        assert value(await send(node, "echo", struct(value=deep))) == deep
    signature = Plain.__goverse__.methods["echo"].signature
    for _ in range(20):
        deep = [deep]
    with pytest.raises(EncodingFault, match="nested too deeply"):
        signature.encode_result(deep, Codec.ANY)


exact = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)), max_size=4), inner)
    ),
    max_leaves=12,
)


@given(exact)
def test_what_a_value_carries_arrives_as_it_was(sent):
    signature = Plain.__goverse__.methods["echo"].signature
    packed = any_pb2.Any.FromString(signature.encode_result(sent, Codec.ANY))
    made = struct_pb2.Value.FromString(packed.value)
    payload = pack(struct_pb2.Struct(fields={"value": made}))
    assert signature.decode(payload, Codec.ANY).value == sent


@given(st.binary(max_size=60))
def test_any_bytes_are_understood_or_refused(payload):
    for cls, method in ((Plain, "echo"), (Typed, "place"), (Typed, "whatever")):
        signature = cls.__goverse__.methods[method].signature
        try:
            signature.decode(payload, Codec.ANY)
        except goverse.InvalidArgument:
            pass


def test_the_null_that_is_written_out_is_what_protobuf_writes():
    null = pack(struct_pb2.Value(null_value=struct_pb2.NULL_VALUE))
    assert encoding.NONE[Codec.ANY] == null == encoding.encode(None, Codec.ANY)
