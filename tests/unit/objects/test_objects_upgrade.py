"""Two versions of a class against each other's encodings: the rules of
docs/how-to/change-a-method.md, a test for each, named by its number."""

import dataclasses
import enum
import re
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest
from google.protobuf import any_pb2, struct_pb2
from objects_kit import running

import goverse
from goverse.call import Codec
from goverse.objects.signature import Signature
from tests.support.messages import classes

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "change-a-method.md"


def version(cls: type[goverse.Object]) -> Signature:
    return cls.__goverse__.complete().methods["add"].signature


def send(caller: Signature, node: Signature, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments as the node sees them."""
    return _seen(node.decode(caller.encode_arguments(args, kwargs), Codec.MSGPACK))


def send_json(node: Signature, **arguments: Any) -> dict[str, Any]:
    return _seen(node.decode(msgspec.json.encode(arguments), Codec.JSON))


def send_struct(node: Signature, **arguments: Any) -> dict[str, Any]:
    struct, packed = struct_pb2.Struct(), any_pb2.Any()
    struct.update(arguments)
    packed.Pack(struct)
    return _seen(node.decode(packed.SerializeToString(), Codec.ANY))


def _seen(arguments: Any) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in arguments.__struct_fields__}


def answer(node: Signature, caller: Signature, result: Any) -> Any:
    return caller.decode_result(node.encode_result(result, Codec.MSGPACK))


class refused:
    """The block is refused, naming ``path``, and nothing was executed."""

    def __init__(self, path: str, text: str = "") -> None:
        self._raises = pytest.raises(goverse.InvalidArgument)
        self._path, self._text = path, text

    def __enter__(self) -> None:
        self._caught = self._raises.__enter__()

    def __exit__(self, *error: Any) -> bool:
        swallowed = self._raises.__exit__(*error)
        assert self._caught.value.details == {"path": self._path}
        assert self._text in self._caught.value.message
        assert self._caught.value.executed is goverse.Executed.NO
        return bool(swallowed)


class Plain(goverse.Object):
    @goverse.method
    async def add(self, amount: int) -> int: ...


class WithNote(goverse.Object):
    @goverse.method
    async def add(self, amount: int, note: str = "none") -> int: ...


class Demanding(goverse.Object):
    @goverse.method
    async def add(self, amount: int, note: str) -> int: ...


class Renamed(goverse.Object):
    @goverse.method
    async def add(self, count: int) -> int: ...


PLAIN, WITH_NOTE, DEMANDING, RENAMED = map(version, (Plain, WithNote, Demanding, Renamed))


def test_rule_1_a_new_parameter_with_a_default():
    assert send(PLAIN, WITH_NOTE, 5) == {"amount": 5, "note": "none"}
    assert send_json(WITH_NOTE, amount=5) == {"amount": 5, "note": "none"}
    assert send_struct(WITH_NOTE, amount=5) == {"amount": 5, "note": "none"}
    assert send(WITH_NOTE, PLAIN, 5) == {"amount": 5}
    for call in (
        lambda: send(WITH_NOTE, PLAIN, 5, note="x"),
        lambda: send(WITH_NOTE, PLAIN, 5, note="none"),  # sent, although it is the default
        lambda: send_json(PLAIN, amount=5, note="x"),
        lambda: send_struct(PLAIN, amount=5, note="x"),
    ):
        with refused("note", "unknown argument"):
            call()


def test_rule_2_a_new_parameter_without_a_default():
    with refused("note", "missing argument"):
        send(PLAIN, DEMANDING, 5)
    with refused("note", "missing argument"):
        send_struct(DEMANDING, amount=5)
    with refused("note", "unknown argument"):
        send(DEMANDING, PLAIN, 5, "x")


def test_rule_3_a_parameter_is_removed():
    with refused("note", "unknown argument"):
        send(WITH_NOTE, PLAIN, 5, "x")
    assert send(WITH_NOTE, PLAIN, 5) == {"amount": 5}
    with refused("note", "missing argument"):
        send(PLAIN, DEMANDING, 5)
    assert send(PLAIN, WITH_NOTE, 5) == {"amount": 5, "note": "none"}


def test_rule_4_a_parameter_is_renamed():
    for caller, node, unknown in ((PLAIN, RENAMED, "amount"), (RENAMED, PLAIN, "count")):
        # One of the two faults is told: the name that is not known, or the one that is missing.
        with pytest.raises(goverse.InvalidArgument) as caught:
            send(caller, node, 5)
        assert caught.value.details["path"] in ("amount", "count")
        with pytest.raises(goverse.InvalidArgument, match="argument"):
            send_json(node, **{unknown: 5})

    class Both(goverse.Object):
        """The way around: either name for a while."""

        @goverse.method
        async def add(self, amount: int | None = None, count: int | None = None) -> int: ...

    assert send(PLAIN, version(Both), 5) == {"amount": 5, "count": None}
    assert send(RENAMED, version(Both), 5) == {"amount": None, "count": 5}


def test_rule_5_places_and_kinds_make_no_difference():
    class Turned(goverse.Object):
        @goverse.method
        async def add(self, note: str = "none", *, amount: int) -> int: ...

    turned = version(Turned)
    assert send(WITH_NOTE, turned, 5, "x") == {"note": "x", "amount": 5}
    assert send(turned, WITH_NOTE, "x", amount=5) == {"note": "x", "amount": 5}


class Size(enum.Enum):
    SMALL = "s"


class MoreSizes(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@pytest.mark.parametrize(
    ("old", "new", "fits", "more"),
    [
        (int, int | str, 5, "five"),
        (int, int | None, 5, None),
        (int, float, 5, 5.5),
        (Size, MoreSizes, Size.SMALL, MoreSizes.LARGE),
        (list[int], list[int | str], [1], ["a"]),
    ],
)
def test_rule_6_a_parameter_takes_more(old, new, fits, more):
    versions = []
    for kind in (old, new):

        async def add(self, amount): ...

        add.__annotations__ = {"amount": kind, "return": None}
        versions.append(version(type("Versioned", (goverse.Object,), {"add": goverse.method(add)})))
    before, after = versions
    seen = send(before, after, fits)["amount"]
    assert getattr(seen, "value", seen) == getattr(fits, "value", fits)
    send(after, before, fits)
    with pytest.raises(goverse.InvalidArgument) as caught:
        send(after, before, more)
    assert caught.value.details["path"].startswith("amount")


def _of(kind: Any) -> Signature:
    class Takes(goverse.Object):
        @goverse.method
        async def add(self, item: kind) -> kind: ...

    return version(Takes)


@dataclasses.dataclass
class OldItem:
    name: str


@dataclasses.dataclass
class NewItem:
    name: str
    amount: int = 1


class OldStruct(msgspec.Struct):
    name: str


class NewStruct(msgspec.Struct):
    name: str
    amount: int = 1


class StrictStruct(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class OldModel(pydantic.BaseModel):
    name: str


class NewModel(pydantic.BaseModel):
    name: str
    amount: int = 1


class StrictModel(pydantic.BaseModel, extra="forbid"):
    name: str


@pytest.mark.parametrize(
    ("old", "new", "strict"),
    [
        (OldItem, NewItem, None),
        (OldStruct, NewStruct, StrictStruct),
        (OldModel, NewModel, StrictModel),
    ],
)
def test_rule_7_a_field_with_a_default(old, new, strict):
    before, after = _of(old), _of(new)
    assert send(before, after, old(name="a"))["item"] == new(name="a", amount=1)
    assert send(after, before, new(name="a", amount=5))["item"] == old(name="a")
    assert answer(after, before, new(name="a", amount=5)) == old(name="a")
    assert answer(before, after, old(name="a")) == new(name="a", amount=1)
    if strict is not None:
        with refused("item.amount"):
            send(after, _of(strict), new(name="a", amount=5))


def test_rule_8_a_result_gives_more():
    class Nullable(goverse.Object):
        @goverse.method
        async def add(self, amount: int) -> int | None: ...

    nullable = version(Nullable)
    assert answer(nullable, PLAIN, 5) == 5
    with pytest.raises(goverse.Internal, match="annotation") as caught:
        answer(nullable, PLAIN, None)
    assert caught.value.executed is goverse.Executed.YES
    assert answer(PLAIN, nullable, 5) == 5
    with pytest.raises(goverse.Internal) as caught:
        answer(_of(NewItem), _of(Size), NewItem("a"))
    assert caught.value.executed is goverse.Executed.YES


(OLD_MESSAGE,) = classes("v", {"Add": ((1, "amount", "int64"),)})
(NEW_MESSAGE,) = classes("v", {"Add": ((1, "amount", "int64"), (2, "note", "string"))})
(RENAMED_MESSAGE,) = classes("v", {"Add": ((1, "count", "int64"),)})


def test_rule_9_a_protobuf_message_gets_a_field():
    before, after = _of(OLD_MESSAGE), _of(NEW_MESSAGE)
    assert send(before, after, OLD_MESSAGE(amount=5))["item"] == NEW_MESSAGE(amount=5)
    kept = send(after, before, NEW_MESSAGE(amount=5, note="x"))["item"]
    assert kept.amount == 5
    assert NEW_MESSAGE.FromString(kept.SerializeToString()).note == "x"
    assert answer(before, after, kept) == NEW_MESSAGE(amount=5, note="x")
    with refused("note", "unknown field"):
        send_json(before, amount=5, note="x")


def test_rule_10_a_protobuf_field_changes_its_name():
    before, after = _of(OLD_MESSAGE), _of(RENAMED_MESSAGE)
    assert send(before, after, OLD_MESSAGE(amount=5))["item"].count == 5
    assert send(after, before, RENAMED_MESSAGE(count=5))["item"].amount == 5
    packed = any_pb2.Any(
        type_url="type.googleapis.com/v.Add", value=OLD_MESSAGE(amount=5).SerializeToString()
    )
    assert after.decode(packed.SerializeToString(), Codec.ANY).item.count == 5
    with refused("amount", "unknown field"):
        send_json(after, amount=5)


def test_rule_11_a_parameter_becomes_a_message():
    class Request(goverse.Object):
        @goverse.method
        async def add(self, request: NEW_MESSAGE) -> int: ...

    request = version(Request)
    assert send_json(request, amount=5)["request"] == NEW_MESSAGE(amount=5)
    for call in (lambda: send(PLAIN, request, 5), lambda: send(request, PLAIN, NEW_MESSAGE())):
        with pytest.raises(goverse.InvalidArgument, match="argument"):
            call()
    with pytest.raises(goverse.InvalidArgument, match=r"expected v\.Add"):
        send_struct(request, amount=5)


async def test_rule_12_a_method_that_is_not_there():
    async with running(Plain) as node:
        with pytest.raises(goverse.NotFound, match="no method 'remove'") as caught:
            await node.call("Plain", "x", "remove")
        assert caught.value.executed is goverse.Executed.NO


def test_every_rule_of_the_page_has_a_test_and_every_test_a_rule():
    rules = re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    tests = re.findall(r"def test_rule_(\d+)_", Path(__file__).read_text())
    assert rules == tests
