"""What is wrong with a class is said when it is defined, naming method and parameter."""

# ruff: noqa: B006, E741

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import re
import uuid
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
import pytest

import goverse
from goverse.objects import Registry

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Line(msgspec.Struct):
    a: Point
    b: Point
    next: Line | None = None


class Unknown:
    pass


def fails(text: str):
    return pytest.raises(TypeError, match=re.escape(text))


def test_a_class_with_everything_that_is_supported():
    class Everything(goverse.Object, idle_timeout_s=3):
        """Docs."""

        value: int = 0
        points: list[Point] = []
        best: Point | None = None
        label: ClassVar[str] = "not state"

        @goverse.method
        async def all(
            self,
            a: int,
            b: Annotated[float, msgspec.Meta(ge=0)],
            c: dict[str, list[Line]],
            d: Colour | None = None,
            e: datetime.datetime | None = None,
            f: decimal.Decimal = decimal.Decimal(1),
            g: uuid.UUID | None = None,
            h: Literal["x", "y"] = "x",
            i: tuple[int, ...] = (),
            j: bytes = b"",
            k: set[int] = {1},
            l: Any = None,
            m: Everything | None = None,
            n: list[goverse.Object] = [],
            *,
            o: timedelta | None = None,
        ) -> Line:
            return Line(Point(1), Point(2))

    definition = Everything.__goverse__
    assert list(definition.state.fields) == ["value", "points", "best"]
    assert definition.name == "Everything"
    assert definition.methods["all"].signature.names == tuple("abcdefghijklmno")


timedelta = datetime.timedelta


def test_defaults_of_state_are_copied_for_each_instance():
    class Lists(goverse.Object):
        items: list[int] = []
        where: Point = Point(1)

    one, two = Lists(), Lists()
    one.items.append(1)
    one.where.x = 9
    assert two.items == [] and two.where == Point(1)
    assert Lists().items == []


def test_state_needs_a_default_that_fits():
    with fails("Counter.value is declared state and has no default"):

        class Counter(goverse.Object):
            value: int

    with fails("Wrong.value: the default 'a' does not fit the annotation: Expected int, got str"):

        class Wrong(goverse.Object):
            value: int = "a"

    with fails("Bad.value: type Unknown is not supported"):

        class Bad(goverse.Object):
            value: Unknown | None = None

    with fails("define it before"):

        class Early(goverse.Object):
            value: NotThere | None = None  # noqa: F821


def test_durability_is_checked():
    with fails("durability must be 'none', 'interval' or 'acknowledged', not 'yes'"):

        class Yes(goverse.Object, durability="yes"):
            value: int = 0

    with fails("on_parked must be 'leave' or 'block', not 'wait'"):

        class Waits(goverse.Object, on_parked="wait"):
            pass

    with fails("leave out concurrent or durability"):

        class Free(goverse.Object, durability="acknowledged", concurrent=True):
            value: int = 0

    with fails("commit_interval_s must be seconds above 0"):

        class Never(goverse.Object, durability="interval", commit_interval_s=0):
            value: int = 0

    with fails("commit_interval_s goes with durability='interval'"):

        class Mixed(goverse.Object, durability="acknowledged", commit_interval_s=1):
            value: int = 0

    with fails("state_version must be a number from 0"):

        class Versioned(goverse.Object, durability="acknowledged", state_version=-1):
            value: int = 0


def test_class_options_are_checked():
    with fails("unknown class option 'durable'; there are: durability, commit_interval_s"):

        class A(goverse.Object, durable=True):
            pass

    with fails("reentrancy must be 'refuse' or 'allow'"):

        class B(goverse.Object, reentrancy="maybe"):
            pass

    with fails("a concurrent class admits every call"):

        class C(goverse.Object, concurrent=True, reentrancy="allow"):
            pass

    with fails("idle_timeout_s must be seconds above 0"):

        class D(goverse.Object, idle_timeout_s=0):
            pass

    with fails("object type 'not a name' must be an identifier"):

        class E(goverse.Object, name="not a name"):
            pass

    with fails("durability must be 'none'"):

        class F(goverse.Object, durability="always"):
            pass


