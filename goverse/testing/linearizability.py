"""Whether a history of concurrent calls is that of one object that takes one call at a time.

::

    calls = [
        Operation("a", ("write", 1), called=1, returned=4, result=None),
        Operation("a", ("read",), called=2, returned=3, result=1),
        Operation("a", ("write", 2), called=5),                         # outcome not known
    ]
    assert find_violation(calls, REGISTER) is None

Method: the search of Wing and Gong (Testing and Verifying Concurrent Objects, 1993) in the
just-in-time form of Lowe (Testing for Linearizability, 2017). Events are read in order of time; a
*configuration* is a state that the object may be in, with the calls that have taken effect and
whose return is still ahead. When a call returns, the configurations in which it has taken effect
are kept; to the others whatever is open is applied, in every order, until it has. Three rules keep
them few: those that were met are remembered; a call that only reads takes effect as soon as its
answer fits; one configuration is dropped for another that needed fewer of the calls whose outcome
is not known. If none is left, no order explains what this call was told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any


class _Unknown:
    """The two results that are no results."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


#: The call may take effect at any time after it was made, also long after its caller has given up,
#: or never.
UNKNOWN = _Unknown("UNKNOWN")

#: The call took effect before it returned; what it answered is not known.
ANY_RESULT = _Unknown("ANY_RESULT")


@dataclass(frozen=True)
class Operation:
    """One call of one object.

    Calls that are known to have had no effect do not belong into a history: if one had an effect
    all the same, what others saw of it has no explanation. A call repeated under one call id is
    one operation, from the first attempt to the first answer.

    :param object: which object; each is looked at alone.
    :param action: what was asked, as the model takes it.
    :param called: when. :param returned: when the answer was known; of no account without one.
        Any numbers that grow; a call that is made when another returns overlaps with it.
    :param result: what was answered, `UNKNOWN` or `ANY_RESULT`.
    :param name: for reports.
    """

    object: str
    action: tuple[Any, ...]
    called: float
    returned: float = math.inf
    result: Any = UNKNOWN
    name: str = ""

    def __str__(self) -> str:
        verb, *arguments = self.action
        asked = f"{verb}({', '.join(map(repr, arguments))})"
        return f"{self.name} {asked} [{self.called}, {self.returned}] = {self.result!r}".strip()


@dataclass(frozen=True)
class Model:
    """What an object does when it takes one call at a time.

    :param initial: its first state. :param step: the state after an action, and the answer.
    :param reads: verbs (the first word of an action) that never change the state.
    """

    initial: Hashable
    step: Callable[[Any, tuple[Any, ...]], tuple[Hashable, Any]]
    reads: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Violation:
    """:param at: the call whose answer has no explanation.
    :param states: in which the object may have been before it. :param open: what may have taken
        effect meanwhile.
    """

    at: Operation
    states: tuple[Hashable, ...]
    open: tuple[Operation, ...]

    def __str__(self) -> str:
        states = ", ".join(map(repr, self.states[:5])) + ", ..." * (len(self.states) > 5)
        others = "; ".join(map(str, self.open[:5])) + "; ..." * (len(self.open) > 5)
        return (
            f"no order of the calls of {self.at.object} explains {self.at}: it was {states} "
            f"before, and open were: {others or 'none'}"
        )


class Undecided(Exception):
    """The history has more configurations than were to be looked at."""


def find_violation(
    operations: Iterable[Operation], model: Model, *, max_configurations: int = 200_000
) -> Violation | None:
    """The first call that no order explains; None: the history is linearizable.

    :param max_configurations: of one object. Raises Undecided past them.
    """
    by_object: dict[str, list[Operation]] = {}
    for operation in operations:
        by_object.setdefault(operation.object, []).append(operation)
    for own in by_object.values():
        found = _Search(own, model, max_configurations).run()
        if found is not None:
            return found
    return None


