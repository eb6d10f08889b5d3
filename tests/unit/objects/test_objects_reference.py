"""References: what they expose, what they refuse and why, inside and outside of objects."""

import copy
import pickle

import pytest
from objects_kit import running

import goverse


class Counter(goverse.Object):
    """A counter per id."""

    value: int = 0

    @goverse.method
    async def add(self, amount: int = 1, *, times: int = 1) -> int:
        self.value += amount * times
        return self.value

    async def secret(self) -> None: ...

    @goverse.method
    async def lie(self) -> int:
        return "not a number"  # type: ignore[return-value]

    @goverse.method(timeout_s=0.01)
    async def slow(self) -> None:
        import asyncio

        await asyncio.get_running_loop().create_future()


async def test_methods_take_positional_and_keyword_arguments_and_give_typed_results():
    async with running(Counter) as node:
        counter = node.get(Counter, "a")
        assert await counter.add(5) == 5
        assert await counter.add(amount=2, times=2) == 9
        assert await counter.add() == 10


def test_only_decorated_methods_are_reachable():
    ref = goverse.get(Counter, "a")
    assert ref.id == "a"
    with pytest.raises(AttributeError, match="'value' is declared state of Counter"):
        ref.value  # noqa: B018
    with pytest.raises(AttributeError, match=r"Counter.secret is not decorated .*: add, lie, slow"):
        ref.secret  # noqa: B018
    with pytest.raises(AttributeError, match="Counter has no method 'sub'"):
        ref.sub  # noqa: B018
    with pytest.raises(AttributeError, match="methods are public names"):
        ref._private  # noqa: B018
    with pytest.raises(AttributeError, match="changes through its methods only"):
        ref.value = 3


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda ref: ref.add(1, 2), "takes 1 positional arguments, got 2"),
        (lambda ref: ref.add(1, amount=2), "two values for argument 'amount'"),
        (lambda ref: ref.add(more=2), "has no argument 'more'"),
    ],
)
def test_wrong_calls_fail_where_they_are_written(call, text):
    with pytest.raises(TypeError, match=text):
        call(goverse.get(Counter, "a"))


async def test_values_that_cannot_travel_are_named():
    async with running(Counter) as node:
        with pytest.raises(goverse.InvalidArgument, match="amount: integer beyond 64 bits"):
            node.get(Counter).add(2**70)


async def test_by_name_it_takes_keywords_and_gives_plain_values():
    async with running(Counter) as node:
        counter = node.get("Counter", "a")
        assert await counter.add(amount=3) == 3
        with pytest.raises(TypeError, match=r"made by type name.*pass them by keyword"):
            counter.add(3)
        with pytest.raises(goverse.NotFound, match="Counter has no method 'sub'"):
            await counter.sub()
        with pytest.raises(goverse.NotFound, match="type 'Nothing' is not hosted here"):
            await node.get("Nothing", "a").add()


def test_references_are_values():
    one, two = goverse.get(Counter, "a"), goverse.get("Counter", "a")
    assert one == two and hash(one) == hash(two)
    assert one != goverse.get(Counter, "b") and one != 5
    assert copy.deepcopy({"x": one})["x"] is one and copy.copy(one) is one
    assert repr(one) == "<goverse Counter/a>" and repr(one.add) == "<goverse Counter/a.add>"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(one)


@pytest.mark.parametrize("id", ["", "a\nb", "x" * 513, "\ud800"])
def test_what_cannot_be_an_id_is_refused_at_once(id):
    with pytest.raises(ValueError, match="object id"):
        goverse.get(Counter, id)


def test_what_cannot_be_a_type_is_refused():
    with pytest.raises(TypeError, match="expected an object class"):
        goverse.get(int, "a")
    with pytest.raises(TypeError, match="expected an object class"):
        goverse.get(goverse.Object, "a")
    with pytest.raises(ValueError, match="must be an identifier"):
        goverse.get("no type", "a")


async def test_outside_of_objects_a_reference_is_only_an_address():
    ref = goverse.get(Counter, "a")
    with pytest.raises(RuntimeError, match="from a client"):
        await ref.add(1)
    with pytest.raises(RuntimeError, match="from a client"):
        await goverse.create(ref)
    with pytest.raises(RuntimeError, match="inside an object's method only"):
        goverse.context()


async def test_options_make_another_reference():
    async with running(Counter) as node:
        counter = goverse.options(node.get(Counter, "a"), timeout_s=0.5)
        assert await counter.add(1) == 1
        loop_time = node.sent[-1].deadline
        assert loop_time < __import__("asyncio").get_running_loop().time() + 1
        reliable = goverse.options(counter, call_id="1")
        with pytest.raises(goverse.FailedPrecondition, match=r"storage\.url"):
            await reliable.add(1)
        assert node.sent[-1].call_id == "1"
        for call_id in ("", "~1", "a\0b", "x" * 1025):
            with pytest.raises(ValueError, match="call id"):
                goverse.options(counter, call_id=call_id)
        with pytest.raises(ValueError, match="timeout_s must be above 0"):
            goverse.options(counter, timeout_s=0)
        with pytest.raises(TypeError, match="made by get"):
            goverse.options(5, timeout_s=1)


async def test_the_timeout_of_a_method_bounds_its_calls():
    async with running(Counter) as node:
        with pytest.raises(goverse.DeadlineExceeded):
            await node.get(Counter).slow()


async def test_a_result_of_another_type_than_annotated_is_told_apart():
    async with running(Counter) as node:
        with pytest.raises(goverse.Internal, match=r"Counter.lie answered something else") as error:
            await node.get(Counter).lie()
        assert error.value.executed is goverse.Executed.YES


async def test_create_and_delete_through_references():
    async with running(Counter) as node:
        ref = node.get(Counter, "a")
        await goverse.create(ref)
        with pytest.raises(goverse.Conflict):
            await goverse.create(ref)
        await ref.add(4)
        await goverse.delete(ref, timeout_s=1)
        assert node.ids() == []
        await goverse.delete(ref)
        assert await ref.add(1) == 1


async def test_the_class_can_be_tried_without_a_node():
    counter = Counter()
    assert await counter.add(2) == 2
    with pytest.raises(RuntimeError, match="made by hand"):
        counter.id  # noqa: B018
    work = counter.secret()
    with pytest.raises(RuntimeError, match="made by hand"):
        counter.spawn(work)