def test_methods_are_checked():
    with fails("NotAsync.go: a goverse method must be written 'async def'"):

        class NotAsync(goverse.Object):
            @goverse.method  # type: ignore[type-var]
            def go(self) -> int:
                return 1

    with fails("Generates.go: a goverse method must be written 'async def'"):

        class Generates(goverse.Object):
            @goverse.method  # type: ignore[type-var]
            async def go(self):
                yield 1

    with fails("Bare.go, parameter 'a' has no annotation"):

        class Bare(goverse.Object):
            @goverse.method
            async def go(self, a) -> None: ...

    with fails("NoResult.go: the result has no annotation"):

        class NoResult(goverse.Object):
            @goverse.method
            async def go(self, a: int): ...

    with fails("Variadic.go, parameter 'args' is variadic (*args)"):

        class Variadic(goverse.Object):
            @goverse.method
            async def go(self, *args: int) -> None: ...

    with fails("Keywords.go, parameter 'more' is variadic (**kwargs)"):

        class Keywords(goverse.Object):
            @goverse.method
            async def go(self, **more: int) -> None: ...

    with fails("PositionalOnly.go, parameter 'a' is positional-only"):

        class PositionalOnly(goverse.Object):
            @goverse.method
            async def go(self, a: int, /) -> None: ...

    with fails("Odd.go, parameter 'a': type Unknown is not supported"):

        class Odd(goverse.Object):
            @goverse.method
            async def go(self, a: list[Unknown]) -> None: ...

    with fails("OddResult.go, result: type complex is not supported"):

        class OddResult(goverse.Object):
            @goverse.method
            async def go(self) -> complex:
                return 1j

    with fails("Union.go"):

        class Union(goverse.Object):
            @goverse.method
            async def go(self, a: Point | Line) -> None: ...

    with fails("type variable"):

        class Variable(goverse.Object):
            @goverse.method
            async def go(self, a: T) -> None: ...

    with fails("a goverse method needs a public, unreserved name"):

        class Hidden(goverse.Object):
            @goverse.method
            async def _go(self) -> None: ...

    with fails("cannot be static or of the class"):

        class Static(goverse.Object):
            @staticmethod
            @goverse.method
            async def go() -> None: ...

    with pytest.raises(ValueError, match="timeout_s must be above 0"):
        goverse.method(timeout_s=0)


def test_reserved_names_and_hooks_are_checked():
    with fails("Fields.id: this name is reserved"):

        class Fields(goverse.Object):
            id: str = ""

    with fails("Spawns.spawn: this name is reserved"):

        class Spawns(goverse.Object):
            def spawn(self) -> None: ...

    with fails("Hook.on_activate must be written 'async def'"):

        class Hook(goverse.Object):
            def on_activate(self) -> None: ...

    with fails("Init.__init__ takes 'size'"):

        class Init(goverse.Object):
            def __init__(self, size: int) -> None: ...

    with fails("is a base class"):
        goverse.Object()


def test_inheritance_keeps_methods_options_and_state():
    class Base(goverse.Object, reentrancy="allow"):
        a: int = 1

        @goverse.method
        async def one(self) -> int:
            return 1

    class Derived(Base):
        b: int = 2

        @goverse.method(read_only=True)
        async def two(self) -> int:
            return 2

    definition = Derived.__goverse__
    assert list(definition.methods) == ["one", "two"]
    assert list(definition.state.fields) == ["a", "b"]
    assert definition.options.reentrancy == "allow"
    with fails("overrides a goverse method: decorate it too"):

        class Forgets(Base):
            async def one(self) -> int:
                return 3


class Account(goverse.Object):
    @goverse.method
    async def join(self, bank: Bank) -> None: ...


class Bank(goverse.Object):
    @goverse.method
    async def open(self, account: Account) -> None: ...


class Lost(goverse.Object):
    @goverse.method
    async def join(self, bank: Nowhere) -> None: ...  # noqa: F821


def test_a_class_may_name_a_later_one_but_not_one_that_never_comes():
    registry = Registry()
    registry.add(Account)
    registry.add(Bank)
    assert Account.__goverse__.methods["join"].signature.names == ("bank",)
    with fails("Lost.join: the annotation uses 'Nowhere', unknown here"):
        registry.add(Lost)


def test_two_classes_of_one_name_are_refused():
    def make():
        class Same(goverse.Object):
            pass

        return Same

    registry = Registry()
    first = make()
    registry.add(first)
    registry.add(first)
    with pytest.raises(ValueError, match="two classes are named Same"):
        registry.add(make())


def test_description_and_digest_tell_interfaces_apart():
    def make(kind: Any):
        class Thing(goverse.Object):
            """A thing."""

            @goverse.method
            async def go(self, a: kind, other: goverse.Object | None = None) -> kind:
                """Goes."""
                return a

        registry = Registry()
        registry.add(Thing)
        return registry

    assert make(int).types_digest() == make(int).types_digest()
    assert make(int).types_digest() != make(str).types_digest()
    described = make(int).describe().types["Thing"]
    assert described.doc == "A thing."
    assert described.methods["go"].doc == "Goes."
    assert list(described.methods["go"].arguments["properties"]) == ["a", "other"]
