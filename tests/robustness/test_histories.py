"""What the runs on a real database find wrong is found."""

from __future__ import annotations

import pytest

from goverse.testing.linearizability import Operation
from tests.robustness.histories import Run

KEPT = [
    Operation("Tally/h1", ("add", 5), 1, 3, 5),
    Operation("Tally/h1", ("get",), 2, 4, 5),
    Operation("Cell/h0", ("write", 7), 1, 2),
    Operation("Cell/h0", ("read",), 3, 4, 7),
]


def test_what_one_order_explains_is_right() -> None:
    run = Run(1, list(KEPT))
    assert run.violations() == []
    assert (run.unknown, run.overlap) == (1, 0.25)


@pytest.mark.parametrize(
    ("operation", "wrong"),
    [
        (Operation("Tally/h1", ("get",), 5, 6, 0), "no order of the calls of Tally/h1"),
        (Operation("Tally/h1", ("add", 1), 5, 6, 11), "no order of the calls of Tally/h1"),
        (Operation("Cell/h0", ("read",), 5, 6, 0), "no order of the calls of Cell/h0"),
    ],
    ids=["lost", "twice", "back"],
)
def test_what_no_order_explains_is_wrong(operation: Operation, wrong: str) -> None:
    (found,) = Run(1, [*KEPT, operation]).violations()
    assert wrong in found


def test_a_run_that_was_too_mild_is_wrong() -> None:
    one_by_one = [Operation("Tally/h1", ("add", 1), n, n + 0.5, n + 1) for n in range(4)]
    assert [text[:8] for text in Run(1, one_by_one).violations()] == ["too mild", "too mild"]
