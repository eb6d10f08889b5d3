"""Shards that move, attacked: the short form of `make migrations`, in one cluster of real processes
that begins as one of the version before."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.migration import trials
from tests.migration.older import ROOT, older_version
from tests.migration.opening import Setup, open_scene
from tests.migration.report import TrialReport

pytestmark = pytest.mark.system

TRIALS = (
    trials.upgrade,
    trials.to_and_fro,
    trials.many_pairs,
    trials.long_turn,
    trials.coordinator_lost,
    trials.called_off,
    trials.both_die,
)


async def test_L13_L14_L16_L17_no_move_loses_a_call_or_runs_it_twice(tmp_path: Path) -> None:
    report = TrialReport("migrations", random.SystemRandom().randrange(2**32))
    older = older_version(tmp_path / "older")
    try:
        async with open_scene(tmp_path, report, Setup(older=older)) as scene:
            for trial in TRIALS:
                await trial(scene)
            await scene.judge()
    finally:
        report.write(ROOT / "reports")
        print(report)
    assert report.ok, str(report)
