"""Calls between objects: context, chains, and calls that come back."""

import asyncio

import pytest
from objects_kit import EPOCH, make_call, running, turns_of_the_loop, value_of

import goverse
from goverse.call import ChainEntry
from goverse.errors import Fenced, NotOwner
from goverse.ids import ObjectId
from tests.support.eventually import eventually


class Party(goverse.Object):
    """Refuses calls that come back."""

    value: int = 0
    log: list[str] = []

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gates: dict[str, asyncio.Event] = {}

    def _get(self, id: str):
        return goverse.get(type(self), id)

    @goverse.method
    async def bump(self, fail: bool = False) -> int:
        self.value += 1
        if fail:
            raise ValueError
        return self.value

    @goverse.method(read_only=True)
    async def peek(self) -> int:
        return self.value

    @goverse.method
    async def ask(self, path: list[str], fail: bool = False) -> list[str]:
        """Call along ``path``; the last one is bumped."""
        self.value += 1
        head, *rest = path
        if rest:
            return await self._get(head).ask(rest, fail)
        return [str(await self._get(head).bump(fail))]

    @goverse.method
    async def hold(self, other: str = "", then: str = "bump") -> str:
        await self.gate.wait()
        return str(await getattr(self._get(other), then)()) if other else ""

    @goverse.method
    async def try_inner(self, path: list[str], fail: bool) -> int:
        """An inner turn that fails does not undo what this one did before."""
        self.value += 10
        try:
            await self._get(path[0]).ask(path[1:], fail)
        except goverse.GoverseError:
            self.log.append("caught")
        self.value += 100
        return self.value

    @goverse.method
    async def fan_out(self, through: list[str], times: int) -> list[int]:
        me = goverse.context().object_id.id
        calls = [self._get(other).ask([me]) for other in through for _ in range(times)]
        return [int(found[0]) for found in await asyncio.gather(*calls)]

    @goverse.method
    async def wait_for(self, name: str, fail: bool = False) -> str:
        self.log.append(f"begin {name}")
        self.value += 1
        try:
            await self.gates.setdefault(name, asyncio.Event()).wait()
        finally:
            self.log.append(f"end {name}")
        if fail:
            raise goverse.ApplicationError("no")
        return name

    @goverse.method(read_only=True)
    async def read_then(self, other: str, then: str) -> int:
        return await getattr(self._get(other), then)()

    @goverse.method
    async def call_peek_of(self, other: str) -> int:
        return await self._get(other).peek()

    @goverse.method
    async def facts(self, other: str = "") -> list[str]:
        context = goverse.context()
        mine = [
            str(context.object_id),
            context.method,
            context.principal,
            context.client_id,
            context.trace,
            str(context.epoch),
            str(len(context.chain)),
            str(0 < context.remaining_s <= 5),
        ]
        return mine + (await self._get(other).facts() if other else [])

    @goverse.method
    async def remove(self, other: str) -> None:
        await goverse.delete(self._get(other))


class Open(Party, reentrancy="allow"):
    """Admits calls that come back."""


class Free(Party, concurrent=True):
    pass


async def test_the_context_goes_along_with_nested_calls():
    async with running(Party) as node:
        call = make_call("Party", "a", "facts", other="b")
        call.principal, call.client_id, call.trace = "ann", "c1", "00-1-2-01"
        facts = value_of(await node.send(call))
        common = ["facts", "ann", "c1", "00-1-2-01", str(EPOCH)]
        assert facts == ["Party/a", *common, "0", "True", "Party/b", *common, "1", "True"]
        nested = node.sent[-1]
        assert nested.chain == (ChainEntry("Party", "a", EPOCH, 1),)
        assert nested.deadline <= call.deadline


async def test_the_context_of_a_turn():
    async with running(Party) as node:
        seen = []

        class Looks(goverse.Object):
            @goverse.method
            async def look(self) -> None:
                seen.append((goverse.context().object_id, self.id))

        node.registry.add(Looks)
        await node.get(Looks, "a").look()
        assert seen == [(ObjectId("Looks", "a"), "a")]
        with pytest.raises(RuntimeError):
            goverse.context()


