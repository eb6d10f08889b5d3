"""I12: the histories of durable objects are linearizable, and agree with the ledger. Pure.

A plain call whose outcome is not known may take effect at any time, or never; one that was to pass
something on has taken effect if and only if what it passed on is in the ledger. A call with a call
id has one outcome, whoever asks and when: that of the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import msgspec

from goverse.storage.values import CallStatus, StoredCall
from goverse.testing.linearizability import (
    ANY_RESULT,
    COUNTER,
    REGISTER,
    UNKNOWN,
    Operation,
    Undecided,
    find_violation,
)
from tests.simulation.played import DECLINED, Game, Played

MODELS = {"Cell": REGISTER, "Tally": COUNTER}


def check(
    game: Game, rows: Iterable[StoredCall], settled: int, last: Mapping[str, int]
) -> Iterator[str]:
    """Every violation.

    :param rows: the whole ledger, read at the moment ``settled``, when nothing was pending.
    :param last: what the objects answered afterwards, loaded from the store again.
    """
    ledger = Ledger(rows, settled)
    operations = [one for call in game.calls.values() for one in ledger.operations(call)]
    operations += ledger.passed_on(game)
    yield from ledger.violations
    for text in unexplained(operations):
        yield f"I12: {text}"
    yield from ledger.check_orders(game)
    yield from _check_often(game, ledger, last.get("Often/f0"))


def unexplained(operations: Iterable[Operation]) -> Iterator[str]:
    """What no order of the calls of registers and counters explains."""
    operations = list(operations)
    for type, model in MODELS.items():
        own = [one for one in operations if one.object.startswith(f"{type}/")]
        try:
            violation = find_violation(own, model)
        except Undecided as undecided:
            yield f"not decided: {undecided}"
        else:
            if violation is not None:
                yield str(violation)


class Ledger:
    """The rows of a run, and what they say of its calls."""

    def __init__(self, rows: Iterable[StoredCall], settled: int) -> None:
        self._settled = settled
        self.violations: list[str] = []
        self.rows: dict[str, StoredCall] = {}
        self.children: dict[str, StoredCall] = {}
        for row in rows:
            arguments = msgspec.msgpack.decode(row.call.arguments.data)
            if not row.call.call_id.startswith("~"):
                self.rows[row.call.call_id] = row
                continue
            parent = arguments["token"].removeprefix(">")
            if parent in self.children:
                self._violate(f"what {parent} passed on is in the ledger twice")
            self.children[parent] = row
        for row in [*self.rows.values(), *self.children.values()]:
            if not row.status.finished:
                self._violate(f"{row.call.call_id} is {row.status.value} at rest: {row.reason}")

    def _violate(self, text: str) -> None:
        self.violations.append(f"I12: {text}")

    def operations(self, call: Played) -> list[Operation]:
        """What ``call`` has done to its object, by what its callers were told and by what is
        here: one operation, or none."""
        found = self._reliable(call) if call.reliable else self._plain(call)
        if call.method in ("pass_on", "decline"):
            self._check_passed_on(call, took_effect=bool(found))
        return found if call.type in MODELS else []

    def _reliable(self, call: Played) -> list[Operation]:
        row = self.rows.get(call.token)
        sure = call.sure
        if row is None:
            if sure:
                self._violate(f"{call.token} was told {sure[0].told}, and the ledger has no row")
            return []
        if call.undone:
            self._violate(f"{call.token} was told that it was not executed, and has a row")
        result = _result(row)
        for attempt in sure:
            told = DECLINED if attempt.told == DECLINED else attempt.result
            if told != result:
                self._violate(f"{call.token} was told {told!r}, and the ledger has {result!r}")
        returned = sure[0].ended if sure else self._settled
        return [] if result == DECLINED else [_operation(call, returned, result)]

    def _plain(self, call: Played) -> list[Operation]:
        if call.undone:
            return []
        if call.sure:
            attempt = call.sure[0]
            if attempt.told == DECLINED:
                return []
            return [_operation(call, attempt.ended, attempt.result)]
        if call.method == "decline":
            return []
        if call.method == "pass_on":
            # Its effect and what it passes on are one commit.
            done = call.token in self.children
            return [_operation(call, self._settled, ANY_RESULT)] if done else []
        return [_operation(call, self._settled, UNKNOWN)]

    def _check_passed_on(self, call: Played, *, took_effect: bool) -> None:
        child = self.children.get(call.token)
        if took_effect and child is None:
            self._violate(f"what {call.token} passed on is not in the ledger")
        if child is not None and not took_effect:
            self._violate(f"{call.token} had no effect, and has passed on {child.call.call_id}")

    def passed_on(self, game: Game) -> list[Operation]:
        """What calls have done that other calls issued."""
        found = []
        for token, row in self.children.items():
            if row.status is not CallStatus.SUCCESS:
                self._violate(f"what {token} passed on ended {row.status.value}")
                continue
            parent = game.calls[token]
            action = ("add", parent.arguments["amount"])
            called, result = parent.attempts[0].called, _result(row)
            where = str(row.call.object)
            found.append(Operation(where, action, called, self._settled, result, f">{token}"))
        return found

    def check_orders(self, game: Game) -> Iterator[str]:
        """Calls of one object take effect in the order of the ledger, and what one object passes
        on to one other comes in the order in which it did so."""
        totals: dict[str, list[tuple[int, int, str]]] = {}
        lanes: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
        for row in [*self.rows.values(), *self.children.values()]:
            if row.call.object.type == "Tally" and row.status is CallStatus.SUCCESS:
                place = (row.seq, _result(row), row.call.call_id)
                if row.call.method != "get":
                    totals.setdefault(str(row.call.object), []).append(place)
        for token, row in self.children.items():
            parent = game.calls[token]
            total = self._total(parent)
            if total is not None:
                lane = lanes.setdefault((parent.object, str(row.call.object)), [])
                lane.append((total, row.seq, token))
        for where, places in [*totals.items(), *lanes.items()]:
            for (_, earlier, one), (_, later, other) in pairwise(sorted(places)):
                if later <= earlier:
                    yield f"I12: {one} and {other} took effect out of order on {where}"

    def _total(self, call: Played) -> int | None:
        """What its object had after ``call``, if anybody knows."""
        row = self.rows.get(call.token)
        if row is not None:
            return int(_result(row)) if row.status is CallStatus.SUCCESS else None
        told = call.sure[0] if call.sure else None
        return int(told.result) if told is not None and told.told == "ok" else None


def _result(row: StoredCall) -> Any:
    """As `Attempt.result` has it; `DECLINED` for a call that had no effect."""
    if row.status is not CallStatus.SUCCESS or row.result is None:
        return DECLINED
    return msgspec.msgpack.decode(row.result.data)


def _operation(call: Played, returned: float, result: Any) -> Operation:
    called = call.attempts[0].called
    return Operation(call.object, _action(call), called, returned, result, call.token)


def _action(call: Played) -> tuple[Any, ...]:
    arguments = call.arguments
    if call.method in ("read", "get"):
        return (call.method,)
    if call.method == "write":
        return ("write", arguments["value"])
    if call.method == "swap":
        return ("swap", arguments["expected"], arguments["value"])
    return ("add", arguments["amount"])


def _check_often(game: Game, ledger: Ledger, total: int | None) -> Iterator[str]:
    """Plain calls of an object that is committed now and then may be lost; reliable ones not."""
    if total is None:
        return
    adds = [c for c in game.calls.values() if c.type == "Often" and c.method == "add"]
    least = sum(
        call.arguments["amount"]
        for call in adds
        if call.token in ledger.rows and _result(ledger.rows[call.token]) != DECLINED
    )
    most = least + sum(
        call.arguments["amount"] for call in adds if not (call.reliable or call.undone)
    )
    if not least <= total <= most:
        yield f"I12: Often/f0 has {total}, not {least} to {most}"
