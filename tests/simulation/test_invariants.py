"""Every check of a simulated run finds what it is there to find, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from goverse.ids import Epoch
from tests.simulation.history import CallRecord, Heard, History
from tests.simulation.invariants import check
from tests.simulation.scenario import generate


@dataclass
class Bench:
    """A history written by hand."""

    now: float = 0.0
    process: str = "n1#1"
    truth: dict[str, Epoch] = field(default_factory=lambda: {"n1#1": Epoch(1, 5)})

    def __post_init__(self) -> None:
        self.history = History(
            now=lambda: self.now,
            process=lambda: self.process,
            claimed=lambda process, object, epoch: self.truth.get(process) == epoch,
            record=lambda line: None,
        )

    def call(self, token: str, *, at: float = 0.0, read_only: bool = False) -> CallRecord:
        return self.history.begin_call(
            CallRecord(token, "Register/a", "client1", read_only, sent=at, deadline=at + 5)
        )

    def answer(self, call: CallRecord, at: float, activation: int = 1, count: int = 1) -> None:
        self.now = at
        call.activation, call.count, call.epoch = activation, count, Epoch(1, 5)
        self.history.end_call(call, "ok", "yes")

    def turn(self, token: str, begin: float, end: float, activation: int = 1) -> None:
        self.now = begin
        turn = self.history.begin_turn(token, "Register/a", activation, Epoch(1, 5), exclusive=True)
        self.now = end
        self.history.end_turn(turn, "ok")


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_good_history_passes(bench: Bench) -> None:
    for number in range(1, 4):
        call = bench.call(f"c{number}", at=number)
        bench.turn(call.token, number + 0.1, number + 0.2)
        bench.answer(call, number + 0.3, count=number)
    assert check(bench.history) == []


def test_overlapping_turns(bench: Bench) -> None:
    bench.history.begin_turn("c1", "Register/a", 1, Epoch(1, 5), exclusive=True)
    bench.history.begin_turn("c2", "Register/a", 1, Epoch(1, 5), exclusive=True)
    assert "I1: turns c1 and c2 overlap" in check(bench.history)[0]


def test_a_turn_without_a_claim(bench: Bench) -> None:
    bench.truth.clear()
    bench.turn("c1", 1, 2)
    assert "I1: turn c1 of Register/a began on n1#1 without its claim" in check(bench.history)


def test_a_reply_from_after_the_lease(bench: Bench) -> None:
    call = bench.call("c1")
    bench.now = 1
    turn = bench.history.begin_turn("c1", "Register/a", 1, Epoch(1, 5), exclusive=True)
    bench.truth.clear()
    bench.now = 2
    bench.history.end_turn(turn, "ok")
    bench.answer(call, 3)
    assert [v for v in check(bench.history) if "accepted the reply of c1" in v]


def test_an_old_activation_answers(bench: Bench) -> None:
    first, second = bench.call("c1", at=1), bench.call("c2", at=4)
    bench.turn("c1", 1, 2, activation=2)
    bench.answer(first, 3, activation=2)
    bench.turn("c2", 4, 5, activation=1)
    bench.answer(second, 6, activation=1)
    assert check(bench.history) == ["I1: c2 saw (1, 1) of Register/a after c1 had seen (2, 1)"]


def test_a_lost_and_a_doubled_write(bench: Bench) -> None:
    for number in (1, 2):
        call = bench.call(f"c{number}", at=number)
        bench.turn(call.token, number + 0.1, number + 0.2)
        bench.answer(call, number + 0.3, count=1)
    assert any("both got count 1" in violation for violation in check(bench.history))


def test_a_lie_about_execution(bench: Bench) -> None:
    call = bench.call("c1")
    bench.turn("c1", 1, 2)
    bench.history.end_call(call, "unavailable", "no")
    assert check(bench.history) == ["I2: c1 ended unavailable executed=no, but n1#1 ran it"]


def test_a_call_that_ran_twice_or_never(bench: Bench) -> None:
    once, never = bench.call("c1"), bench.call("c2")
    bench.turn("c1", 1, 2)
    bench.turn("c1", 3, 4)
    bench.answer(once, 5, count=2)
    bench.answer(never, 5, count=3)
    violations = check(bench.history)
    assert any("c1 was executed 2 times" in violation for violation in violations)
    assert any("c2 ended ok executed=yes, but nobody" in violation for violation in violations)


def test_a_read_may_run_twice(bench: Bench) -> None:
    call = bench.call("c1", read_only=True)
    bench.turn("c1", 1, 2)
    bench.turn("c1", 2, 3)
    bench.history.end_call(call, "unavailable", "no")
    assert check(bench.history) == []


def test_a_late_and_an_endless_call(bench: Bench) -> None:
    late = bench.call("c1")
    bench.call("c2")
    bench.now = 9
    bench.history.end_call(late, "deadline_exceeded", "no")
    assert [v.split()[0] for v in check(bench.history)] == ["I3:", "I3:"]


def test_scenarios_are_the_same_for_the_same_seed() -> None:
    assert str(generate(7)) == str(generate(7)) != str(generate(8))
    for seed in range(1, 300):
        steps = generate(seed).steps
        assert steps == tuple(sorted(steps, key=lambda step: step.at))


def heard(bench: Bench, token: str, count: int, activation: int = 1) -> None:
    bench.history.got(Heard(token, "c", activation, count))


def test_pushes_of_turns_that_succeeded_pass(bench: Bench) -> None:
    for number in range(1, 4):
        bench.turn(f"t{number}", number, number + 0.5)
        heard(bench, f"t{number}", number)
    assert check(bench.history) == []


def test_a_push_of_a_failed_turn_is_found(bench: Bench) -> None:
    bench.now = 1
    turn = bench.history.begin_turn("t", "Register/a", 1, Epoch(1, 5), exclusive=True)
    bench.history.end_turn(turn, "failed")
    heard(bench, "t", 1)
    assert [found[:3] for found in check(bench.history)] == ["I11"]


def test_a_push_without_a_claim_is_found(bench: Bench) -> None:
    bench.now = 1
    turn = bench.history.begin_turn("t", "Register/a", 1, Epoch(1, 5), exclusive=True)
    bench.truth.clear()
    bench.history.end_turn(turn, "ok")
    heard(bench, "t", 1)
    assert [found[:3] for found in check(bench.history)] == ["I11"]


@pytest.mark.parametrize("order", [(1, 1), (2, 1)])
def test_pushes_twice_or_out_of_order_are_found(bench: Bench, order: tuple[int, int]) -> None:
    for number in (1, 2):
        bench.turn(f"t{number}", number, number + 0.5)
    for number in order:
        heard(bench, f"t{number}", number)
    assert {found[:3] for found in check(bench.history)} == {"I11"}
