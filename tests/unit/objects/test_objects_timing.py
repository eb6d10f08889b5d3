"""When a call runs that does not run at once."""

from __future__ import annotations

import datetime
import random

import pytest

from goverse.objects.timing import MIN_PERIOD_S, When, caught_up, next_tick, timing_of, when
from goverse.storage.values import CatchUp, Timing

T0 = 1_700_000_000.0


@pytest.mark.parametrize(
    ("policy", "late_s", "run_at", "left_out"),
    [
        (CatchUp.EACH, 0.0, 0, 0),
        (CatchUp.EACH, 35.0, 0, 0),
        (CatchUp.EACH, 10_000.0, 9_000, 900),
        (CatchUp.ONE, 9.9, 0, 0),
        (CatchUp.ONE, 10.0, 10, 1),
        (CatchUp.ONE, 35.0, 30, 3),
        (CatchUp.NONE, 9.9, 0, 0),
        (CatchUp.NONE, 10.0, 20, 2),
        (CatchUp.NONE, 35.0, 40, 4),
    ],
)
def test_ticks_are_left_out_as_the_policy_says(
    policy: CatchUp, late_s: float, run_at: float, left_out: int
) -> None:
    timing = Timing(T0, 10.0, policy)
    assert caught_up(timing, T0 + late_s, 100) == (T0 + run_at, left_out)


def test_catching_up_holds_for_any_lateness() -> None:
    source = random.Random(7)
    for _ in range(3000):
        policy = source.choice(list(CatchUp))
        every_s = source.choice((0.01, 0.1, 0.7, 1.0, 3600.0))
        timing = Timing(T0, every_s, policy)
        late_s = source.uniform(0, every_s * source.choice((1, 2, 50, 36_000)))
        most = source.choice((1, 10, 100_000))
        run_at, left_out = caught_up(timing, T0 + late_s, most)
        behind = T0 + late_s - run_at
        # The time of a tick, and no tick that was left out is one that is still to come.
        assert run_at == pytest.approx(T0 + left_out * every_s, abs=1e-5)
        assert run_at - every_s <= T0 + late_s + 1e-5
        if policy is CatchUp.EACH:
            assert behind <= (most + 1) * every_s + 1e-5
            assert left_out == 0 or behind >= most * every_s - 1e-5
        elif policy is CatchUp.ONE:
            assert -1e-5 <= behind < every_s + 1e-5
        else:
            assert left_out == 0 or behind < 1e-5
            assert behind < every_s + 1e-5


def test_a_call_that_is_not_repeated_has_no_ticks() -> None:
    assert caught_up(Timing(T0), T0 + 1e6, 10) == (T0, 0)
    assert caught_up(Timing(T0 + 5, 1.0), T0, 10) == (T0 + 5, 0)
    assert next_tick(Timing(T0)) is None


def test_ticks_do_not_drift() -> None:
    timing = Timing(T0, 0.1)
    for _ in range(36_000):
        again = next_tick(timing)
        assert again is not None
        timing = timing._replace(run_at=again)
    assert timing.run_at == T0 + 3600.0


def test_what_is_said_becomes_a_time() -> None:
    aware = datetime.datetime(2033, 5, 18, 3, 33, 20, tzinfo=datetime.UTC)
    said = when(run_at=aware)
    assert said is not None and timing_of(said, T0).run_at == 2_000_000_000.0
    said = when(delay_s=1.5)
    assert said is not None and timing_of(said, T0) == Timing(T0 + 1.5)
    said = when(every_s=60, catch_up="each")
    assert said is not None and timing_of(said, T0) == Timing(T0 + 60, 60.0, CatchUp.EACH)
    said = when(every_s=60, delay_s=0)
    assert said is not None and timing_of(said, T0) == Timing(T0, 60.0)
    assert when() is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"run_at": 1.0, "delay_s": 1.0}, "one of them"),
        ({"run_at": datetime.datetime(2033, 5, 18)}, "time zone"),
        ({"run_at": -1.0}, "run_at"),
        ({"delay_s": -0.1}, "delay_s"),
        ({"delay_s": float("nan")}, "delay_s"),
        ({"delay_s": float("inf")}, "delay_s"),
        ({"every_s": 0.0}, "every_s"),
        ({"every_s": MIN_PERIOD_S / 2}, "every_s"),
        ({"every_s": 1.0, "catch_up": "all"}, "each, one, none"),
        ({"catch_up": "each"}, "every_s"),
        ({"delay_s": 1.0, "catch_up": "each"}, "every_s"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        when(**arguments)  # type: ignore[arg-type]


def test_a_when_that_says_nothing_is_none() -> None:
    assert timing_of(When(every_s=2.0), T0) == Timing(T0 + 2.0, 2.0)
