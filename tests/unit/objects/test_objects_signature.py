"""Arguments are validated before a method runs; results that cannot be carried are refused."""

# ruff: noqa: B006

import dataclasses
import datetime
import decimal
import enum
import math
import uuid
from typing import Any

import msgspec
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given
from hypothesis import strategies as st
from objects_kit import make_call, running, value_of

import goverse
from goverse.call import Codec
from goverse.objects import encoding
from goverse.objects.encoding import EncodingFault

CODECS = [Codec.MSGPACK, Codec.JSON]


@dataclasses.dataclass
class Item:
    name: str
    amount: int = 1


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Shop(goverse.Object):
    @goverse.method
    async def order(
        self, items: list[Item], note: str = "none", *, size: Size = Size.SMALL
    ) -> dict[str, Any]:
        return {"n": sum(item.amount for item in items), "note": note, "size": size}

    @goverse.method
    async def nothing(self) -> None: ...

    @goverse.method
    async def defaults(self, tags: list[str] = ["a"]) -> list[str]:
        tags.append("b")
        return tags

    @goverse.method
    async def anything(self, value: Any) -> Any:
        return value

    @goverse.method
    async def make(self, what: str) -> Any:
        return {
            "big": {"deep": [1, 2**64]},
            "nan": [1.0, math.nan],
            "inf": math.inf,
            "key": {"a": {1: 2}},
            "object": {"x": [object()]},
            "surrogate": {"x": "\ud800"},
            "ok": {"x": 2**64 - 1, "y": -(2**63)},
        }[what]

    @goverse.method
    async def kinds(
        self,
        when: datetime.datetime,
        price: decimal.Decimal,
        key: uuid.UUID,
        message: StringValue | None = None,
    ) -> list[str]:
        return [type(v).__name__ for v in (when, price, key, message)]

    @goverse.method
    async def echo_message(self, messages: list[StringValue]) -> list[StringValue]:
        return messages

    @goverse.method
    async def meet(self, other: "Shop", any: goverse.Object | None = None) -> "Shop":
        assert other is not self
        return other


@pytest.mark.parametrize("codec", CODECS)
async def test_arguments_by_name_and_results_in_the_codec_of_the_call(codec):
    async with running(Shop) as node:
        call = make_call(
            "Shop", "s", "order", codec=codec, items=[{"name": "a", "amount": 2}], size="l"
        )
        reply = await node.send(call)
        assert reply.codec is codec
        assert value_of(reply) == {"n": 2, "note": "none", "size": "l"}
        nothing = await node.send(make_call("Shop", "s", "nothing", codec=codec, payload=b""))
        assert value_of(nothing) is None


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("arguments", "path", "text"),
    [
        ({"items": [{"name": "a"}, {"name": 3}]}, "items[1].name", "expected str, got int"),
        ({}, "items", "missing argument"),
        ({"items": [], "more": 1}, "more", "unknown argument"),
        ({"items": [{}]}, "items[0].name", "missing field"),
        ({"items": [], "size": "xl"}, "size", "invalid enum value"),
        ({"items": 5}, "items", "expected array, got int"),
    ],
)
async def test_a_mismatch_names_the_path_and_nothing_was_executed(codec, arguments, path, text):
    async with running(Shop) as node:
        with pytest.raises(goverse.InvalidArgument) as caught:
            await node.send(make_call("Shop", "s", "order", codec=codec, **(arguments or {})))
        assert caught.value.executed is goverse.Executed.NO
        assert caught.value.details == {"path": path}
        assert f"Shop.order: {path}: {text}" in str(caught.value)
        assert node.ids() == []  # nothing was activated for it either


@pytest.mark.parametrize(
    ("codec", "payload"),
    [
        (Codec.JSON, b"{"),
        (Codec.JSON, b"[1]"),
        (Codec.JSON, b"nul"),
        (Codec.JSON, b'{"value": "\xff"}'),
        (Codec.JSON, b'{"value": ' + b"[" * 100_000),
        (Codec.JSON, b'{"value": 99999999999999999999}'),
        (Codec.JSON, b'{"value": 1e999}'),
        (Codec.MSGPACK, b"\xc1"),
        (Codec.MSGPACK, b"\x81\xa5value" + b"\x91" * 100_000),
        (Codec.MSGPACK, b"\x93\x01\x02\x03"),
    ],
)
async def test_malformed_payloads_are_the_callers_fault(codec, payload):
    async with running(Shop) as node:
        with pytest.raises(goverse.InvalidArgument):
            await node.send(make_call("Shop", "s", "anything", codec=codec, payload=payload))


@given(st.binary(max_size=40), st.sampled_from(CODECS))
def test_no_bytes_make_a_decoder_raise_anything_else(payload, codec):
    signature = Shop.__goverse__.methods["order"].signature
    try:
        signature.decode(payload, codec)
    except goverse.InvalidArgument as error:
        assert error.executed is goverse.Executed.NO


@pytest.mark.parametrize(
    ("codec", "what", "path"),
    [
        (Codec.MSGPACK, "big", "deep[1]"),
        (Codec.JSON, "big", "deep[1]"),
        (Codec.JSON, "nan", "[1]"),
        (Codec.JSON, "inf", ""),
        (Codec.JSON, "key", "a"),
        (Codec.JSON, "object", "x[0]"),
        (Codec.MSGPACK, "object", "x[0]"),
        (Codec.MSGPACK, "surrogate", "x"),
    ],
)
async def test_a_result_that_cannot_be_carried_is_refused_with_its_path(codec, what, path):
    async with running(Shop) as node:
        with pytest.raises(goverse.ObjectFailed) as caught:
            await node.send(make_call("Shop", "s", "make", codec=codec, what=what))
        assert caught.value.details["path"] == path
        assert caught.value.executed is goverse.Executed.UNKNOWN
        ok = await node.send(make_call("Shop", "s", "make", codec=codec, what="ok"))
        assert value_of(ok) == {"x": 2**64 - 1, "y": -(2**63)}