class _Search:
    """One object. Sets of calls are bits of a number, by position in ``calls``."""

    def __init__(self, calls: Sequence[Operation], model: Model, limit: int) -> None:
        self._calls = calls
        self._step = model.step
        self._reads = model.reads
        self._left = limit
        self._open: dict[int, None] = {}
        self._optional = sum(1 << n for n, call in enumerate(calls) if call.result is UNKNOWN)
        self._configurations: list[tuple[Hashable, int]] = [(model.initial, 0)]

    def run(self) -> Violation | None:
        events = [(call.called, 0, number) for number, call in enumerate(self._calls)]
        for number, call in enumerate(self._calls):
            if call.result is not UNKNOWN:
                events.append((call.returned, 1, number))
        for _, is_return, number in sorted(events):
            if not is_return:
                self._open[number] = None
                continue
            after = self._after_return(number)
            del self._open[number]
            if not after:
                return self._violation(number)
            self._configurations = after
        return None

    def _after_return(self, number: int) -> list[tuple[Hashable, int]]:
        """Every configuration in which the call has taken effect."""
        bit = 1 << number
        after, waiting = _Met(self._optional), _Met(self._optional)
        level = self._configurations
        # Level by level, so that what needed fewer calls is met first.
        while level:
            further: list[tuple[Hashable, int]] = []
            for state, done in level:
                done |= self._fitting(state, done)
                if done & bit:
                    after.add(state, done & ~bit)
                elif waiting.add(state, done):
                    further += self._next(state, done)
            self._left -= len(further)
            if self._left < 0:
                raise Undecided(
                    f"{self._calls[number].object} has too many orders, with {len(self._open)} "
                    f"calls open at {self._calls[number]}"
                )
            level = further
        return after.smallest()

    def _fitting(self, state: Hashable, done: int) -> int:
        """Open reads whose answer fits: nothing is gained by waiting with them."""
        found = 0
        for number in self._open:
            call = self._calls[number]
            if done >> number & 1 or call.action[0] not in self._reads:
                continue
            if call.result in (UNKNOWN, ANY_RESULT, self._step(state, call.action)[1]):
                found |= 1 << number & ~self._optional
        return found

    def _next(self, state: Hashable, done: int) -> Iterable[tuple[Hashable, int]]:
        """What one more open call makes of it."""
        for number in self._open:
            call = self._calls[number]
            if done >> number & 1 or call.action[0] in self._reads:
                continue
            new_state, result = self._step(state, call.action)
            if call.result is UNKNOWN:
                if new_state != state:  # otherwise it may as well never take effect
                    yield new_state, done | 1 << number
            elif call.result in (ANY_RESULT, result):
                yield new_state, done | 1 << number

    def _violation(self, number: int) -> Violation:
        states = tuple(dict.fromkeys(state for state, _ in self._configurations))
        return Violation(self._calls[number], states, tuple(self._calls[n] for n in self._open))


class _Met:
    """Configurations that were met, without those for which a better one was met.

    Of two that differ in calls of unknown outcome alone, the one that needed fewer is better:
    whatever comes, it can do the same.
    """

    def __init__(self, optional: int) -> None:
        self._optional = optional
        self._met: dict[tuple[Hashable, int], list[int]] = {}

    def add(self, state: Hashable, done: int) -> bool:
        """False: one as good was met before."""
        needed = done & self._optional
        known = self._met.setdefault((state, done & ~self._optional), [])
        if any(one & needed == one for one in known):
            return False
        known[:] = [one for one in known if one & needed != needed]
        known.append(needed)
        return True

    def smallest(self) -> list[tuple[Hashable, int]]:
        return [
            (state, done | needed)
            for (state, done), all_needed in self._met.items()
            for needed in all_needed
        ]


def _register(state: Any, action: tuple[Any, ...]) -> tuple[Hashable, Any]:
    match action:
        case ("read",):
            return state, state
        case ("write", value):
            return value, None
        case ("swap", expected, value):
            return (value, True) if state == expected else (state, False)
    raise ValueError(f"a register has no {action!r}")


def _counter(state: int, action: tuple[Any, ...]) -> tuple[int, Any]:
    match action:
        case ("get",):
            return state, state
        case ("add", amount):
            return state + amount, state + amount
    raise ValueError(f"a counter has no {action!r}")


#: ``("write", value)`` answers None, ``("read",)`` the value, at first 0, and
#: ``("swap", expected, value)`` whether it was the expected one, and is the new one now.
REGISTER = Model(0, _register, frozenset({"read"}))

#: ``("add", amount)`` answers the new total, ``("get",)`` the total, at first 0.
COUNTER = Model(0, _counter, frozenset({"get"}))
