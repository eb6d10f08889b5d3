"""The last checks of durable objects find what they are there to find, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from goverse.ids import ObjectId
from goverse.storage.values import CallStatus, Payload, ReliableCall, StoredCall
from tests.simulation import exactly
from tests.simulation.played import DECLINED, Attempt, Game, Played

SETTLED = 100


class Bench:
    """A game and a ledger written by hand."""

    def __init__(self) -> None:
        self.game = Game()
        self.rows: list[StoredCall] = []
        self.last: dict[str, int] = {}

    def call(
        self,
        token: str,
        id: str,
        method: str,
        *attempts: Attempt,
        reliable: bool = False,
        **args: Any,
    ) -> None:
        type = {"c": "Cell", "t": "Tally", "f": "Often"}[id[0]]
        call = Played(token, type, id, method, args, reliable, list(attempts))
        self.game.calls[token] = call

    def row(
        self,
        token: str,
        id: str,
        method: str,
        result: Any,
        *,
        seq: int = 1,
        call_id: str = "",
        status: CallStatus = CallStatus.SUCCESS,
    ) -> None:
        type = {"c": "Cell", "t": "Tally", "f": "Often"}[id[0]]
        arguments = Payload(msgspec.msgpack.encode({"token": token}))
        call = ReliableCall(call_id or token, ObjectId(type, id), method, arguments, b"")
        stored = Payload(msgspec.msgpack.encode(result))
        self.rows.append(StoredCall(call, 0, seq, status, 0, stored, "", 0.0, 1.0))

    def read(self, id: str, method: str, result: int) -> None:
        self.call(f"last {id}", id, method, Attempt(101, 102, "ok", result))

    def check(self) -> str:
        return "\n".join(exactly.check(self.game, self.rows, SETTLED, self.last))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def ok(called: int, ended: int, result: Any) -> Attempt:
    return Attempt(called, ended, "ok", result)


def test_a_good_history_passes(bench: Bench) -> None:
    bench.call("p1", "t0", "add", ok(1, 4, 5), amount=5)
    lost, found = Attempt(2, 3, "unknown"), ok(5, 6, 8)
    bench.call("p2", "t0", "pass_on", lost, found, reliable=True, amount=3, to="t1")
    bench.row("p2", "t0", "pass_on", 8)
    bench.row(">p2", "t1", "add", 3, call_id="~1", seq=2)
    bench.call("p3", "t1", "decline", Attempt(7, 8, DECLINED), amount=9, to="t0")
    bench.call("p4", "t1", "pass_on", Attempt(7, 8, "unknown"), amount=9, to="t0")
    bench.call("p5", "c0", "write", Attempt(7, 8, "rolled back"), value=1)
    bench.read("t0", "get", 8)
    bench.read("t1", "get", 3)
    bench.read("c0", "read", 0)
    assert bench.check() == ""


def test_what_was_rolled_back_is_seen(bench: Bench) -> None:
    bench.call("p1", "c0", "write", Attempt(1, 2, "rolled back"), value=1)
    bench.read("c0", "read", 1)
    assert "no order of the calls of Cell/c0 explains" in bench.check()


def test_an_unknown_plain_call_took_effect_if_what_it_passed_on_is_there(bench: Bench) -> None:
    bench.call("p1", "t0", "pass_on", Attempt(1, 2, "unknown"), amount=3, to="t1")
    bench.row(">p1", "t1", "add", 3, call_id="~1")
    bench.read("t1", "get", 3)
    bench.read("t0", "get", 0)
    assert "no order of the calls of Tally/t0 explains last t0" in bench.check()


def test_an_effect_without_what_it_was_to_pass_on(bench: Bench) -> None:
    bench.call("p1", "t0", "pass_on", ok(1, 2, 3), amount=3, to="t1")
    assert "what p1 passed on is not in the ledger" in bench.check()


@pytest.mark.parametrize("told", [DECLINED, "no", "rolled back"])
def test_something_passed_on_without_an_effect(bench: Bench, told: str) -> None:
    bench.call("p1", "t0", "pass_on", Attempt(1, 2, told), amount=3, to="t1")
    bench.row(">p1", "t1", "add", 3, call_id="~1")
    assert "p1 had no effect, and has passed on ~1" in bench.check()


def test_something_passed_on_twice(bench: Bench) -> None:
    bench.call("p1", "t0", "pass_on", ok(1, 2, 3), amount=3, to="t1")
    bench.row(">p1", "t1", "add", 3, call_id="~1", seq=1)
    bench.row(">p1", "t1", "add", 6, call_id="~2", seq=2)
    assert "what p1 passed on is in the ledger twice" in bench.check()


def test_two_outcomes_of_one_call_id(bench: Bench) -> None:
    bench.call("p1", "t0", "add", ok(1, 2, 3), ok(3, 4, 6), reliable=True, amount=3)
    bench.row("p1", "t0", "add", 6)
    assert "p1 was told 3, and the ledger has 6" in bench.check()


def test_an_outcome_without_a_row(bench: Bench) -> None:
    bench.call("p1", "t0", "add", ok(1, 2, 3), reliable=True, amount=3)
    assert "p1 was told ok, and the ledger has no row" in bench.check()


def test_not_executed_and_yet_a_row(bench: Bench) -> None:
    bench.call("p1", "t0", "add", Attempt(1, 2, "no"), reliable=True, amount=3)
    bench.row("p1", "t0", "add", 3)
    assert "p1 was told that it was not executed, and has a row" in bench.check()


def test_a_call_that_the_ledger_has_and_the_object_does_not(bench: Bench) -> None:
    bench.call("p1", "t0", "add", Attempt(1, 2, "unknown"), reliable=True, amount=3)
    bench.row("p1", "t0", "add", 3)
    bench.read("t0", "get", 0)
    assert "explains last t0 get() [101, 102] = 0" in bench.check()


def test_a_call_that_is_pending_at_rest(bench: Bench) -> None:
    bench.call("p1", "t0", "add", Attempt(1, 2, "unknown"), reliable=True, amount=3)
    bench.row("p1", "t0", "add", None, status=CallStatus.PARKED)
    assert "p1 is parked at rest" in bench.check()


def test_calls_of_an_object_out_of_order(bench: Bench) -> None:
    for token, seq, total in (("p1", 1, 6), ("p2", 2, 3)):
        bench.call(token, "t0", "add", ok(1, 9, total), reliable=True, amount=3)
        bench.row(token, "t0", "add", total, seq=seq)
    assert "p1 and p2 took effect out of order on Tally/t0" in bench.check()


def test_what_one_object_passes_on_to_another_comes_out_of_order(bench: Bench) -> None:
    for token, total, seq in (("p1", 3, 2), ("p2", 6, 1)):
        bench.call(token, "t0", "pass_on", ok(total, total + 1, total), amount=3, to="t1")
        bench.row(f">{token}", "t1", "add", 3 * seq, call_id=f"~{token}", seq=seq)
    assert "p1 and p2 took effect out of order on ('Tally/t0', 'Tally/t1')" in bench.check()


@pytest.mark.parametrize(("total", "good"), [(4, False), (5, True), (7, True), (8, False)])
def test_an_object_that_forgets_plain_calls_alone(bench: Bench, total: int, good: bool) -> None:
    bench.call("p1", "f0", "add", ok(1, 2, 5), reliable=True, amount=5)
    bench.row("p1", "f0", "add", 5)
    bench.call("p2", "f0", "add", ok(3, 4, 7), amount=2)
    bench.last["Often/f0"] = total
    assert ("Often/f0 has" not in bench.check()) == good


def test_overlapping_calls_are_counted(bench: Bench) -> None:
    assert Game().overlapping() == 0
    bench.call("p1", "t0", "add", Attempt(1, 9), Attempt(10, 11), amount=1)
    bench.call("p2", "t0", "add", Attempt(2, 3), amount=1)
    bench.call("p3", "t0", "add", Attempt(4, 5), amount=1)
    bench.call("p4", "t1", "add", Attempt(10, 11), amount=1)
    assert (bench.game.attempts(), bench.game.overlapping()) == (5, 3)
