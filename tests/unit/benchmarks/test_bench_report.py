"""What a benchmark says of its bounds."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks.report import Check, Options, Report, environment


@pytest.mark.parametrize(
    ("value", "at_most", "ok"),
    [
        (0.9, False, False),
        (1.0, False, True),
        (1.1, False, True),
        (0.9, True, True),
        (1.0, True, True),
        (1.1, True, False),
        (math.nan, False, False),
        (math.nan, True, False),
    ],
)
def test_a_bound_is_kept_or_missed(value: float, at_most: bool, ok: bool) -> None:
    check = Check("ratio", value, 1.0, at_most)
    assert check.ok is ok
    assert check.to_json()["ok"] is ok


def test_a_report_is_ok_only_if_something_was_checked_and_nothing_is_wrong() -> None:
    report = Report("x")
    assert not report.ok
    report.checks.append(Check("ratio", 2.0, 1.0))
    assert report.ok
    report.faults.append("a peer did not start")
    assert not report.ok
    report.faults.clear()
    report.checks.append(Check("seconds", 2.0, 1.0, at_most=True))
    assert not report.ok


def test_the_closing_line_and_the_samples_say_where_and_how() -> None:
    report = Report("x", [Check("ratio", 2.00001, 1.0)], raw={"ours": [1, 2]})
    report.settings["callers"] = 128
    where = environment()
    line = json.loads(json.dumps(report.to_json(where)))
    assert {"benchmark", "ok", "checks", "environment"} <= line.keys()
    assert line["checks"] == [
        {"name": "ratio", "value": 2.0, "bound": 1.0, "limit": "at least", "ok": True}
    ]
    assert line["environment"]["libraries"]["grpcio"]
    kept = report.samples(Options(5, 3.0, ("ray",)), where)
    assert kept["samples"] == {"ours": [1, 2]}
    assert kept["options"] == {"rounds": 5, "seconds": 3.0, "peers": ["ray"]}
    assert kept["settings"] == {"callers": 128}
