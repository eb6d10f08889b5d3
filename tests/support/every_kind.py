"""Objects whose methods take and give everything that an annotation can say, and never fail:
whatever arrives as an error is a fault of ours."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pydantic
from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2, wrappers_pb2

import goverse
from tests.support.every_field import EveryField


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Point(msgspec.Struct, forbid_unknown_fields=True):
    """A place."""

    x: int
    y: float = 0.0
    next: Point | None = None


class Circle(msgspec.Struct, tag="circle"):
    radius: Annotated[float, msgspec.Meta(ge=0, le=1_000)]


class Square(msgspec.Struct, tag="square"):
    side: Annotated[int, msgspec.Meta(gt=0, lt=100)]


class Row(msgspec.Struct, array_like=True):
    name: str
    number: int = 0


@dataclasses.dataclass
class Order:
    """What somebody wants."""

    item: str
    amount: int = 1
    tags: list[str] = dataclasses.field(default_factory=list)


class Pair(NamedTuple):
    left: str
    right: int


class Options(TypedDict, total=False):
    deep: bool
    name: str


class Address(pydantic.BaseModel, extra="forbid"):
    """Where somebody lives."""

    street: Annotated[str, pydantic.Field(min_length=1, max_length=40)]
    number: Annotated[int, pydantic.Field(ge=1, le=9_999)]
    lines: list[str] = []


class Person(pydantic.BaseModel, extra="forbid"):
    name: str
    home: Address | None = None
    friends: list[Person] = []


class Numbers(msgspec.Struct):
    whole: int
    real: float
    flag: bool
    small: int
    money: decimal.Decimal


class Texts(msgspec.Struct):
    text: str
    name: str
    raw: bytes
    key: uuid.UUID | None


class Times(msgspec.Struct):
    moment: datetime.datetime
    day: datetime.date | None
    clock: datetime.time | None
    long: datetime.timedelta


class Structs(msgspec.Struct):
    point: Point
    order: Order | None
    shape: Circle | Square | None
    options: Options | None


Name = Annotated[str, msgspec.Meta(min_length=1, max_length=20, pattern="^[a-z]+$")]


class Kinds(goverse.Object):
    """One method for each kind of parameter; each gives back what it was given."""

    calls: int = 0
    seen: dict[str, int] = {}

    @goverse.method
    async def nothing(self) -> None:
        """Take nothing, give nothing."""
        self.calls += 1

    @goverse.method
    async def numbers(
        self,
        whole: int,
        real: float = 0.5,
        flag: bool = False,
        small: Annotated[int, msgspec.Meta(ge=-5, le=5)] = 0,
        *,
        money: decimal.Decimal = decimal.Decimal("1.50"),
    ) -> Numbers:
        """Numbers of every kind."""
        return Numbers(whole, real, flag, small, money)

    @goverse.method
    async def texts(
        self, text: str = "", name: Name = "a", raw: bytes = b"", key: uuid.UUID | None = None
    ) -> Texts:
        """Texts of every kind."""
        self.calls += 1
        return Texts(text, name, raw, key)

    @goverse.method(read_only=True)
    async def times(
        self,
        moment: datetime.datetime,
        day: datetime.date | None = None,
        clock: datetime.time | None = None,
        long: datetime.timedelta = datetime.timedelta(seconds=1),
    ) -> Times:
        """Times of every kind."""
        return Times(moment, day, clock, long)

    @goverse.method(read_only=True)
    async def choices(
        self, colour: Colour, level: Level = Level.LOW, word: Literal["a", "b", 3] = "a"
    ) -> Colour:
        """A choice of values."""
        return colour

    @goverse.method
    async def lists(
        self,
        numbers: list[int],
        names: set[str] = set(),  # noqa: B006 - every call gets a copy
        fixed: tuple[int, str] | None = None,
        many: Annotated[list[bool], msgspec.Meta(max_length=3)] = [],  # noqa: B006
    ) -> list[int]:
        """Collections."""
        return numbers

    @goverse.method
    async def maps(
        self, by_name: dict[str, int], by_number: dict[int, str] | None = None
    ) -> dict[str, int]:
        """Mappings."""
        self.seen = by_name
        return by_name

    @goverse.method
    async def structs(
        self,
        point: Point,
        order: Order | None = None,
        shape: Circle | Square | None = None,
        row: Row | None = None,
        pair: Pair | None = None,
        options: Options | None = None,
    ) -> Structs:
        """Classes of every kind."""
        return Structs(point, order, shape, options)

    @goverse.method
    async def models(self, person: Person, address: Address | None = None) -> Person:
        """pydantic's models."""
        return person

    @goverse.method
    async def messages(
        self,
        everything: EveryField,
        since: timestamp_pb2.Timestamp | None = None,
        wait: duration_pb2.Duration | None = None,
        facts: struct_pb2.Struct | None = None,
        size: wrappers_pb2.UInt64Value | None = None,
        log: list[EveryField] = [],  # noqa: B006
    ) -> EveryField:
        """protobuf's messages."""
        return everything

    @goverse.method(read_only=True)
    async def references(self, one: Kinds, any: goverse.Object | None = None) -> bool:
        """References to objects."""
        return True

    @goverse.method
    async def anything(self, value: Any = None) -> Any:
        """Whatever JSON can say."""
        return value

    @goverse.method
    async def refuse(self, code: Name, facts: dict[str, int] | None = None) -> None:
        """Raise an application error, always."""
        raise goverse.ApplicationError(code, "refused", facts)


class Chain(goverse.Object):
    """Objects that call each other."""

    total: int = 0

    @goverse.method
    async def add(self, amount: Annotated[int, msgspec.Meta(ge=0, le=1_000)] = 1) -> int:
        """Add to the total."""
        self.total += amount
        return self.total

    @goverse.method
    async def pass_on(self, to: Annotated[str, msgspec.Meta(min_length=1, max_length=8)]) -> int:
        """Add to another one's total."""
        if to == self.id or not to.isprintable() or "#" in to:
            return self.total
        return await goverse.get(Chain, to).add(1)
