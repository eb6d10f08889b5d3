"""The checker of histories: known ones, good and bad, real executions, and brute force."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goverse.testing import (
    ANY_RESULT,
    COUNTER,
    REGISTER,
    UNKNOWN,
    Model,
    Operation,
    Undecided,
    find_violation,
)


def call(called: float, returned: float, result: Any, *action: Any, object: str = "a") -> Operation:
    return Operation(object, action, called, returned, result)


def unknown(called: float, *action: Any, object: str = "a") -> Operation:
    """Its caller was told that it may or may not have taken effect."""
    return Operation(object, action, called)


#: Calls that were certainly not executed do not stand in a history: see `Operation`.
GOOD: dict[str, tuple[Model, list[Operation]]] = {
    "nothing": (REGISTER, []),
    "one after the other": (
        REGISTER,
        [call(1, 2, None, "write", 1), call(3, 4, 1, "read"), call(5, 6, True, "swap", 1, 2)],
    ),
    "what was never written is 0": (REGISTER, [call(1, 2, 0, "read")]),
    "a read beside a write sees the old value": (
        REGISTER,
        [call(1, 4, None, "write", 1), call(2, 3, 0, "read"), call(5, 6, 1, "read")],
    ),
    "a read beside a write sees the new value": (
        REGISTER,
        [call(1, 4, None, "write", 1), call(2, 3, 1, "read")],
    ),
    "writes side by side, in the order that reads show": (
        REGISTER,
        [
            call(1, 9, None, "write", 1),
            call(1, 9, None, "write", 2),
            call(2, 3, 2, "read"),
            call(4, 5, 1, "read"),
        ],
    ),
    "an answer at the moment of the next call overlaps with it": (
        REGISTER,
        [call(1, 2, None, "write", 1), call(2, 3, 0, "read")],
    ),
    "an unknown write that never takes effect": (
        REGISTER,
        [unknown(1, "write", 1), call(2, 3, 0, "read"), call(4, 5, 0, "read")],
    ),
    "an unknown write that takes effect after a later read": (
        REGISTER,
        [unknown(1, "write", 1), call(2, 3, 0, "read"), call(8, 9, 1, "read")],
    ),
    "an unknown write that takes effect over a later write": (
        REGISTER,
        [unknown(1, "write", 1), call(2, 3, None, "write", 2), call(8, 9, 1, "read")],
    ),
    "an unknown swap whose time comes": (
        REGISTER,
        [
            unknown(1, "swap", 5, 6),
            call(2, 3, False, "swap", 5, 7),
            call(4, 5, None, "write", 5),
            call(6, 7, 6, "read"),
        ],
    ),
    "a write that changes nothing now and something later": (
        REGISTER,
        [
            call(1, 2, None, "write", 2),
            call(1, 9, None, "write", 1),
            call(1, 9, None, "write", 2),
            call(3, 4, 1, "read"),
            call(5, 6, 2, "read"),
        ],
    ),
    "of two swaps side by side one wins": (
        REGISTER,
        [call(1, 3, True, "swap", 0, 1), call(2, 4, False, "swap", 0, 2), call(5, 6, 1, "read")],
    ),
    "totals tell the order of adds": (
        COUNTER,
        [call(1, 9, 5, "add", 2), call(1, 9, 3, "add", 3), call(10, 11, 5, "get")],
    ),
    "some of the unknown adds have taken effect": (
        COUNTER,
        [
            unknown(1, "add", 1),
            unknown(1, "add", 2),
            unknown(1, "add", 4),
            call(2, 3, 12, "add", 7),
            call(4, 5, 14, "get"),
        ],
    ),
    "an unknown outcome that a ledger resolves later": (
        COUNTER,
        [call(1, 20, 2, "add", 2), call(3, 4, 0, "get"), call(21, 22, 2, "get")],
    ),
    "an effect that is certain, of which nobody knows the answer": (
        COUNTER,
        [
            Operation("a", ("add", 2), 1, 20, ANY_RESULT),
            call(2, 3, 1, "add", 1),
            call(21, 22, 3, "get"),
        ],
    ),
    "a reliable call repeated under its id: from the first attempt to the first answer": (
        COUNTER,
        [call(1, 9, 3, "add", 2), call(2, 3, 1, "add", 1), call(10, 11, 3, "get")],
    ),
    "objects do not order each other": (
        REGISTER,
        [
            call(1, 9, None, "write", 1, object="a"),
            call(1, 9, None, "write", 1, object="b"),
            call(2, 3, 1, "read", object="a"),
            call(4, 5, 0, "read", object="b"),
        ],
    ),
}

BAD: dict[str, tuple[Model, list[Operation]]] = {
    "a value that nobody wrote": (REGISTER, [call(1, 2, 7, "read")]),
    "a read goes back": (
        REGISTER,
        [call(1, 9, None, "write", 1), call(2, 3, 1, "read"), call(4, 5, 0, "read")],
    ),
    "a stale read after an acknowledged write": (
        REGISTER,
        [call(1, 2, None, "write", 1), call(3, 4, 0, "read")],
    ),
    "an acknowledged write is lost": (
        REGISTER,
        [
            call(1, 2, None, "write", 1),
            call(3, 4, None, "write", 2),
            call(5, 6, 1, "read"),
        ],
    ),
    "two reads disagree on the order of two writes": (
        REGISTER,
        [
            call(1, 2, None, "write", 1),
            call(1, 2, None, "write", 2),
            call(3, 4, 1, "read"),
            call(5, 6, 2, "read"),
        ],
    ),
    "two swaps from one value win": (
        REGISTER,
        [call(1, 9, True, "swap", 0, 1), call(1, 9, True, "swap", 0, 2)],
    ),
    "an unknown write takes effect twice": (
        REGISTER,
        [
            unknown(1, "write", 1),
            call(2, 3, 1, "read"),
            call(4, 5, None, "write", 2),
            call(6, 7, 2, "read"),
            call(8, 9, 1, "read"),
        ],
    ),
    "an unknown write takes effect before it was made": (
        REGISTER,
        [call(1, 2, 1, "read"), unknown(3, "write", 1)],
    ),
    "what was certainly not executed took effect": (
        REGISTER,
        # write(1) was told "not executed", and is left out.
        [call(2, 3, 1, "read")],
    ),
    "lost update: two adds answer the same total": (
        COUNTER,
        [call(1, 9, 1, "add", 1), call(1, 9, 1, "add", 1)],
    ),
    "a lost add": (COUNTER, [call(1, 2, 5, "add", 5), call(3, 4, 0, "get")]),
    "double effect of an acknowledged add": (
        COUNTER,
        [call(1, 2, 2, "add", 2), call(3, 4, 4, "get")],
    ),
    "double effect of a reliable call repeated under its id": (
        COUNTER,
        [call(1, 9, 2, "add", 2), call(10, 11, 5, "add", 1)],
    ),
    "double effect of an unknown add": (
        COUNTER,
        [unknown(1, "add", 2), call(2, 3, 4, "get")],
    ),
    "an effect that is certain is missing": (
        COUNTER,
        [Operation("a", ("add", 2), 1, 20, ANY_RESULT), call(21, 22, 0, "get")],
    ),
    "a ledger says done, and the object knows nothing": (
        COUNTER,
        [call(1, 20, 2, "add", 2), call(21, 22, 0, "get")],
    ),
    "an unknown add cannot have been there and be gone": (
        COUNTER,
        [unknown(1, "add", 2), call(2, 3, 2, "get"), call(4, 5, 0, "get")],
    ),
    "one of two objects": (
        COUNTER,
        [call(1, 2, 1, "add", 1, object="a"), call(3, 4, 2, "add", 1, object="b")],
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_known_good_histories(name: str) -> None:
    model, history = GOOD[name]
    assert find_violation(history, model) is None
    assert by_force(history, model)


@pytest.mark.parametrize("name", BAD)
def test_known_bad_histories(name: str) -> None:
    model, history = BAD[name]
    assert find_violation(history, model) is not None
    assert not by_force(history, model)


def test_a_violation_says_what_it_was_and_what_was_open() -> None:
    history = [
        replace(call(1, 2, None, "write", 1), name="c1"),
        unknown(3, "write", 2),
        replace(call(4, 5, 0, "read"), name="c2"),
    ]
    text = str(find_violation(history, REGISTER))
    assert "explains c2 read() [4, 5] = 0: it was 1 before" in text
    assert "write(2) [3, inf] = UNKNOWN" in text


def test_many_calls_of_unknown_outcome_are_no_trouble() -> None:
    writes = [unknown(number, "write", number) for number in range(40)]
    reads = [call(100 + 2 * n, 101 + 2 * n, 39 - n, "read") for n in range(40)]
    assert find_violation(writes + reads, REGISTER) is None
    again = call(200, 201, 39, "read")
    violation = find_violation([*writes, *reads, again], REGISTER)
    assert violation is not None and violation.at == again


def test_a_history_beyond_the_limit_is_not_decided() -> None:
    adds = [unknown(1, "add", 2**number) for number in range(20)]
    with pytest.raises(Undecided, match="a has too many orders, with 21 calls open"):
        find_violation([*adds, call(2, 3, 2**19 + 3, "get")], COUNTER, max_configurations=1000)


def by_force(history: Sequence[Operation], model: Model) -> bool:
    """Whether some order of each object's calls, without some of the unknown ones, is allowed."""
    names = dict.fromkeys(operation.object for operation in history)
    return all(
        any(
            _allowed(order, model)
            for chosen in _choices([one for one in history if one.object == name])
            for order in permutations(chosen)
        )
        for name in names
    )