@pytest.mark.parametrize("path", [["a"], ["b", "a"], ["b", "c", "a"], ["b", "c", "b"]])
async def test_L21_a_call_that_comes_back_is_refused_at_once_with_its_chain(path):
    async with running(Party) as node:
        started = asyncio.get_running_loop().time()
        with pytest.raises(goverse.ObjectFailed) as caught:
            await node.get(Party, "a").ask(path)
        assert asyncio.get_running_loop().time() - started < 2
        # The innermost caller got the refusal; the log says so, and so does each hop's cause.
        assert caught.value.details["type"] in ("FailedPrecondition", "ObjectFailed")
        assert [one.running for one in node.catalog.census.objects()] == [0] * len({"a", *path})


async def test_L21_the_refusal_names_chain_turn_and_class(caplog):
    async with running(Party) as node:
        with pytest.raises(goverse.ObjectFailed):
            await node.get(Party, "a").ask(["b", "a"])
    assert "Party/a.bump comes back to the object whose turn 1 (ask) waits for it" in caplog.text
    assert 'class Party does not admit that; reentrancy="allow" would' in caplog.text
    assert "call chain: Party/a (turn 1) > Party/b (turn 2) > Party/a.bump" in caplog.text


@pytest.mark.parametrize("path", [["a"], ["b", "a"], ["b", "c", "a"], ["b", "a", "b", "a"]])
async def test_L21_a_class_may_admit_calls_that_come_back(path):
    async with running(Open) as node:
        assert await node.get(Open, "a").ask(path)
        assert [one.running for one in node.catalog.census.objects()] == [0] * len({"a", *path})


async def test_L21_concurrent_classes_admit_them_even_while_a_deletion_waits():
    async with running(Free) as node:
        first = node.call("Free", "a", "hold", other="b", then="peek")
        back = node.call("Free", "a", "ask", path=["b", "a"])
        await turns_of_the_loop()
        assert value_of(await back)
        deletion = asyncio.ensure_future(goverse.delete(node.get(Free, "a")))
        await turns_of_the_loop()
        chain = (ChainEntry("Free", "a", EPOCH, 1),)
        assert value_of(await node.send(make_call("Free", "a", "peek", chain=chain))) == 2
        node.catalog._activations[("Free", "a")].instance.gate.set()
        await first
        await deletion


async def test_a_failed_inner_turn_is_rolled_back_to_where_it_began():
    async with running(Open) as node:
        # a adds 10, then b calls a.bump, which adds 1 and fails; a adds 100.
        assert await node.get(Open, "a").try_inner(["b", "a"], True) == 110
        assert await node.get(Open, "a").try_inner(["b", "a"], False) == 110 + 10 + 1 + 100


async def test_an_outer_turn_that_fails_undoes_its_inner_ones():
    class Fails(goverse.Object, reentrancy="allow"):
        value: int = 0

        @goverse.method
        async def inner(self) -> None:
            self.value += 1

        @goverse.method
        async def outer(self) -> None:
            await goverse.get(Fails, self.id).inner()
            await goverse.get(Fails, self.id).inner()
            assert self.value == 2
            raise goverse.ApplicationError("no")

        @goverse.method
        async def read(self) -> int:
            return self.value

    async with running(Fails) as node:
        with pytest.raises(goverse.ApplicationError):
            await node.get(Fails).outer()
        assert await node.get(Fails).read() == 0


async def test_inner_turns_run_one_at_a_time():
    async with running(Open) as node:
        found = await node.get(Open, "a").fan_out(["b", "c", "d"], 3)
        assert sorted(found) == list(range(1, 10))


def inner_call(method: str, **arguments):
    """A call that comes back to turn 1 of Open/a."""
    return make_call("Open", "a", method, chain=(ChainEntry("Open", "a", EPOCH, 1),), **arguments)


async def test_a_turn_is_not_over_before_the_turns_that_are_part_of_it():
    async with running(Open) as node:
        outer = node.call("Open", "a", "wait_for", name="outer")
        await turns_of_the_loop()
        inner = [node.send(inner_call("wait_for", name=name)) for name in ("inner", "second")]
        other = node.call("Open", "a", "wait_for", name="other")
        await turns_of_the_loop()
        party = node.catalog._activations[("Open", "a")].instance
        party.gates["outer"].set()
        await turns_of_the_loop()
        assert not outer.done() and party.log == ["begin outer", "begin inner", "end outer"]
        party.gates["inner"].set()
        await turns_of_the_loop()
        party.gates["second"].set()
        assert [value_of(await call) for call in (outer, *inner)] == ["outer", "inner", "second"]
        await turns_of_the_loop()
        party.gates["other"].set()
        await other
        assert party.log[-4:] == ["begin second", "end second", "begin other", "end other"]