async def test_what_msgpack_can_carry_and_json_cannot():
    async with running(Shop) as node:
        nan = value_of(await node.call("Shop", "s", "make", what="nan"))
        assert math.isnan(nan[1])
        raw = (await node.call("Shop", "s", "make", what="key")).payload
        assert msgspec.msgpack.decode(raw) == {"a": {1: 2}}


@pytest.mark.parametrize("codec", CODECS)
async def test_rich_types_arrive_as_themselves(codec):
    async with running(Shop) as node:
        call = make_call(
            "Shop",
            "s",
            "kinds",
            codec=codec,
            when="2024-01-02T03:04:05Z",
            price="1.50",
            key=str(uuid.UUID(int=5)),
            message="hello" if codec is Codec.JSON else StringValue(value="x").SerializeToString(),
        )
        assert value_of(await node.send(call)) == ["datetime", "Decimal", "UUID", "StringValue"]


async def test_protobuf_messages_are_bytes_in_msgpack_and_protojson_in_json():
    async with running(Shop) as node:
        messages = await node.get(Shop, "s").echo_message([StringValue(value="a")])
        assert messages == [StringValue(value="a")]
        call = make_call("Shop", "s", "echo_message", codec=Codec.JSON, messages=["b"])
        assert value_of(await node.send(call)) == ["b"]
        with pytest.raises(goverse.InvalidArgument, match="messages\\[0\\]"):
            await node.send(make_call("Shop", "s", "echo_message", messages=[b"\xff\xff"]))


async def test_pydantic_models_as_arguments_and_results():
    pydantic = pytest.importorskip("pydantic")

    class Model(pydantic.BaseModel):
        amount: int = 1

    class Uses(goverse.Object):
        @goverse.method
        async def double(self, one: Model, more: list[Model] = []) -> Model:
            return Model(amount=one.amount * 2 + len(more))

    async with running(Uses) as node:
        assert await node.get(Uses).double(Model(amount=4), [Model()]) == Model(amount=9)
        with pytest.raises(goverse.InvalidArgument, match="one"):
            await node.call("Uses", "x", "double", one={"amount": "many"})


async def test_defaults_are_not_shared_between_calls():
    async with running(Shop) as node:
        shop = node.get(Shop)
        assert await shop.defaults() == ["a", "b"]
        assert await shop.defaults() == ["a", "b"]


async def test_an_object_class_as_annotation_receives_a_reference():
    async with running(Shop) as node:
        back = await node.get(Shop, "one").meet(node.get(Shop, "two"))
        assert back == node.get(Shop, "two") and back.id == "two"
        await back.nothing()  # a reference in a result calls through the same client
        for wrong in ({"type": "Item", "id": "a"}, {"type": "Shop"}, 5, {"type": "Shop", "id": ""}):
            with pytest.raises(goverse.InvalidArgument, match=r"Shop\.meet: other"):
                await node.call("Shop", "one", "meet", other=wrong)


async def test_payloads_above_the_limit():
    from goverse.config.settings import LimitSettings

    async with running(Shop, limits=LimitSettings(max_payload_bytes=1000)) as node:
        with pytest.raises(goverse.TooLarge) as caught:
            await node.call("Shop", "s", "anything", value="x" * 2000)
        assert caught.value.executed is goverse.Executed.NO

        class Big(goverse.Object):
            made: int = 0

            @goverse.method
            async def make(self, size: int) -> str:
                self.made += 1
                return "x" * size

            @goverse.method
            async def count(self) -> int:
                return self.made

        node.registry.add(Big)
        with pytest.raises(goverse.TooLarge) as caught:
            await node.call("Big", "b", "make", size=2000)
        assert caught.value.executed is goverse.Executed.UNKNOWN
        assert caught.value.details["rolled_back"] is True
        assert await node.get(Big, "b").count() == 0


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)), max_size=4), inner)
    ),
    max_leaves=12,
)


@given(plain, st.sampled_from(CODECS))
def test_what_is_encoded_is_what_is_decoded(value, codec):
    signature = Shop.__goverse__.methods["anything"].signature
    payload = encoding.encode({"value": value}, codec)
    assert signature.decode(payload, codec).value == value
    encoded = signature.encode_result(value, codec)
    decode = msgspec.json.decode if codec is Codec.JSON else msgspec.msgpack.decode
    assert decode(encoded) == value


odd = st.recursive(
    st.integers() | st.floats() | st.text(max_size=3) | st.just(object) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.integers() | st.text(max_size=2) | st.floats(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(odd, st.sampled_from(CODECS))
def test_a_value_is_carried_faithfully_or_refused_with_a_path(value, codec):
    signature = Shop.__goverse__.methods["anything"].signature
    try:
        encoded = signature.encode_result(value, codec)
    except EncodingFault as fault:
        assert fault.why
        return
    if codec is Codec.MSGPACK:
        assert repr(msgspec.msgpack.decode(encoded)) == repr(value)
    else:
        again = msgspec.json.decode(encoded)
        assert encoding.find_fault(value, json=True) is None
        assert msgspec.json.encode(again) == encoded