def _choices(history: list[Operation]) -> Iterator[list[Operation]]:
    optional = [operation for operation in history if operation.result is UNKNOWN]
    for bits in range(2 ** len(optional)):
        left_out = [one for number, one in enumerate(optional) if bits >> number & 1]
        yield [one for one in history if not any(one is other for other in left_out)]


def _allowed(order: Sequence[Operation], model: Model) -> bool:
    state = model.initial
    latest_call = -math.inf
    for operation in order:
        returned = math.inf if operation.result is UNKNOWN else operation.returned
        if returned < latest_call:
            return False  # it had returned before one was made that stands ahead of it
        latest_call = max(latest_call, operation.called)
        state, result = model.step(state, operation.action)
        if operation.result not in (UNKNOWN, ANY_RESULT) and operation.result != result:
            return False
    return True


ACTIONS = {
    "register": st.one_of(
        st.just(("read",)),
        st.tuples(st.just("write"), st.integers(1, 3)),
        st.tuples(st.just("swap"), st.integers(0, 3), st.integers(1, 3)),
    ),
    "counter": st.one_of(st.just(("get",)), st.tuples(st.just("add"), st.integers(1, 3))),
}
MODELS = {"register": REGISTER, "counter": COUNTER}
KINDS = st.sampled_from(list(MODELS))