@pytest.mark.parametrize("how", ["fails", "cancelled", "cancelled at its end"])
async def test_a_turn_that_fails_takes_the_turns_that_are_part_of_it_along(how):
    async with running(Open) as node:
        outer = node.call("Open", "a", "wait_for", name="outer", fail=how == "fails")
        await turns_of_the_loop()
        inner = [node.send(inner_call("wait_for", name=name)) for name in ("inner", "second")]
        await turns_of_the_loop()
        party = node.catalog._activations[("Open", "a")].instance
        if how != "cancelled":
            party.gates["outer"].set()
            await turns_of_the_loop()
        if how != "fails":
            outer.cancel()
        for call, executed in zip(inner, ("unknown", "no"), strict=True):
            with pytest.raises(goverse.FailedPrecondition, match="has failed") as caught:
                await call
            assert caught.value.executed.value == executed
        with pytest.raises(goverse.ApplicationError if how == "fails" else asyncio.CancelledError):
            await outer
        assert await node.get(Open, "a").peek() == 0
        assert sum(shard.holders for shard in node.catalog.snapshot().shards) == 0


@pytest.mark.parametrize("when", ["in the same pass", "after it"])
async def test_a_callback_that_comes_after_its_outer_turn_was_cancelled_is_no_part_of_it(when):
    async with running(Open) as node:
        outer = node.call("Open", "a", "wait_for", name="outer")
        await turns_of_the_loop()
        outer.cancel()
        if when == "after it":
            await turns_of_the_loop()
        late = node.send(inner_call("bump"))
        done = (await asyncio.gather(late, return_exceptions=True))[0]
        # It ran by itself, and stays; or it was told that it is not there, and nothing is.
        ran = not isinstance(done, goverse.FailedPrecondition)
        assert ran or when == "in the same pass"
        assert not ran or value_of(done) == 1
        assert await node.get(Open, "a").peek() == int(ran)
        assert sum(shard.holders for shard in node.catalog.snapshot().shards) == 0


async def test_discarding_ends_inner_turns_too():
    async with running(Open) as node:
        outer = node.call("Open", "a", "wait_for", name="outer")
        await turns_of_the_loop()
        inner = [node.send(inner_call("wait_for", name=name)) for name in ("inner", "second")]
        await turns_of_the_loop()
        node.catalog.shards.discard_all("lost")
        for call, error in zip((outer, *inner), (Fenced, Fenced, NotOwner), strict=True):
            with pytest.raises(error):
                await call


async def test_a_read_only_turn_admits_read_only_calls_only():
    async with running(Open) as node:
        assert await node.get(Open, "a").read_then("a", "peek") == 0
        with pytest.raises(goverse.ObjectFailed) as caught:
            await node.get(Open, "a").read_then("a", "bump")
        assert caught.value.details["cause"] == "failed_precondition"


@pytest.mark.parametrize("cls", [Party, Open])
async def test_an_object_cannot_delete_itself_within_its_own_turn(cls):
    async with running(cls) as node:
        with pytest.raises(goverse.ObjectFailed) as caught:
            await node.get(cls, "a").remove("a")
        assert caught.value.details["cause"] == "failed_precondition"


async def test_chains_that_cross_end_at_their_deadline_and_say_how(caplog):
    async with running(Party) as node:
        calls = []
        for one, other in (("a", "b"), ("b", "a")):
            call = make_call("Party", one, "hold", other=other, timeout_s=0.2)
            calls.append(node.send(call))
        await turns_of_the_loop()
        for id in ("a", "b"):
            node.catalog._activations[("Party", id)].instance.gate.set()
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, goverse.DeadlineExceeded) for error in errors), errors
        assert all(error.executed is goverse.Executed.UNKNOWN for error in errors)
        assert "Party/a.hold ran past its deadline" in str(errors[0])
        assert "Party/b.bump" in str(errors[0])
        await eventually(lambda: all(one.running == 0 for one in node.catalog.census.objects()))


async def test_a_waiting_call_of_crossed_chains_prints_its_chain():
    async with running(Party) as node:
        first = node.call("Party", "a", "hold")
        await turns_of_the_loop()
        chain = (ChainEntry("Party", "b", EPOCH, 77),)
        with pytest.raises(goverse.DeadlineExceeded) as caught:
            await node.send(make_call("Party", "a", "bump", chain=chain, timeout_s=0.03))
        assert "busy with hold (turn 1)" in str(caught.value)
        assert "call chain: Party/b (turn 77) > Party/a.bump" in str(caught.value)
        node.catalog._activations[("Party", "a")].instance.gate.set()
        await first


