"""Schemas say what the decoder takes and what the encoder gives, neither more nor less."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import msgspec
import pydantic
import pytest
from google.protobuf import descriptor_pb2, message_factory
from hypothesis import given
from hypothesis import strategies as st

import goverse
from goverse.call import Codec
from goverse.errors import InvalidArgument
from goverse.objects import Registry
from goverse.objects.description import MethodDescription, TypesDescription, describe_type
from goverse.objects.proto_schemas import _digits
from tests.support.every_field import EveryField
from tests.support.every_kind import Chain, Kinds


def described(cls: type[goverse.Object], method: str) -> MethodDescription:
    return describe_type(cls.__goverse__.complete()).methods[method]


def says(schema: Any, value: Any) -> bool:
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True).is_valid(value)


def takes(cls: type[goverse.Object], method: str, arguments: Any) -> bool:
    found = cls.__goverse__.method(method)
    assert found is not None
    try:
        found.signature.decode(json.dumps(arguments).encode(), Codec.JSON)
    except InvalidArgument:
        return False
    return True


GOOD: list[tuple[str, Any]] = [
    ("nothing", {}),
    ("numbers", {"whole": -(2**63)}),
    ("numbers", {"whole": 2**64 - 1, "real": 5, "small": -5, "money": "12.50"}),
    ("numbers", {"whole": 7.0, "money": 3}),
    # Beyond the largest float as it is written, 1.7976931348623157e308; read as that one.
    ("numbers", {"whole": 0, "real": 17976931348623157 * 10**292 + 1}),
    ("numbers", {"whole": 0, "money": -17976931348623157 * 10**292 - 1}),
    ("numbers", {"whole": 0, "money": 10**400}),
    ("messages", {"everything": {"aDouble": 17976931348623157 * 10**292 + 1}}),
    ("texts", {"raw": "aGk=", "name": "abc", "key": "6fa459ea-ee8a-3ca4-894e-db77e160355e"}),
    ("times", {"moment": "2026-01-31T10:00:00Z", "day": "2026-01-31", "long": "PT1.5S"}),
    ("times", {"moment": "2026-01-31T10:00:00.123+02:00", "clock": "10:00:00Z"}),
    ("choices", {"colour": "red", "level": 2, "word": 3}),
    ("lists", {"numbers": [1], "names": ["a"], "fixed": [1, "a"], "many": [True]}),
    ("maps", {"by_name": {"": 1}, "by_number": {"-5": "a"}}),
    ("structs", {"point": {"x": 1, "next": {"x": 2, "y": 0.5}}, "pair": ["a", 1]}),
    ("structs", {"point": {"x": 1}, "shape": {"type": "circle", "radius": 0}, "row": ["a"]}),
    ("models", {"person": {"name": "a", "friends": [{"name": "b"}]}}),
    ("messages", {"everything": {"aInt64": "9223372036854775807", "shade": "SHADE_DARK"}}),
    ("messages", {"everything": {"counts": {"1": True}, "this": "x"}, "wait": "1.5s"}),
    ("references", {"one": {"type": "Kinds", "id": "a"}, "any": {"type": "X", "id": "shard#5/x"}}),
    ("anything", {"value": [{"a": None}]}),
]
BAD: list[tuple[str, Any]] = [
    ("nothing", {"x": 1}),
    ("nothing", []),
    ("numbers", {}),
    ("numbers", {"whole": 2**64}),
    ("numbers", {"whole": -(2**63) - 1}),
    ("numbers", {"whole": 1.5}),
    ("numbers", {"whole": True}),
    ("numbers", {"whole": 1, "small": 6}),
    ("numbers", {"whole": 1, "money": "much"}),
    ("texts", {"raw": "a"}),
    ("texts", {"raw": "%%%%"}),
    ("texts", {"name": ""}),
    ("texts", {"key": "no"}),
    ("times", {"moment": "yesterday"}),
    ("times", {"moment": "2026-01-31T10:00:00Z", "long": "P1Y"}),
    ("choices", {"colour": "green"}),
    ("choices", {"colour": "red", "word": "c"}),
    ("lists", {"numbers": ["1"]}),
    ("lists", {"numbers": [], "fixed": [1]}),
    ("lists", {"numbers": [], "fixed": [1, "a", 2]}),
    ("maps", {"by_name": {}, "by_number": {"a": "b"}}),
    ("structs", {"point": {"x": 1, "z": 2}}),
    ("structs", {"point": {"x": 1}, "shape": {"type": "triangle"}}),
    ("structs", {"point": {"x": 1}, "row": []}),
    ("models", {"person": {}}),
    ("messages", {"everything": {"nothing": 1}}),
    ("messages", {"everything": {"aInt32": 2**31}}),
    ("messages", {"everything": {"aInt32": "2147483648"}}),
    ("messages", {"everything": {"this": "x", "that": 1}}),
    ("references", {"one": {"type": "Chain", "id": "a"}}),
    ("references", {"one": {"type": "Kinds", "id": ""}}),
    ("references", {"one": {"type": "Kinds"}}),
]


def named(value: Any) -> str:
    return str(value)[:60]


@pytest.mark.parametrize(("method", "arguments"), GOOD, ids=named)
def test_what_a_schema_takes_the_decoder_takes(method: str, arguments: Any) -> None:
    assert says(described(Kinds, method).arguments, arguments)
    assert takes(Kinds, method, arguments)


@pytest.mark.parametrize(("method", "arguments"), BAD, ids=named)
def test_what_a_schema_refuses_the_decoder_refuses(method: str, arguments: Any) -> None:
    assert not says(described(Kinds, method).arguments, arguments)
    assert not takes(Kinds, method, arguments)


@pytest.mark.parametrize("whole", ["5", "5.0"])
def test_a_number_beyond_every_decimal_is_refused_by_name(whole: str) -> None:
    """Also on the second attempt, the one that takes 5.0 for 5."""
    found = Kinds.__goverse__.method("numbers")
    assert found is not None
    payload = f'{{"whole": {whole}, "money": 1e{10**20}}}'.encode()
    with pytest.raises(InvalidArgument, match="decimal"):
        found.signature.decode(payload, Codec.JSON)


@pytest.mark.parametrize("method", list(Kinds.__goverse__.complete().methods))
def test_schemas_are_valid_and_complete_in_themselves(method: str) -> None:
    found = described(Kinds, method)
    for schema in (found.arguments, found.result):
        jsonschema_rs.Draft202012Validator(schema)  # follows every $ref
        json.dumps(schema)


def test_docs_options_and_state_are_told() -> None:
    found = describe_type(Chain.__goverse__.complete())
    assert found.doc == "Objects that call each other."
    assert (found.durability, found.concurrent, found.reentrancy) == ("none", False, "refuse")
    assert found.fields["total"]["type"] == "integer"
    assert found.methods["add"].doc == "Add to the total."
    assert found.methods["add"].arguments["properties"]["amount"]["default"] == 1
    assert (found.methods["add"].read_only, found.methods["add"].rollback) == (False, True)


def test_defaults_are_told_as_json() -> None:
    properties = described(Kinds, "numbers").arguments["properties"]
    assert properties["money"]["default"] == "1.50"
    assert described(Kinds, "texts").arguments["properties"]["raw"]["default"] == ""
    assert described(Kinds, "lists").arguments["properties"]["many"]["default"] == []


def test_a_lone_message_is_the_whole_payload() -> None:
    class Whole(goverse.Object):
        @goverse.method
        async def put(self, message: EveryField) -> EveryField:
            return message

        @goverse.method
        async def put_maybe(self, message: EveryField | None = None) -> None: ...

    schema = described(Whole, "put").arguments
    assert says(schema, {"aString": "x"}) and takes(Whole, "put", {"aString": "x"})
    assert not says(schema, {"message": {}}) and not takes(Whole, "put", {"message": {}})
    assert says(described(Whole, "put_maybe").arguments, None)
    assert takes(Whole, "put_maybe", None)


def test_classes_of_one_name_are_told_apart() -> None:
    def make(field: str, kind: Any) -> Any:
        return msgspec.defstruct("Item", [(field, kind)])

    first, second = make("a", int), make("b", str)

    class Shop(goverse.Object):
        @goverse.method
        async def sell(self, one: first, other: second) -> None: ...  # type: ignore[valid-type]

    schema = described(Shop, "sell").arguments
    assert says(schema, {"one": {"a": 1}, "other": {"b": "x"}})
    assert not says(schema, {"one": {"a": "x"}, "other": {"b": "x"}})
    assert not says(schema, {"one": {"a": 1}, "other": {"b": 1}})


def test_a_pydantic_model_keeps_its_name_beside_a_struct_of_the_same() -> None:
    class Inner(pydantic.BaseModel):
        x: int

    class Outer(pydantic.BaseModel):
        inner: Inner

    struct = msgspec.defstruct("Inner", [("y", str)])

    class Shop(goverse.Object):
        @goverse.method
        async def sell(self, a: struct, b: Outer) -> None: ...  # type: ignore[valid-type]

    schema = described(Shop, "sell").arguments
    assert says(schema, {"a": {"y": "t"}, "b": {"inner": {"x": 1}}})
    assert not says(schema, {"a": {"y": "t"}, "b": {"inner": {"y": "t"}}})


def test_a_model_without_a_schema_does_not_keep_a_node_from_starting() -> None:
    class Odd(pydantic.BaseModel, arbitrary_types_allowed=True):
        thing: pytest.MonkeyPatch | None = None

    class Shop(goverse.Object):
        @goverse.method
        async def sell(self, odd: Odd) -> None: ...

    assert says(described(Shop, "sell").arguments, {"odd": {}})


def test_the_digest_changes_with_anything_that_is_told() -> None:
    def digest(doc: str, **options: Any) -> str:
        class Thing(goverse.Object, **options):
            @goverse.method
            async def go(self) -> None: ...

        Thing.__doc__ = doc
        registry = Registry()
        registry.add(Thing)
        return registry.types_digest()

    digests = [
        digest("a"),
        digest("b"),
        digest("a", idle_timeout_s=5),
        digest("a", concurrent=True),
    ]
    assert len(set(digests)) == 4
    assert digest("a") == digests[0]


def test_a_description_survives_json_and_what_newer_nodes_add() -> None:
    registry = Registry()
    registry.add(Kinds)
    text = msgspec.json.encode(registry.describe())
    assert msgspec.json.decode(text, type=TypesDescription) == registry.describe()
    newer = json.loads(text)
    newer["types"]["Kinds"]["new"] = newer["new"] = 1
    assert msgspec.convert(newer, TypesDescription) == registry.describe()


@pytest.mark.parametrize(
    ("least", "most"),
    [(-(2**31), 2**31 - 1), (0, 2**32 - 1), (-(2**63), 2**63 - 1), (0, 2**64 - 1)],
)
@given(data=st.data())
def test_numbers_as_text_are_bounded_exactly(data: st.DataObject, least: int, most: int) -> None:
    import re

    near = st.sampled_from([least - 1, least, most, most + 1, 0, 9, 10])
    number = data.draw(near | st.integers(least * 2 - 1, most * 2))
    assert bool(re.search(_digits(least, most), str(number))) is (least <= number <= most)


# -- found by fuzzing


def test_a_message_that_misses_required_fields_is_refused_by_name() -> None:
    """It parsed, could not be encoded again, and the node answered `internal`."""

    class Part(goverse.Object):
        @goverse.method
        async def put(self, part: descriptor_pb2.UninterpretedOption, n: int = 0) -> None: ...

        @goverse.method
        async def whole(self, part: descriptor_pb2.UninterpretedOption) -> None: ...

    bad = {"name": [{"isExtension": True}]}
    for method, arguments in (("put", {"part": bad}), ("whole", bad)):
        found = Part.__goverse__.method(method)
        assert found is not None
        with pytest.raises(InvalidArgument, match=r"name\[0\].name_part: missing field"):
            found.signature.decode(json.dumps(arguments).encode(), Codec.JSON)
        assert not says(described(Part, method).arguments, arguments)


def test_a_result_that_misses_required_fields_is_the_methods_fault() -> None:
    from goverse.objects.encoding import EncodingFault, encode

    kind = message_factory.GetMessageClass(descriptor_pb2.UninterpretedOption.NamePart.DESCRIPTOR)
    with pytest.raises(EncodingFault, match="required"):
        encode(kind(), Codec.MSGPACK)


def test_an_integer_may_be_written_as_a_float() -> None:
    """JSON knows one kind of number, and some languages write 5.0 for 5."""
    assert takes(Kinds, "structs", {"point": {"x": 5.0, "y": 1}})
    assert takes(Kinds, "maps", {"by_name": {"a": -3.0}})
    assert not takes(Kinds, "maps", {"by_name": {"a": 3.5}})
    assert not takes(Kinds, "numbers", {"whole": 1e300})
    found = Kinds.__goverse__.method("numbers")
    assert found is not None
    decoded = found.signature.decode(b'{"whole": 5.0, "money": 0.1234567890123456789}', Codec.JSON)
    assert type(decoded.whole) is int
    assert str(decoded.money) == "0.1234567890123456789"