@st.composite
def small_histories(draw: st.DrawFn) -> tuple[Model, list[Operation]]:
    """Mostly near to what a real object answers: otherwise nearly all would be bad."""
    kind = draw(KINDS)
    model = MODELS[kind]
    history: list[Operation] = []
    state = model.initial
    for position in range(draw(st.integers(1, 5))):
        action = draw(ACTIONS[kind])
        state, result = model.step(state, action)
        called = position - draw(st.integers(0, 3))
        returned = position + draw(st.integers(0, 3))
        if draw(st.integers(0, 5)) == 0:
            result = draw(st.sampled_from([None, True, False, 0, 1, 2, 3, ANY_RESULT]))
        elif draw(st.integers(0, 3)) == 0:
            result = UNKNOWN
        history.append(Operation("a", action, called, returned, result))
    return model, history


@given(small_histories())
@settings(max_examples=600, deadline=None)
def test_it_agrees_with_a_checker_by_brute_force(made: tuple[Model, list[Operation]]) -> None:
    model, history = made
    assert (find_violation(history, model) is None) == by_force(history, model)


@given(KINDS, st.data())
@settings(max_examples=100, deadline=None)
def test_histories_of_real_executions_are_accepted(kind: str, data: st.DataObject) -> None:
    """Each call takes effect somewhere between its beginning and its answer; one whose answer is
    lost somewhere after its beginning, or never."""
    model = MODELS[kind]
    made: list[tuple[float, Operation]] = []
    free = dict.fromkeys(range(4), 0.0)
    for number in range(data.draw(st.integers(1, 30))):
        client = data.draw(st.sampled_from(list(free)))
        called = free[client] + data.draw(st.floats(0, 10))
        at = called + data.draw(st.floats(0, 10))
        returned = free[client] = at + data.draw(st.floats(0, 10))
        result = data.draw(st.sampled_from([None, None, None, UNKNOWN, ANY_RESULT]))
        name = data.draw(st.sampled_from("ab"))
        if result is UNKNOWN:
            at = data.draw(st.sampled_from([at, at + 30.0, math.inf]))
        action = data.draw(ACTIONS[kind])
        made.append((at, Operation(name, action, called, returned, result, f"c{number}")))
    states = dict.fromkeys("ab", model.initial)
    history: list[Operation] = []
    for at, operation in sorted(made, key=lambda one: one[0]):
        if at < math.inf:
            name = operation.object
            states[name], result = model.step(states[name], operation.action)
            if operation.result is None:
                operation = replace(operation, result=result)
        history.append(operation)
    history = data.draw(st.permutations(history))
    assert find_violation(history, model) is None