async def test_recursion_through_objects_ends():
    async with running(Open) as node:
        with pytest.raises(goverse.ObjectFailed):
            await node.get(Open, "a").ask(["b", "a"] * 100)
        await eventually(lambda: all(one.running == 0 for one in node.catalog.census.objects()))


async def test_a_chain_that_names_an_ended_turn_waits_like_any_call():
    async with running(Party) as node:
        await node.get(Party, "a").bump()
        chain = (ChainEntry("Party", "a", EPOCH, 1),)
        assert value_of(await node.send(make_call("Party", "a", "bump", chain=chain))) == 2


async def test_L21_a_call_of_a_running_turn_keeps_its_place_when_the_drain_begins():
    """It waits in a mailbox already; held back, its turn and the drain would wait for ever."""
    async with running(Party) as node:
        a, b = "shard#1/a", "shard#1/b"
        busy = node.call("Party", b, "wait_for", name="busy")
        first = node.call("Party", a, "ask", path=[b])
        await turns_of_the_loop()
        assert [one.waiting for one in node.catalog.census.objects()] == [0, 1]
        closing = asyncio.ensure_future(node.catalog.shards.close_shard(1, drain_timeout_s=3))
        await turns_of_the_loop()
        node.catalog._activations[("Party", b)].instance.gates["busy"].set()
        assert value_of(await first) == ["2"]
        assert value_of(await busy) == "busy"
        assert await closing


@pytest.mark.parametrize("cls", [Party, Open])
@pytest.mark.parametrize("ending", ["close", "stop"])
async def test_L21_calls_of_running_turns_are_admitted_while_the_shard_drains(cls, ending):
    """The turn on a waits for b, and its shard (or its node) waits for the turn."""
    async with running(cls) as node:
        name = cls.__name__
        first = node.call(name, "shard#1/a", "hold", other="shard#1/b")
        itself = node.call(name, "shard#1/c", "hold", other="shard#1/c")
        await turns_of_the_loop()
        if ending == "close":
            end = asyncio.ensure_future(node.catalog.shards.close_shard(1, drain_timeout_s=3))
        else:
            end = asyncio.ensure_future(node.catalog.stop(3))
        await turns_of_the_loop()
        beginner = node.call(name, "shard#1/d", "bump")
        await turns_of_the_loop()
        assert not end.done() and not beginner.done()
        for id in ("shard#1/a", "shard#1/c"):
            node.catalog._activations[(name, id)].instance.gate.set()
        assert value_of(await first) == "1"
        if cls is Open:
            assert value_of(await itself) == "1"
        else:
            with pytest.raises(goverse.ObjectFailed):
                await itself
        assert await end is (True if ending == "close" else None)
        with pytest.raises(goverse.GoverseError) as refused:
            await beginner
        assert refused.value.executed is goverse.Executed.NO


async def test_L21_crossed_chains_do_not_keep_a_node_from_stopping():
    async with running(Party) as node:
        calls = [
            node.call("Party", one, "hold", other=other) for one, other in (("a", "b"), ("b", "a"))
        ]
        await turns_of_the_loop()
        for id in ("a", "b"):
            node.catalog._activations[("Party", id)].instance.gate.set()
        await turns_of_the_loop()
        await node.catalog.stop(0.05)
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, goverse.GoverseError) for error in errors), errors
        # Whichever was cut off first; the other may hear that from the call it waited for.
        assert any(isinstance(error, goverse.Unavailable) for error in errors)
        assert all(error.executed is not goverse.Executed.NO for error in errors)


async def test_outgoing_calls_do_not_leave_without_a_lease():
    class Sends(goverse.Object):
        def __init__(self) -> None:
            self.gate = asyncio.Event()
            self.error: BaseException | None = None

        @goverse.method
        async def send(self) -> None:
            await self.gate.wait()
            try:
                await goverse.get("Sends", "other").send()
            except goverse.GoverseError as error:
                self.error = error
                raise

    async with running(Sends) as node:
        call = node.call("Sends", "a", "send")
        await turns_of_the_loop()
        sender = node.catalog._activations[("Sends", "a")].instance
        node.facts.lease = False
        sent = len(node.sent)
        sender.gate.set()
        with pytest.raises(Fenced) as caught:
            await call
        assert caught.value.executed is goverse.Executed.UNKNOWN
        assert isinstance(sender.error, Fenced)
        assert len(node.sent) == sent
