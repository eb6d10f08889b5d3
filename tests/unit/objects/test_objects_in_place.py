"""Turns that run where their call arrives: which, and that nobody can tell the difference."""

from __future__ import annotations

import asyncio
import functools
import inspect
import types
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objects_kit import Node, make_call, running, turns_of_the_loop, value_of

import goverse
from goverse.call import OVER, Call, Codec, Reply, Verb
from goverse.config.settings import LimitSettings
from goverse.errors import ApplicationError, Executed, Fenced, GoverseError, InvalidArgument
from goverse.ids import Epoch
from goverse.objects.stepping import never_suspends
from goverse.sharding import shard_of
from tests.support.forwarding import Told

SEEN: ContextVar[str] = ContextVar("seen", default="")


class Quick(goverse.Object):
    """Methods without a place to wait at, but for `wait` and `later`."""

    value: int = 0
    odd: Any = None

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.hooks: list[Callable[[], None]] = []
        self.order: list[int] = []

    @goverse.method
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        for hook in self.hooks:
            hook()
        return self.value

    @goverse.method(read_only=True)
    async def get(self) -> int:
        return self.value

    @goverse.method
    async def note(self, number: int) -> None:
        self.order.append(number)

    @goverse.method
    async def fail(self, how: str) -> Any:
        self.value += 1000
        if how == "application":
            raise ApplicationError("no_money", "not enough", {"missing": 5})
        if how == "cluster":
            raise InvalidArgument("from inside")
        if how == "cancelled":
            raise asyncio.CancelledError
        if how == "exit":
            raise SystemExit(3)
        if how == "closed":
            raise GeneratorExit
        if how == "stop":
            raise StopIteration(7)
        if how == "result":
            return object()
        if how == "large":
            return "x" * 5_000
        if how == "state":
            self.odd = object()
            return None
        raise KeyError(how)

    @goverse.method
    async def wait(self) -> None:
        await self.free.wait()

    @goverse.method
    async def who(self) -> list[str]:
        context = goverse.context()
        return [str(context.object_id), context.method, str(context.epoch), context.client_id]

    @goverse.method
    async def remember(self, text: str) -> str:
        before = SEEN.get()
        SEEN.set(text)
        return before

    @goverse.method
    async def spawned(self) -> None:
        self.spawn(self._count(), name="count")

    async def _count(self) -> None:
        await goverse.get(Quick, "other").add(5)


def forward(node: Node, call: Call) -> Told | None:
    """What the catalog does with a forwarded call; None if it declines."""
    told = Told()
    under_way = node.catalog.forward(call, told)
    if under_way is None:
        assert not told.future.done()
        return None
    assert under_way is OVER and told.future.done()
    under_way.cancel()
    return told


async def active(node: Node, id: str = "x") -> Quick:
    await node.call("Quick", id, "get")
    found = node.catalog._activations["Quick", id].instance
    assert isinstance(found, Quick)
    return found


# -- which ------------------------------------------------------------------------------------


async def plain(self: Any) -> int:
    async def inner() -> None:
        await asyncio.Event().wait()

    return len([x * 2 for x in "abc"]) + len(inspect.getsource(inner))


async def awaits(self: Any) -> None:
    if self is None:
        await asyncio.Event().wait()


async def loops(self: Any) -> None:
    async for _ in self:
        pass


async def enters(self: Any) -> None:
    async with self:
        pass


async def comprehends(self: Any) -> Any:
    return [x async for x in self]


async def asks_for_its_task(self: Any) -> Any:
    return asyncio.current_task()


async def yields(self: Any) -> Any:
    yield 1


@types.coroutine
def generator(self: Any) -> Any:
    yield


@functools.wraps(plain)
async def wrapped(self: Any) -> Any:
    return await plain(self)


def returns(self: Any) -> Any:
    return plain(self)


@pytest.mark.parametrize(
    "function",
    [
        *(awaits, loops, enters, comprehends, asks_for_its_task, yields, generator, wrapped),
        *(returns, functools.partial(plain), print),
    ],
)
def test_what_may_wait_or_is_not_known_does_not_run_in_place(function: Any) -> None:
    assert not never_suspends(function)


def test_plain_code_runs_in_place() -> None:
    assert never_suspends(plain)


# -- when -------------------------------------------------------------------------------------


async def test_a_turn_runs_in_place_only_if_nothing_is_in_its_way() -> None:
    async with running(Quick) as node:
        assert forward(node, make_call("Quick", "x", "add")) is None  # not active yet
        quick = await active(node)
        told = forward(node, make_call("Quick", "x", "add", amount=2))
        assert told is not None and value_of(await told.future) == 2
        assert forward(node, make_call("Quick", "x", "wait")) is None
        assert forward(node, make_call("Quick", "x", "nothing")) is None
        assert forward(node, make_call("Quick", "x", "", verb=Verb.DELETE)) is None
        assert forward(node, make_call("Quick", "x", "", verb=Verb.CREATE)) is None
        waiting = node.call("Quick", "x", "wait")
        await turns_of_the_loop()
        assert forward(node, make_call("Quick", "x", "add")) is None
        quick.free.set()
        await waiting
        node.catalog.shards.by_number[shard_of("x", 8)].state = type(
            node.catalog.shards.by_number[shard_of("x", 8)].state
        ).DRAINING
        assert forward(node, make_call("Quick", "x", "add")) is None


