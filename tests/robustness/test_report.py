"""A run that was too mild fails, whatever its validation says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.robustness.faults import CUT, KILL, PAUSE, RESTART_ETCD, RESTART_PG, Minima
from tests.robustness.model import SUCCESS, UNKNOWN
from tests.robustness.report import FaultRecord, Report, write
from tests.robustness.world import Counters

MINIMA = Minima(kills=2, pauses=1, cuts=1, restarts=1, unknown=5, fenced=2)


def harsh() -> Report:
    kinds = (KILL, KILL, PAUSE, CUT, RESTART_PG, RESTART_ETCD)
    faults = [
        FaultRecord(kind, kind, began_s=1.0, undone_s=2.0, recovered_s=4.0, in_flight=9)
        for kind in kinds
    ]
    faults[0].paired = faults[1].paired = True
    return Report(1, ["kill n1"], MINIMA, faults, {SUCCESS: 100, UNKNOWN: 5}, fenced=2)


def one_kill_less(report: Report) -> None:
    del report.faults[0]


def one_kill_that_never_recovered(report: Report) -> None:
    report.faults[0].recovered_s = 0.0


def nobody_in_flight(report: Report) -> None:
    report.faults[3].in_flight = 0


def nothing_unknown(report: Report) -> None:
    report.told = {SUCCESS: 105}


def nothing_fenced(report: Report) -> None:
    report.fenced = 0


def nothing_overlaps(report: Report) -> None:
    for fault in report.faults:
        fault.paired = False


def test_a_harsh_run_is_a_good_one(tmp_path: Path) -> None:
    report = harsh()
    assert report.ok and not report.too_mild()
    write(report, tmp_path)
    told = json.loads((tmp_path / "robustness-1.json").read_text())
    assert told["ok"] and told["faults"][0]["in_flight"] == 9
    text = (tmp_path / "robustness-1.txt").read_text()
    assert "kill n1" in text and "recovered 2.0 s after it was undone" in text


@pytest.mark.parametrize(
    "spoil",
    [
        one_kill_less,
        one_kill_that_never_recovered,
        nobody_in_flight,
        nothing_unknown,
        nothing_fenced,
        nothing_overlaps,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_a_mild_one_fails(spoil: Callable[[Report], None]) -> None:
    report = harsh()
    spoil(report)
    assert report.too_mild() and not report.ok
    assert "TOO MILD" in str(report) and "FAILED" in str(report)


def test_a_broken_promise_fails() -> None:
    report = harsh()
    report.violations = ["account-1 has 1 and should have 2"]
    assert not report.ok and "WRONG: account-1" in str(report)


def test_counters_are_summed_over_the_lives_of_a_process() -> None:
    counters = Counters()
    line = 'goverse_refused_commits_total{{reason="fenced"}} {}\n'
    counters.seen("n1", line.format(3.0) + 'goverse_refused_commits_total{reason="version"} 7.0\n')
    counters.seen("n1", line.format(4.0))
    counters.died("n1")
    counters.seen("n1", line.format(1.0))
    counters.seen("n2", line.format(2.0))
    assert counters.total("goverse_refused_commits_total", reason="fenced") == 7
    assert counters.total("goverse_retries_total") == 0
