"""What is made of the runs of `benchmarks.reliable`."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.load import Load
from benchmarks.peers.restate_calls import DOCUMENTED, TUNED, Deployment
from benchmarks.reliable import CALLERS, OURS, SHAPES, THEIRS, _judge
from benchmarks.report import Options, Report
from benchmarks.rounds import Samples


def runs(per_s: int, p50_ms: float) -> list[Load]:
    return [Load(per_s, 1.0, p50_ms, 9.0, per_s, 0.5)] * 3


def judged(theirs: dict[str, tuple[int, float]]) -> Report:
    samples: Samples = {f"{OURS}, {shape}": runs(6_000, 2.0) for shape in SHAPES}
    for driver, seen in theirs.items():
        samples |= {f"{THEIRS[driver]}, {shape}": runs(*seen) for shape in SHAPES}
    report = Report("reliable")
    _judge(Options(3, 1.0, ("restate",)), samples, report)
    return report


def test_bounds_are_for_restate_as_it_is_documented_and_the_tuned_one_is_shown() -> None:
    report = judged({"restate": (1_000, 4.0), "restate-tuned": (3_000, 2.5)})
    ratios = {check.name: (check.value, check.bound, check.ok) for check in report.checks}
    many, one = f"{CALLERS} callers", "1 caller"
    assert ratios[f"reliable calls / Restate calls, {many}"] == (6.0, 6.0, True)
    assert ratios[f"p50 of reliable calls / Restate calls, {one}"] == (0.5, 0.7, True)
    assert report.figures["ratios"] == {
        f"reliable calls / tuned Restate calls, {many}": 2.0,
        f"p50 of reliable calls / tuned Restate calls, {one}": 0.8,
    }
    assert len(report.checks) == 3


def test_a_bound_that_is_missed_makes_the_run_not_ok() -> None:
    assert not judged({"restate": (1_001, 4.0), "restate-tuned": (3_000, 2.5)}).ok
    assert not judged({"restate": (1_000, 2.8), "restate-tuned": (3_000, 2.5)}).ok


def test_a_tuned_restate_that_failed_leaves_the_bounds() -> None:
    report = judged({"restate": (1_000, 4.0)})
    assert report.ok and report.figures["ratios"] == {}


@pytest.mark.parametrize("deployment", [DOCUMENTED, TUNED], ids=["documented", "tuned"])
def test_a_service_is_served_at_its_port_on_loopback(
    deployment: Deployment, tmp_path: Path
) -> None:
    command = deployment.service(23456, tmp_path)
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    text = " ".join(command) + written
    assert "23456" in text and "127.0.0.1" in text and "0.0.0.0" not in text