async def test_a_granted_turn_that_has_not_begun_is_not_overtaken() -> None:
    async with running(Quick) as node:
        quick = await active(node)
        holder = node.call("Quick", "x", "wait")
        await turns_of_the_loop()
        later = [node.call("Quick", "x", "note", number=number) for number in (1, 2)]
        await turns_of_the_loop()
        quick.free.set()
        # At every step from here: the one that comes now is the last.
        for _ in range(50):
            told = forward(node, make_call("Quick", "x", "note", number=3))
            if told is not None:
                break
            await turns_of_the_loop(1)
        await asyncio.gather(holder, *later)
        assert quick.order == [1, 2, 3]


async def test_bad_arguments_and_a_passed_deadline_are_refused_before_the_turn() -> None:
    async with running(Quick) as node:
        quick = await active(node)
        for call in (
            make_call("Quick", "x", "add", amount="many"),
            make_call("Quick", "x", "add", timeout_s=0.0),
        ):
            told = Told()
            with pytest.raises(GoverseError) as caught:
                node.catalog.forward(call, told)
            assert caught.value.executed is Executed.NO and not told.future.done()
        assert quick.value == 0


# -- the lease --------------------------------------------------------------------------------


async def test_without_a_lease_it_does_not_begin() -> None:
    async with running(Quick) as node:
        quick = await active(node)
        node.facts.lease = False
        with pytest.raises(GoverseError) as caught:
            forward(node, make_call("Quick", "x", "add"))
        assert (caught.value.code, caught.value.executed) == ("not_owner", Executed.NO)
        assert quick.value == 0


@pytest.mark.parametrize("method", ["add", "fail"])
async def test_a_lease_that_ends_during_the_turn_lets_nothing_out(method: str) -> None:
    async with running(Quick) as node:
        quick = await active(node)

        def end() -> None:
            node.facts.lease = False

        quick.hooks.append(end)
        told = Told()
        with pytest.raises(Fenced) as caught:
            node.catalog.forward(make_call("Quick", "x", "add"), told)
        assert caught.value.executed is Executed.UNKNOWN and not told.future.done()


# -- what a method sees -----------------------------------------------------------------------


async def test_its_context_is_its_own() -> None:
    async with running(Quick) as node:
        await active(node)
        for text in ("one", "two"):
            told = forward(node, make_call("Quick", "x", "remember", text=text))
            assert told is not None and value_of(await told.future) == ""
        assert SEEN.get() == ""
        call = make_call("Quick", "x", "who")
        call.client_id = "c1"
        told = forward(node, call)
        assert told is not None
        assert value_of(await told.future) == ["Quick/x", "who", "1.100", "c1"]
        with pytest.raises(RuntimeError):
            goverse.context()


async def test_it_has_no_task_and_its_caller_keeps_its_own() -> None:
    async with running(Quick) as node:
        quick = await active(node)
        seen: list[Any] = []
        quick.hooks.append(lambda: seen.append(asyncio.current_task()))
        mine = asyncio.current_task()
        assert forward(node, make_call("Quick", "x", "add")) is not None
        assert seen == [None] and asyncio.current_task() is mine
        asyncio.get_running_loop().call_soon(forward, node, make_call("Quick", "x", "add"))
        await turns_of_the_loop()
        assert seen == [None, None]


async def test_what_it_spawns_goes_on_after_it() -> None:
    async with running(Quick) as node:
        await active(node)
        assert forward(node, make_call("Quick", "x", "spawned")) is not None
        await turns_of_the_loop(50)
        assert value_of(await node.call("Quick", "other", "get")) == 5


# -- no difference ----------------------------------------------------------------------------

ASKED = st.one_of(
    st.tuples(st.just("add"), st.fixed_dictionaries({"amount": st.integers(-5, 5)})),
    st.tuples(st.just("get"), st.just({})),
    st.tuples(st.just("who"), st.just({})),
    st.tuples(
        st.just("fail"),
        st.fixed_dictionaries(
            {
                "how": st.sampled_from(
                    [
                        *("application", "cluster", "cancelled", "exit", "closed", "stop"),
                        *("result", "large", "state", "key"),
                    ]
                )
            }
        ),
    ),
    st.tuples(st.sampled_from(["add", "get"]), st.just({"unknown": 1})),
)


def told_of(error: GoverseError) -> tuple[Any, ...]:
    details = {key: value for key, value in error.details.items() if key != "call"}
    return type(error), error.code, error.executed, details


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ASKED, st.sampled_from([Codec.MSGPACK, Codec.JSON])), max_size=8))
def test_a_turn_in_place_ends_like_one_in_a_task(asked: list[Any]) -> None:
    """Outcomes, state and what observers are told, call by call."""

    async def play(in_place: bool) -> list[Any]:
        story: list[Any] = []
        async with running(Quick, limits=LimitSettings(max_payload_bytes=4_000)) as node:
            await active(node)
            for (method, arguments), codec in asked:
                call = make_call("Quick", "x", method, codec=codec, **arguments)
                try:
                    if in_place:
                        told = forward(node, call)
                        assert told is not None
                        reply: Reply = await told.future
                    else:
                        reply = await node.send(call)
                    story.append((reply.payload, reply.codec))
                except GoverseError as error:
                    story.append(told_of(error))
                activation = node.catalog._activations["Quick", "x"]
                story.append(activation.instance.value)  # type: ignore[attr-defined]
                assert activation.mailbox.idle and not activation.turns
                assert activation.shard.holders == 0
            story.append(node.observer.seen)
        return story

    assert asyncio.run(play(True)) == asyncio.run(play(False))


async def test_an_epoch_is_that_of_the_claim() -> None:
    async with running(Quick, opened=False) as node:
        await node.open_all(Epoch(1, 7))
        await active(node)
        told = forward(node, make_call("Quick", "x", "who"))
        assert told is not None and value_of(await told.future)[2] == "1.7"
